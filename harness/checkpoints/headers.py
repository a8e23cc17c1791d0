"""Which files of a checkpoint folder hold the weights, checked by their headers alone; reading its JSON files.

The files are those that transformers would load; an index must agree with the files beside it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.checkpoints import quantization
from harness.checkpoints.safetensors_file import StoredTensor, header_of, is_lfs_pointer, require_regular

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED, PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
# Masks, position tables and similar buffers that older checkpoints store beside their weights (GPT-2, GPT-J, CodeGen).
_BUFFER = re.compile(
    r"\.(attn|attention)\.((masked_)?bias|embed_positions)$|\.causal_mask$|\.(inv_freq|(cos|sin)_cached)$|\.position_ids$"
)
# Weight formats that are not loaded, named in the error message if a folder has no others.
_OTHER_WEIGHTS = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "original/*",
)  # fmt: skip


def weight_files(folder: Path, name: str) -> list[Path]:
    """Return the safetensors files with a checkpoint's weights, after checking that they and their index are intact.

    Chosen as transformers does: the file named in config.json (`transformers_weights`), else model.safetensors, else
    the shards in model.safetensors.index.json.

    Args:
        folder: folder of the checkpoint.
        name: model name, for error messages.

    Raises:
        FileNotFoundError: if there are none, or a file named in the index is missing.
        ValueError: if a file is damaged or not a regular file, or the index points outside the folder or disagrees with
            its shards.

    Source: _get_resolved_checkpoint_files of transformers 5.19 (modeling_utils.py).
    """
    configured = _configured_file(folder, name)
    index = folder / (configured if configured.endswith(".index.json") else INDEX)
    whole = folder / (configured if configured and not configured.endswith(".index.json") else WHOLE)
    is_whole = exists_or_link(whole) and not configured.endswith(".index.json")
    shards = _checked_shards(index, name, beside=whole if is_whole else None) if exists_or_link(index) else []
    if is_whole:
        header_of(whole, name)
        return [whole]
    if shards:
        return shards
    raise _no_weights_error(folder, name, configured)


def pickled_files(folder: Path, name: str) -> list[Path]:
    """Return the pickles with a checkpoint's weights (pytorch_model.bin, else its index's files) without opening them.

    Raises:
        FileNotFoundError: if a file named in the index is missing.
        ValueError: if a file is not a regular file, or the index points outside the folder.
    """
    if exists_or_link(folder / PICKLED):
        require_regular(folder / PICKLED, name)
        return [folder / PICKLED]
    index = folder / PICKLED_INDEX
    return _named_files(index, _weight_map(index, name), name) if exists_or_link(index) else []


def has_safetensors(folder: Path) -> bool:
    """Return whether a folder holds safetensors, which transformers would load before any pickle."""
    return any(exists_or_link(folder / file) for file in (WHOLE, INDEX)) or bool(_configured_file(folder, folder.name))


def superseded(folder: Path) -> set[str]:
    """Return names of an index and its shards that are not loaded because a model.safetensors lies beside them."""
    if not (folder / WHOLE).is_file() or not (folder / INDEX).is_file() or _configured_file(folder, folder.name):
        return set()
    shards = set(_weight_map(folder / INDEX, folder.name).values()) - {WHOLE}
    return {INDEX, *shards} if shards else set()


def weights_below(folder: Path) -> list[Path]:
    """Return shards that a folder's index places in subfolders, sorted; empty without such an index."""
    with os.scandir(folder) as entries:
        if not any(entry.is_dir() for entry in entries):  # true of nearly all checkpoints; saves reading any file
            return []
    try:
        configured = _configured_file(folder, folder.name)
        names = {configured} if configured and not configured.endswith(".index.json") else set()
        for index in {configured if configured.endswith(".index.json") else INDEX, PICKLED_INDEX}:
            if (folder / index).is_file():
                names |= set(_weight_map(folder / index, folder.name).values())
    except (ValueError, OSError):  # reported when the checkpoint is loaded
        return []
    inside = (name for name in names if "/" in name and ".." not in Path(name).parts and not Path(name).is_absolute())
    return sorted(folder / name for name in inside if (folder / name).is_file())


