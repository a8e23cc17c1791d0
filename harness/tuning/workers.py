"""The workers of a training: which one this is, and how weights and gradients are divided among them.

Replicated: each worker holds all weights, and gradients are summed once per step. Sharded: each holds a part of every
weight (torch's FSDP2, `fully_shard`), for models that do not fit on one GPU. In both cases a worker adds the gradient
of its part of the batch's summed loss, already divided by the tokens of the whole batch, so gradients are summed: the
result does not depend on the number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """One worker and the others.

    Attributes:
        rank: number of this worker, from 0.
        n: number of workers.
        device: where this worker computes.
        is_sharded: whether each weight is divided among the workers.
    """

    rank: int
    n: int
    device: torch.device
    is_sharded: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this worker writes what one worker writes for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Wait until all workers have come this far."""
        if self.n > 1:
            dist.barrier()

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums of the workers' values."""
        sums = torch.tensor(values, dtype=torch.float64)
        if self.n > 1:
            sums = sums.to(self.device)
            dist.all_reduce(sums)
        return [float(value) for value in sums]


def distribute(model: Any, blocks: Sequence[Any], group: Group, dtype: torch.dtype) -> Any:
    """Put a model on the workers' devices, divided among them if the group is sharded; returns the model.

    Args:
        model: on the CPU, or replicated on this worker's device.
        blocks: its transformer blocks, whose weights are gathered one block at a time.
        group: the workers.
        dtype: precision in which sharded weights are gathered and used.
    """
    if not group.is_sharded:
        return model.to(group.device)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(group.device.type, (group.n,))
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
    for module in (*blocks, model):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return model.to(group.device)


def scale_of(group: Group) -> float:
    """Factor of the loss before the backward pass: FSDP averages gradients over the workers instead of summing them."""
    return float(group.n) if group.is_sharded else 1.0


def sum_gradients(parameters: Iterable[Any], group: Group) -> None:
    """Add up the gradients of replicated workers.

    Sharded workers do so in every backward pass, so that none has to hold the whole gradient.
    """
    if group.n == 1 or group.is_sharded:
        return
    for parameter in parameters:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)


@contextmanager
def autocast(group: Group, dtype: torch.dtype) -> Iterator[None]:
    """Compute in `dtype` while the context is open; sharded weights have it already."""
    if group.is_sharded or dtype == torch.float32:
        yield
        return
    with torch.autocast(group.device.type, dtype=dtype):
        yield


def reshard(model: Any, group: Group) -> None:
    """Divide weights again that a forward pass without a backward pass has left whole."""
    if group.is_sharded:
        model.reshard()


def whole(tensor: Any) -> torch.Tensor:
    """All of a tensor, on the CPU. A collective operation if it is sharded: every worker must call it."""
    full = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
    return full.detach().cpu()  # type: ignore[no-any-return]


def local(tensor: Any) -> torch.Tensor:
    """Return the part of a tensor that this worker holds, sharing its memory."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor  # type: ignore[no-any-return]


def rows_of(tensor: Any, group: Group) -> tuple[int, int]:
    """(first, end): rows of the first axis that this worker holds, by the division of torch.chunk."""
    n_rows = tensor.shape[0] if tensor.dim() else 1
    if not hasattr(tensor, "to_local"):
        return 0, n_rows
    n_each = -(-n_rows // group.n)
    return min(group.rank * n_each, n_rows), min((group.rank + 1) * n_each, n_rows)
