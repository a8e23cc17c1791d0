"""A name -> a checkpoint of a known revision, with all that its small files say.

A revision is a commit for a Hub model and a hash over the files for a folder. Everything is read from the folder
itself; nothing is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from harness import adapter_config, fingerprints, headers, hub, model_card, quantization
from harness.headers import read_json, weight_files
from harness.models import MODELS, Entry, find
from harness.safetensors_file import header_of

# A folder of such a name is one checkpoint of a training run: the parent folder names the model.
_STEP = re.compile(r"^(step|checkpoint|revision|epoch)?[-_]?\d+$", re.IGNORECASE)


_HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./-]+)?")
# Any of these makes a tokenizer; transformers converts the others to the fast form, which gives offsets.
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json")


# Families (model_type) of encoders: those that transformers trains on masked words. Some are decoders by `is_decoder`.
ENCODERS = frozenset((
    "albert", "bert", "big_bird", "camembert", "convbert", "data2vec-text", "deberta", "deberta-v2", "distilbert",
    "electra", "ernie", "esm", "esmc", "eurobert", "flaubert", "fnet", "funnel", "gte", "ibert", "jina_embeddings_v3",
    "layoutlm", "longformer", "luke", "megatron-bert", "mobilebert", "modernbert", "modernvbert", "mpnet", "mra",
    "neomme", "nomic_bert", "nystromformer", "perceiver", "reformer", "rembert", "roberta", "roberta-prelayernorm",
    "roc_bert", "roformer", "squeezebert", "tapas", "xlm", "xlm-roberta", "xlm-roberta-xl", "xmod", "yoso",
))  # fmt: skip
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
        tuned_from, pair_source: base model and who says so: "table", "adapter", "model card", "name", or empty.
        n_parameters: numbers stored in the safetensors, masks left out; n_layers: blocks of all stacks.
        context_size: tokens that the model can read at once; None if it has no limit.
        architecture: hash of configuration and tokenizer: what an untrained twin is made from.
        base_folder: where the weights of the base are, of a checkpoint whose weights are a difference to it or an
            adapter of it; else "".
        hub_id, base_hub_id: repositories that weights are still to be fetched from (`with_weights`); else "".
        n_heads: attention heads; 0 if not stated. is_encoder: whether it reads both ways and gives no next word.
        adapter: kind of the adapter (LORA, ...) that is merged at loading; "" where there is none.
        new_rows: of a difference, what its base counts as at tokens that tuning added: "zero", "mean", or "", which
            leaves it to `deltas.recipe_of`.
        quantization: method by which the stored weights are quantised; "" where they are not.
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
    hub_id: str = ""
    base_hub_id: str = ""
    n_heads: int = 0
    is_encoder: bool = False
    adapter: str = ""
    new_rows: str = ""
    quantization: str = ""

    @property
    def config_folder(self) -> str:
        """Where the configuration is: of an adapter with its base."""
        return self.base_folder if self.adapter and self.base_folder else self.folder

    @property
    def tokenizer_folder(self) -> str:
        """Where the tokenizer is: of an adapter that brings none with its base."""
        return self.folder if _tokenizer(Path(self.folder)) else self.config_folder

    @property
    def stack(self) -> Literal["decoder", "encoder-decoder", "encoder"]:
        """What it is made of."""
        if self.is_encoder_decoder:
            return "encoder-decoder"
        return "encoder" if self.is_encoder else "decoder"


def resolve(name: str) -> Checkpoint:
    """Find a model by its name in the table, its Hub id or its folder.

    Raises:
        ValueError: if the name is unknown; the nearest names are listed.
        FileNotFoundError: if a folder lacks its configuration, tokenizer or weights, or the Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return _inspect(_folder_name(folder), folder, fingerprints.revision_of(folder))
    if entry := find(name):
        return _of_entry(name, entry)
    if _HUB_ID.fullmatch(name):
        hub_id, _, revision = name.partition("@")
        return _of_entry(name, Entry(name, hub_id, revision=revision or "main"))
    raise _unknown(name)


