"""The table of checkpoints, and how a name becomes a folder of weights with a known revision.

The table holds the paper's 25 models (8 vanilla, 17 tuned) and the 8 GPT-2s reported beside them (App. A, B and J of
arXiv 2312.00575); sizes are the nominal ones it prints. What a run records (parameters, layers, widths) is read from
the checkpoint itself. A revision is a commit for a Hub model and a hash over the files for a folder.
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


@dataclass(frozen=True)
class Entry:
    """A published checkpoint. `hub_id` is empty where it is published only as a difference to its base."""

    name: str
    family: str
    hub_id: str
    tuned_from: str
    tuning_data: str
    n_blocks: int
    n_parameters_nominal: float


_ENTRIES = (
    Entry("t5-small", "t5", "google/t5-v1_1-small", "", "C4", 16, 7.7e+07),
    Entry("flan-t5-small", "t5", "google/flan-t5-small", "t5-small", "FLAN", 16, 7.7e+07),
    Entry("t5-base", "t5", "google/t5-v1_1-base", "", "C4", 24, 2.5e+08),
    Entry("flan-t5-base", "t5", "google/flan-t5-base", "t5-base", "FLAN", 24, 2.5e+08),
    Entry("flan-alpaca-base", "t5", "declare-lab/flan-alpaca-base", "t5-base", "FLAN + Alpaca", 24, 2.5e+08),
    Entry("t5-large", "t5", "google/t5-v1_1-large", "", "C4", 48, 8e+08),
    Entry("flan-t5-large", "t5", "google/flan-t5-large", "t5-large", "FLAN", 48, 8e+08),
    Entry("flan-alpaca-large", "t5", "declare-lab/flan-alpaca-large", "t5-large", "FLAN + Alpaca", 48, 8e+08),
    Entry("t5-xl", "t5", "google/t5-v1_1-xl", "", "C4", 48, 3e+09),
    Entry("flan-t5-xl", "t5", "google/flan-t5-xl", "t5-xl", "FLAN", 48, 3e+09),
    Entry("flan-alpaca-xl", "t5", "declare-lab/flan-alpaca-xl", "t5-xl", "FLAN + Alpaca", 48, 3e+09),
    Entry("flan-gpt4all-xl", "t5", "declare-lab/flan-gpt4all-xl", "t5-xl", "FLAN + GPT4ALL", 48, 3e+09),
    Entry("flan-sharegpt-xl", "t5", "declare-lab/flan-sharegpt-xl", "t5-xl", "FLAN + ShareGPT", 48, 3e+09),
    Entry("flan-alpaca-gpt4-xl", "t5", "declare-lab/flan-alpaca-gpt4-xl", "t5-xl", "FLAN + Alpaca-GPT4", 48, 3e+09),
    Entry("t5-xxl", "t5", "google/t5-v1_1-xxl", "", "C4", 48, 1.1e+10),
    Entry("flan-t5-xxl", "t5", "google/flan-t5-xxl", "t5-xxl", "FLAN", 48, 1.1e+10),
    Entry("flan-alpaca-xxl", "t5", "declare-lab/flan-alpaca-xxl", "t5-xxl", "FLAN + Alpaca", 48, 1.1e+10),
    Entry("llama-7b", "llama", "huggyllama/llama-7b", "", "", 32, 7e+09),
    Entry("alpaca-7b", "llama", "", "llama-7b", "Alpaca 52K", 32, 7e+09),
    Entry("vicuna-7b", "llama", "lmsys/vicuna-7b-v1.3", "llama-7b", "ShareGPT conversations", 32, 7e+09),
    Entry("llama-13b", "llama", "huggyllama/llama-13b", "", "", 40, 1.3e+10),
    Entry("vicuna-13b", "llama", "lmsys/vicuna-13b-v1.3", "llama-13b", "ShareGPT conversations", 40, 1.3e+10),
    Entry("stable-vicuna-13b", "llama", "", "llama-13b", "Vicuna + RLHF", 40, 1.3e+10),
    Entry("llama-33b", "llama", "huggyllama/llama-30b", "", "", 60, 3.3e+10),
    Entry("vicuna-33b", "llama", "lmsys/vicuna-33b-v1.3", "llama-33b", "ShareGPT conversations", 60, 3.3e+10),
    Entry("gpt2-small", "gpt2", "openai-community/gpt2", "", "WebText", 12, 1.24e+08),
    Entry("gpt2-small-alpaca", "gpt2", "vicgalle/gpt2-alpaca", "gpt2-small", "Alpaca", 12, 1.24e+08),
    Entry("gpt2-medium", "gpt2", "openai-community/gpt2-medium", "", "WebText", 24, 3.55e+08),
    Entry("gpt2-medium-alpaca", "gpt2", "linkanjarad/GPT2-Medium-Alpaca-355m", "gpt2-medium", "Alpaca", 24, 3.55e+08),
    Entry("gpt2-large", "gpt2", "openai-community/gpt2-large", "", "WebText", 36, 7.74e+08),
    Entry("gpt2-large-alpaca", "gpt2", "reasonwang/gpt2-large-alpaca", "gpt2-large", "Alpaca", 36, 7.74e+08),
    Entry("gpt2-xl", "gpt2", "openai-community/gpt2-xl", "", "WebText", 48, 1.5e+09),
    Entry("gpt2-xl-alpaca", "gpt2", "Rachneet/gpt2-xl-alpaca", "gpt2-xl", "Alpaca", 48, 1.5e+09),
)  # fmt: skip
MODELS = {entry.name: entry for entry in _ENTRIES}

# A tuned checkpoint is taken for a version of another model of the same run when only these words tell them apart.
_TUNED_WORDS = re.compile(r"[-_.](instruct|chat|it|sft|dpo|rlhf|tuned|alpaca)(?=$|[-_.@])", re.IGNORECASE)
_SUFFIX = re.compile(r"@.*$|[-_.](hf|base|pt|v\d+(\.\d+)*)(?=$|[-_.@])", re.IGNORECASE)  # says nothing of tuning
# Causal masks that GPT-2 and GPT-NeoX checkpoints store beside their weights.
_BUFFER = re.compile(r"\.(attn|attention)\.(masked_)?bias$|rotary_emb\.inv_freq$")
# A folder of such a name is one checkpoint of a training run: the parent folder names the model.
_STEP = re.compile(r"^(step|checkpoint|revision|epoch)?[-_]?\d+$", re.IGNORECASE)


# Any of these makes a tokenizer; transformers converts the others to the fast form, which gives offsets.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")
_WANTED = ["*.json", "*.safetensors", "*.model", "merges.txt", "README.md"]


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
        family=config["model_type"],
        n_parameters=sum(_n_numbers(file) for file in weight_files(folder, name)),
        n_layers=blocks,
        hidden_size=text.get("hidden_size") or text.get("n_embd") or text.get("d_model") or 0,
        vocabulary=text.get("vocab_size", 0),
        context_size=text.get("max_position_embeddings") or text.get("n_positions"),
        is_encoder_decoder=bool(config.get("is_encoder_decoder")),
        architecture=hashlib.sha256((folder / "config.json").read_bytes() + tokenizer.read_bytes()).hexdigest()[:16],
        tuned_from=base,
        pair_source="model card" if base else "",
    )


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
        return {}, 8 + length
    header = json.loads(raw)
    ends = [tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"]
    return header, 8 + length + max(ends, default=0)


def _n_numbers(file: Path) -> int:
    total = 0
    for key, tensor in _header(file)[0].items():
        if key != "__metadata__" and not _BUFFER.search(key):
            count = 1
            for size in tensor["shape"]:
                count *= size
            total += count
    return total


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
    except json.JSONDecodeError as error:
        raise ValueError(f"{name}: {path.name} is not JSON ({error}); copy it again.") from error
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
