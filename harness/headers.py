"""The files of a checkpoint's folder without their numbers: JSON, and the headers of safetensors."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

# Causal masks that GPT-2 and GPT-NeoX checkpoints store beside their weights.
_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors of a checkpoint, each checked to be whole.

    Raises:
        FileNotFoundError: if there are none, or one that the index lists is absent.
        ValueError: if a file is shorter or longer than its header says.
    """
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        files = sorted({folder / shard for shard in read_json(index, name)["weight_map"].values()})
    else:
        files = [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))
    absent = [file.name for file in files if not file.is_file()]
    if absent or not files:
        raise FileNotFoundError(
            f"{name}: no weights ({', '.join(absent) or '*.safetensors'}) in {folder}. Pickled weights (*.bin, *.pt) "
            "are neither fetched nor loaded: convert them to safetensors, or give a revision that has them."
        )
    for file in files:
        promised = _header(file)[1]
        if promised != file.stat().st_size:
            raise ValueError(
                f"{name}: {file.name} is damaged: its header promises {promised} bytes, the file has "
                f"{file.stat().st_size}. Copy it again."
            )
    return files


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Header of a safetensors file and the length in bytes that it promises (8-byte length, JSON, data)."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        raw = stream.read(length) if length <= file.stat().st_size else b""
    if len(raw) < length or not raw:
        return {}, 9 + length  # more than the file has
    header = json.loads(raw)
    ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
    return header, 8 + length + max(ends, default=0)


def n_numbers(file: Path) -> int:
    """Stored in a safetensors file, by its header; masks left out."""
    total = 0
    for key, tensor in _header(file)[0].items():
        if key != "__metadata__" and not is_buffer(key):
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total


def is_buffer(key: str) -> bool:
    """Whether a stored tensor is a mask or a table that the model computes by itself."""
    return bool(_BUFFER.search(key))


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object; FileNotFoundError or ValueError that names the model where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no {path.name} in {path.parent}; give a folder that save_pretrained wrote.")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{name}: {path.name} is not JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: {path.name} holds no JSON object; copy it again.")
    return content
