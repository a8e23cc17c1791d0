"""A disk as a remote filesystem, `flaky://`, that fails every call while the file named by FLAKY_DOWN is there.

`install` makes it known to this process and, by an entry point of fsspec, to every process that it starts.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import fsspec
from fsspec import AbstractFileSystem
from fsspec.implementations.local import LocalFileSystem

HERE = Path(__file__).resolve().parent


def install(folder: Path) -> Path:
    """Write the entry point into a folder, and name a file there: the remote is down while it exists."""
    entry = folder / "flaky-0.dist-info"
    entry.mkdir(parents=True)
    (entry / "METADATA").write_text("Metadata-Version: 2.1\nName: flaky\nVersion: 0\n")
    (entry / "entry_points.txt").write_text("[fsspec.specs]\nflaky = flaky:Flaky\n")
    paths = [str(folder), str(HERE), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    os.environ["FLAKY_DOWN"] = str(folder / "down")
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    return folder / "down"


class Flaky(AbstractFileSystem):
    """As an object store: folders come with their files, and nothing is renamed."""

    protocol = "flaky"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._disk = LocalFileSystem(auto_mkdir=True)

    @property
    def disk(self) -> LocalFileSystem:
        """What lies below, while it answers."""
        if Path(os.environ["FLAKY_DOWN"]).exists():
            raise ConnectionError("the storage does not answer")
        return self._disk

    def ls(self, path: str, detail: bool = True, **named: Any) -> Any:
        """Names, or facts, of what lies in a folder."""
        return self.disk.ls(self._strip_protocol(path), detail, **named)

    def info(self, path: str, **named: Any) -> Any:
        """Size, kind and date."""
        return self.disk.info(self._strip_protocol(path), **named)

    def modified(self, path: str) -> Any:
        """When it was written."""
        return self.disk.modified(path)

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        return self.disk.open(path, mode)

    def mkdir(self, path: str, create_parents: bool = True, **_: Any) -> None:
        """A folder."""
        self.disk.mkdir(path, create_parents)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """A folder, and those above it."""
        self.disk.makedirs(self._strip_protocol(path), exist_ok)

    def cp_file(self, path1: str, path2: str, **_: Any) -> None:
        """Copy a file, or make a folder."""
        self.disk.cp_file(path1, path2)

    def rm_file(self, path: str) -> None:
        """Remove a file or an empty folder."""
        (self.disk.rmdir if Path(path).is_dir() else self.disk.rm_file)(path)
