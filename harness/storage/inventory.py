"""Inventory of a store (`harness cache`): list its units, verify their checksums, and remove unused files.

Everything in a store can be computed again. Files that a running process works on are never removed, and nothing is
removed without an explicit command.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.storage import table_files, tables, transfer
from harness.storage.manifest import CorruptUnit, StoredUnit, find_unit
from harness.storage.origin import (
    CORPORA_VERSION,
    FEATURES_VERSION,
    LOCALISERS_VERSION,
    SCORES_VERSION,
    SURPRISALS_VERSION,
)
from harness.storage.store import STALE_S, Store

SCHEMAS = {
    "features": FEATURES_VERSION, "ceilings": SCORES_VERSION, "scores": SCORES_VERSION, "corpora": CORPORA_VERSION,
    "surprisals": SURPRISALS_VERSION, "localisers": LOCALISERS_VERSION,
}  # fmt: skip


@dataclass(frozen=True)
class ListedUnit:
    """A unit as `harness cache ls` shows it.

    Attributes:
        kind, key: identify the unit.
        model, dataset, protocol: what it was computed from. Features serve several data sets and protocols; for them
            `protocol` is the context rule.
        bytes: size of its files.
        created: when it was stored.
        runs: runs whose tables use it.
        state: "whole" (sizes match; `verify` compares checksums), "damaged", "unfinished" (no manifest: a run was
            killed), "outdated" (another version of the harness, never reused) or "computing".
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
    """Files that `harness cache gc` would remove, and why. kind, key: of a unit; "" for other files."""

    path: str
    bytes: int
    why: str
    kind: str = ""
    key: str = ""


def ls(store: Store) -> list[ListedUnit]:
    """All units, sorted by kind and creation time."""
    runs = _runs(store)
    units = [
        _listed(store, kind, key, unit, runs)
        for kind in SCHEMAS
        for key, unit in _units(store, kind, manifest_only=False)
    ]
    return sorted(units, key=lambda unit: (unit.kind, unit.created, unit.key))


def verify(store: Store, progress: Callable[[int, int], None] | None = None) -> tuple[int, int, list[CorruptUnit]]:
    """Read every byte of all finished units and compare checksums; remove corrupt units.

    Args:
        store: the store.
        progress: called with bytes read and total bytes after each unit.

    Returns:
        Number of units checked, bytes of the intact ones, and the errors of the others.
    """
    listed = [(kind, key, _size(unit)) for kind in SCHEMAS for key, unit in _units(store, kind) if unit]
    total, n_read, corrupt = sum(size for *_, size in listed), 0, []
    for kind, key, size in listed:
        try:
            store.verify(kind, key)
            n_read += size
        except CorruptUnit as error:
            corrupt.append(error)
        except FileNotFoundError:  # removed since it was listed
            total -= size
        if progress:
            progress(n_read, total)
    return len(listed), n_read, corrupt


def damaged_tables(store: Store) -> list[str]:
    """Faults in the files of the runs' tables, one sentence each; the next run of the same name rewrites the tables."""
    root = store.root.rpartition("/")[0]
    runs = table_files.listed(store.fs, root)
    return [f"run {run}: {fault}" for run in runs for fault in table_files.faults(store.fs, root, run)]


def unused_files(store: Store, *, unused: bool = False) -> list[UnusedFiles]:
    """Files that are no longer of use, except those a running process works on.

    Args:
        store: the store.
        unused: also list units that no run's tables use.

    Raises:
        ValueError: if `unused` is set while a run is computing: the units it stored are in no table yet.
    """
    files, workers = [*_staging(store), *_claims(store)], store.workers()
    if unused and workers:
        raise ValueError(
            f"{workers[0]} is running here, and the units it has stored are not in any table yet; wait until it ends, "
            "or leave out --unused."
        )
    for unit in ls(store):
        path = store.folder(unit.kind, unit.key)
        if unit.state == "outdated" and not workers:
            files.append(UnusedFiles(path, unit.bytes, "from another version of the harness", unit.kind, unit.key))
        elif unit.state == "damaged":
            files.append(UnusedFiles(path, unit.bytes, "damaged", unit.kind, unit.key))
        elif unit.state == "unfinished" and _age_s(store, path) > STALE_S:
            files.append(UnusedFiles(path, unit.bytes, "left unfinished by a killed run", unit.kind, unit.key))
        elif unused and unit.state == "computing":
            raise ValueError(
                f"{store.claimed(unit.kind, unit.key)} is computing {unit.kind} unit {unit.key} here, and its tables "
                "are not written yet; wait until it ends, or leave out --unused."
            )
        elif unused and unit.state == "whole" and unit.kind != "ceilings" and not unit.runs:
            files.append(UnusedFiles(path, unit.bytes, "not used by any run's tables", unit.kind, unit.key))
    return files


def remove(store: Store, unused: Sequence[UnusedFiles]) -> None:
    """Remove files listed by `unused_files`, except units that are being computed again."""
    for files in unused:
        if files.kind:
            claim = store.claims.take(files.kind, files.key)
            if claim:
                store.remove(files.kind, files.key)
                claim.release()
        else:
            transfer.remove(store.fs, files.path, recursive=True)


# --- the folders of a store -------------------------------------------------------------------------------------------


def _units(store: Store, kind: str, *, manifest_only: bool = True) -> Iterator[tuple[str, StoredUnit | None]]:
    """Key and unit of every folder of a kind; None where the manifest is missing or unreadable."""
    for key in transfer.names_in(store.fs, f"{store.root}/{kind}"):
        if not key.startswith("."):
            unit = find_unit(store.fs, store.folder(kind, key), kind, key)
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
    if unit.fault:
        return "damaged"
    return "whole" if unit.manifest.get("schema") == SCHEMAS[kind] else "outdated"


def _size(unit: StoredUnit) -> int:
    return sum(int(facts["bytes"]) for facts in unit.files.values())


def _runs(store: Store) -> Mapping[str, set[str]]:
    """Key of a unit -> the runs whose tables use it."""
    runs: defaultdict[str, set[str]] = defaultdict(set)
    try:
        rows = tables.read(store.out, "units")
    except FileNotFoundError:
        return runs
    for key, run in zip(rows["key"], rows["run"], strict=True):
        runs[key].add(run)
    return runs


def _staging(store: Store) -> Iterator[UnusedFiles]:
    """Staging folders left by killed runs."""
    out = store.root.rpartition("/")[0]
    for pattern in (".aside-*", "units/.aside-*", "tables/.aside-*"):
        for path in store.fs.glob(f"{out}/{pattern}"):
            with contextlib.suppress(FileNotFoundError):  # of a run at work, which has just finished
                if _age_s(store, path) > STALE_S:
                    yield UnusedFiles(path, int(store.fs.du(path)), "temporary files of a killed run")


def _claims(store: Store) -> Iterator[UnusedFiles]:
    for claims, kinds in ((store.claims, (*SCHEMAS, "runs")), (store.table_claims, ("run",))):
        for path in (path for kind in kinds for path in claims.paths(kind)):
            if claims.is_dead(path):
                yield UnusedFiles(path, 0, "claim of a process that has ended")


def _age_s(store: Store, path: str) -> float:
    """Seconds since a file, or any file of a folder, was modified.

    Infinite if the filesystem has no dates; 0 if files disappear meanwhile, since somebody is at work there.
    """
    files = store.fs.find(path) or [path]
    try:
        last = max(float(store.fs.modified(file).timestamp()) for file in files)
        return time.time() - last
    except FileNotFoundError:
        return 0.0
    except (NotImplementedError, KeyError, AttributeError):
        return float("inf")
