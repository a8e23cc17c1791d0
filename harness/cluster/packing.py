"""Files sent to a cluster with a job: the program's code and files given by --send, nothing else.

Models, recordings and results are given by absolute paths or URLs that all nodes can access. Other files in the working
directory (data, notebooks, keys) are never sent, whatever their names.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.numbers import size

LIMIT_BYTES = 50 * 2**20
# The program's packages, and the file types they need at run time.
_PACKAGES = ("harness", "harness/kernels", "harness/jobs")
_SUFFIXES = frozenset((".py", ".j2", ".js", ".css", ".csv"))


@dataclass(frozen=True)
class Package:
    """Number and size of the files sent."""

    n_files: int
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.n_files} files, {size(self.n_bytes)}"


def pack(folder: Path, to: Path, also: Sequence[str] = (), limit_bytes: int = LIMIT_BYTES) -> Package:
    """Copy the files to send from a working directory into an empty one, after checking their size.

    Args:
        folder: the working directory. If it contains the program's packages, their code is sent; otherwise the version
            installed on the nodes runs.
        to: an empty folder.
        also: further files and folders inside the working directory to send.
        limit_bytes: maximum total size.

    Raises:
        ValueError: if a file in `also` does not exist or lies outside of the working directory, or if the total size
            exceeds the limit; the message names the largest files, and nothing is copied.
    """
    files = sorted({*_code(folder), *(file for name in also for file in _requested(folder, name))})
    sizes = {path: (folder / path).stat().st_size for path in files}
    total = sum(sizes.values())
    if total > limit_bytes:
        largest = sorted(files, key=lambda path: -sizes[path])[:5]
        listing = ", ".join(f"{path} ({size(sizes[path])})" for path in largest)
        raise ValueError(
            f"{folder} has {size(total)} to send in {len(files)} files, and the limit is {size(limit_bytes)}; the "
            f"largest are {listing}. Send less (--send) or raise --limit-mb; data and weights belong on storage that "
            "all nodes can access."
        )
    for path in files:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, to / path)
    return Package(len(files), total)


def _code(folder: Path) -> Iterator[Path]:
    """Files of the program's packages in a folder, if any; links that lead out of the folder are skipped."""
    for package in _PACKAGES if (folder / "harness" / "__init__.py").is_file() else ():
        for path in _walked(folder, folder / package):
            if path.suffix in _SUFFIXES and _is_inside(folder, path):
                yield path


def _requested(folder: Path, name: str) -> Iterator[Path]:
    """Files of a --send option, relative to the folder."""
    path = Path(os.path.relpath(folder / name, folder))
    if not (folder / path).exists():
        raise ValueError(f"--send {name}: there is no such file or folder in {folder}.")
    if not _is_inside(folder, path):
        raise ValueError(f"--send {name}: it lies outside of {folder}, the working directory.")
    if (folder / path).is_file():
        yield path
        return
    yield from (inside for inside in _walked(folder, folder / path) if _is_inside(folder, inside))


def _walked(folder: Path, start: Path) -> Iterator[Path]:
    """All files under `start`, relative to the folder."""
    for where, folders, names in os.walk(start):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(where, name).relative_to(folder) for name in names if Path(where, name).is_file())


def _is_inside(folder: Path, path: Path) -> bool:
    return (folder / path).resolve().is_relative_to(folder.resolve())
