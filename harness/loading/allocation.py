"""Choose the devices for a model before its weights are loaded, and check that it fits.

Memory is estimated on a meta-device copy, tensor by tensor, and compared with what is free now.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch

from harness.cluster import placement
from harness.loading import device_map, memory
from harness.loading.architectures import Architecture
from harness.protocol import Dtype


def devices(device: str, n_gpus: int, dtype: Dtype) -> list[str]:
    """Names of the devices to use ("cpu", "cuda:0", ...).

    Raises:
        ValueError: if a device, or a library that it needs, is not available.
    """
    if n_gpus < 1:
        raise ValueError(f"n_gpus is {n_gpus}; it must be 1 or more (1 on the CPU too).")
    if device == "cpu":
        if n_gpus > 1:
            raise ValueError(f"{n_gpus} GPUs are requested, but the device is 'cpu'; give 'cuda'.")
        if dtype == "int8":
            raise ValueError("int8 runs only on CUDA (bitsandbytes); give the device 'cuda', or use bfloat16.")
        return ["cpu"]
    if not re.fullmatch(r"cuda(:\d+)?", device) or (n_gpus > 1 and device != "cuda"):
        raise ValueError(f"device {device!r} is not 'cpu', 'cuda' or 'cuda:N' (one GPU); give one of these.")
    first = int(device.partition(":")[2] or 0)
    n_available = torch.cuda.device_count()
    if first + n_gpus > n_available:
        raise ValueError(
            f"{n_gpus} GPUs starting at cuda:{first} are requested, torch sees {n_available}; use fewer, or the CPU."
        )
    if dtype == "int8" and find_spec("bitsandbytes") is None:
        raise ValueError("bitsandbytes is not installed, but is needed for this device: pip install bitsandbytes")
    return [f"cuda:{index}" for index in range(first, first + n_gpus)]


def assign(
    name: str, architecture: Architecture, meta_model: Any, dtype: Dtype, devices: Sequence[str], is_untrained: bool
) -> dict[str, str]:
    """Assign each module of a model to a device.

    Args:
        name: model name, for messages.
        architecture: the model's architecture.
        meta_model: the model on the meta device, in this precision.
        dtype: precision of the weights.
        devices: from `devices`.
        is_untrained: whether the weights are first initialised in main memory (untrained control).

    Returns:
        Module path -> device; {"": device} for a single device.

    Raises:
        memory.InsufficientMemoryError: if the weights and one batch do not fit into free memory.
    """
    free = {device: memory.free_bytes(device) for device in {*devices, "cpu"}}
    parts = device_map.parts_of(meta_model, bytes_of(meta_model, dtype))
    weight_bytes = sum(part.n_bytes for part in parts)
    model_config = architecture.model_config
    demand = placement.Demand(
        name, model_config.family, model_config.stack, 0, hidden_size=model_config.hidden_size,
        vocabulary=model_config.vocabulary,
    )  # fmt: skip
    batch_bytes = placement.need_of(demand, "bfloat16" if dtype == "int8" else dtype).activations
    breakdown = f"{weight_bytes / 1e9:.2f} GB of weights in {dtype}, {batch_bytes / 1e9:.2f} GB for a batch"
    if is_untrained and "cpu" not in devices:
        memory.require_memory(name, {"cpu": weight_bytes}, free, breakdown)
    if len(devices) == 1:
        memory.require_memory(name, {devices[0]: weight_bytes + batch_bytes}, free, breakdown)
        return {"": devices[0]}
    try:
        gpu_by_module = device_map.spread(parts, [free[device] - batch_bytes for device in devices])
    except ValueError as error:
        raise memory.InsufficientMemoryError(f"{name}: {error}") from error
    return {module: devices[gpu] for module, gpu in gpu_by_module.items()}


def bytes_of(meta_model: Any, dtype: Dtype) -> Callable[[Any, str, Any], int]:
    """Return a function that gives the bytes of a tensor: (module, name, tensor) -> bytes.

    In int8 each weight of a linear layer takes one byte, except in the head and in modules kept in float32.
    """
    not_quantised = {id(meta_model.get_output_embeddings())} | {
        id(module) for name, module in meta_model.named_modules()
        if name.rpartition(".")[2] in (meta_model._keep_in_fp32_modules or ())
    }  # fmt: skip

    def n_bytes(module: Any, name: str, tensor: Any) -> int:
        is_linear = type(module).__name__ in {"Linear", "Conv1D"} and name == "weight"
        is_quantised = dtype == "int8" and is_linear and id(module) not in not_quantised
        return int(tensor.numel()) * (1 if is_quantised else tensor.element_size())

    return n_bytes
