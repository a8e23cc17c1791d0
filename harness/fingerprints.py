"""The revision of a folder: a hash over its files, made once in a process while they stay as they were."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness import adapter_config, headers, pickles

# Files that make a model; weights in other forms are not loaded.
_HASHED = frozenset((".json", ".safetensors", ".model", ".txt"))
# Folder -> names, sizes and dates of its files when it was hashed, and the revision.
_known: dict[str, tuple[str, str]] = {}


def files_stamp(folder: Path) -> str:
    """Another one whenever a file of a folder has changed, as far as sizes and dates tell."""
    facts = [(file.name, *(getattr(file.stat(), key) for key in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")))
             for file in sorted(folder.iterdir()) if file.exists()]  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def remember(folder: str, stamp: str, revision: str) -> None:
    """Spare the hashing of a folder that was hashed before, in another process, when its stamp was this one."""
    _known.setdefault(folder, (stamp, revision))


def revision_of(folder: Path) -> str:
    """The word "files-" and 16 hex digits over the names and contents of the files that are loaded.

    What is no regular file (a named pipe, a folder) has no content and is left out; so are an index and its shards
    beside a model.safetensors, which is loaded in their place.

    Raises:
        ValueError: if a file must not be read.
    """
    stamp = files_stamp(folder)
    if _known.get(str(folder), ("",))[0] != stamp:
        _known[str(folder)] = (stamp, _hashed_files(folder))
    return _known[str(folder)][1]


def _hashed_files(folder: Path) -> str:
    digest, unread, is_pickled = hashlib.sha256(), headers.superseded(folder), pickles.are_all_of(folder)
    for file in sorted(folder.iterdir()):
        is_adapter = file.name == adapter_config.PICKLED and adapter_config.is_adapter(folder)
        is_hashed = file.suffix in _HASHED or is_adapter or (file.suffix == ".bin" and is_pickled)
        if is_hashed and file.name not in unread and file.is_file():
            try:
                with file.open("rb") as stream:
                    digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
            except PermissionError as error:
                raise ValueError(f"{file} cannot be read (permission denied); look at its permissions.") from error
    return f"files-{digest.hexdigest()[:16]}"
