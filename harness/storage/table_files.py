"""The files of a run's tables, listed with sizes and checksums when they are written, and compared when they are read.

The list of a run lies beside the tables, in OUT/tables/.files/RUN.json, where no reader of Parquet looks. What is
missing, cut short or changed since is named; whoever runs the same command again has the tables made anew. Runs of
earlier versions have no list, and are read as they are.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterable, Iterator
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from harness.storage import transfer
from harness.storage.schemas import SCHEMAS

# Runs are named by a spec and a hash; nothing else may become part of a path that is removed.
_RUN = re.compile(r"(?!\.)[\w.-]+")
# What this process has compared already: filesystem, path, stamp and checksum.
_compared: set[tuple[int, str, str, str]] = set()


class DamagedTablesError(ValueError):
    """Files of a run's tables are not as they were written."""


def require_name(run: str) -> str:
    """The name of a run; ValueError where it is no plain word, which could lead out of the folder of tables."""
    if not _RUN.fullmatch(run):
        raise ValueError(f"{run!r} is no name of a run: letters, digits, dots and dashes are wanted.")
    return run


def of_a_run() -> list[str]:
    """The tables that are made for each run."""
    return [table for table, columns in SCHEMAS.items() if "run" in columns]


def write(fs: Any, root: str, run: str) -> None:
    """List the files of a run's tables as they are now.

    Args:
        fs: filesystem of OUT.
        root: OUT there.
        run: the run, whose tables are all written.
    """
    found = {
        path.removeprefix(f"{root}/tables/"): {"bytes": int(facts["size"]), "sha256": _sha256(fs, path, facts["size"])}
        for table in of_a_run() for path, facts in _files(fs, f"{root}/tables/{table}/run={run}")
    }  # fmt: skip
    file = _list(root, run)
    transfer.retry(fs.makedirs, file.rpartition("/")[0], exist_ok=True)
    aside = f"{file}.{uuid.uuid4().hex[:8]}"
    transfer.retry(fs.pipe_file, aside, json.dumps(found, indent=1, sort_keys=True).encode())
    transfer.retry(fs.mv, aside, file)


def forget(fs: Any, root: str, run: str) -> None:
    """Remove the list of a run, whose tables are about to change."""
    transfer.remove(fs, _list(root, run))


def listed(fs: Any, root: str) -> list[str]:
    """The runs that have a list."""
    folder = f"{root}/tables/.files"
    fs.invalidate_cache(folder)
    try:
        names = [path.rpartition("/")[2] for path in transfer.retry(fs.ls, folder, detail=False)]
    except FileNotFoundError:
        return []
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def faults(fs: Any, root: str, run: str, tables: Iterable[str] | None = None) -> Iterator[str]:
    """What is wrong with the files of a run's tables, a sentence each; nothing where the run has no list.

    Args:
        fs: filesystem of OUT.
        root: OUT there.
        run: the run.
        tables: only of these.
    """
    try:
        content = json.loads(transfer.retry(fs.cat_file, _list(root, run)))
        wanted = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in content.items()}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"the list of the files of run {run} cannot be read"
        return
    for table in of_a_run() if tables is None else tables:
        own = {name: facts for name, facts in wanted.items() if name.startswith(f"{table}/run={run}/")}
        there = {
            path.removeprefix(f"{root}/tables/"): facts
            for path, facts in _files(fs, f"{root}/tables/{table}/run={run}")
        }
        yield from (f"{name} is missing" for name in sorted(own.keys() - there.keys()))
        yield from (f"{name} is not of this run" for name in sorted(there.keys() - own.keys()))
        for name in sorted(own.keys() & there.keys()):
            if fault := _fault(fs, f"{root}/tables/{name}", there[name], *own[name]):
                yield f"{name} {fault}"


def require(fs: Any, root: str, run: str, tables: Iterable[str] | None = None) -> None:
    """Raise DamagedTablesError, which names the first fault, where files are not as they were written."""
    found = next(faults(fs, root, run, tables), "")
    if found:
        raise DamagedTablesError(
            f"the tables of run {run} are damaged: {found}. Give the command of that run again: they are put together "
            "anew from the stored scores."
        )


def _fault(fs: Any, path: str, facts: dict[str, Any], n_bytes: int, sha256: str) -> str:
    if facts["size"] != n_bytes:
        return f"was written with {n_bytes} bytes and has {facts['size']}"
    known = (hash(fs), path, f"{transfer.stamp(facts)} {facts.get('created')}", sha256)
    if known in _compared or not isinstance(fs, LocalFileSystem):  # a remote compares what it sends
        return ""
    if _sha256(fs, path, n_bytes) != sha256:
        return "is not what was written, by its checksum"
    _compared.add(known)
    return ""


def _sha256(fs: Any, path: str, n_bytes: int) -> str:
    return transfer.fetch(fs, path, n_bytes, None)


def _files(fs: Any, folder: str) -> list[tuple[str, dict[str, Any]]]:
    """The Parquet files of a folder and what the filesystem says of them."""
    fs.invalidate_cache(folder)
    try:
        found = transfer.retry(fs.find, folder, detail=True)
    except FileNotFoundError:
        return []
    return sorted((path, facts) for path, facts in found.items() if path.endswith(".parquet"))


def _list(root: str, run: str) -> str:
    return f"{root}/tables/.files/{require_name(run)}.json"
