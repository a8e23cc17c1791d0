"""The table of data sets: what each is, where its files are published, and how it is loaded.

A data set is one file of this folder, which declares an entry; "local:FOLDER" is a laboratory's own (local.py).
Nothing is downloaded here; a missing file is an error that says where to fetch it and where to put it. Loaders load
what is heavy when they are called, so that listing the table loads nothing.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from harness.datasets import (
    blank2014,
    brennan2016,
    futrell2018,
    pereira2018,
    synthetic,
    tuckute2024,
    wehbe2014,
    wikitext2,
)
from harness.datasets.entry import Entry, File, checksum_of
from harness.datasets.own import recording
from harness.protocol import Protocol
from harness.records import Dataset

_TABLE = (
    pereira2018.ENTRY,
    blank2014.ENTRY,
    *futrell2018.ENTRIES,
    tuckute2024.ENTRY,
    brennan2016.ENTRY,
    wehbe2014.ENTRY,
    wikitext2.ENTRY,
    *synthetic.ENTRIES,
)
DATASETS: dict[str, Entry] = {entry.name: entry for entry in _TABLE}


def find(name: str) -> Entry:
    """The entry of a data set; ValueError lists the nearest names where there is none.

    Of "local:FOLDER" the whole folder is read and checked, and what is wrong with it is a ValueError too.
    """
    if name.startswith(recording.PREFIX):
        entry = recording.entry(name)
        if entry.name in DATASETS or entry.name.startswith("synthetic"):
            raise ValueError(f"{name}: {entry.name!r} is the name of another data set; give its dataset.json a name.")
        return entry
    if name not in DATASETS:
        near = get_close_matches(name, DATASETS, n=3, cutoff=0.4) or list(DATASETS)
        raise ValueError(f"data set {name!r} is unknown; the nearest are {', '.join(near)}.")
    return DATASETS[name]


def expand(name: str) -> tuple[str, ...]:
    """A name -> itself; the stem of several releases ("futrell2018") -> each of them; else ValueError as in `find`.

    A folder of one's own need only be there: what is wrong within it must not stop the other data sets of a run.
    """
    if name.startswith(recording.PREFIX):
        recording.folder_of(name)
        return (name,)
    releases = tuple(known for known in DATASETS if known.startswith(f"{name}-"))
    return releases if name not in DATASETS and releases else (find(name).name,)


def missing(name: str, root: str | Path) -> list[File]:
    """The files that a data set cannot do without and that are not under the data root."""
    return _absent(find(name), Path(root))


def _absent(entry: Entry, root: Path) -> list[File]:
    return [file for file in entry.files if not (root / file.path).is_file()]


def load(name: str | Entry, root: str | Path, *, pinned: bool = True) -> Dataset:
    """Load one data set from the data root.

    Args:
        name: a name of the table, "local:FOLDER", or the entry that `find` gave.
        root: the folder that holds the data sets' folders.
        pinned: whether files must be the published ones, by checksum. Where not, any file of the published form is
            read (a subset, say); the version of the data set, which stands in every row, tells them apart.

    Raises:
        ValueError: if the name is unknown, or a file is not the pinned one.
        FileNotFoundError: if a file is missing: which, where it is published, and where to put it.
    """
    entry = name if isinstance(name, Entry) else find(name)
    _require_all(entry, Path(root))
    for file in (*entry.files, *(file for file in entry.optional if (Path(root) / file.path).is_file())):
        _require(entry, file, Path(root), pinned)
    return entry.load(Path(root))


def protocols(name: str) -> dict[str, Protocol]:
    """The protocols of a data set: "paper", "strict" and, where it has one, "brainscore2026"."""
    return {protocol.name: protocol for protocol in find(name).protocols}


def _require_all(entry: Entry, root: Path) -> None:
    """Raise unless all files lie under the root; all that do not are named."""
    absent = _absent(entry, root)
    if absent:
        file, *others = absent
        more = f" Also missing: {', '.join(other.path for other in others)}." if others else ""
        raise FileNotFoundError(
            f"{entry.name} needs {file.path}, which is not there. {_source(entry, file)} and put it at "
            f"{(root / file.path).absolute()} (--data-root DIR or HARNESS_DATA sets the root).{more}"
        )


def _source(entry: Entry, file: File) -> str:
    if file.url:
        return f"`harness fetch {entry.name}` brings it; or download {file.url}"
    return f"No direct address is known; see {entry.landing}"


def _require(entry: Entry, file: File, root: Path, pinned: bool) -> None:
    """Raise unless the file is the pinned one."""
    path, source = root / file.path, _source(entry, file)
    if not pinned or not file.checksum:
        return
    found = checksum_of(path, file.checksum)
    if found != file.checksum:
        size = f"{file.n_bytes} bytes with " if file.n_bytes else ""
        raise ValueError(
            f"{entry.name}: {path.absolute()} is damaged or another release: {path.stat().st_size} bytes with {found}, "
            f"wanted {size}{file.checksum}. {source} and replace it (or give --unpinned to read it all the same)."
        )
