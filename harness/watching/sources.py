"""Where checkpoints appear: a folder or bucket, a repository of the Hub, a list of models. Looked at, never changed.

A look costs a listing, not a reading: a checkpoint is told from what it was by a stamp over names, sizes and dates of
its files (of the Hub: its commit). Whether one is complete is told by a marker, or by its files having been quiet for a
while; whether it is whole, by what the headers of its weights promise.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from harness.checkpoints import adapter_config, checkpoints, fingerprints, hub, pickles
from harness.checkpoints.headers import pickled_files, read_json, weight_files
from harness.storage import transfer

QUIET_S = 60.0
# Written last into a checkpoint's folder, by those who write one.
MARKERS = frozenset(("COMPLETE", ".complete", "_SUCCESS", "DONE", ".done"))
# What is fetched from a bucket: no states of an optimiser, no pickles.
_FETCHED = (".json", ".safetensors", ".model", ".txt", ".jinja", "README.md")
_DATES = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint as a look found it.

    Attributes:
        model: what `harness run --model` takes: a folder, or a name of the Hub at a revision.
        where: folder, URL, or repository@revision; with the stamp, what tells it from all others.
        stamp: another one whenever its files have changed.
        waits_for: why it is not complete yet; "" where it is.
        damage: why it is not whole, complete or not; "" where nothing is known.
    """

    model: str
    where: str
    stamp: str
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
    """All checkpoints of a source, in the order of their steps.

    Args:
        source: a folder or URL that holds checkpoints (or is one); a text file with a model a line; or a name of the
            table, or a repository of the Hub, whose branches and tags are checkpoints.
        quiet_s: files that have not changed for so long are no longer written to.
        marker: name of the file that is written last; with it there is no waiting. Else any of MARKERS is one.
        known: stamps of checkpoints whose files need not be looked into again.
        allow_pickle: whether folders whose weights are pickles only are whole; a bucket's are never fetched.

    Raises:
        FileNotFoundError: if the source is not there, or the Hub cannot be reached.
        ValueError: if it is nothing of that kind.
    """
    if "://" in source or Path(source).is_dir():
        found = list(_in_folder(source, quiet_s, marker, known, allow_pickle))
    elif Path(source).is_file():
        found = [one for name in _lines(source) for one in _listed(name, quiet_s, marker, known, allow_pickle)]
    else:
        found = list(_on_hub(source))
    return sorted(
        found, key=lambda one: [(int(part), "") if part.isdigit() else (0, part) for part in _parts(one.where)]
    )


def _parts(where: str) -> list[str]:
    return [part for part in re.split(r"(\d+)", where) if part]


def download(seen: FoundCheckpoint, cache: Path) -> str:
    """The checkpoint where models can be read from; a bucket's is fetched into a folder, once for each stamp.

    Raises:
        OSError: if a file cannot be had; nothing half fetched is left.
    """
    if "://" not in seen.model:
        return seen.model
    fs, root = fsspec.core.url_to_fs(seen.model)
    parent, name = Path(root).parts[-2:]
    folder = cache / seen.stamp / parent / name
    if folder.is_dir():
        return str(folder)
    aside = folder.with_name(f".{name}.aside")
    aside.mkdir(parents=True, exist_ok=True)
    with transfer.space_for(f"a copy of {seen.where}", str(cache)):
        for path in transfer.retry(fs.ls, root, detail=False):
            if path.endswith(_FETCHED):
                transfer.retry(fs.get_file, path, str(aside / path.rpartition("/")[2]))
    aside.replace(folder)
    return str(folder)


# --- a folder, a bucket -----------------------------------------------------------------------------------------------


def _in_folder(
    source: str, quiet_s: float, marker: str, known: frozenset[str], allow_pickle: bool
) -> Iterator[FoundCheckpoint]:  # fmt: skip
    fs, root = fsspec.core.url_to_fs(source)
    is_local = isinstance(fs, LocalFileSystem)
    fs.invalidate_cache()
    files: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
    for path, facts in transfer.retry(fs.find, root, detail=True).items():
        folder, _, name = path.rpartition("/")
        files[folder][name] = facts
    if not files and not fs.isdir(root):
        raise FileNotFoundError(f"{source} is not there; give the folder or bucket in which checkpoints appear.")
    for folder, inside in files.items():
        if "config.json" not in inside and not any(name.endswith(".safetensors") for name in inside):
            continue
        try:
            stamp = fingerprints.files_fingerprint(Path(folder)) if is_local else _stamp(inside)
        except OSError:  # it disappeared during the look, as a trainer that keeps its last few removes them
            continue
        where = folder if is_local else fs.unstrip_protocol(folder)
        one = FoundCheckpoint(where, where, stamp)
        if stamp in known:
            yield one
            continue
        damage = _damage(Path(folder), allow_pickle) if is_local else _missing(inside)
        yield replace(one, damage=damage, waits_for=_waits_for(inside, quiet_s, marker))