def exists_or_link(file: Path) -> bool:
    """Return whether a path exists, counting broken symbolic links."""
    return file.exists() or file.is_symlink()


def _configured_file(folder: Path, name: str) -> str:
    """Return the weights file named in config.json (`transformers_weights`, since transformers 5), or ""."""
    config = folder / "config.json"
    configured = read_json(config, name).get("transformers_weights") if config.is_file() else None
    if not configured:
        return ""
    if not isinstance(configured, str) or not configured.endswith((".safetensors", ".safetensors.index.json")):
        raise ValueError(
            f"{name}: transformers_weights in config.json is {configured!r}; expected a safetensors file or an index "
            "of safetensors."
        )
    _require_inside(configured, folder / "config.json", name)
    return configured


def _no_weights_error(folder: Path, name: str, configured: str) -> FileNotFoundError:
    expected = configured or f"neither {WHOLE} nor {INDEX}"
    others = sorted(
        {path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern) if path.name != "original"}
    )
    beside = f"; it holds {', '.join(others[:4])}{', ...' if len(others) > 4 else ''}" if others else ""
    safetensors = [file for file in others if file.endswith(".safetensors")]
    if safetensors:
        advice = f"transformers loads {WHOLE}: rename {safetensors[0]} if it is the whole model, or copy the index."
    elif any(file.endswith((".bin", ".pt", ".pth")) for file in others):
        advice = (
            "Pickled weights (*.bin, *.pt) are neither fetched nor loaded without --allow-pickle: convert them to "
            "safetensors, or choose a revision that has safetensors."
        )
    else:
        advice = "Save the model as safetensors (save_pretrained) and pass that folder."
    return FileNotFoundError(f"{name}: no weights ({expected}) in {folder}{beside}. {advice}")


# --- index files ------------------------------------------------------------------------------------------------------


def _weight_map(index: Path, name: str) -> dict[str, str]:
    """Return tensor -> file from an index."""
    require_regular(index, name)
    mapping = read_json(index, name).get("weight_map")
    if not isinstance(mapping, dict) or not mapping or not all(isinstance(file, str) for file in mapping.values()):
        raise ValueError(f"{name}: {index.name} has no weight_map of tensors to files; copy it again.")
    return mapping


def _checked_shards(index: Path, name: str, beside: Path | None) -> list[Path]:
    """Return the shards of an index after checking that both agree; `beside` is a whole file in the same folder."""
    weight_map = _weight_map(index, name)
    files = _named_files(index, weight_map, name, beside)
    files_of: dict[str, list[str]] = {}
    for file in files:
        for key in header_of(file, name):
            files_of.setdefault(key, []).append(str(file.relative_to(index.parent)))
    for key, file_name in weight_map.items():
        if str(Path(file_name)) not in files_of.get(key, []):
            where = f", which {' and '.join(files_of[key])} holds" if key in files_of else ""
            raise ValueError(
                f"{name}: {index.name} says that {key} is in {file_name}, and it is not{where}: the index and the "
                "shards come from different saves; copy both again."
            )
    for key, holders in files_of.items():
        if key not in weight_map and not is_buffer(key):
            raise ValueError(
                f"{name}: {holders[0]} holds {key}, which {index.name} does not name: the index and the shards come "
                "from different saves; copy both again."
            )
    return files


def _named_files(index: Path, weight_map: Mapping[str, str], name: str, beside: Path | None = None) -> list[Path]:
    """Return the files named in an index after checking that all exist inside its folder."""
    names = sorted(set(weight_map.values()))
    for file in names:
        _require_inside(file, index, name)
    missing = [file for file in names if not exists_or_link(index.parent / file)]
    if missing:
        shards = (path.name for path in index.parent.glob(f"*{Path(missing[0]).suffix}") if path.name not in names)
        unnamed = sorted({*([beside.name] if beside else []), *shards})
        hint = f"; {', '.join(unnamed[:3])}, which it does not name, lies beside it" if unnamed else ""
        advice = f"delete {index.name} if {beside.name} is the model" if beside else "copy the checkpoint again"
        raise FileNotFoundError(
            f"{name}: {index.name} names {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}, which "
            f"{'is' if len(missing) == 1 else 'are'} not in {index.parent}{hint}: {advice}."
        )
    for file in names:
        require_regular(index.parent / file, name)
    return [index.parent / file for file in names]


