"""A name -> a folder of weights with a known revision, and which of a run's models is tuned from which.

A revision is a commit for a Hub model and a hash over the files for a folder. Everything is read from the folder
itself; nothing is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.models import MODELS

# A tuned checkpoint is taken for a version of another model of the same run when only these words tell them apart.
_TUNED_WORDS = re.compile(r"[-_.](instruct|chat|it|sft|dpo|rlhf|tuned|alpaca)(?=$|[-_.@])", re.IGNORECASE)
_SUFFIX = re.compile(r"@.*$|[-_.](hf|base|pt|v\d+(\.\d+)*)(?=$|[-_.@])", re.IGNORECASE)  # says nothing of tuning
# Causal masks that GPT-2 and GPT-NeoX checkpoints store beside their weights.
_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
# A folder of such a name is one checkpoint of a training run: the parent folder names the model.
_STEP = re.compile(r"^(step|checkpoint|revision|epoch)?[-_]?\d+$", re.IGNORECASE)


# Any of these makes a tokenizer; transformers converts the others to the fast form, which gives offsets.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_WANTED = ["*.json", "*.safetensors", "*.model", "merges.txt", "chat_template.jinja", "README.md"]


# What configurations call the tokens that a model can read at once; Bloom, which has no limit, was trained on the last.
_CONTEXT = ("max_position_embeddings", "n_positions", "seq_length")


@dataclass(frozen=True)
class Checkpoint:
    """A model whose weights lie in a folder.

    Attributes:
        name: the name in the tables; a Hub id or a folder's own name where the model has no entry.
        folder: where config.json and the safetensors are.
        revision: commit, or "files-" and 16 hex digits over the names and contents of the files.
        family: model_type of the configuration (llama, gpt2, t5, ...).
        tuned_from, pair_source: base model and who says so: "table", "model card", "name", or empty.
        n_parameters: numbers stored in the safetensors, masks left out; n_layers: blocks of all stacks.
        context_size: tokens that the model can read at once; None if it has no limit.
        architecture: hash of configuration and tokenizer: what an untrained twin is made from.
        base_folder: where the weights of the base are, of a checkpoint whose weights are a difference to it; else "".
    """

    name: str
    folder: str
    revision: str
    family: str
    n_parameters: int
    n_layers: int
    hidden_size: int
    vocabulary: int
    context_size: int | None
    is_encoder_decoder: bool
    architecture: str
    tuned_from: str = ""
    pair_source: str = ""
    base_folder: str = ""


def resolve(name: str) -> Checkpoint:
    """Find a model by its name in the table, its Hub id or its folder.

    Raises:
        ValueError: if the name is unknown; the nearest names are listed.
        FileNotFoundError: if a folder lacks its configuration, tokenizer or weights, or the Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return _inspect(_folder_name(folder), folder, _files_revision(folder))
    if name in MODELS:
        return _from_hub(name, MODELS[name].hub_id)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not name.startswith("."):
        return _from_hub(name, name)
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    raise ValueError(
        f"model {name!r} is neither a folder, nor a Hub id, nor in the table (`harness models`)"
        + (f"; the nearest names are {', '.join(near)}." if near else ".")
    )


def name_of(given: str) -> str:
    """The name under which a model stands in the tables: of a folder its own (or its parent's and the step's)."""
    return _folder_name(Path(given)) if Path(given).is_dir() else given


def _folder_name(folder: Path) -> str:
    resolved = folder.resolve()
    return f"{resolved.parent.name}@{resolved.name}" if _STEP.match(resolved.name) else resolved.name


def _from_hub(name: str, hub_id: str) -> Checkpoint:
    from huggingface_hub import snapshot_download

    if not hub_id:
        raise ValueError(f"{name} is published only as a difference to its base; build it and give its folder.")
    try:
        folder = Path(snapshot_download(hub_id, allow_patterns=_WANTED))
    except OSError as error:
        raise FileNotFoundError(
            f"{name}: cannot fetch {hub_id} from the Hugging Face Hub ({type(error).__name__}); a gated model wants "
            "`hf auth login`; without a network, copy the model's folder here and give its path."
        ) from error
    found = _inspect(name, folder, folder.name)  # a snapshot's folder is named by its commit
    entry = MODELS.get(name)
    return replace(found, tuned_from=entry.tuned_from, pair_source="table") if entry and entry.tuned_from else found


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's folder holds a chat template, in either of the forms that transformers writes."""
    folder = Path(checkpoint.folder)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(_json(settings, checkpoint.name).get("chat_template"))


