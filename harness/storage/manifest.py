"""Manifests of units, and the comparison of a unit's files with its manifest.

Sizes and stamps (a file's modification date, or its version on a remote) are cheap to compare; checksums require
reading every byte.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from harness.storage import transfer

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_CHECKSUM, _SHA256 = "checksum", re.compile("[0-9a-f]{64}")


class CorruptUnit(ValueError):  # noqa: N818 - the unit, not the program, is in error
    """A file of a unit differs from what was written.

    Attributes:
        kind, key, file: the unit, and the file.
        wanted, found: checksums; or sizes, if these differ already.
    """

    def __init__(self, kind: str, key: str, file: str, wanted: str, found: str) -> None:
        super().__init__(kind, key, file, wanted, found)  # all arguments, so that the exception can be pickled
        self.kind, self.key, self.file, self.wanted, self.found = kind, key, file, wanted, found

    def __str__(self) -> str:
        return f"{self.kind} unit {self.key}: {self.file} is corrupt: written with {self.wanted}, now {self.found}."


@dataclass(frozen=True)
class StoredUnit:
    """A unit in the store, with its manifest and the current state of its files.

    Attributes:
        kind, key, folder: identify the unit, and its location.
        manifest: as written; its `files` map a name to bytes, sha256 and stamp.
        stamps: name -> current stamp.
        fault: the first file with a wrong size; None if all sizes match.
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
        files: dict[str, dict[str, Any]] = self.manifest["files"]
        return files

    @property
    def is_untouched(self) -> bool:
        """Whether every file still has the stamp recorded when it was written or last compared."""
        return all(self.stamps[name] and self.stamps[name] == facts.get("stamp") for name, facts in self.files.items())


def encode(manifest: dict[str, Any]) -> bytes:
    """A manifest as JSON, with a checksum of its own."""
    content = json.loads(json.dumps(manifest))  # as it will be read
    return json.dumps({**content, _CHECKSUM: _checksum(content)}, indent=1, sort_keys=True).encode()


def decode(content: bytes) -> dict[str, Any]:
    """Parse and check a manifest. Those of earlier versions have no checksum.

    Raises:
        ValueError: if it is no JSON or does not have its checksum.
    """
    manifest: dict[str, Any] = json.loads(content)
    expected = manifest.pop(_CHECKSUM, None)
    if expected is None:  # a damaged name of the checksum is no earlier version
        is_damaged = any(isinstance(value, str) and _SHA256.fullmatch(value) for value in manifest.values())
    else:
        is_damaged = expected != _checksum(manifest)
    if is_damaged:
        raise ValueError("the manifest does not have its checksum.")
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    """sha256 of the JSON with sorted keys."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def find_unit(fs: Any, folder: str, kind: str, key: str) -> StoredUnit | None:
    """The unit in a folder; None if there is no manifest. One whose manifest is damaged has that as its fault."""
    fs.invalidate_cache(folder)
    try:
        manifest = decode(transfer.retry(fs.cat_file, f"{folder}/{MANIFEST}"))
        files = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("%s unit %s: its manifest is damaged, so it counts as absent.", kind, key)
        error = CorruptUnit(kind, key, MANIFEST, "a checksum", "other content")
        return StoredUnit(kind, key, folder, {"files": {}}, {}, error)
    stamps, fault = {}, None
    for name, (expected, _) in files.items():
        try:
            info = transfer.retry(fs.info, f"{folder}/{name}")
        except FileNotFoundError:
            info = {}
        stamps[name], size = transfer.stamp(info), info.get("size")
        if size != expected and fault is None:
            fault = CorruptUnit(kind, key, name, f"{expected} bytes", "missing" if size is None else f"{size} bytes")
    return StoredUnit(kind, key, folder, manifest, stamps, fault)


def compare(fs: Any, unit: StoredUnit, names: Iterable[str], copies: Path | None = None) -> CorruptUnit | None:
    """Compare checksums, several files in parallel.

    Args:
        fs: filesystem of the unit.
        unit: a unit whose sizes match.
        names: of its files.
        copies: local folder that receives a copy of each file read from a remote; None for no copies.

    Returns:
        The fault of the first file that differs; None if all match.

    Raises:
        FileNotFoundError: if the unit was removed meanwhile.
    """

    def checksum(name: str) -> str:
        path = f"{unit.folder}/{name}"
        if isinstance(fs, LocalFileSystem):
            return transfer.sha256(Path(path))
        return transfer.fetch(fs, path, unit.files[name]["bytes"], copies / name if copies else None)

    def fault(name: str) -> CorruptUnit | None:
        expected, actual = unit.files[name]["sha256"], checksum(name)
        if actual != expected and not isinstance(fs, LocalFileSystem):  # the transfer itself may have failed
            actual = checksum(name)
        if actual == expected:
            return None
        return CorruptUnit(unit.kind, unit.key, name, f"sha256 {expected}", f"sha256 {actual}")

    with ThreadPoolExecutor(transfer.STREAMS) as pool:
        return next(filter(None, pool.map(fault, names)), None)


def describe(files: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Name -> bytes and sha256, for local files."""
    paths = list(files)
    with ThreadPoolExecutor(transfer.STREAMS) as pool:
        checksums = zip(paths, pool.map(transfer.sha256, paths), strict=True)
        return {path.name: {"bytes": path.stat().st_size, "sha256": checksum} for path, checksum in checksums}
