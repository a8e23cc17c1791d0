"""The files of a checkpoint's folder without their numbers: JSON, and which files hold the weights.

The files are those that transformers would load from the folder; an index must agree with what lies beside it.
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
# Masks, tables of positions and the like, which older checkpoints store beside their weights (GPT-2, GPT-J, CodeGen).
_BUFFER = re.compile(
    r"\.(attn|attention)\.((masked_)?bias|embed_positions)$|\.causal_mask$|\.(inv_freq|(cos|sin)_cached)$|\.position_ids$"
)
# Weights in forms that are not loaded; which of them lie in a folder is named where it has no others.
_OTHER_WEIGHTS = (
    "*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.ckpt", "*.h5", "*.msgpack", "*.onnx", "original/*",
)  # fmt: skip


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors that hold a checkpoint's weights, each checked to be whole, and its index to agree with them.

    As transformers chooses them: the file that config.json names (`transformers_weights`), else model.safetensors, else
    the shards that model.safetensors.index.json names.

    Args:
        folder: of the checkpoint.
        name: of the model, for messages.

    Raises:
        FileNotFoundError: if there are none, or one that the index names is absent.
        ValueError: if a file is damaged or none, or the index leaves the folder or disagrees with the files.

    Source: _get_resolved_checkpoint_files of transformers 5.19 (modeling_utils.py).
    """
    explicit = _explicit(folder, name)
    index = folder / (explicit if explicit.endswith(".index.json") else INDEX)
    whole = folder / (explicit if explicit and not explicit.endswith(".index.json") else WHOLE)
    is_whole = is_there(whole) and not explicit.endswith(".index.json")
    shards = _indexed(index, name, beside=whole if is_whole else None) if is_there(index) else []
    if is_whole:
        header_of(whole, name)
        return [whole]
    if shards:
        return shards
    raise _no_weights(folder, name, explicit)


def pickled_files(folder: Path, name: str) -> list[Path]:
    """The pickles that hold a checkpoint's weights: pytorch_model.bin, else what its index names; none is opened.

    Raises:
        FileNotFoundError: if one that the index names is absent.
        ValueError: if a file is none, or the index leaves the folder.
    """
    if is_there(folder / PICKLED):
        require_regular(folder / PICKLED, name)
        return [folder / PICKLED]
    index = folder / PICKLED_INDEX
    return _named_files(index, _weight_map(index, name), name) if is_there(index) else []


def has_safetensors(folder: Path) -> bool:
    """Whether a folder holds safetensors that transformers would load before any pickle."""
    return any(is_there(folder / file) for file in (WHOLE, INDEX)) or bool(_explicit(folder, folder.name))


def superseded(folder: Path) -> set[str]:
    """Names of an index and its shards that lie beside a model.safetensors, which is loaded in their place."""
    if not (folder / WHOLE).is_file() or not (folder / INDEX).is_file() or _explicit(folder, folder.name):
        return set()
    shards = set(_weight_map(folder / INDEX, folder.name).values()) - {WHOLE}
    return {INDEX, *shards} if shards else set()


def weights_below(folder: Path) -> list[Path]:
    """Shards that the index of a folder names in folders below it, sorted; none where there is no such index."""
    with os.scandir(folder) as entries:
        if not any(entry.is_dir() for entry in entries):  # as in nearly all checkpoints: no file has to be read
            return []
    try:
        explicit = _explicit(folder, folder.name)
        names = {explicit} if explicit and not explicit.endswith(".index.json") else set()
        for index in {explicit if explicit.endswith(".index.json") else INDEX, PICKLED_INDEX}:
            if (folder / index).is_file():
                names |= set(_weight_map(folder / index, folder.name).values())
    except (ValueError, OSError):  # told by whoever loads it
        return []
    inside = (name for name in names if "/" in name and ".." not in Path(name).parts and not Path(name).is_absolute())
    return sorted(folder / name for name in inside if (folder / name).is_file())


