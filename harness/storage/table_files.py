"""Sizes and checksums of the files of a run's tables: recorded when the tables are written, compared when read.

The list of a run lies beside the tables, in OUT/tables/.files/RUN.json, where Parquet readers do not look. A missing,
truncated or changed file is an error that names it; running the same command again rewrites the tables. Runs of earlier
versions have no list and are read unchecked.
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

# A run's name consists of a spec and a hash. Nothing else may become part of a path that is removed.
_RUN = re.compile(r"(?!\.)[\w.-]+")
# Files this process has compared already: filesystem, path, stamp and checksum.
_compared: set[tuple[int, str, str, str]] = set()


class DamagedTablesError(ValueError):
    """Files of a run's tables differ from what was written."""


def require_name(run: str) -> str:
    """Return the name of a run; ValueError unless it is a plain word, since a path could leave the tables' folder."""
    if not _RUN.fullmatch(run):
        raise ValueError(f"{run!r} is not the name of a run; use letters, digits, dots and dashes.")
    return run


def run_tables() -> list[str]:
    """Names of the tables written for each run."""
    return [table for table, columns in SCHEMAS.items() if "run" in columns]


def write(fs: Any, root: str, run: str) -> None:
    """Record the current files of a run's tables.

    Args:
        fs: filesystem of OUT.
        root: path of OUT on it.
        run: a run whose tables are all written.
    """
    files = {
        path.removeprefix(f"{root}/tables/"): {"bytes": int(facts["size"]), "sha256": _sha256(fs, path, facts["size"])}
        for table in run_tables() for path, facts in _files(fs, f"{root}/tables/{table}/run={run}")
    }  # fmt: skip
    list_file = _list(root, run)
    transfer.retry(fs.makedirs, list_file.rpartition("/")[0], exist_ok=True)
    temporary = f"{list_file}.{uuid.uuid4().hex[:8]}"
    transfer.retry(fs.pipe_file, temporary, json.dumps(files, indent=1, sort_keys=True).encode())
    transfer.retry(fs.mv, temporary, list_file)


def forget(fs: Any, root: str, run: str) -> None:
    """Remove the list of a run before its tables change."""
    transfer.remove(fs, _list(root, run))


def listed(fs: Any, root: str) -> list[str]:
    """Runs that have a list."""
    names = transfer.names_in(fs, f"{root}/tables/.files")
    return sorted(name.removesuffix(".json") for name in names if name.endswith(".json"))


def faults(fs: Any, root: str, run: str, tables: Iterable[str] | None = None) -> Iterator[str]:
    """Faults in the files of a run's tables, one phrase each; none if the run has no list.

    Args:
        fs: filesystem of OUT.
        root: path of OUT on it.
        run: the run.
        tables: restrict to these tables.
    """
    try:
        content = json.loads(transfer.retry(fs.cat_file, _list(root, run)))
        listed_files = {str(name): (int(facts["bytes"]), str(facts["sha256"])) for name, facts in content.items()}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        yield f"the list of the files of run {run} cannot be read"
        return
    for table in run_tables() if tables is None else tables:
        expected = {name: facts for name, facts in listed_files.items() if name.startswith(f"{table}/run={run}/")}
        present = {
            path.removeprefix(f"{root}/tables/"): facts
            for path, facts in _files(fs, f"{root}/tables/{table}/run={run}")
        }
        yield from (f"{name} is missing" for name in sorted(expected.keys() - present.keys()))
        yield from (f"{name} does not belong to this run" for name in sorted(present.keys() - expected.keys()))
        for name in sorted(expected.keys() & present.keys()):
            if fault := _fault(fs, f"{root}/tables/{name}", present[name], *expected[name]):
                yield f"{name} {fault}"


def require(fs: Any, root: str, run: str, tables: Iterable[str] | None = None) -> None:
    """Raise DamagedTablesError, naming the first fault, if files differ from what was written."""
    fault = next(faults(fs, root, run, tables), "")
    if fault:
        raise DamagedTablesError(
            f"the tables of run {run} are damaged: {fault}. Run the command of that run again; it rebuilds the tables "
            "from the stored scores."
        )


def _fault(fs: Any, path: str, facts: dict[str, Any], n_bytes: int, sha256: str) -> str:
    if facts["size"] != n_bytes:
        return f"was written with {n_bytes} bytes and has {facts['size']}"
    entry = (hash(fs), path, f"{transfer.stamp(facts)} {facts.get('created')}", sha256)
    if entry in _compared or not isinstance(fs, LocalFileSystem):  # remotes verify their transfers themselves
        return ""
    if _sha256(fs, path, n_bytes) != sha256:
        return "is not what was written (its checksum differs)"
    _compared.add(entry)
    return ""


def _sha256(fs: Any, path: str, n_bytes: int) -> str:
    return transfer.fetch(fs, path, n_bytes, None)


def _files(fs: Any, folder: str) -> list[tuple[str, dict[str, Any]]]:
    """Parquet files of a folder, with the filesystem's information about each."""
    fs.invalidate_cache(folder)
    try:
        infos = transfer.retry(fs.find, folder, detail=True)
    except FileNotFoundError:
        return []
    return sorted((path, facts) for path, facts in infos.items() if path.endswith(".parquet"))


def _list(root: str, run: str) -> str:
    return f"{root}/tables/.files/{require_name(run)}.json"
