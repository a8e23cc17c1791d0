"""The revision of a folder: a hash over its files, made once in a process while they stay as they were.

It covers all that decides a result: configuration, weights (also shards in folders below), tokenizer, chat template,
adapter. Whoever loads a checkpoint compares it with the one that was planned, before and after.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from harness.checkpoints import adapter_config, headers, pickles

# Files that make a model; weights in other forms are not loaded.
_HASHED = frozenset((
    ".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".spm", ".bpe", ".codes", ".vocab", ".tokenizer",
))  # fmt: skip
# Records of a trainer, which change no result.
OF_TRAINERS = frozenset((
    "trainer_state.json", "all_results.json", "train_results.json", "eval_results.json", "test_results.json",
))  # fmt: skip
# Folder -> names, sizes and dates of its files when it was hashed, and the revision.
_known: dict[str, tuple[str, str]] = {}


class CheckpointChangedError(ValueError):
    """The files of a checkpoint are not those that were planned."""


def files_fingerprint(folder: Path) -> str:
    """Another one whenever a file of a folder, or a shard below it, has changed, as far as sizes and dates tell."""
    files = [*sorted(folder.iterdir()), *headers.weights_below(folder)]
    facts = [(file.relative_to(folder).as_posix(),
              *(getattr(file.stat(), key) for key in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")))
             for file in files if file.exists()]  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def remember(folder: str, stamp: str, revision: str) -> None:
    """Spare the hashing of a folder that was hashed before, in another process, when its stamp was this one."""
    _known.setdefault(folder, (stamp, revision))


def revision_of(folder: Path) -> str:
    """The word "files-" and 16 hex digits over the names and contents of the files that are loaded.

    What is no regular file (a named pipe, a folder) has no content and is left out; so are an index and its shards
    beside a model.safetensors, which is loaded in their place, and the states of a trainer.

    Raises:
        ValueError: if a file must not be read.
    """
    stamp = files_fingerprint(folder)
    if _known.get(str(folder), ("",))[0] != stamp:
        _known[str(folder)] = (stamp, _hashed_files(folder))
    return _known[str(folder)][1]


def require_planned(name: str, folder: str, planned: str, stamp: str) -> None:
    """Raise where the files of a folder are no longer those that were planned.

    Args:
        name: of the model, for messages.
        folder: of the checkpoint.
        planned: its revision when the run was planned.
        stamp: of `files_stamp` at that time, which spares the hashing; "" where it is not known.

    Raises:
        CheckpointChangedError: if their content is another one.
    """
    path = Path(folder)
    if not planned.startswith("files-"):  # a commit of the Hub, whose files never change
        return
    try:
        if files_fingerprint(path) == stamp:
            remember(folder, stamp, planned)
            return
        found = revision_of(path)
    except OSError as error:
        raise CheckpointChangedError(f"{name}: {folder} cannot be read any more ({error.strerror}).") from error
    if found != planned:
        raise CheckpointChangedError(
            f"{name}: the files in {folder} have changed since the run was planned (then {planned}, now {found}); "
            "nothing is stored of it. Give the same command again, once nobody writes there."
        )


def _hashed_files(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in _names(folder):
        try:
            with (folder / name).open("rb") as stream:
                digest.update(f"{name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
        except PermissionError as error:
            raise ValueError(f"{folder / name} cannot be read (permission denied); look at its permissions.") from error
    return f"files-{digest.hexdigest()[:16]}"


def _names(folder: Path) -> Iterator[str]:
    """The files that are hashed, by their paths in the folder, sorted."""
    unread = headers.superseded(folder) | OF_TRAINERS
    is_pickled, is_adapter = pickles.are_all_of(folder), adapter_config.is_adapter(folder)
    for file in sorted(folder.iterdir()):
        is_hashed = file.suffix in _HASHED or (file.suffix == ".bin" and is_pickled)
        is_hashed |= is_adapter and file.name == adapter_config.PICKLED
        if is_hashed and file.name not in unread and file.is_file():
            yield file.name
    yield from (file.relative_to(folder).as_posix() for file in headers.weights_below(folder))