def is_there(file: Path) -> bool:
    """Also where it is a symbolic link to nothing."""
    return file.exists() or file.is_symlink()


def _explicit(folder: Path, name: str) -> str:
    """The file of weights that config.json names, a field of transformers 5; "" where it names none."""
    config = folder / "config.json"
    found = read_json(config, name).get("transformers_weights") if config.is_file() else None
    if not found:
        return ""
    if not isinstance(found, str) or not found.endswith((".safetensors", ".safetensors.index.json")):
        raise ValueError(
            f"{name}: config.json names {found!r} as transformers_weights; a safetensors file or an index of "
            "safetensors is wanted."
        )
    _require_inside(found, folder / "config.json", name)
    return found


def _no_weights(folder: Path, name: str, explicit: str) -> FileNotFoundError:
    wanted = explicit or f"neither {WHOLE} nor {INDEX}"
    found = sorted(
        {path.name for pattern in _OTHER_WEIGHTS for path in folder.glob(pattern) if path.name != "original"}
    )
    beside = f"; it holds {', '.join(found[:4])}{', ...' if len(found) > 4 else ''}" if found else ""
    safetensors = [file for file in found if file.endswith(".safetensors")]
    if safetensors:
        advice = f"transformers loads {WHOLE}: rename {safetensors[0]} if it is the whole model, or copy the index."
    elif any(file.endswith((".bin", ".pt", ".pth")) for file in found):
        advice = (
            "Pickled weights (*.bin, *.pt) are neither fetched nor loaded unless --allow-pickle is given: convert them "
            "to safetensors, or give a revision that has them."
        )
    else:
        advice = "Save the model as safetensors (save_pretrained), and give that folder."
    return FileNotFoundError(f"{name}: no weights ({wanted}) in {folder}{beside}. {advice}")


# --- an index ---------------------------------------------------------------------------------------------------------


def _weight_map(index: Path, name: str) -> dict[str, str]:
    """Tensor -> file, of an index."""
    require_regular(index, name)
    found = read_json(index, name).get("weight_map")
    if not isinstance(found, dict) or not found or not all(isinstance(file, str) for file in found.values()):
        raise ValueError(f"{name}: {index.name} has no weight_map of tensors to files; copy it again.")
    return found


def _indexed(index: Path, name: str, beside: Path | None) -> list[Path]:
    """The shards that an index names, where both agree; `beside` is a whole file in the same folder."""
    weight_map = _weight_map(index, name)
    files = _named_files(index, weight_map, name, beside)
    places: dict[str, list[str]] = {}
    for file in files:
        for key in header_of(file, name):
            places.setdefault(key, []).append(str(file.relative_to(index.parent)))
    for key, file_name in weight_map.items():
        if str(Path(file_name)) not in places.get(key, []):
            where = f", which {' and '.join(places[key])} holds" if key in places else ""
            raise ValueError(
                f"{name}: {index.name} says that {key} is in {file_name}, and it is not{where}: the index and the file "
                "are of two different saves; copy both again."
            )
    for key, holders in places.items():
        if key not in weight_map and not is_buffer(key):
            raise ValueError(
                f"{name}: {holders[0]} holds {key}, which {index.name} does not name: the index and the file are of "
                "two different saves; copy both again."
            )
    return files


def _named_files(index: Path, weight_map: Mapping[str, str], name: str, beside: Path | None = None) -> list[Path]:
    """The files that an index names, all there and inside its folder."""
    names = sorted(set(weight_map.values()))
    for file in names:
        _require_inside(file, index, name)
    absent = [file for file in names if not is_there(index.parent / file)]
    if absent:
        shards = (path.name for path in index.parent.glob(f"*{Path(absent[0]).suffix}") if path.name not in names)
        others = sorted({*([beside.name] if beside else []), *shards})
        there = f"; {', '.join(others[:3])}, which it does not name, lies beside it" if others else ""
        advice = f"delete {index.name} if {beside.name} is the model" if beside else "copy the checkpoint again"
        raise FileNotFoundError(
            f"{name}: {index.name} names {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''}, which "
            f"{'is' if len(absent) == 1 else 'are'} not in {index.parent}{there}: {advice}."
        )
    for file in names:
        require_regular(index.parent / file, name)
    return [index.parent / file for file in names]


