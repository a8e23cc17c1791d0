"""What is sent to a cluster with a job: the program's own code, and what is asked for by name; nothing else.

Models, recordings and results are named by whole paths or URLs, and lie where the nodes see them. Whatever else lies in
a working directory (data, notebooks, keys) stays there, whatever it is called.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.numbers import size

LIMIT_BYTES = 50 * 2**20
# The program: its packages, and the forms of the files that they consist of.
_PACKAGES = ("harness", "harness/kernels", "harness/jobs")
_FORMS = frozenset((".py", ".j2", ".js", ".csv"))


@dataclass(frozen=True)
class Package:
    """What is sent."""

    n_files: int
    n_bytes: int

    def __str__(self) -> str:
        return f"{self.n_files} files, {size(self.n_bytes)}"


def pack(folder: Path, to: Path, also: Sequence[str] = (), limit_bytes: int = LIMIT_BYTES) -> Package:
    """Copy what is sent of a working directory into an empty one, after a look at its size.

    Args:
        folder: the working directory. Where the program's packages lie in it, their code is sent; else that which is
            installed on the nodes runs.
        to: an empty folder.
        also: files and folders inside the working directory that are sent besides.
        limit_bytes: of all files.

    Raises:
        ValueError: if one asked for is not there, or leads out of the working directory; or if it is more than the
            limit: the largest files are named, and nothing is copied.
    """
    files = sorted({*_code(folder), *(file for name in also for file in _asked(folder, name))})
    sizes = {path: (folder / path).stat().st_size for path in files}
    total = sum(sizes.values())
    if total > limit_bytes:
        largest = sorted(files, key=lambda path: -sizes[path])[:5]
        said = ", ".join(f"{path} ({size(sizes[path])})" for path in largest)
        raise ValueError(
            f"{folder} has {size(total)} to send in {len(files)} files, and the limit is {size(limit_bytes)}; the "
            f"largest are {said}. Send less (--send), or raise --limit-mb; data and weights belong on storage that the "
            "nodes see."
        )
    for path in files:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, to / path)
    return Package(len(files), total)


def _code(folder: Path) -> Iterator[Path]:
    """The files of the program's packages, where they lie in a folder; links that lead out of it are not followed."""
    for package in _PACKAGES if (folder / "harness" / "__init__.py").is_file() else ():
        for path in _walked(folder, folder / package):
            if path.suffix in _FORMS and _is_inside(folder, path):
                yield path


def _asked(folder: Path, name: str) -> Iterator[Path]:
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
    """Files, relative to the folder."""
    for where, folders, names in os.walk(start):
        folders[:] = [name for name in folders if name != "__pycache__"]
        yield from (Path(where, name).relative_to(folder) for name in names if Path(where, name).is_file())


def _is_inside(folder: Path, path: Path) -> bool:
    return (folder / path).resolve().is_relative_to(folder.resolve())
