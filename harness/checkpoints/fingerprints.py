"""Content hash of a checkpoint folder (its revision), cached per process while the files are unchanged.

The hash covers everything that affects results: configuration, weights (including shards in subfolders), tokenizer,
chat template and adapter. Loading code compares it with the planned revision before and after loading.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.checkpoints import adapter_config, headers, pickles, training_records

# Hashed file types; weights in other formats are not loaded.
_HASHED = frozenset((
    ".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".spm", ".bpe", ".codes", ".vocab", ".tokenizer",
))  # fmt: skip
# Trainer records that do not affect results.
OF_TRAINERS = frozenset((
    "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "test_results.json",
    training_records.FILE,
))  # fmt: skip
# Folder -> (fingerprint of file sizes and times when it was hashed, revision).
_known: dict[str, tuple[str, str]] = {}


class CheckpointChangedError(ValueError):
    """The files of a checkpoint differ from those that were planned."""


def files_fingerprint(folder: Path) -> str:
    """Hash names, sizes, times and inodes of a folder's files and of shards in subfolders; contents are not read."""
    files = [*sorted(folder.iterdir()), *headers.weights_below(folder)]
    facts = [(file.relative_to(folder).as_posix(),
              *(getattr(file.stat(), key) for key in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")))
             for file in files if file.exists()]  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def remember(folder: str, fingerprint: str, revision: str) -> None:
    """Record the revision of a folder hashed in another process, valid while its `files_fingerprint` is this."""
    _known.setdefault(folder, (fingerprint, revision))


def revision_of(folder: Path) -> str:
    """Return "files-" plus 16 hex digits: a hash over names and contents of the files that are loaded.

    Not included: anything but regular files, trainer records, and an index with its shards beside a model.safetensors
    (transformers loads the latter).

    Raises:
        ValueError: if a file is not readable.
    """
    fingerprint = files_fingerprint(folder)
    if _known.get(str(folder), ("",))[0] != fingerprint:
        _known[str(folder)] = (fingerprint, _content_hash(folder))
    return _known[str(folder)][1]


def require_planned(name: str, folder: str, planned: str, fingerprint: str) -> None:
    """Raise if the files of a folder are no longer those that were planned.

    Args:
        name: model name, for error messages.
        folder: folder of the checkpoint.
        planned: its revision when the run was planned.
        fingerprint: its `files_fingerprint` at that time, which saves rehashing; "" if unknown.

    Raises:
        CheckpointChangedError: if the contents differ or cannot be read.
    """
    path = Path(folder)
    if not planned.startswith("files-"):  # a Hub commit, whose files never change
        return
    try:
        if files_fingerprint(path) == fingerprint:
            remember(folder, fingerprint, planned)
            return
        current = revision_of(path)
    except OSError as error:
        raise CheckpointChangedError(f"{name}: {folder} cannot be read any more ({error.strerror}).") from error
    if current != planned:
        raise CheckpointChangedError(
            f"{name}: the files in {folder} have changed since the run was planned (then {planned}, now {current}); "
            "no results of it are stored. Run the same command again when nothing writes to that folder any more."
        )


def _content_hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _hashed_names(folder):
        try:
            with (folder / name).open("rb") as stream:
                digest.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        except PermissionError as error:
            raise ValueError(f"{folder / name} cannot be read (permission denied); check its permissions.") from error
    return f"files-{digest.hexdigest()[:16]}"


def _hashed_names(folder: Path) -> Iterator[str]:
    """Yield paths of the hashed files relative to the folder, sorted."""
    excluded = headers.superseded(folder) | OF_TRAINERS
    is_pickled, is_adapter = pickles.folder_has_only_pickles(folder), adapter_config.is_adapter(folder)
    for file in sorted(folder.iterdir()):
        is_hashed = file.suffix in _HASHED or (file.suffix == ".bin" and is_pickled)
        is_hashed |= is_adapter and file.name == adapter_config.PICKLED
        if is_hashed and file.name not in excluded and file.is_file():
            yield file.name
    yield from (file.relative_to(folder).as_posix() for file in headers.weights_below(folder))
