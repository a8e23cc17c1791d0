"""A model's modules -> the GPUs that hold them: blocks in turn, in the order in which a text passes through them.

The embeddings are on the first GPU and norm and head on the last, so that a hidden state crosses each border once. The
cuts are where the fullest GPU is least full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any


@dataclass(frozen=True)
class ModulePart:
    """A module that stays whole.

    name: its path in the model. n_bytes: of its weights and buffers, but for those that an earlier part holds. tied_to:
    the part with which it must be on one GPU (the embedding, of a head that is the embedding); "" for none.
    """

    name: str
    n_bytes: int
    tied_to: str = ""


def parts_of(model: Any, bytes_of: Callable[[Any, str, Any], int]) -> list[ModulePart]:
    """The parts of a model, each of its modules in exactly one: blocks, and what has no children.

    Args:
        model: of transformers, best on the meta device.
        bytes_of: (module, name, tensor) -> bytes that one of the module's own tensors takes.
    """
    parts: list[ModulePart] = []
    holder: dict[int, str] = {}  # id of a tensor -> the part that holds it
    for name, module in _whole_modules(model, "", whole=False):
        tied_to, n_bytes = "", 0
        for owner in module.modules():
            for own, tensor in _own_tensors(owner):
                if id(tensor) in holder:
                    tied_to = holder[id(tensor)] if holder[id(tensor)] != name else tied_to
                else:
                    n_bytes += bytes_of(owner, own, tensor)
                    holder[id(tensor)] = name
        if parts and n_bytes and not any(True for _ in module.parameters()):
            tied_to = parts[0].name  # tables that every block reads (rotary angles) are made beside the embeddings
        for key in [key for key, part in holder.items() if part == name and tied_to]:
            holder[key] = tied_to
        parts.append(ModulePart(name, n_bytes, tied_to))
    return parts


def _own_tensors(module: Any) -> list[tuple[str, Any]]:
    own = [*module._parameters.items(), *module._buffers.items()]
    return [(name, tensor) for name, tensor in own if tensor is not None]


def _whole_modules(module: Any, name: str, whole: bool) -> list[tuple[str, Any]]:
    """Blocks are the members of the outermost lists of modules, in every family of transformers."""
    children = list(module.named_children())
    if whole or not children or _own_tensors(module):
        return [(name, module)]
    path, of_a_list = f"{name}." if name else "", type(module).__name__ == "ModuleList"
    return [part for child, inner in children for part in _whole_modules(inner, path + child, of_a_list)]


def spread(parts: Sequence[ModulePart], room: Sequence[int]) -> dict[str, int]:
    """Cut the parts, in order, into one stretch for each GPU.

    Args:
        parts: of `parts_of`.
        room: bytes for weights on each GPU.

    Returns:
        Part -> index of its GPU; tied parts are together. The fullest GPU, in share of its room, is as empty as a cut
        in this order leaves it (dynamic programming over the cuts).

    Raises:
        ValueError: if no cut fits.
    """
    free = [part.name for part in parts if not part.tied_to]
    n_bytes = dict.fromkeys(free, 0)
    for part in parts:
        n_bytes[part.tied_to or part.name] += part.n_bytes
    before = [0, *accumulate(n_bytes.values())]
    n = len(free)
    # best[i]: (fullest share, start of the last stretch) of the first i parts on the GPUs so far.
    best: list[tuple[float, int]] = [(0.0, 0)] + [(float("inf"), 0)] * n
    cuts: list[list[int]] = []
    for bytes_free in room:
        row = [
            min((max(best[j][0], (before[i] - before[j]) / max(bytes_free, 1)), j) for j in range(i + 1))
            for i in range(n + 1)
        ]
        cuts.append([start for _, start in row])
        best = row
    if best[n][0] > 1:
        raise ValueError(
            f"{before[-1] / 1e9:.1f} GB of weights fit on no cut over {len(room)} GPUs with "
            f"{', '.join(f'{bytes_free / 1e9:.1f}' for bytes_free in room)} GB free; use more GPUs, bfloat16 or int8."
        )
    placed: dict[str, int] = {}
    stop = n
    for gpu in reversed(range(len(room))):
        start = cuts[gpu][stop]
        placed |= dict.fromkeys(free[start:stop], gpu)
        stop = start
    return {part.name: placed[part.tied_to or part.name] for part in parts}