def _inspect(name: str, folder: Path, revision: str) -> Checkpoint:
    config = _json(folder / "config.json", name)
    tokenizer = next((file for file in map(folder.joinpath, _TOKENIZERS) if file.is_file()), None)
    if tokenizer is None:
        raise FileNotFoundError(f"{name}: no tokenizer ({', '.join(_TOKENIZERS)}) in {folder}; save it with the model.")
    text = config.get("text_config", config)
    blocks = text.get("num_hidden_layers") or text.get("n_layer") or text.get("num_layers") or 0
    if config.get("is_encoder_decoder"):
        blocks = text["num_layers"] + text.get("num_decoder_layers", text["num_layers"])
    base = _model_card_base(folder)
    return Checkpoint(
        name=name,
        folder=str(folder),
        revision=revision,
        family=_stated(config, "model_type", name),
        n_parameters=sum(_n_numbers(file) for file in weight_files(folder, name)),
        n_layers=blocks,
        hidden_size=text.get("hidden_size") or text.get("n_embd") or text.get("d_model") or 0,
        vocabulary=text.get("vocab_size", 0),
        context_size=next((text[key] for key in _CONTEXT if text.get(key)), None),
        is_encoder_decoder=bool(config.get("is_encoder_decoder")),
        architecture=hashlib.sha256((folder / "config.json").read_bytes() + tokenizer.read_bytes()).hexdigest()[:16],
        tuned_from=base,
        pair_source="model card" if base else "",
    )


def _stated(config: dict[str, Any], key: str, name: str) -> Any:
    if key not in config:
        raise ValueError(f"{name}: config.json names no {key}; copy it again.")
    return config[key]


def weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors of a checkpoint, each checked to be whole.

    Raises:
        FileNotFoundError: if there are none, or one that the index lists is absent.
        ValueError: if a file is shorter or longer than its header says.
    """
    index, whole = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.is_file():
        files = sorted({folder / shard for shard in _json(index, name)["weight_map"].values()})
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


def _n_numbers(file: Path) -> int:
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


def _files_revision(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".safetensors", ".model", ".txt"}:
            with file.open("rb") as stream:
                digest.update(f"{file.name} {hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    return f"files-{digest.hexdigest()[:16]}"


def _model_card_base(folder: Path) -> str:
    """`base_model` of the model card's front matter (a word, or a list whose first counts), or nothing."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^base_model:\s*(?:-\s+)?[\"']?(\w[\w./-]*)", front[1], re.MULTILINE) if front else None
    return found[1] if found else ""


def _json(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no {path.name} in {path.parent}; give a folder that save_pretrained wrote.")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{name}: {path.name} is not JSON ({error}); copy it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{name}: {path.name} holds no JSON object; copy it again.")
    return content


def pair(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Fill in `tuned_from` where a name says it: X-instruct is a tuned X of the same shape, if X is in the run.

    The table and the model's card come first; `pair_source` tells which of the three spoke.
    """
    known = list(checkpoints)
    return [_paired(checkpoint, [other for other in known if other is not checkpoint]) for checkpoint in known]


def _paired(checkpoint: Checkpoint, others: list[Checkpoint]) -> Checkpoint:
    """With the name in this run of the base that table or card names; else with the one that its own name says."""
    if checkpoint.tuned_from:
        for other in others:
            hub_id = MODELS[other.name].hub_id if other.name in MODELS else other.name
            if checkpoint.tuned_from in {other.name, hub_id, hub_id.rpartition("/")[2]}:
                return replace(checkpoint, tuned_from=other.name)
            if checkpoint.tuned_from.rpartition("/")[2] == other.name:
                return replace(checkpoint, tuned_from=other.name)
    if not _TUNED_WORDS.search(checkpoint.name):
        return checkpoint
    stem = _SUFFIX.sub("", _TUNED_WORDS.sub("", checkpoint.name))
    for other in others:
        untuned = not _TUNED_WORDS.search(other.name)
        if untuned and _SUFFIX.sub("", other.name) == stem and _same_shape(other, checkpoint):
            return replace(checkpoint, tuned_from=other.name, pair_source="name")
    return checkpoint


def _same_shape(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.family, one.n_layers, one.hidden_size) == (other.family, other.n_layers, other.hidden_size)
