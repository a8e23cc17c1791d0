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

from harness import hub, pickles
from harness.headers import n_numbers, read_json, weight_files
from harness.models import MODELS, Entry, find

# A folder of such a name is one checkpoint of a training run: the parent folder names the model.
_STEP = re.compile(r"^(step|checkpoint|revision|epoch)?[-_]?\d+$", re.IGNORECASE)


_HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./+=-]+)?")
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
        tuned_from, pair_source: base model and who says so: "table", "model card", "name", or empty.
        n_parameters: numbers stored in the safetensors, masks left out; n_layers: blocks of all stacks.
        context_size: tokens that the model can read at once; None if it has no limit.
        architecture: hash of configuration and tokenizer: what an untrained twin is made from.
        base_folder: where the weights of the base are, of a checkpoint whose weights are a difference to it; else "".
        hub_id, base_hub_id: repositories that weights are still to be fetched from (`with_weights`); else "".
        n_heads: attention heads; 0 if not stated. is_encoder: whether it reads both ways and gives no next word.
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

    @property
    def stack(self) -> Literal["decoder", "encoder-decoder", "encoder"]:
        """What it is made of."""
        if self.is_encoder_decoder:
            return "encoder-decoder"
        return "encoder" if self.is_encoder else "decoder"


def resolve(name: str, allow_pickle: bool = False) -> Checkpoint:
    """Find a model by its name in the table, its Hub id or its folder.

    Args:
        name: NAME, NAME@REVISION (a branch, a tag, a commit, or refs/pr/N for a pull request), or a folder.
        allow_pickle: whether weights that are pickles only will do. They are not opened here.

    Raises:
        ValueError: if the name is unknown; the nearest names are listed.
        FileNotFoundError: if a folder lacks its configuration, tokenizer or weights, if weights are pickles only and
            these are not allowed, or if the Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(_folder_name(folder), folder, allow_pickle)
    if entry := find(name):
        return _of_entry(name, entry, allow_pickle)
    if _HUB_ID.fullmatch(name):
        hub_id, _, revision = name.partition("@")
        return _of_entry(name, Entry(name, hub_id, revision=revision or "main"), allow_pickle)
    raise _unknown(name)


def _of_folder(name: str, folder: Path, allow_pickle: bool) -> Checkpoint:
    n_parameters = pickles.count(folder, name, allow_pickle) if pickles.are_all_of(folder) else None
    return _inspect(name, folder, _files_revision(folder), n_parameters)


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


def _of_entry(name: str, entry: Entry, allow_pickle: bool) -> Checkpoint:
    """A model of the table, or a user's own; weights on the Hub are not fetched yet."""
    if entry.folder:
        folder = Path(entry.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: {folder} is no folder; look at its entry in the file of models.")
        found = _of_folder(name, folder, allow_pickle)
    else:
        seen = hub.look(entry.hub_id, hub.commit_of(name, entry), allow_pickle, name)
        n_parameters = seen.n_parameters or _cached(Path(seen.folder), name) or int(entry.n_parameters)
        found = _inspect(name, Path(seen.folder), seen.commit, n_parameters)
        found = replace(found, hub_id=entry.hub_id)
        if not n_parameters and allow_pickle:  # no header and no table says it: the weights must come to be counted
            weights = Path(hub.fetch(entry.hub_id, seen.commit, allow_pickle))
            n_parameters = pickles.count(weights, name, allow_pickle) if pickles.are_all_of(weights) else 0
            found = replace(found, n_parameters=n_parameters or _count(weights, name))
    if entry.delta_of:
        base = _of_entry(entry.delta_of, _known(entry.delta_of), allow_pickle)
        found = replace(found, base_folder=base.folder, base_hub_id=base.hub_id)
        found = replace(found, revision=f"{found.revision}+{base.revision}")
    return replace(found, tuned_from=entry.tuned_from, pair_source="table") if entry.tuned_from else found


def _cached(folder: Path, name: str) -> int:
    """Counted in weights that were fetched before; 0 where they were not."""
    return _count(folder, name) if any(folder.glob("*.safetensors")) else 0


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
    folder = Path(checkpoint.folder)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings, checkpoint.name).get("chat_template"))


def _inspect(name: str, folder: Path, revision: str, n_parameters: int | None = None) -> Checkpoint:
    """From a folder's small files; its parameters are counted in its weights, unless they are given."""
    config = read_json(folder / "config.json", name)
    tokenizer = next((file for file in map(folder.joinpath, _TOKENIZERS) if file.is_file()), None)
    if tokenizer is None:
        raise FileNotFoundError(f"{name}: no tokenizer ({', '.join(_TOKENIZERS)}) in {folder}; save it with the model.")
    text = config.get("text_config", config)
    blocks = _first(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    if config.get("is_encoder_decoder"):
        blocks = text["num_layers"] + text.get("num_decoder_layers", text["num_layers"])
    base = _model_card_base(folder)
    return Checkpoint(
        name=name,
        folder=str(folder),
        revision=revision,
        family=_stated(config, "model_type", name),
        n_parameters=_count(folder, name) if n_parameters is None else n_parameters,
        n_layers=blocks,
        hidden_size=_first(text, "hidden_size", "n_embd", "d_model", "dim"),
        vocabulary=text.get("vocab_size", 0),
        context_size=next((text[key] for key in _CONTEXT if text.get(key)), None),
        is_encoder_decoder=bool(config.get("is_encoder_decoder")),
        architecture=hashlib.sha256((folder / "config.json").read_bytes() + tokenizer.read_bytes()).hexdigest()[:16],
        tuned_from=base,
        pair_source="model card" if base else "",
        n_heads=_first(text, "num_attention_heads", "n_head", "num_heads", "n_heads"),
        is_encoder=config.get("model_type") in ENCODERS and not config.get("is_decoder", False),
    )


def _first(config: dict[str, Any], *keys: str) -> int:
    """The first of some keys that a configuration states; 0 where it states none."""
    return int(next((config[key] for key in keys if config.get(key)), 0))


def _count(folder: Path, name: str) -> int:
    return sum(n_numbers(file) for file in weight_files(folder, name))


def _stated(config: dict[str, Any], key: str, name: str) -> Any:
    if key not in config:
        raise ValueError(f"{name}: config.json names no {key}; copy it again.")
    return config[key]


# Revisions of folders that were hashed before: folder -> names, sizes and dates of its files then, and the revision.
_hashed: dict[str, tuple[str, str]] = {}


def files_stamp(folder: Path) -> str:
    """Another one whenever a file of a folder has changed, as far as sizes and dates tell."""
    facts = [(file.name, *(getattr(file.stat(), key) for key in ("st_size", "st_mtime_ns", "st_ctime_ns", "st_ino")))
             for file in sorted(folder.iterdir())]  # fmt: skip
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def remember(folder: str, stamp: str, revision: str) -> None:
    """Spare the hashing of a folder that was hashed before, in another process, when its stamp was this one."""
    _hashed.setdefault(folder, (stamp, revision))


def _files_revision(folder: Path) -> str:
    """Hashed once in a process, as long as the files are those that were hashed."""
    stamp = files_stamp(folder)
    if _hashed.get(str(folder), ("",))[0] != stamp:
        _hashed[str(folder)] = (stamp, _hashed_files(folder))
    return _hashed[str(folder)][1]


def _hashed_files(folder: Path) -> str:
    digest = hashlib.sha256()
    hashed = {".json", ".safetensors", ".model", ".txt"} | ({".bin"} if pickles.are_all_of(folder) else set())
    for file in sorted(folder.iterdir()):
        if file.suffix in hashed:
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