def _stamp(files: dict[str, dict[str, Any]]) -> str:
    """Over names, sizes and what the filesystem says of a version, of the files that are fetched."""
    told = sorted(
        (name, facts.get("size"), transfer.stamp(facts)) for name, facts in files.items()
        if name.endswith(_FETCHED) and name not in fingerprints.OF_TRAINERS
    )  # fmt: skip
    return hashlib.sha256(repr(told).encode()).hexdigest()[:16]


def _waits_for(files: dict[str, dict[str, Any]], quiet_s: float, marker: str) -> str:
    if marker:
        return "" if marker in files else f"its marker {marker}"
    if MARKERS & set(files):
        return ""
    age = time.time() - max((_date(facts) for facts in files.values()), default=0.0)
    return "" if age >= quiet_s else f"its files to be quiet for {quiet_s:g} s (written {max(age, 0):.0f} s ago)"


def _date(facts: dict[str, Any]) -> float:
    """When a file was written, in seconds; of one that does not say it, long ago."""
    said = next((facts[name] for name in _DATES if facts.get(name)), 0.0)
    if isinstance(said, str):
        said = datetime.fromisoformat(said)
    return said.timestamp() if isinstance(said, datetime) else float(said)


def _damage(folder: Path, allow_pickle: bool) -> str:
    """Why a folder is no whole checkpoint, by its small files and headers of weights; pickles are not opened."""
    try:
        is_adapter = adapter_config.is_adapter(folder)
        if is_adapter:
            adapter_config.require_weights(folder, folder.name)
        if is_adapter and not (folder / "config.json").is_file():
            return ""
        read_json(folder / "config.json", folder.name)
        if pickles.are_all_of(folder):
            pickles.require_allowed(folder, folder.name, allow_pickle)
            pickled_files(folder, folder.name)
        else:
            weight_files(folder, folder.name)
    except Exception as error:  # noqa: BLE001 - whatever half a file holds
        return f"{type(error).__name__}: {error}"
    return ""


def _missing(files: dict[str, dict[str, Any]]) -> str:
    """Of a bucket, whose files come whole."""
    wanted = {"config.json": "config.json" in files, "*.safetensors": any(n.endswith(".safetensors") for n in files)}
    absent = [name for name, there in wanted.items() if not there]
    return f"no {' and no '.join(absent)}" if absent else ""


# --- the Hub, a list --------------------------------------------------------------------------------------------------


def _on_hub(name: str, revision: str = "") -> Iterator[FoundCheckpoint]:
    """Branches and tags with their commits; of a training of the table those that it names, and no others.

    A revision asked for by name is given too where the repository has it: main, or refs/pr/N of a pull request.
    """
    from harness.models import model_table

    checkpoints.require_known(name)
    entry = model_table.find(name)
    hub_id = entry.hub_id if entry else name
    wanted = model_table.steps(entry) if entry and entry.checkpoints else None
    for ref, commit in hub.heads(hub_id, pull_requests=revision.startswith("refs/")).items():
        if ref == revision or ((wanted is None or ref in wanted) and not ref.startswith("refs/")):
            yield FoundCheckpoint(f"{name}@{ref}", f"{hub_id}@{ref}", commit)


def _lines(file: str) -> list[str]:
    said = (line.partition("#")[0].strip() for line in Path(file).read_text(encoding="utf-8").splitlines())
    return [line for line in dict.fromkeys(said) if line]


def _listed(
    name: str, quiet_s: float, marker: str, known: frozenset[str], allow_pickle: bool
) -> Iterator[FoundCheckpoint]:  # fmt: skip
    """A line of a list: a folder or URL of checkpoints, or a model of the Hub at a revision."""
    if "://" in name or Path(name).is_dir():
        yield from _in_folder(name, quiet_s, marker, known, allow_pickle)
        return
    stem, at, revision = name.partition("@")
    found = {one.model: one for one in _on_hub(stem, revision or "main")}
    wanted = f"{stem}@{revision or 'main'}"
    if wanted not in found:
        raise ValueError(f"{name} is not among the {len(found)} revisions of {stem}.")
    yield replace(found[wanted], model=name if at else stem)
