"""Pickled weights: recognise them, refuse them unless allowed, and count their parameters in a separate process.

A bug in torch could let a pickle run code even when only tensors are admitted. Parameters are therefore counted in a
separate process, and only if pickles are allowed; the driver of a run never opens one.
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

# File names used by transformers and PEFT; other *.bin files are trainer states or belong to other libraries.
PATTERNS = ("pytorch_model*.bin", "adapter_model*.bin")
# Weights that are loaded before any pickle; other safetensors (trainer state, value head) do not count.
_SAFETENSORS = ("model*.safetensors", "model*.safetensors.index.json", "adapter_model*.safetensors")
COUNT_TIMEOUT_S = 1800.0  # time limit for counting: old files are read in full at disk speed


def has_only_pickles(names: Iterable[str]) -> bool:
    """Return whether a checkpoint has weights and all of them are pickled.

    Args:
        names: names of its files, without folders.
    """
    names = list(names)
    return _any_matches(names, PATTERNS) and not _any_matches(names, _SAFETENSORS)


def folder_has_only_pickles(folder: Path) -> bool:
    """Return whether a folder has weights and all of them are pickled."""
    return not has_safetensors(folder) and has_only_pickles(file.name for file in folder.iterdir())


def _any_matches(names: Iterable[str], patterns: Iterable[str]) -> bool:
    return any(Path(name).match(pattern) for name in names for pattern in patterns)


def refusal(name: str, where: str, way_out: str) -> str:
    """Return the error message for a model that has only pickled weights.

    Args:
        name: model name.
        where: location of the weights ("on the Hub", "in FOLDER").
        way_out: advice, such as "use NAME@refs/pr/2, a copy in safetensors".
    """
    return (
        f"{name}: its weights {where} are pickles only (*.bin), which can run code when they are read; {way_out}, or "
        "pass --allow-pickle if you trust the publisher."
    )


def require_allowed(folder: Path, name: str, allow_pickle: bool) -> None:
    """Raise FileNotFoundError, with alternatives, if the pickled weights of a folder are not allowed."""
    if not allow_pickle:
        raise FileNotFoundError(refusal(name, f"in {folder}", "convert them to safetensors"))


def count(folder: Path, name: str, allow_pickle: bool) -> int:
    """Count the parameters in a folder's pickled weights; tied tensors count once, masks do not count.

    They are read in a separate process, as tensors only, and memory-mapped where the file format allows it.

    Args:
        folder: folder of the checkpoint.
        name: model name, for error messages.
        allow_pickle: whether pickles may be read.

    Raises:
        FileNotFoundError: if pickles are not allowed, or a shard or the index is missing.
        ValueError: if a file is damaged or holds more than tensors, or the process fails or exceeds COUNT_TIMEOUT_S.
    """
    require_allowed(folder, name, allow_pickle)
    files = pickled_files(folder, name)
    if not files:
        raise FileNotFoundError(f"{name}: no {PICKLED} and no {PICKLED_INDEX} in {folder}; copy the missing files.")
    package_root = str(Path(__file__).resolve().parents[2])
    python_path = os.pathsep.join(filter(None, (package_root, os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-P", "-m", "harness.checkpoints.pickles", *map(str, files)]
    environment = os.environ | {"PYTHONPATH": python_path}
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=COUNT_TIMEOUT_S, env=environment, check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ValueError(
            f"{name}: counting its pickled weights in {folder} took longer than {COUNT_TIMEOUT_S:.0f} s; convert "
            "them to safetensors."
        ) from error
    try:
        answer: dict[str, Any] = json.loads(process.stdout)
        if "n_numbers" in answer:
            return int(answer["n_numbers"])
        raise ValueError(f"{name}: {answer['error']}")
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{name}: its pickled weights in {folder} could not be counted: the process reading them ended with status "
            f"{process.returncode}; copy the files again, or convert them to safetensors."
        ) from error


# --- in the separate process ------------------------------------------------------------------------------------------


def _n_numbers(file: Path) -> int:
    """Count the numbers in one file; tensors that share memory (tied weights) count once."""
    total, seen = 0, set()
    for key, tensor in weights.load_pickle(file, "").items():
        location = (tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tuple(tensor.shape))
        if not is_buffer(key) and location not in seen:
            seen.add(location)
            total += tensor.numel()
    return total


def _counted(paths: list[str]) -> dict[str, Any]:
    try:
        return {"n_numbers": sum(_n_numbers(Path(path)) for path in paths)}
    except (ValueError, OSError) as error:
        return {"error": str(error).removeprefix(": ")}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_counted(sys.argv[1:])))
