"""The table of data sets: description, published files and loader of each.

Each data set is one module of this package and declares an entry. "local:FOLDER" is a user's own recording (`own/`).
Loading downloads nothing: a missing file is an error that names its source and its place. Loaders import heavy
libraries only when called, so that listing the table is fast.
"""

from __future__ import annotations

import logging
from pathlib import Path

from harness import plugins
from harness.datasets import (
    blank2014,
    brennan2016,
    fedorenko2016,
    futrell2018,
    lebel2023,
    lepetitprince,
    narratives,
    pereira2018,
    synthetic,
    tuckute2024,
    wehbe2014,
    wehbe2014_authors,
    wikitext2,
)  # fmt: skip
from harness.datasets.entry import Entry, File, checksum_of
from harness.datasets.own import recording
from harness.names import unknown
from harness.protocol import Protocol
from harness.records import Dataset

logger = logging.getLogger(__name__)
_TABLE = (
    pereira2018.ENTRY,
    blank2014.ENTRY,
    fedorenko2016.ENTRY,
    *futrell2018.ENTRIES,
    *tuckute2024.ENTRIES,
    brennan2016.ENTRY,
    wehbe2014.ENTRY,
    wehbe2014_authors.ENTRY,
    lebel2023.ENTRY,
    *lepetitprince.ENTRIES,
    narratives.ENTRY,
    wikitext2.ENTRY,
    *synthetic.ENTRIES,
)
DATASETS: dict[str, Entry] = {entry.name: entry for entry in _TABLE}
GROUP: plugins.Group = "harness.datasets"


def find(name: str) -> Entry:
    """Return the entry of a data set.

    For "local:FOLDER" the whole folder is read and checked.

    Raises:
        ValueError: if the name is unknown (lists the nearest names), or the folder has an error.
    """
    if name.startswith(recording.PREFIX):
        entry = recording.entry(name)
        if is_known(entry.name) or entry.name.startswith("synthetic"):
            raise ValueError(f"{name}: {entry.name!r} is the name of another data set; set another in dataset.json.")
        return entry
    plugin = plugins.find(GROUP, name, DATASETS)
    if plugin is None:
        raise unknown("data set", name, known())
    return _entry(name, plugin)


def _entry(name: str, plugin: plugins.Plugin) -> Entry:
    """The entry of a data set, which an entry point may give as an `Entry` or as a function that returns one."""
    entry = plugin.value() if plugin.version and callable(plugin.value) else plugin.value
    if not isinstance(entry, Entry):
        raise ValueError(
            f"data set {name!r} ({plugin.version}) is a {type(entry).__name__}; its entry point must name an Entry."
        )
    if entry.name != name:
        raise ValueError(f"data set {name!r} ({plugin.version}) calls itself {entry.name!r}; give both one name.")
    return entry


def known() -> list[str]:
    """Names of all data sets, those of installed distributions included."""
    return plugins.known(GROUP, DATASETS)


def is_known(name: str) -> bool:
    """Whether a name is that of a data set."""
    return name in known()


def every() -> list[Entry]:
    """All entries, those of installed distributions included; one that cannot be imported is logged and left out."""
    entries = []
    for name in known():
        try:
            entries.append(find(name))
        except ValueError as error:
            logger.warning("%s", error)
    return entries


def expand(name: str) -> tuple[str, ...]:
    """Expand the stem of several releases ("futrell2018") to their names; a full name is returned as it is.

    A local folder is only required to exist: errors in it must not stop the other data sets of a run.

    Raises:
        ValueError: if the name is unknown, or there is no such folder.
    """
    if name.startswith(recording.PREFIX):
        recording.folder_of(name)
        return (name,)
    releases = tuple(release for release in known() if release.startswith(f"{name}-"))
    return releases if releases and not is_known(name) else (find(name).name,)


def missing(name: str, root: str | Path) -> list[File]:
    """Required files of a data set that do not exist under the data root."""
    return _absent(find(name), Path(root))


def _absent(entry: Entry, root: Path) -> list[File]:
    return [file for file in entry.files if not (root / file.path).is_file()]


def load(name: str | Entry, root: str | Path, *, pinned: bool = True) -> Dataset:
    """Load one data set from the data root.

    Args:
        name: a name of the table, "local:FOLDER", or an entry returned by `find`.
        root: folder that contains the folders of the data sets.
        pinned: whether to require the pinned checksums. If False, any file of the published format is read, for example
            a subset; the version of the data set, which is in every result row, distinguishes them.

    Raises:
        ValueError: if the name is unknown, or a file does not have the pinned checksum.
        FileNotFoundError: if a file is missing; names the file, its source and its place.
    """
    entry, root = name if isinstance(name, Entry) else find(name), Path(root)
    _require_all(entry, root)
    optional = (file for file in entry.optional if (root / file.path).is_file())
    for file in (*entry.files, *optional) if pinned else ():
        _require_checksum(entry, file, root)
    return entry.load(root)


def protocols(name: str) -> dict[str, Protocol]:
    """Protocols of a data set by name: "paper", "strict", and "equal" and "brainscore2026" if it has them."""
    return {protocol.name: protocol for protocol in find(name).protocols}


def _require_all(entry: Entry, root: Path) -> None:
    """Raise if a required file is missing; the error names all that are."""
    absent = _absent(entry, root)
    if absent:
        file, *others = absent
        more = f" Also missing: {', '.join(other.path for other in others)}." if others else ""
        raise FileNotFoundError(
            f"{entry.name} needs {file.path}, which does not exist. {_source(entry, file)} and put it at "
            f"{(root / file.path).absolute()} (--data-root DIR or HARNESS_DATA sets the root).{more}"
        )


def _source(entry: Entry, file: File) -> str:
    """How to get a file, as the beginning of a sentence."""
    if file.url:
        return f"Run `harness fetch {entry.name}`, or download {file.url}"
    return f"No direct address is known; download it from {entry.landing}"


def _require_checksum(entry: Entry, file: File, root: Path) -> None:
    """Raise if the file does not have the pinned checksum."""
    path, source = root / file.path, _source(entry, file)
    if file.checksum and (checksum := checksum_of(path, file.checksum)) != file.checksum:
        size = f"{file.n_bytes} bytes with " if file.n_bytes else ""
        raise ValueError(
            f"{entry.name}: {path.absolute()} is damaged or another release: {path.stat().st_size} bytes with "
            f"{checksum}, wanted {size}{file.checksum}. {source} and replace it (or give --unpinned to read it anyway)."
        )
