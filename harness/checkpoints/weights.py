"""Tensors of a checkpoint by name, each read from its file only when indexed.

Values read themselves with `tensor[...]`, as transformers expects from a safetensors slice, so a whole file is never in
memory. Files are read rather than memory-mapped, because mapped pages would count in addition to the loaded weights.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import headers
from harness.checkpoints.safetensors_file import is_lfs_pointer, require_regular

# Name parts inserted anywhere by torch.compile, FSDP, activation checkpointing and Lightning Fabric.
_WRAPPERS = frozenset(("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"))
# Prefix that DDP and DeepSpeed put before all names, and names of attributes that commonly hold a model in training.
_OUTER, _HOLDERS = "module.", frozenset(("module", "model", "base_model"))


def read(folder: Path, name: str, allow_pickle: bool = False) -> dict[str, Any]:
    """Open the tensors of a folder, from the files that transformers would load.

    Args:
        folder: folder with the files; safetensors are preferred.
        name: model name, for error messages.
        allow_pickle: whether pickled weights (*.bin) may be used if there are no safetensors. Only tensors are loaded
            (`torch.load(weights_only=True)`); a pickle with other contents is refused and not executed.

    Returns:
        Name -> tensor or slice to be read by `[...]`, with shape and type by `shape_of` and `dtype_of`. Additions of
        training wrappers are removed from the names (`unwrapped`).

    Raises:
        FileNotFoundError: if there are no weights, or only pickles and these are not allowed.
        ValueError: if a file is damaged or holds more than tensors, or two files hold different tensors of one name.
    """
    if allow_pickle and not headers.has_safetensors(folder) and (files := headers.pickled_files(folder, name)):
        opened = ((file, load_pickle(file, name)) for file in files)
    else:
        opened = ((file, open_safetensors(file)) for file in headers.weight_files(folder, name))
    return strip_wrappers(_joined(opened, name), name)


def open_safetensors(file: Path) -> dict[str, Any]:
    """Open the tensors of a safetensors file that `safetensors_file.header_of` has checked."""
    from safetensors import safe_open

    reader = safe_open(file, "pt", backend="pread")
    return {key: reader.get_slice(key) for key in reader.keys()}  # noqa: SIM118 - not a mapping


def _joined(files: Iterable[tuple[Path, Mapping[str, Any]]], name: str) -> dict[str, Any]:
    """Join the tensors of all files; a tensor that several files hold must be identical in each."""
    tensors: dict[str, Any] = {}
    holders: dict[str, Path] = {}
    for file, file_tensors in files:
        for key in sorted(tensors.keys() & file_tensors.keys()):
            if not _are_equal(tensors[key], file_tensors[key]):
                raise ValueError(
                    f"{name}: {holders[key].name} and {file.name} hold different tensors called {key}; copy the "
                    "checkpoint again."
                )
        tensors |= file_tensors
        holders |= dict.fromkeys(file_tensors, file)
    return tensors


def _are_equal(first: Any, second: Any) -> bool:
    import torch

    is_alike = (dtype_of(first), shape_of(first)) == (dtype_of(second), shape_of(second))
    return is_alike and torch.equal(first[...], second[...])


def load_pickle(file: Path, name: str) -> dict[str, Any]:
    """Load the tensors of a pickle without executing anything else in it.

    Raises:
        ValueError: if it is damaged, or holds anything but a table of named tensors.
    """
    import torch

    require_regular(file, name)
    if is_lfs_pointer(file):
        raise ValueError(f"{name}: {file.name} is a Git LFS pointer, not the weights; run `git lfs pull` there.")
    try:
        # Files from before 2020 are not zip archives and cannot be memory-mapped.
        content: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{name}: {file.name} holds more than tensors, or is damaged, and was not read; copy it again, or ask the "
            "publisher for safetensors."
        ) from error
    except (RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{name}: {file.name} is damaged ({reason}); copy it again.") from error
    is_table = isinstance(content, dict) and all(isinstance(key, str) for key in content)
    if not is_table or not all(isinstance(tensor, torch.Tensor) for tensor in content.values()):
        raise ValueError(f"{name}: {file.name} holds no table of tensors; save it again with save_pretrained.")
    return dict(content)


# --- shape and type without reading -----------------------------------------------------------------------------------


def shape_of(tensor: Any) -> tuple[int, ...]:
    """Return the shape of a tensor or slice."""
    return tuple(tensor.get_shape() if hasattr(tensor, "get_shape") else tensor.shape)


def dtype_of(tensor: Any) -> str:
    """Return the type by its safetensors name (F32, BF16, I64, ...)."""
    if hasattr(tensor, "get_dtype"):
        return str(tensor.get_dtype())
    torch_name = str(tensor.dtype).removeprefix("torch.")
    special = {"bool": "BOOL", "bfloat16": "BF16", "uint8": "U8", "complex64": "C64"}
    return special.get(torch_name, torch_name.upper().replace("FLOAT", "F").replace("INT", "I"))


# --- names ------------------------------------------------------------------------------------------------------------


def strip_wrappers(tensors: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the tensors without additions of training wrappers to their names (`module.`, `_orig_mod.` and others).

    Raises:
        ValueError: if two names then coincide; the message names both.
    """
    original_names: dict[str, str] = {}
    for key in tensors:
        bare = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
        if bare in original_names:
            raise ValueError(
                f"{name}: {original_names[bare]} and {key} are one weight under two names, from two saves; delete the "
                "files of one."
            )
        original_names[bare] = key
    renamed = {bare: tensors[key] for bare, key in original_names.items()}
    while renamed and all(key.startswith(_OUTER) for key in renamed):
        renamed = {key.removeprefix(_OUTER): tensor for key, tensor in renamed.items()}
    return renamed


def without_holder(tensors: Mapping[str, Any], wanted: Collection[str], prefix: str) -> dict[str, Any]:
    """Return the tensors without the names of attributes that held the model in training (`model.` in Lightning's).

    Such a name is removed only if all names begin with it, none matches the model, and some do without it.

    Args:
        tensors: name -> tensor.
        wanted: names of the model's own tensors.
        prefix: prefix of the model's stack (`base_model_prefix`), which a checkpoint of the stack alone omits.
    """
    expected = {*wanted, *(key.removeprefix(f"{prefix}.") for key in wanted)}
    renamed = dict(tensors)
    while renamed and not expected & renamed.keys():
        holders = {key.partition(".")[0] for key in renamed}
        if len(holders) > 1 or not holders <= _HOLDERS:
            return dict(tensors)
        renamed = {key.partition(".")[2]: tensor for key, tensor in renamed.items()}
    return renamed
