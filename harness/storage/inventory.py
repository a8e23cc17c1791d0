"""What a store holds, for whoever pays for the disk: its units listed, read through, and cleared.

Everything here can be computed again; nothing is cleared that a living process works at, and nothing unasked.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.storage import table_files, tables, transfer
from harness.storage.manifest import CorruptUnit, StoredUnit, look
from harness.storage.origin import CORPORA_VERSION, FEATURES_VERSION, SCORES_VERSION, SURPRISALS_VERSION
from harness.storage.store import STALE_S, Store

SCHEMAS = {
    "features": FEATURES_VERSION, "ceilings": SCORES_VERSION, "scores": SCORES_VERSION, "corpora": CORPORA_VERSION,
    "surprisals": SURPRISALS_VERSION,
}  # fmt: skip


@dataclass(frozen=True)
class ListedUnit:
    """A unit as `harness cache ls` shows it.

    Attributes:
        kind, key: which.
        model, dataset, protocol: what it is of; features serve several data sets and protocols, and have a context.
        bytes: of its files; created: when it was stored.
        runs: whose tables are made of it.
        state: "whole" by its sizes (`verify` reads the content), "damaged", "unfinished" (no manifest: a run was
            killed), "outdated" (of another version of the harness: never read again) or "computing".
    """

    kind: str
    key: str
    model: str
    dataset: str
    protocol: str
    bytes: int
    created: str
    runs: tuple[str, ...]
    state: str


@dataclass(frozen=True)
class UnusedFiles:
    """What `harness cache gc` would remove, and why; kind and key are "" of what is no unit."""

    path: str
    bytes: int
    why: str
    kind: str = ""
    key: str = ""


def ls(store: Store) -> list[ListedUnit]:
    """Every unit, by kind and time of making."""
    runs = _runs(store)
    found = [
        _listed(store, kind, key, unit, runs)
        for kind in SCHEMAS
        for key, unit in _units(store, kind, manifest_only=False)
    ]
    return sorted(found, key=lambda unit: (unit.kind, unit.created, unit.key))


def verify(store: Store, heard: Callable[[int, int], None] | None = None) -> tuple[int, int, list[CorruptUnit]]:
    """Read every byte of every finished unit and compare checksums; a corrupt unit is removed.

    Args:
        store: whose.
        heard: is told bytes read and bytes in all, after each unit.

    Returns:
        Units looked at, bytes of those that are whole, and what was wrong with the others.
    """
    known = [(kind, key, _size(unit)) for kind in SCHEMAS for key, unit in _units(store, kind) if unit]
    total, read, corrupt = sum(size for *_, size in known), 0, []
    for kind, key, size in known:
        try:
            store.verify(kind, key)
            read += size
        except CorruptUnit as error:
            corrupt.append(error)
        except FileNotFoundError:  # removed since it was listed
            total -= size
        if heard:
            heard(read, total)
    return len(known), read, corrupt


def damaged_tables(store: Store) -> list[str]:
    """What is wrong with the files of the runs' tables, a sentence each; the next run of that name makes them anew."""
    root = store.root.rpartition("/")[0]
    runs = table_files.listed(store.fs, root)
    return [f"run {run}: {fault}" for run in runs for fault in table_files.faults(store.fs, root, run)]


def unused_files(store: Store, *, unused: bool = False) -> list[UnusedFiles]:
    """What is of no use, without what a living process works at.

    Args:
        store: whose.
        unused: also units of which no run's tables are made.

    Raises:
        ValueError: if `unused` is asked for while a run is computing: what it has stored stands in no table yet.
    """
    found, workers = [*_aside(store), *_claims(store)], store.workers()
    if unused and workers:
        raise ValueError(
            f"{workers[0]} is at work here, and what it has stored stands in no table yet; wait for it, or leave out "
            "--unused."
        )
    for unit in ls(store):
        path = store.folder(unit.kind, unit.key)
        if unit.state == "outdated" and not workers:
            found.append(UnusedFiles(path, unit.bytes, "of another version of the harness", unit.kind, unit.key))
        elif unit.state == "damaged":
            found.append(UnusedFiles(path, unit.bytes, "damaged", unit.kind, unit.key))
        elif unit.state == "unfinished" and _age_s(store, path) > STALE_S:
            found.append(UnusedFiles(path, unit.bytes, "left unfinished by a run that was killed", unit.kind, unit.key))
        elif unused and unit.state == "computing":
            raise ValueError(
                f"{store.claimed(unit.kind, unit.key)} computes {unit.kind} unit {unit.key} here, and its tables are "
                "not written yet; wait for it, or leave out --unused."
            )
        elif unused and unit.state == "whole" and unit.kind != "ceilings" and not unit.runs:
            found.append(UnusedFiles(path, unit.bytes, "no run's tables are made of it", unit.kind, unit.key))
    return found


