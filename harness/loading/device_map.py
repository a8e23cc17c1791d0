"""Assign a model's modules to GPUs: consecutive blocks, in the order in which they are applied.

The embeddings are on the first GPU, norm and head on the last, so that hidden states cross each boundary once. The cuts
minimise the load of the fullest GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class ModulePart:
    """A module that is not divided between GPUs.

    Attributes:
        name: its path in the model.
        n_bytes: bytes of its weights and buffers, without those counted in an earlier part.
        tied_to: the part that must be on the same GPU (for a tied head, the embedding); "" for none.
    """

    name: str
    n_bytes: int
    tied_to: str = ""


def parts_of(model: Any, bytes_of: Callable[[Any, str, Any], int]) -> list[ModulePart]:
    """The parts of a model: its blocks, and modules without children. Each module is in exactly one part.

    Args:
        model: transformers model, preferably on the meta device.
        bytes_of: (module, name, tensor) -> bytes that one of the module's own tensors takes.
    """
    parts: list[ModulePart] = []
    part_by_tensor: dict[int, str] = {}  # id of a tensor -> name of the part that counts it
    for name, module in _undivided_modules(model, "", in_list=False):
        tied_to, n_bytes = "", 0
        for submodule in module.modules():
            for tensor_name, tensor in _own_tensors(submodule):
                if id(tensor) in part_by_tensor:
                    tied_to = part_by_tensor[id(tensor)] if part_by_tensor[id(tensor)] != name else tied_to
                else:
                    n_bytes += bytes_of(submodule, tensor_name, tensor)
                    part_by_tensor[id(tensor)] = name
        if parts and n_bytes and not any(True for _ in module.parameters()):
            tied_to = parts[0].name  # tables that every block uses (rotary angles) stay with the embeddings
        for key in [key for key, part in part_by_tensor.items() if part == name and tied_to]:
            part_by_tensor[key] = tied_to
        parts.append(ModulePart(name, n_bytes, tied_to))
    return parts


def _own_tensors(module: Any) -> list[tuple[str, Any]]:
    tensors = [*module._parameters.items(), *module._buffers.items()]
    return [(name, tensor) for name, tensor in tensors if tensor is not None]


def _undivided_modules(module: Any, name: str, in_list: bool) -> list[tuple[str, Any]]:
    """Blocks are the members of the outermost lists of modules, in every family of transformers."""
    children = list(module.named_children())
    if in_list or not children or _own_tensors(module):
        return [(name, module)]
    path, is_list = f"{name}." if name else "", type(module).__name__ == "ModuleList"
    return [item for child, inner in children for item in _undivided_modules(inner, path + child, is_list)]


def spread(parts: Sequence[ModulePart], free_bytes: Sequence[int]) -> dict[str, int]:
    """Cut the parts, in order, into one consecutive run per GPU.

    Args:
        parts: from `parts_of`.
        free_bytes: bytes for weights on each GPU.

    Returns:
        Part -> index of its GPU; tied parts are on one GPU. The largest used fraction of a GPU's free memory is the
        smallest that any cut in this order gives (dynamic programming over the cuts).

    Raises:
        ValueError: if no cut fits.
    """
    untied = [part.name for part in parts if not part.tied_to]
    n_bytes = dict.fromkeys(untied, 0)
    for part in parts:
        n_bytes[part.tied_to or part.name] += part.n_bytes
    cumulative = [0, *accumulate(n_bytes.values())]
    n = len(untied)
    # best[i]: (fraction of the fullest GPU, start of the last run) for the first i parts on the GPUs so far.
    best: list[tuple[float, int]] = [(0.0, 0)] + [(float("inf"), 0)] * n
    starts_by_gpu: list[list[int]] = []
    for capacity in free_bytes:
        row = [
            min((max(best[j][0], (cumulative[i] - cumulative[j]) / max(capacity, 1)), j) for j in range(i + 1))
            for i in range(n + 1)
        ]
        starts_by_gpu.append([start for _, start in row])
        best = row
    if best[n][0] > 1:
        raise ValueError(
            f"{cumulative[-1] / 1e9:.1f} GB of weights do not fit on {len(free_bytes)} GPUs with "
            f"{', '.join(f'{capacity / 1e9:.1f}' for capacity in free_bytes)} GB free, however they are cut between "
            "blocks; use more GPUs, bfloat16 or int8."
        )
    gpu_by_part: dict[str, int] = {}
    stop = n
    for gpu in reversed(range(len(free_bytes))):
        start = starts_by_gpu[gpu][stop]
        gpu_by_part |= dict.fromkeys(untied[start:stop], gpu)
        stop = start
    return {part.name: gpu_by_part[part.tied_to or part.name] for part in parts}
