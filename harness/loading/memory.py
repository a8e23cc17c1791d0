"""The memory that a model will take, against the memory that there is, before anything is read.

A model that does not fit is told so in seconds, and not when the last of its blocks has been read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class InsufficientMemoryError(ValueError):
    """A model does not fit into the memory that is free now."""


def free_bytes(device: str) -> int:
    """Bytes that this process can still take: of a GPU, or of main memory for "cpu".

    Of a GPU what the driver calls free and what this process holds but does not use. Of main memory what the kernel
    calls available, or less where a control group (a container, a job of a scheduler) sets a limit.
    """
    import torch

    if torch.device(device).type == "cuda":
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + idle)
    return int(min(_available(_MEMINFO), _group_free(_CGROUP, _OWN_CGROUP)))


def best_device() -> str:
    """Where a model is read if nobody says: "cuda" where there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_memory(name: str, wanted: Mapping[str, int], free: Mapping[str, int], said: str) -> None:
    """Raise where a device has less than a model wants of it.

    Args:
        name: of the model.
        wanted: device ("cuda:0", "cpu") -> bytes.
        free: likewise, what it has (`free_bytes`).
        said: what the wanted are made of, for the message.

    Raises:
        NoRoomError: with both figures and what to do.
    """
    for device, n_bytes in wanted.items():
        if n_bytes > free[device]:
            memory, advice = ("main memory", "a larger machine") if device == "cpu" else (device, "more GPUs, int8")
            raise InsufficientMemoryError(
                f"{name} wants {n_bytes / 1e9:.2f} GB of {memory} ({said}), {free[device] / 1e9:.2f} GB are free. Use "
                f"{advice}, or bfloat16 where it is float32; or end what else runs there."
            )


def _available(meminfo: Path) -> int:
    """MemAvailable of the kernel; where there is no such file (macOS), all of the main memory."""
    if not meminfo.is_file():
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    line = next(line for line in meminfo.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def _group_free(root: Path, own: Path) -> float:
    """The least of limit less use over this process's control group and those around it, page cache not counted.

    Both versions: memory.max of the second, memory/memory.limit_in_bytes of the first; infinity where none limits. In
    a container the group's own path may not be there, and the root is the container's.
    """
    free = float("inf")
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            group = root / controllers / path.strip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    free = min(free, _limit(folder))
    return free


def _limit(folder: Path) -> float:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        if (folder / limit).is_file() and (folder / used).is_file():
            most = float((folder / limit).read_text().replace("max", "inf"))
            return most - int((folder / used).read_text()) + _page_cache(folder / "memory.stat")
    return float("inf")


def _page_cache(stat: Path) -> int:
    """Bytes of files that the kernel gives back when memory is short."""
    lines = stat.read_text().splitlines() if stat.is_file() else []
    entries = dict(line.split()[:2] for line in lines)
    return sum(int(entries.get(f"total_{name}", entries.get(name, 0))) for name in ("inactive_file", "active_file"))
