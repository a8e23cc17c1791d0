"""A checkpoint's files -> its tensors by name, each read when it is asked for.

What is handed on reads itself by `tensor[...]`, the way in which transformers asks for a tensor of a safetensors file,
so that no file is ever in memory whole: neither a sharded one, nor a base and the difference that makes it a tuned
model. Files are read and not mapped: mapped pages would count beside the weights they become.
"""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

from harness.headers import is_buffer, weight_files

# An index names the shards; a small checkpoint is one file.
# Numbers that are added at once: a sum of two precisions makes a float32 copy of what it adds.
_BLOCK = 2**20
_PICKLED_INDEX, _PICKLED = "pytorch_model.bin.index.json", "pytorch_model.bin"


def read(folder: Path, name: str, allow_pickle: bool = False) -> dict[str, Any]:
    """The tensors of a folder.

    Args:
        folder: where the files are; safetensors are taken where there are any.
        name: of the model, for messages.
        allow_pickle: whether pickled weights (*.bin) are read where there are no safetensors. They are read as tensors
            alone (`torch.load(weights_only=True)`): what else a pickle asks for is refused, not run.

    Returns:
        Name -> tensor, or what gives it by `[...]`; each knows its shape (`shape_of`).

    Raises:
        FileNotFoundError: if there are no weights, or only pickled ones and these are not allowed.
        ValueError: if a file is damaged or holds more than tensors.
    """
    from safetensors import safe_open

    pickled = _pickled_files(folder)
    if pickled and allow_pickle and not any(folder.glob("*.safetensors")):
        return {key: tensor for file in pickled for key, tensor in _unpickled(file, name).items()}
    tensors: dict[str, Any] = {}
    for file in weight_files(folder, name):
        opened = safe_open(file, "pt", backend="pread")
        tensors |= {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
    return tensors


def _pickled_files(folder: Path) -> list[Path]:
    import json

    if (folder / _PICKLED_INDEX).is_file():
        shards = json.loads((folder / _PICKLED_INDEX).read_text())["weight_map"].values()
        return sorted({folder / Path(shard).name for shard in shards})
    return [folder / _PICKLED] if (folder / _PICKLED).is_file() else []


def _unpickled(file: Path, name: str) -> dict[str, Any]:
    import torch

    try:
        # Files of before 2020 are no zip archives and cannot be mapped.
        found = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name}: {file.name} holds more than tensors, or is damaged, and was not read; copy it again, or ask its "
            "author for safetensors."
        ) from error
    except (RuntimeError, EOFError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: {file.name} is damaged ({reason}); copy it again.") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ValueError(f"{name}: {file.name} holds no table of tensors; save it again with save_pretrained.")
    return found


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Without reading it."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def added(base: dict[str, Any], delta: dict[str, Any], name: str, vocabulary: int) -> dict[str, Any]:
    """Base + difference: the tuned model, tensor by tensor, each added in float32 when it is asked for.

    Args:
        base: of `read`.
        delta: of `read`, with the names of the base; buffers may differ.
        name: of the tuned model, for messages.
        vocabulary: of its configuration. Embeddings and head may have rows that the base lacks, of tokens added in
            tuning (StableVicuna and Vicuna v0 add a pad token); the base counts as zero there.

    Raises:
        ValueError: if one has a tensor that the other lacks, or of another shape; the message names it.

    Source: apply_delta.py of FastChat (lm-sys) and of CarperAI/stable-vicuna-13b-delta, which add in float16; here the
        sum is rounded once, to the precision that the model is read in.
    """
    ours, theirs = ({key for key in tensors if not is_buffer(key)} for tensors in (base, delta))
    for key in sorted(ours ^ theirs):
        where = "the base, but not in the difference" if key in ours else "the difference, but not in the base"
        raise ValueError(f"{name}: {key} is in {where}; give the base that its authors name.")
    for key in sorted(ours):
        has, wants = shape_of(base[key]), shape_of(delta[key])
        more_rows = len(wants) == 2 and wants[0] == vocabulary > has[0] and has[1:] == wants[1:]
        if has != wants and not more_rows:
            raise ValueError(
                f"{name}: {key} has the shape {wants} in the difference, {has} in the base; give the base that its "
                "authors name."
            )
    return {key: _Sum(base[key], delta[key]) for key in sorted(ours)}


class _Sum:
    """A tensor of a base and its difference. While it is read, the sum and one of the two are in memory."""

    def __init__(self, base: Any, delta: Any) -> None:
        self.base, self.delta = base, delta

    def __getitem__(self, where: Any) -> Any:
        import torch

        total = torch.zeros(self.get_shape(), dtype=torch.float32)
        flat = total.view(-1)  # rows that the base lacks are the last
        for part in (self.delta, self.base):
            numbers = part[...].reshape(-1)
            for start in range(0, len(numbers), _BLOCK):
                block = numbers[start : start + _BLOCK]
                flat[start : start + len(block)] += block
        return total[where]

    def get_shape(self) -> tuple[int, ...]:
        """Of the sum."""
        return shape_of(self.delta)
