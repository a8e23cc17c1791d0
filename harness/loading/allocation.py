"""A model before its weights are read -> the devices that will hold it, and whether it fits.

What it takes is counted on its skeleton, tensor by tensor, and compared with what is free now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from harness.cluster import placement
from harness.loading import device_map, memory
from harness.loading.architectures import Architecture
from harness.protocol import Dtype


def devices(device: str, n_gpus: int, dtype: Dtype) -> list[str]:
    """The devices by name ("cpu", "cuda:0", ...); ValueError where one, or a library that it takes, is not there."""
    if n_gpus < 1:
        raise ValueError(f"n_gpus is {n_gpus}; it must be 1 or more (on the CPU too it is 1).")
    if device == "cpu":
        if n_gpus > 1:
            raise ValueError(f"{n_gpus} GPUs are wanted, but the device is 'cpu'; give 'cuda'.")
        if dtype == "int8":
            raise ValueError("int8 is computed on CUDA alone (bitsandbytes); give the device 'cuda', or use bfloat16.")
        return ["cpu"]
    if not re.fullmatch(r"cuda(:\d+)?", device) or (n_gpus > 1 and device != "cuda"):
        raise ValueError(f"device {device!r} is not 'cpu', 'cuda' or 'cuda:N' (one GPU); give one of these.")
    first = int(device.partition(":")[2] or 0)
    there = torch.cuda.device_count()
    if first + n_gpus > there:
        raise ValueError(f"{n_gpus} GPUs from cuda:{first} on are wanted, torch sees {there}; use fewer, or the CPU.")
    for library, wanted in (("accelerate", True), ("bitsandbytes", dtype == "int8")):
        if wanted and find_spec(library) is None:
            raise ValueError(f"{library} is not installed, without which no model goes there: pip install {library}")
    return [f"cuda:{k}" for k in range(first, first + n_gpus)]


def places(
    name: str,
    architecture: Architecture,
    skeleton: Any,
    dtype: Dtype,
    devices: Sequence[str],
    most: Mapping[str, int],
    *,
    drawn: bool,
) -> dict[str, str]:
    """Where each part of a model goes.

    Args:
        name: of the model, for messages.
        architecture: what it is.
        skeleton: of it, in this precision.
        dtype: precision of the weights.
        devices: of `devices`.
        most: device -> bytes that may be taken, where that is less than what is free.
        drawn: whether its weights are drawn in main memory first (an untrained twin).

    Returns:
        Path of a module -> device; {"": device} where there is one.

    Raises:
        room.NoRoomError: if it does not fit, with a batch, into what is free.
    """
    free = {device: min(memory.free_bytes(device), most.get(device, 2**63)) for device in {*devices, "cpu"}}
    parts = device_map.parts_of(skeleton, bytes_of(skeleton, dtype))
    n_bytes = sum(part.n_bytes for part in parts)
    described = architecture.described
    demand = placement.Demand(
        name, described.family, described.stack, 0, hidden_size=described.hidden_size, vocabulary=described.vocabulary
    )
    batch = placement.need_of(demand, "bfloat16" if dtype == "int8" else dtype).activations
    said = f"{n_bytes / 1e9:.2f} GB of weights in {dtype}, {batch / 1e9:.2f} GB for a batch"
    if drawn and "cpu" not in devices:
        memory.require_memory(name, {"cpu": n_bytes}, free, said)
    if len(devices) == 1:
        memory.require_memory(name, {devices[0]: n_bytes + batch}, free, said)
        return {"": devices[0]}
    try:
        cut = device_map.spread(parts, [free[device] - batch for device in devices])
    except ValueError as error:
        raise memory.InsufficientMemoryError(f"{name}: {error}") from error
    return {part: devices[gpu] for part, gpu in cut.items()}


def bytes_of(skeleton: Any, dtype: Dtype) -> Callable[[Any, str, Any], int]:
    """Bytes of a tensor; in int8 the weights of linear layers take one each, but for the head and what stays wide."""
    wide = {id(skeleton.get_output_embeddings())} | {
        id(module) for name, module in skeleton.named_modules()
        if name.rpartition(".")[2] in (skeleton._keep_in_fp32_modules or ())
    }  # fmt: skip

    def n_bytes(module: Any, name: str, tensor: Any) -> int:
        linear = type(module).__name__ in {"Linear", "Conv1D"} and name == "weight" and id(module) not in wide
        return int(tensor.numel()) * (1 if dtype == "int8" and linear else tensor.element_size())

    return n_bytes
