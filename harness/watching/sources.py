"""Sources of checkpoints: a folder or bucket, a Hub repository, or a list of models. Sources are never modified.

A pass over a source only lists files. Changes to a checkpoint are detected by a fingerprint of the names, sizes and
dates of its files (on the Hub: its commit). A checkpoint is complete when a marker file exists or its files have been
unchanged for a while; it is intact when the file sizes match the headers of its weights.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from harness.checkpoints import adapter_config, checkpoints, fingerprints, hub, pickles
from harness.checkpoints.headers import pickled_files, read_json, weight_files
from harness.storage import transfer

QUIET_S = 60.0
# Files that training programs write last into a checkpoint's folder.
MARKERS = frozenset(("COMPLETE", ".complete", "_SUCCESS", "DONE", ".done"))
# Files downloaded from a bucket: no optimiser states and no pickles.
_FETCHED = (".json", ".safetensors", ".model", ".txt", ".jinja", "README.md")
_DATES = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint found in a source.

    Attributes:
        model: argument for `harness run --model`: a folder, or a Hub name with a revision.
        where: folder, URL, or repository@revision; together with the fingerprint it identifies the checkpoint.
        fingerprint: changes whenever the files change.
        waits_for: what is missing until it is complete; "" if it is complete.
        damage: why it is damaged; "" if no damage is known.
    """

    model: str
    where: str
    fingerprint: str
    waits_for: str = ""
    damage: str = ""


def list_checkpoints(
    source: str,
    *,
    quiet_s: float = QUIET_S,
    marker: str = "",
    known: frozenset[str] = frozenset(),
    allow_pickle: bool = False,
) -> list[FoundCheckpoint]:
    """List all checkpoints of a source, in the order of their steps.

    Args:
        source: a folder or URL that holds checkpoints (or is one); a text file with one model per line; or a name of
            the model table or a Hub repository, whose branches and tags are checkpoints.
        quiet_s: seconds without changes after which a checkpoint without a marker counts as complete.
        marker: name of the file that marks a complete checkpoint; "" accepts any of MARKERS, or `quiet_s`.
        known: fingerprints of checkpoints that need not be checked again.
        allow_pickle: whether folders with pickled weights only are accepted; pickles in buckets never are.

    Raises:
        FileNotFoundError: if the source does not exist, or the Hub cannot be reached.
        ValueError: if the source is of no known kind.
    """
    in_folder = partial(_in_folder, quiet_s=quiet_s, marker=marker, known=known, allow_pickle=allow_pickle)
    if "://" in source or Path(source).is_dir():
        listed = list(in_folder(source))
    elif Path(source).is_file():
        listed = [checkpoint for line in _lines(source) for checkpoint in _on_line(line, in_folder)]
    else:
        listed = list(_on_hub(source))
    return sorted(listed, key=lambda checkpoint: _natural_order(checkpoint.where))


def _natural_order(where: str) -> list[tuple[int, str]]:
    """Sort key that compares runs of digits as numbers, so that step-50 comes before step-200."""
    parts = [part for part in re.split(r"(\d+)", where) if part]
    return [(int(part), "") if part.isdigit() else (0, part) for part in parts]


def download(checkpoint: FoundCheckpoint, cache: Path) -> str:
    """Return the folder or Hub name of a checkpoint; one in a bucket is downloaded, once for each fingerprint.

    Args:
        checkpoint: a complete checkpoint.
        cache: folder for downloads, visible on every node.

    Raises:
        OSError: if a file cannot be downloaded; no partial copy is left in place.
    """
    if "://" not in checkpoint.model:
        return checkpoint.model
    fs, root = fsspec.core.url_to_fs(checkpoint.model)
    parent, name = Path(root).parts[-2:]
    folder = cache / checkpoint.fingerprint / parent / name
    if folder.is_dir():
        return str(folder)
    staging = folder.with_name(f".{name}.aside")
    staging.mkdir(parents=True, exist_ok=True)
    with transfer.space_for(f"a copy of {checkpoint.where}", str(cache)):
        for path in transfer.retry(fs.ls, root, detail=False):
            if path.endswith(_FETCHED):
                transfer.retry(fs.get_file, path, str(staging / path.rpartition("/")[2]))
    staging.replace(folder)
    return str(folder)


# --- a folder, a bucket -----------------------------------------------------------------------------------------------


def _in_folder(
    source: str, quiet_s: float, marker: str, known: frozenset[str], allow_pickle: bool
) -> Iterator[FoundCheckpoint]:  # fmt: skip
    """Find the checkpoints below a folder or URL."""
    fs, root = fsspec.core.url_to_fs(source)
    is_local = isinstance(fs, LocalFileSystem)
    fs.invalidate_cache()
    files: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for path, facts in transfer.retry(fs.find, root, detail=True).items():
        folder, _, name = path.rpartition("/")
        if "/." not in folder.removeprefix(root):  # files in hidden folders are still being written, or states
            files[folder][name] = facts
    if not files and not fs.isdir(root):
        raise FileNotFoundError(f"{source} does not exist; give the folder or bucket to which checkpoints are written.")
    for folder, members in files.items():
        if "config.json" not in members and not any(name.endswith(".safetensors") for name in members):
            continue
        try:
            fingerprint = fingerprints.files_fingerprint(Path(folder)) if is_local else _fingerprint(members)
        except OSError:  # removed during the pass, as by a trainer that keeps only its last checkpoints
            continue
        where = folder if is_local else fs.unstrip_protocol(folder)
        checkpoint = FoundCheckpoint(where, where, fingerprint)
        if fingerprint in known:
            yield checkpoint
            continue
        damage = _damage(Path(folder), allow_pickle) if is_local else _missing(members)
        yield replace(checkpoint, damage=damage, waits_for=_waits_for(members, quiet_s, marker))


