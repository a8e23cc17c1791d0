"""What a unit's manifest says of its files, held against the files.

Sizes and stamps (a file's date, or its version on a remote) cost a look; checksums cost reading every byte.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from harness.storage import transfer

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"


class CorruptUnit(ValueError):  # noqa: N818 - the unit, not the program, is in error
    """A file of a unit is not what was written.

    Attributes:
        kind, key, file: of which unit, and which of its files.
        wanted, found: checksums; sizes where these differ already.
    """

    def __init__(self, kind: str, key: str, file: str, wanted: str, found: str) -> None:
        super().__init__(kind, key, file, wanted, found)  # all of them, so that it can travel between processes
        self.kind, self.key, self.file, self.wanted, self.found = kind, key, file, wanted, found

    def __str__(self) -> str:
        return f"{self.kind} unit {self.key}: {self.file} is corrupt: written with {self.wanted}, now {self.found}."


@dataclass(frozen=True)
class StoredUnit:
    """A unit as it is found.

    Attributes:
        kind, key, folder: which, and where.
        manifest: as it was written; its `files` are name -> bytes, sha256 and stamp.
        stamps: name -> stamp of now.
        fault: what is wrong by the sizes; None where nothing is.
    """

    kind: str
    key: str
    folder: str
    manifest: dict[str, Any]
    stamps: dict[str, str]
    fault: CorruptUnit | None

    @property
    def files(self) -> dict[str, dict[str, Any]]:
        """Name -> bytes, sha256, stamp."""
        found: dict[str, dict[str, Any]] = self.manifest["files"]
        return found

    @property
    def is_untouched(self) -> bool:
        """Whether every file has the stamp that it was given when it was written, or compared last."""
        return all(self.stamps[name] and self.stamps[name] == facts.get("stamp") for name, facts in self.files.items())


def look(fs: Any, folder: str, kind: str, key: str) -> StoredUnit | None:
    """The unit in a folder; None where there is no manifest that can be read."""
    fs.invalidate_cache(folder)
    try:
        manifest = json.loads(transfer.retry(fs.cat_file, f"{folder}/{MANIFEST}"))
        files = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s unit %s: its manifest cannot be read, so it counts as absent.", kind, key)
        return None
    stamps, fault = {}, None
    for name, (wanted, _) in files.items():
        try:
            info = transfer.retry(fs.info, f"{folder}/{name}")
        except FileNotFoundError:
            info = {}
        stamps[name], size = transfer.stamp(info), info.get("size")
        if size != wanted and fault is None:
            fault = CorruptUnit(kind, key, name, f"{wanted} bytes", "missing" if size is None else f"{size} bytes")
    return StoredUnit(kind, key, folder, manifest, stamps, fault)


def compare(fs: Any, unit: StoredUnit, names: Iterable[str], copies: Path | None = None) -> CorruptUnit | None:
    """Compare checksums, of several files beside each other.

    Args:
        fs: where the unit is.
        unit: sizes are right.
        names: of its files.
        copies: where the files of a remote are copied to as they are read, if anywhere.

    Returns:
        What is wrong with the first file that is not right; None where all are.

    Raises:
        FileNotFoundError: if the unit was removed meanwhile.
    """

    def checksum(name: str) -> str:
        path = f"{unit.folder}/{name}"
        if isinstance(fs, LocalFileSystem):
            return transfer.sha256(Path(path))
        return transfer.fetch(fs, path, unit.files[name]["bytes"], copies / name if copies else None)

    def fault(name: str) -> CorruptUnit | None:
        wanted, found = unit.files[name]["sha256"], checksum(name)
        if found != wanted and not isinstance(
            fs, LocalFileSystem
        ):  # once more, for it may have come to harm on its way
            found = checksum(name)
        if found == wanted:
            return None
        return CorruptUnit(unit.kind, unit.key, name, f"sha256 {wanted}", f"sha256 {found}")

    with ThreadPoolExecutor(transfer.STREAMS) as pool:
        return next(filter(None, pool.map(fault, names)), None)


def describe(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Name -> bytes and sha256 of files on this machine."""
    listed = list(files)
    with ThreadPoolExecutor(transfer.STREAMS) as pool:
        sums = list(pool.map(transfer.sha256, listed))
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": found} for file, found in zip(listed, sums, strict=True)
    }