def _require_inside(file: str, index: Path, name: str) -> None:
    """Raise where a path that a file of the checkpoint names leaves its folder.

    By its text, and by where a symbolic link leads: into the folder itself, into that of the index where this is a link
    too, or into the Hub's own cache, whose snapshots are links into a folder `blobs`.
    """
    parts = re.split(r"[/\\]", file)
    if not file or file.startswith(("/", "\\", "~")) or ".." in parts or re.match(r"^[A-Za-z]:", file) or "\0" in file:
        raise ValueError(f"{name}: {index.name} names {file!r}, a path out of the folder; files beside it are wanted.")
    target = Path(str(index.parent / file)).resolve()
    homes = {index.parent.resolve(), index.resolve().parent}
    in_cache = target.parent.name == "blobs" and target.parent.parent.name.startswith("models--")
    if not in_cache and not any(target.is_relative_to(home) for home in homes):
        raise ValueError(
            f"{name}: {file}, which {index.name} names, is a symbolic link out of the folder, to {target}; copy the "
            "file, or give the folder that it lies in."
        )


# --- parameters -------------------------------------------------------------------------------------------------------


def n_numbers(file: Path) -> int:
    """Numbers stored in a safetensors file, by its header; masks left out."""
    return count([header_of(file, file.name)], {})


def count(headers: Iterable[Mapping[str, StoredTensor]], settings: Mapping[str, Any]) -> int:
    """Parameters that the headers of a checkpoint's files stand for.

    A tensor that several shards repeat counts once; masks, and the scales of quantised weights, are none.

    Args:
        headers: of each file.
        settings: `quantization.stated` of its config.json.
    """
    tensors = {key: stored for header in headers for key, stored in header.items() if not is_buffer(key)}
    return quantization.n_parameters(tensors, settings)


def is_buffer(key: str) -> bool:
    """Whether a stored tensor is a mask or a table that the model computes by itself."""
    return bool(_BUFFER.search(key))


def read_json(path: Path, name: str) -> dict[str, Any]:
    """A JSON object; FileNotFoundError or ValueError that names the model where there is none."""
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no {path.name} in {path.parent}; {_form_of(path.parent)}.")
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except PermissionError as error:
        raise ValueError(f"{name}: {path} cannot be read (permission denied); look at its permissions.") from error
    except (ValueError, RecursionError) as error:
        if is_lfs_pointer(path):
            raise ValueError(f"{name}: {path.name} is a Git LFS pointer; run `git lfs pull` in its folder.") from error
        raise ValueError(f"{name}: {path.name} is not JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: {path.name} holds no JSON object; copy it again.")
    return content


# Files by which forms of checkpoints that are not save_pretrained's are known -> what they are, and what to give.
_OTHER_FORMS = {
    "*.gguf": "its weights are GGUF (llama.cpp): give the checkpoint that they were converted from",
    "params.json": "it has the publisher's own form (params.json): give the copy in transformers' form",
    "*.nemo": "it is a checkpoint of NeMo: convert it to transformers' form",
    "*.distcp": "it is a distributed checkpoint of torch: save the model with save_pretrained",
    "flax_model*.msgpack": "its weights are Flax's: give the copy in transformers' form",
}


def _form_of(folder: Path) -> str:
    """What a folder without a configuration holds, and what to give instead."""
    found = (words for pattern, words in _OTHER_FORMS.items() if any(folder.glob(pattern)))
    return next(found, "give a folder that save_pretrained wrote")
