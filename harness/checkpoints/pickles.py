"""Pickled weights: which files of a checkpoint they are, why they are refused, and how many numbers they hold.

Unpickling may run code by a fault of torch, even when tensors alone are admitted. The numbers are therefore counted in
a process of its own that does nothing else, and only where pickles were allowed; the driver of a run opens none.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.checkpoints import weights
from harness.checkpoints.headers import PICKLED, PICKLED_INDEX, has_safetensors, is_buffer, pickled_files

# As transformers and PEFT name them; other *.bin files are states of a trainer, or of other libraries.
PATTERNS = ("pytorch_model*.bin", "adapter_model*.bin")
# Weights that are loaded before any pickle; safetensors of other names (of a trainer, or a value head) are not.
_SAFETENSORS = ("model*.safetensors", "model*.safetensors.index.json", "adapter_model*.safetensors")
LONGEST_S = 1800.0  # that counting may take: old files are read whole, at the rate of a disk


def are_all(names: Iterable[str]) -> bool:
    """Whether the files of a checkpoint have weights, and all of them pickled.

    Args:
        names: of its files, without folders.
    """
    names = list(names)
    return _are_any(names, PATTERNS) and not _are_any(names, _SAFETENSORS)


def are_all_of(folder: Path) -> bool:
    """Whether a folder has weights, and all of them pickled."""
    return not has_safetensors(folder) and are_all(file.name for file in folder.iterdir())


def _are_any(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(Path(name).match(pattern) for name in names for pattern in patterns)


def refusal(name: str, where: str, way_out: str) -> str:
    """The sentence about a model whose weights are pickles only.

    Args:
        name: of the model.
        where: they lie ("on the Hub", "in FOLDER").
        way_out: what to do, such as "give NAME@refs/pr/2, a copy in safetensors".
    """
    return (
        f"{name}: its weights {where} are pickles only (*.bin), which can run code when they are read; {way_out}, or "
        "give --allow-pickle if you trust who published them."
    )


def require_allowed(folder: Path, name: str, allow_pickle: bool) -> None:
    """Raise FileNotFoundError, which names the ways out, where the pickled weights of a folder may not be read."""
    if not allow_pickle:
        raise FileNotFoundError(refusal(name, f"in {folder}", "convert them to safetensors"))


def count(folder: Path, name: str, allow_pickle: bool) -> int:
    """How many numbers the pickled weights of a folder hold; those of tied tensors once, masks left out.

    They are read in a process of its own, as tensors alone, and mapped where the file can be mapped.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.
        allow_pickle: whether they may be read.

    Raises:
        FileNotFoundError: if they may not, if there are shards without an index, or as `files`.
        ValueError: if a file is damaged or holds more than tensors, or the process ends without an answer.
    """
    require_allowed(folder, name, allow_pickle)
    found = pickled_files(folder, name)
    if not found:
        raise FileNotFoundError(f"{name}: no {PICKLED} and no {PICKLED_INDEX} in {folder}; copy what is missing.")
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "harness.checkpoints.pickles", *map(str, found)]
    environment = os.environ | {"PYTHONPATH": path}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LONGEST_S, env=environment, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{name}: its pickled weights in {folder} were not counted within {LONGEST_S:.0f} s; convert them to "
            "safetensors."
        ) from error
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
        if "n_numbers" in answer:
            return int(answer["n_numbers"])
        raise ValueError(f"{name}: {answer['error']}")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name}: its pickled weights in {folder} could not be counted: the process that read them ended with "
            f"status {done.returncode}; copy the files again, or convert them to safetensors."
        ) from error


# --- in the process of its own ----------------------------------------------------------------------------------------


def _n_numbers(file: Path) -> int:
    """Numbers of one file; of tensors that share their memory, as tied ones do, each stretch once."""
    total, seen = 0, set()
    for key, tensor in weights.unpickled(file, "").items():
        stretch = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape))
        if not is_buffer(key) and stretch not in seen:
            seen.add(stretch)
            total += tensor.numel()
    return total


def _counted(paths: list[str]) -> dict[str, Any]:
    try:
        return {"n_numbers": sum(_n_numbers(Path(path)) for path in paths)}
    except (ValueError, OSError) as error:
        return {"error": str(error).removeprefix(": ")}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_counted(sys.argv[1:])))
