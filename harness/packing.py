"""A working directory as it is sent to a cluster: code and small files; no data, no weights, no caches, no secrets."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from harness.printing import size

# What a job needs is code; recordings and weights lie where the nodes see them.
LIMIT_BYTES = 50 * 2**20
# Folders and files that are left out wherever they lie, whether git knows them or not.
LEFT_OUT = (
    ".git", ".gitignore", ".rayignore", ".hg", ".venv*", "venv", "node_modules", "__pycache__", ".*_cache",
    ".cache", ".hypothesis", "*.egg-info", ".ipynb_checkpoints", "wandb", "results", "quickstart", "benchmarks.json",
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.ckpt", "*.gguf", "*.pkl", "*.pickle", "*.npy", "*.npz", "*.h5",
    "*.hdf5", "*.nc", "*.nii", "*.nii.gz", "*.mat", "*.parquet", "*.arrow", "*.feather", "*.zip", "*.tar",
    "*.tar.gz", "*.tgz", ".env", ".env.*", "*.pem", "*.key", "id_rsa*", "id_ed25519*", ".netrc", "auth_token",
    "*.token", "token", "credentials*", ".aws", ".ssh", ".ray", ".huggingface",
)  # fmt: skip


@dataclass(frozen=True)
class Packed:
    """What is sent. left_out: files that are not, those that git ignores not counted."""

    n_files: int
    n_bytes: int
    left_out: int

    def __str__(self) -> str:
        return f"{self.n_files} files, {size(self.n_bytes)} ({self.left_out} left out)"


def pack(folder: Path, to: Path, limit_bytes: int = LIMIT_BYTES) -> Packed:
    """Copy what is sent of a folder into an empty one, after a look at its size.

    A folder under git gives what git does not ignore, any other one all of its files; both without LEFT_OUT and without
    links that lead out of the folder.

    Raises:
        ValueError: if it is more than the limit; the largest files are named, and nothing is copied.
    """
    known = _listed(folder)
    files = [path for path in known if not _is_left_out(path) and _is_inside(folder, path)]
    sizes = {path: (folder / path).stat().st_size for path in files}
    total = sum(sizes.values())
    if total > limit_bytes:
        largest = sorted(files, key=lambda path: -sizes[path])[:5]
        said = ", ".join(f"{path} ({size(sizes[path])})" for path in largest)
        raise ValueError(
            f"{folder} has {size(total)} to send in {len(files)} files, and the limit is {size(limit_bytes)}; the "
            f"largest are {said}. Name them in .gitignore, or give --working-dir another folder; data and weights "
            "belong on storage that the nodes see."
        )  # fmt: skip
    for path in files:
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / path, to / path)
    return Packed(len(files), total, len(known) - len(files))


def _listed(folder: Path) -> list[Path]:
    """Files, relative to the folder, in order."""
    command = ["git", "-C", str(folder), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    try:
        said = subprocess.run(command, capture_output=True, check=True).stdout
        found = [Path(os.fsdecode(name)) for name in said.split(b"\0") if name]
    except (OSError, subprocess.CalledProcessError):  # no git here, or no repository of its
        found = list(_walked(folder))
    return sorted(path for path in set(found) if (folder / path).is_file())


def _walked(folder: Path) -> list[Path]:
    """Without going into folders that are left out: there may be millions of files."""
    found: list[Path] = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_left_out(Path(name))]
        found += [Path(where, name).relative_to(folder) for name in files]
    return found


def _is_left_out(path: Path) -> bool:
    return any(fnmatch(part, pattern) for part in path.parts for pattern in LEFT_OUT)


def _is_inside(folder: Path, path: Path) -> bool:
    return (folder / path).resolve().is_relative_to(folder.resolve())
