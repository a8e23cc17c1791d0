"""Compare the memory that a model needs with the memory that is free, before any weight is loaded.

A model that does not fit is refused within seconds instead of failing at its last block.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import psutil

_CGROUP, _OWN_CGROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


class InsufficientMemoryError(ValueError):
    """A model does not fit into the memory that is free now."""


def free_bytes(device: str) -> int:
    """Bytes that this process can still allocate on a GPU, or in main memory for "cpu".

    On a GPU: the driver's free memory plus what this process has reserved but does not use. In main memory: the
    kernel's available memory, or less if a control group (a container, a scheduler's job) sets a limit.
    """
    if not device.startswith("cuda"):
        return int(min(psutil.virtual_memory().available, _cgroup_free(_CGROUP, _OWN_CGROUP)))
    import torch

    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0] + unused)


def best_device() -> str:
    """The default device: "cuda" if there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def require_memory(name: str, needed: Mapping[str, int], free: Mapping[str, int], breakdown: str) -> None:
    """Raise if a device has less free memory than a model needs there.

    Args:
        name: model name, for messages.
        needed: device ("cuda:0", "cpu") -> bytes.
        free: device -> free bytes (`free_bytes`).
        breakdown: what the needed memory consists of, for the message.

    Raises:
        InsufficientMemoryError: with both figures and what to do.
    """
    for device, n_bytes in needed.items():
        if n_bytes > free[device]:
            memory, advice = ("main memory", "a larger machine") if device == "cpu" else (device, "more GPUs, int8")
            raise InsufficientMemoryError(
                f"{name} needs {n_bytes / 1e9:.2f} GB of {memory} ({breakdown}), {free[device] / 1e9:.2f} GB are free. "
                f"Use {advice}, or bfloat16 where it is float32; or stop other programs on this device."
            )


def _cgroup_free(root: Path, own: Path) -> float:
    """The smallest limit minus usage over this process's control group and its parents; page cache counts as free.

    Covers both versions: memory.max in the second, memory/memory.limit_in_bytes in the first; infinity without a limit.
    In a container the group's own path may not exist, and the root is the container's group.
    """
    free = float("inf")
    for line in own.read_text().splitlines() if own.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in {"", "memory"}:
            group = root / controllers / path.strip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(root):
                    free = min(free, _free_in(folder))
    return free


def _free_in(folder: Path) -> float:
    versions = ("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for limit_file, usage_file in versions:
        if (folder / limit_file).is_file() and (folder / usage_file).is_file():
            limit = float((folder / limit_file).read_text().replace("max", "inf"))
            return limit - int((folder / usage_file).read_text()) + _page_cache(folder / "memory.stat")
    return float("inf")


def _page_cache(stat: Path) -> int:
    """Bytes of cached files that the kernel releases when memory is short."""
    lines = stat.read_text().splitlines() if stat.is_file() else []
    entries = dict(line.split()[:2] for line in lines)
    return sum(int(entries.get(f"total_{name}", entries.get(name, 0))) for name in ("inactive_file", "active_file"))