def require_known(name: str) -> None:
    """Raise ValueError, with the nearest names, where a name is no folder, no Hub id, and not in the table."""
    if not (Path(name).is_dir() or find(name) or _HUB_ID.fullmatch(name)):
        raise _unknown(name)


def _unknown(name: str) -> ValueError:
    near = difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)
    return ValueError(
        f"model {name!r} is neither a folder, nor a Hub id, nor in the table (`harness models`)"
        + (f"; the nearest names are {', '.join(near)}." if near else ".")
    )


def name_of(given: str) -> str:
    """The name under which a model stands in the tables: of a folder its own (or its parent's and the step's)."""
    return _folder_name(Path(given)) if Path(given).is_dir() else given


def _folder_name(folder: Path) -> str:
    resolved = folder.resolve()
    return f"{resolved.parent.name}@{resolved.name}" if _STEP.match(resolved.name) else resolved.name


def _of_entry(name: str, entry: Entry) -> Checkpoint:
    """A model of the table, or a user's own; weights on the Hub are not fetched yet."""
    if entry.folder:
        folder = Path(entry.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: {folder} is no folder; look at its entry in the file of models.")
        found = _inspect(name, folder, fingerprints.revision_of(folder), base_name=entry.delta_of)
    else:
        seen = hub.look(entry.hub_id, hub.commit_of(name, entry))
        n_parameters = seen.n_parameters or _cached(Path(seen.folder), name) or int(entry.n_parameters)
        found = _inspect(name, Path(seen.folder), seen.commit, n_parameters, entry.delta_of)
        found = replace(found, hub_id=entry.hub_id)
    if entry.delta_of and not found.adapter:
        base = _of_entry(entry.delta_of, _known(entry.delta_of))
        found = replace(found, base_folder=base.folder, base_hub_id=base.hub_id, new_rows=entry.new_rows)
        found = replace(found, revision=f"{found.revision}+{base.revision}")
    return replace(found, tuned_from=entry.tuned_from, pair_source="table") if entry.tuned_from else found


def _adapted(name: str, folder: Path, revision: str, base_name: str) -> Checkpoint:
    """An adapter without a model beside it; but for its tokenizer, if it brings one, all is its base's."""
    wanted = base_name or adapter_config.base_of(folder, name, adapter_config.read(folder, name))
    try:
        base = resolve(wanted)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{name}: its base {wanted} cannot be had: {error}") from error
    if base.adapter or base.base_folder:
        kind = "an adapter" if base.adapter else "a difference"
        raise ValueError(
            f"{name}: its base {wanted} is itself {kind}; merge that one first, and name the merged folder."
        )
    tokenizer = _tokenizer(folder)
    return replace(
        base, name=name, folder=str(folder), revision=f"{revision}+{base.revision}", hub_id="",
        architecture=_architecture(Path(base.folder), tokenizer) if tokenizer else base.architecture,
        tuned_from=base.name, pair_source="adapter", base_folder=base.folder, base_hub_id=base.hub_id,
        adapter=adapter_config.read(folder, name).kind,
    )  # fmt: skip


def _cached(folder: Path, name: str) -> int:
    """Counted in weights that were fetched before; 0 where they were not, or not all of them."""
    try:
        return _count(folder, name) if any(folder.glob("*.safetensors")) else 0
    except FileNotFoundError:
        return 0


def _known(name: str) -> Entry:
    entry = find(name)
    if entry is None:
        raise ValueError(f"model {name!r} is not in the table (`harness models`).")
    return entry


def with_weights(checkpoint: Checkpoint, allow_pickle: bool = False) -> Checkpoint:
    """The same checkpoint with its weights on this machine: fetched, of exactly its commit, where they are not.

    For whoever loads them, on the machine that loads them; a folder is given back as it is.

    Args:
        checkpoint: resolved, here or on another machine.
        allow_pickle: whether pickled weights are fetched too.

    Raises:
        FileNotFoundError: if the Hub cannot be reached.
    """
    own, _, base = checkpoint.revision.partition("+")
    if checkpoint.hub_id:
        checkpoint = replace(checkpoint, folder=hub.fetch(checkpoint.hub_id, own, allow_pickle))
    if checkpoint.base_hub_id:
        checkpoint = replace(checkpoint, base_folder=hub.fetch(checkpoint.base_hub_id, base, allow_pickle))
    return checkpoint


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's folder holds a chat template, in either of the forms that transformers writes."""
    folder = Path(checkpoint.tokenizer_folder)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings, checkpoint.name).get("chat_template"))


