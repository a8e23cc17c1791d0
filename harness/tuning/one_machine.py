"""The process group of workers on one machine, which can be reached from this machine only.

By default the first worker opens torch's TCPStore, a server on every network address, through which the workers find
each other. Here they meet in a file, and their connections are on loopback.
"""

from __future__ import annotations

import contextlib
import os
import sys
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import torch.distributed
from ray.train.backend import Backend
from ray.train.torch import TorchConfig

_LEAVE_S = 30.0
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass
class OneMachine(TorchConfig):  # type: ignore[misc]
    """In place of Ray Train's TorchConfig. folder: where the workers meet; each group has a file of its own there."""

    folder: str = ""

    @property
    def backend_cls(self) -> type[Backend]:
        """What starts and ends the process group."""
        return _OneMachineBackend


class _OneMachineBackend(Backend):  # type: ignore[misc]
    share_cuda_visible_devices = True  # workers copy between their GPUs

    def on_start(self, worker_group: Any, backend_config: OneMachine) -> None:
        """Let the workers join; also after a lost worker was replaced."""
        place = Path(backend_config.folder).absolute() / f"group-{uuid.uuid4().hex}"
        place.parent.mkdir(parents=True, exist_ok=True)
        n = len(worker_group)
        ray.get([
            worker_group.execute_single_async(rank, _join, backend_config.backend, rank, n, place.as_uri())
            for rank in range(n)
        ])  # fmt: skip

    def on_shutdown(self, worker_group: Any, backend_config: OneMachine) -> None:  # noqa: ARG002
        """Let the workers leave."""
        with contextlib.suppress(ray.exceptions.GetTimeoutError):  # it waits for workers that were lost
            ray.get(worker_group.execute_async(_leave), timeout=_LEAVE_S)


def _join(backend: str, rank: int, size: int, place: str) -> None:
    for library in ("GLOO", "NCCL"):
        os.environ[f"{library}_SOCKET_IFNAME"] = _LOOPBACK
    timeout = timedelta(seconds=TorchConfig.timeout_s)
    torch.distributed.init_process_group(backend, init_method=place, rank=rank, world_size=size, timeout=timeout)


def _leave() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