def remove(store: Store, found: Sequence[UnusedFiles]) -> None:
    """Remove what `waste` found; what is computed again meanwhile stays."""
    for each in found:
        if each.kind:
            claim = store.claims.take(each.kind, each.key)
            if claim:
                store.remove(each.kind, each.key)
                claim.release()
        else:
            transfer.remove(store.fs, each.path, recursive=True)


# --- what lies where --------------------------------------------------------------------------------------------------


def _units(store: Store, kind: str, *, manifest_only: bool = True) -> Iterator[tuple[str, StoredUnit | None]]:
    """Key and unit of every folder of a kind; None where there is no manifest that can be read."""
    for path in _entries(store, f"{store.root}/{kind}"):
        key = path.rpartition("/")[2]
        unit = look(store.fs, path, kind, key)
        if unit or not manifest_only:
            yield key, unit


def _listed(store: Store, kind: str, key: str, unit: StoredUnit | None, runs: Mapping[str, set[str]]) -> ListedUnit:
    facts: dict[str, Any] = unit.manifest if unit else {}
    return ListedUnit(
        kind=kind,
        key=key,
        model=str(facts.get("model") or ""),
        dataset=str(facts.get("dataset") or ""),
        protocol=str(facts.get("protocol") or facts.get("context") or ""),
        bytes=_size(unit) if unit else int(store.fs.du(store.folder(kind, key))),
        created=str(facts.get("created") or ""),
        runs=tuple(sorted(runs.get(key, ()))),
        state=_state(store, kind, key, unit),
    )


def _state(store: Store, kind: str, key: str, unit: StoredUnit | None) -> str:
    if store.claimed(kind, key):
        return "computing"
    if unit is None:
        return "unfinished"
    if unit.manifest.get("schema") != SCHEMAS[kind]:
        return "outdated"
    return "damaged" if unit.fault else "whole"


def _size(unit: StoredUnit) -> int:
    return sum(int(facts["bytes"]) for facts in unit.files.values())


def _runs(store: Store) -> Mapping[str, set[str]]:
    """Key of a unit -> the runs whose tables are made of it."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    try:
        used = tables.read(store.out, "units")
    except FileNotFoundError:
        return found
    for key, run in zip(used["key"], used["run"], strict=True):
        found[key].add(run)
    return found


def _entries(store: Store, folder: str) -> list[str]:
    """What lies in a folder, hidden things left out; nothing where there is none."""
    store.fs.invalidate_cache(folder)
    try:
        paths = transfer.retry(store.fs.ls, folder, detail=False)
    except FileNotFoundError:
        return []
    return sorted(path for path in paths if not path.rpartition("/")[2].startswith("."))


def _aside(store: Store) -> Iterator[UnusedFiles]:
    """Folders in which a killed run was writing."""
    out = store.root.rpartition("/")[0]
    for pattern in (".aside-*", "units/.aside-*", "tables/.aside-*"):
        for path in store.fs.glob(f"{out}/{pattern}"):
            if _age_s(store, path) > STALE_S:
                yield UnusedFiles(path, int(store.fs.du(path)), "left aside by a run that was killed")


def _claims(store: Store) -> Iterator[UnusedFiles]:
    for claims, kinds in ((store.claims, (*SCHEMAS, "runs")), (store.table_claims, ("run",))):
        for path in (path for kind in kinds for path in claims.paths(kind)):
            if claims.is_dead(path):
                yield UnusedFiles(path, 0, "claimed by a process that has ended")


def _age_s(store: Store, path: str) -> float:
    """Since the last change in a folder, or of a file; infinite where the filesystem does not say."""
    files = store.fs.find(path) or [path]
    try:
        last = max(float(store.fs.modified(file).timestamp()) for file in files)
        return time.time() - last
    except (NotImplementedError, KeyError, FileNotFoundError, AttributeError):
        return float("inf")