def _fingerprint(files: dict[str, dict[str, Any]]) -> str:
    """Hash the names, sizes and versions (as the filesystem reports them) of the files that are downloaded."""
    versions = sorted(
        (name, facts.get("size"), transfer.stamp(facts)) for name, facts in files.items()
        if name.endswith(_FETCHED) and name not in fingerprints.OF_TRAINERS
    )  # fmt: skip
    return hashlib.sha256(repr(versions).encode()).hexdigest()[:16]


def _waits_for(files: dict[str, dict[str, Any]], quiet_s: float, marker: str) -> str:
    """Return what is missing until a checkpoint is complete, to be read after "waiting for"; "" if it is complete."""
    if marker:
        return "" if marker in files else f"its marker file {marker}"
    if MARKERS & set(files):
        return ""
    age = time.time() - max((_date(facts) for facts in files.values()), default=0.0)
    if age >= quiet_s:
        return ""
    return f"its files to stay unchanged for {quiet_s:g} s (last written {max(age, 0):.0f} s ago)"


def _date(facts: dict[str, Any]) -> float:
    """Return when a file was written, in seconds since 1970; 0 if the filesystem does not report it."""
    date = next((facts[name] for name in _DATES if facts.get(name)), 0.0)
    if isinstance(date, str):
        date = datetime.fromisoformat(date)
    return date.timestamp() if isinstance(date, datetime) else float(date)


def _damage(folder: Path, allow_pickle: bool) -> str:
    """Return why a checkpoint folder is damaged, from its JSON files and weight headers; pickles are not opened."""
    try:
        is_adapter = adapter_config.is_adapter(folder)
        if is_adapter:
            adapter_config.require_weights(folder, folder.name)
        if is_adapter and not (folder / "config.json").is_file():
            return ""
        read_json(folder / "config.json", folder.name)
        if pickles.folder_has_only_pickles(folder):
            pickles.require_allowed(folder, folder.name, allow_pickle)
            pickled_files(folder, folder.name)
        else:
            weight_files(folder, folder.name)
    except Exception as error:  # noqa: BLE001 - a partial file can raise anything
        return f"{type(error).__name__}: {error}"
    return ""


def _missing(files: dict[str, dict[str, Any]]) -> str:
    """Return which files a checkpoint in a bucket lacks. Objects in a bucket are complete once they are listed."""
    is_present = {
        "config.json": "config.json" in files,
        "*.safetensors": any(name.endswith(".safetensors") for name in files),
    }
    absent = [name for name, present in is_present.items() if not present]
    return f"no {' and no '.join(absent)}" if absent else ""


# --- the Hub, a list --------------------------------------------------------------------------------------------------


def _on_hub(name: str, revision: str = "") -> Iterator[FoundCheckpoint]:
    """Yield the branches and tags of a Hub repository; for a training of the model table, only the steps listed there.

    A revision requested by name is included if the repository has it, such as main, or refs/pr/N of a pull request.
    """
    from harness.models import model_table

    checkpoints.require_known(name)
    entry = model_table.find(name)
    hub_id = entry.hub_id if entry else name
    wanted = model_table.steps(entry) if entry and entry.checkpoints else None
    for ref, commit in hub.commits_by_ref(hub_id, pull_requests=revision.startswith("refs/")).items():
        if ref == revision or ((wanted is None or ref in wanted) and not ref.startswith("refs/")):
            yield FoundCheckpoint(f"{name}@{ref}", f"{hub_id}@{ref}", commit)


def _lines(file: str) -> list[str]:
    """Return the lines of a list, without comments, blank lines and repetitions."""
    lines = (line.partition("#")[0].strip() for line in Path(file).read_text(encoding="utf-8").splitlines())
    return [line for line in dict.fromkeys(lines) if line]


def _on_line(name: str, in_folder: Callable[[str], Iterator[FoundCheckpoint]]) -> Iterator[FoundCheckpoint]:
    """Find the checkpoints of one line of a list: a folder or URL of checkpoints, or a Hub model at a revision."""
    if "://" in name or Path(name).is_dir():
        yield from in_folder(name)
        return
    stem, at, revision = name.partition("@")
    revisions = {checkpoint.model: checkpoint for checkpoint in _on_hub(stem, revision or "main")}
    wanted = f"{stem}@{revision or 'main'}"
    if wanted not in revisions:
        raise ValueError(f"{name} is not among the {len(revisions)} revisions of {stem}; see its branches and tags.")
    yield replace(revisions[wanted], model=name if at else stem)