def _require_inside(file: str, index: Path, name: str) -> None:
    """Raise if a path named in a checkpoint's file points outside the folder.

    Both the text of the path and the target of a symbolic link are checked. A link may point into the folder itself,
    into the folder of the index if the index is a link too, or into the Hub cache, whose snapshots link to `blobs`.
    """
    parts = re.split(r"[/\\]", file)
    if not file or file.startswith(("/", "\\", "~")) or ".." in parts or re.match(r"^[A-Za-z]:", file) or "\0" in file:
        raise ValueError(f"{name}: {index.name} names {file!r}, a path out of the folder; expected a file beside it.")
    target = Path(str(index.parent / file)).resolve()
    allowed = {index.parent.resolve(), index.resolve().parent}
    in_cache = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not in_cache and not any(target.is_relative_to(parent) for parent in allowed):
        raise ValueError(
            f"{name}: {file}, named in {index.name}, is a symbolic link out of the folder, to {target}; copy the file, "
            "or pass the folder that holds it."
        )


# --- parameters -------------------------------------------------------------------------------------------------------


def count(headers: Iterable[Mapping[str, StoredTensor]], settings: Mapping[str, Any]) -> int:
    """Count the parameters that the headers of a checkpoint's files stand for.

    A tensor repeated in several shards counts once; masks and scales of quantised weights do not count.

    Args:
        headers: one header per file.
        settings: `quantization.stated` of its config.json.
    """
    tensors = {key: stored for header in headers for key, stored in header.items() if not is_buffer(key)}
    return quantization.n_parameters(tensors, settings)


def is_buffer(key: str) -> bool:
    """Return whether a stored tensor is a mask or table that the model computes itself."""
    return bool(_BUFFER.search(key))


def read_json(path: Path, name: str) -> dict[str, Any]:
    """Read a JSON object; raise FileNotFoundError or ValueError, naming the model, if there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no {path.name} in {path.parent}; {_form_of(path.parent)}.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise ValueError(f"{name}: {path} cannot be read (permission denied); check its permissions.") from error
    except (ValueError, RecursionError) as error:
        if is_lfs_pointer(path):
            raise ValueError(f"{name}: {path.name} is a Git LFS pointer; run `git lfs pull` in its folder.") from error
        raise ValueError(f"{name}: {path.name} is not JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: {path.name} holds no JSON object; copy it again.")
    return content


# Files that identify other checkpoint formats -> what they are and what to pass instead.
_OTHER_FORMS = {
    "*.gguf": "its weights are GGUF (llama.cpp): pass the checkpoint they were converted from",
    "params.json": "it is in the publisher's own form (params.json): pass the copy in transformers' format",
    "*.nemo": "it is a NeMo checkpoint: convert it to transformers' format",
    "*.distcp": "it is a distributed checkpoint of torch: save the model with save_pretrained",
    "flax_model*.msgpack": "its weights are in Flax format: pass the copy in transformers' format",
}


def _form_of(folder: Path) -> str:
    """Describe what a folder without config.json holds and what to pass instead."""
    advice = [words for pattern, words in _OTHER_FORMS.items() if any(folder.glob(pattern))]
    inside = sorted(path.parent.name for path in folder.glob("*/config.json"))
    if inside and not advice:
        names = inside if len(inside) < 4 else [*inside[:3], "..."]
        return f"it contains the checkpoints {', '.join(names)}: pass one of them, or the folder to `harness watch`"
    return advice[0] if advice else "pass a folder that save_pretrained wrote"
