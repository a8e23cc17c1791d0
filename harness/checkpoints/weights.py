"""A checkpoint's files -> its tensors by name, each read when it is asked for.

What is handed on reads itself by `tensor[...]`, the way in which transformers asks for a tensor of a safetensors file,
so that no file is ever in memory whole. Files are read and not mapped: mapped pages would count beside the weights they
become.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import headers
from harness.checkpoints.safetensors_file import is_lfs_pointer, require_regular

# What torch.compile, FSDP, activation checkpointing and Lightning Fabric put into names, at the top or inside.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
# What DDP and DeepSpeed put before all names; other classes that hold a model may too, and are told by the names alone.
_OUTER, _HOLDERS = "module.", frozenset(("module", "model", "base_model"))


def read(folder: Path, name: str, allow_pickle: bool = False) -> dict[str, Any]:
    """The tensors of a folder, from the files that transformers would load.

    Args:
        folder: where the files are; safetensors are taken where there are any.
        name: of the model, for messages.
        allow_pickle: whether pickled weights (*.bin) are read where there are no safetensors. They are read as tensors
            alone (`torch.load(weights_only=True)`): what else a pickle asks for is refused, not run.

    Returns:
        Name -> tensor, or what gives it by `[...]`; each knows its shape and type (`shape_of`, `dtype_of`). Names are
        without what training wrappers put into them (`unwrapped`).

    Raises:
        FileNotFoundError: if there are no weights, or only pickled ones and these are not allowed.
        ValueError: if a file is damaged or holds more than tensors, or two hold different tensors of one name.
    """
    if allow_pickle and not headers.has_safetensors(folder) and (files := headers.pickled_files(folder, name)):
        return unwrapped(_joined(((file, unpickled(file, name)) for file in files), name), name)
    return unwrapped(_joined(((file, opened(file)) for file in headers.weight_files(folder, name)), name), name)


def opened(file: Path) -> dict[str, Any]:
    """The tensors of a safetensors file that was checked before (`safetensors_file.header_of`)."""
    from safetensors import safe_open

    stored = safe_open(file, "pt", backend="pread")
    return {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118 - not a mapping


def _joined(parts: Iterable[tuple[Path, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """The tensors of all files; one that several hold must be the same in each."""
    tensors: dict[str, Any] = {}
    holders: dict[str, Path] = {}
    for file, held in parts:
        for key in sorted(tensors.keys() & held.keys()):
            if not _are_equal(tensors[key], held[key]):
                raise ValueError(
                    f"{name}: {holders[key].name} and {file.name} hold different tensors called {key}; copy the "
                    "checkpoint again."
                )
        tensors |= held
        holders |= dict.fromkeys(held, file)
    return tensors


def _are_equal(one: Any, other: Any) -> bool:
    import torch

    return (dtype_of(one), shape_of(one)) == (dtype_of(other), shape_of(other)) and torch.equal(one[...], other[...])


def unpickled(file: Path, name: str) -> dict[str, Any]:
    """The tensors of a pickle, without running what else it may ask for.

    Raises:
        ValueError: if it is damaged, or holds more than tensors by their names.
    """
    import torch

    require_regular(file, name)
    if is_lfs_pointer(file):
        raise ValueError(f"{name}: {file.name} is a Git LFS pointer, not the weights; run `git lfs pull` there.")
    try:
        # Files of before 2020 are no zip archives and cannot be mapped.
        found: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name}: {file.name} holds more than tensors, or is damaged, and was not read; copy it again, or ask its "
            "author for safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: {file.name} is damaged ({reason}); copy it again.") from error
    is_table = isinstance(found, dict) and all(isinstance(key, str) for key in found)
    if not is_table or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ValueError(f"{name}: {file.name} holds no table of tensors; save it again with save_pretrained.")
    return dict(found)


# --- what a tensor is, without reading it -----------------------------------------------------------------------------


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Its shape."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def dtype_of(tensor: Any) -> str:
    """Its type, by the name that safetensors gives it (F32, BF16, I64, ...)."""
    if hasattr(tensor, "get_dtype"):
        return str(tensor.get_dtype())
    words = str(tensor.dtype).removeprefix("torch.")
    known = {"bool": "BOOL", "bfloat16": "BF16", "uint8": "U8", "complex64": "C64"}
    return known.get(words, words.upper().replace("FLOAT", "F").replace("INT", "I"))


# --- names ------------------------------------------------------------------------------------------------------------


def unwrapped(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The same tensors without what training wrappers put into their names: `module.`, `_orig_mod.` and the like.

    Raises:
        ValueError: if two names are the same then; the message has both.
    """
    found: dict[str, str] = {}
    for key in tensors:
        bare = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if bare in found:
            raise ValueError(
                f"{name}: {found[bare]} and {key} are one weight under two names, of two saves; keep the files of one."
            )
        found[bare] = key
    made = {bare: tensors[key] for bare, key in found.items()}
    while made and all(key.startswith(_OUTER) for key in made):
        made = {key.removeprefix(_OUTER): tensor for key, tensor in made.items()}
    return made


def without_holder(tensors: Mapping[str, Any], wanted: Collection[str], prefix: str) -> dict[str, Any]:
    """The same tensors without the names of classes that held the model in training (`model.` of Lightning's).

    They go where all names begin with them, none is one of the model's, and without them some are.

    Args:
        tensors: name -> tensor.
        wanted: names of the model's own tensors.
        prefix: of its stack (`base_model_prefix`), which a checkpoint of the stack alone leaves out.
    """
    known = {*wanted, *(key.removeprefix(f"{prefix}.") for key in wanted)}
    made = dict(tensors)
    while made and not known & made.keys():
        holders = {key.partition(".")[0] for key in made}
        if len(holders) > 1 or not holders <= _HOLDERS:
            return dict(tensors)
        made = {key.partition(".")[2]: tensor for key, tensor in made.items()}
    return made