def _inspect(
    name: str, folder: Path, revision: str, n_parameters: int | None = None, base_name: str = ""
) -> Checkpoint:
    """From a folder's small files; its parameters are counted in its weights, unless they are given."""
    adapter = adapter_config.read(folder, name) if adapter_config.is_adapter(folder) else None
    if adapter and n_parameters is None:
        adapter_config.require_weights(folder, name)
    if adapter and not (folder / "config.json").is_file():
        return _adapted(name, folder, revision, base_name)
    config = read_json(folder / "config.json", name)
    tokenizer = _tokenizer(folder)
    if tokenizer is None:
        raise FileNotFoundError(f"{name}: no tokenizer ({', '.join(_TOKENIZERS)}) in {folder}; save it with the model.")
    text = config.get("text_config", config)
    blocks = _first(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if config.get("is_encoder_decoder"):
        blocks = text["num_layers"] + text.get("num_decoder_layers", text["num_layers"])
    base = adapter_config.name_of_base(adapter) if adapter else model_card.base_of(folder)
    return Checkpoint(
        name=name,
        folder=str(folder),
        revision=f"{revision}+{revision}" if adapter else revision,  # of the adapter, and of the base beside it
        family=_stated(config, "model_type", name),
        n_parameters=_count(folder, name) if n_parameters is None else n_parameters,
        n_layers=blocks,
        hidden_size=_first(text, "hidden_size", "n_embd", "d_model", "dim"),
        vocabulary=text.get("vocab_size", 0),
        context_size=next((text[key] for key in _CONTEXT if text.get(key)), None),
        is_encoder_decoder=bool(config.get("is_encoder_decoder")),
        architecture=_architecture(folder, tokenizer),
        tuned_from=base,
        pair_source=("adapter" if adapter else "model card") if base else "",
        n_heads=_first(text, "num_attention_heads", "n_head", "num_heads", "n_heads"),
        is_encoder=config.get("model_type") in ENCODERS and not config.get("is_decoder", False),
        adapter=adapter.kind if adapter else "",
        quantization=quantization.method_of(quantization.stated(config)),
    )


def _tokenizer(folder: Path) -> Path | None:
    return next((file for file in map(folder.joinpath, _TOKENIZERS) if file.is_file()), None)


def _architecture(folder: Path, tokenizer: Path) -> str:
    return hashlib.sha256((folder / "config.json").read_bytes() + tokenizer.read_bytes()).hexdigest()[:16]


def _first(config: dict[str, Any], *keys: str) -> int:
    """The first of some keys that a configuration states; 0 where it states none."""
    return int(next((config[key] for key in keys if config.get(key)), 0))


def _count(folder: Path, name: str) -> int:
    """Parameters of a folder's safetensors, by their headers."""
    settings = quantization.stated(read_json(folder / "config.json", name))
    return headers.count((header_of(file, name) for file in weight_files(folder, name)), settings)


def _stated(config: dict[str, Any], key: str, name: str) -> Any:
    if key not in config:
        raise ValueError(f"{name}: config.json names no {key}; copy it again.")
    return config[key]
