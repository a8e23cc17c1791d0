"""A name -> a checkpoint of a known revision, with all that its small files say.

A revision is a commit for a Hub model and a hash over the files for a folder. Everything is read from the folder
itself; nothing is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

from harness import names
from harness.checkpoints import (
    adapter_config,
    fingerprints,
    headers,
    hub,
    model_card,
    model_configs,
    pickles,
    quantization,
    special_ids,
    tokenizers,
)
from harness.checkpoints.headers import read_json, weight_files
from harness.checkpoints.model_configs import ModelConfig
from harness.checkpoints.safetensors_file import header_of
from harness.models.model_table import MODELS, Entry, find
from harness.protocol import content_hash

# A folder of such a name is one checkpoint of a training run: the parent folder names the model.
_STEP = re.compile(r"^(step|checkpoint|revision|epoch)?[-_]?\d+$", re.IGNORECASE)


# So many folders around one give it a name of its own; after them a hash of its path does.
_MOST_AROUND = 3
_HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./+=-]+)?")


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
        notes: sentences on what is not used as the files say, or not as transformers would. reading: hash over these
            and over what else is peculiar to how this model reads a text; "" for most. Part of the keys of its units.
        adapter: kind of the adapter (LORA, ...) that is merged at loading; "" where there is none.
        new_rows: of a difference, what its base counts as at tokens that tuning added: "zero", "mean", or "", which
            leaves it to `deltas.recipe_of`.
        quantization: method by which the stored weights are quantised; "" where they are not.
        stamp: of its folder's files when it was resolved, and after "+" of its base's (`fingerprints.files_stamp`).
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
    notes: tuple[str, ...] = ()
    reading: str = ""
    adapter: str = ""
    new_rows: str = ""
    quantization: str = ""
    stamp: str = field(default="", compare=False)

    @property
    def config_folder(self) -> str:
        """Where the configuration is: of an adapter with its base."""
        return self.base_folder if self.adapter and self.base_folder else self.folder

    @property
    def tokenizer_folder(self) -> str:
        """Where the tokenizer is: of an adapter that brings none with its base."""
        return self.folder if _tokenizer_file(Path(self.folder)) else self.config_folder

    @property
    def stack(self) -> Literal["decoder", "encoder-decoder", "encoder"]:
        """What it is made of."""
        if self.is_encoder_decoder:
            return "encoder-decoder"
        return "encoder" if self.is_encoder else "decoder"


class UnknownModelError(ValueError):
    """A name is no folder, no Hub id, and not in the table of models."""


def resolve(name: str, known_as: str = "", *, allow_pickle: bool = False) -> Checkpoint:
    """Find a model by its name in the table, its Hub id or its folder.

    Args:
        name: NAME, NAME@REVISION (a branch, a tag, a commit, or refs/pr/N for a pull request), or a folder.
        known_as: name of a folder in the tables (`names_of`); "" for the folder's own.
        allow_pickle: whether weights that are pickles only will do. They are not opened here.

    Raises:
        UnknownModelError: if the name is unknown; the nearest names are listed.
        ValueError: if it is no checkpoint that can be read.
        FileNotFoundError: if a folder lacks its configuration, tokenizer or weights, if weights are pickles only and
            these are not allowed, or if the Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(names.require(known_as or _folder_name(folder)), folder, allow_pickle)
    names.require(name)
    require_known(name)
    if entry := find(name):
        return _of_entry(name, entry, allow_pickle)
    hub_id, _, revision = name.partition("@")
    return _of_entry(name, Entry(name, hub_id, revision=revision or "main"), allow_pickle)


def _of_folder(name: str, folder: Path, allow_pickle: bool, base_name: str = "") -> Checkpoint:
    folder, n_parameters = folder.absolute(), None  # workers have another working folder
    if pickles.are_all_of(folder):
        pickles.require_allowed(folder, name, allow_pickle)
        is_adapter_alone = adapter_config.is_adapter(folder) and not (folder / "config.json").is_file()
        n_parameters = None if is_adapter_alone else pickles.count(folder, name, allow_pickle)
    stamp, revision = fingerprints.files_fingerprint(folder), fingerprints.revision_of(folder)
    found = _inspect(name, folder, revision, n_parameters, base_name, allow_pickle=allow_pickle)
    return replace(found, stamp=f"{stamp}+{found.stamp}" if found.stamp else stamp)


def require_known(name: str) -> None:
    """Raise UnknownModelError, with the nearest names, where a name is no folder, no Hub id, and not in the table.

    What looks like a Hub id and is nearly a folder that is here is taken for a mistyped folder.
    """
    if Path(name).is_dir() or find(name):
        return
    beside = Path(name).parent
    here = [str(beside / path.name) for path in beside.iterdir() if path.is_dir()] if beside.is_dir() else []
    near = difflib.get_close_matches(name, here, n=3, cutoff=0.8)
    if _HUB_ID.fullmatch(name) and not near:
        return
    near = [*near, *difflib.get_close_matches(name, MODELS, n=3, cutoff=0.4)][:3]
    raise UnknownModelError(
        f"model {name!r} is neither a folder, nor a Hub id, nor in the table (`harness models`)"
        + (f"; the nearest names are {', '.join(near)}." if near else ".")
    )


def name_of(given: str) -> str:
    """The name under which a model stands in the tables: of a folder its own (or its parent's and the step's)."""
    if Path(given).is_dir():
        return _folder_name(Path(given))
    return given if find(given) or _HUB_ID.fullmatch(given) else Path(given).name  # a folder that is not there


def names_of(given: Iterable[str]) -> dict[str, str]:
    """The names in the tables of models that are read together, each as a user gives it -> its name.

    A folder has its own name. Where another model has the same, the folders around it come before it: exp1/final and
    exp2/final are exp1-final and exp2-final.
    """
    given = list(given)
    folders = {name: Path(name).resolve() for name in given if Path(name).is_dir()}
    found = {name: name_of(name) for name in given}
    around = {name: list(folder.parents)[_is_step(folder) :][:_MOST_AROUND] for name, folder in folders.items()}
    while doubled := [name for name in folders if _is_taken(name, found, folders)]:
        for name in doubled:
            above = around[name].pop(0).name if around[name] else content_hash(str(folders[name]))[:8]
            found[name] = f"{above}-{found[name]}"
    return found


def _is_taken(name: str, names: Mapping[str, str], folders: Mapping[str, Path]) -> bool:
    """Whether another model has the name of a folder; the same folder given twice is one model."""
    return any(
        other != name and shown == names[name] and folders.get(other) != folders[name] for other, shown in names.items()
    )


def _folder_name(folder: Path) -> str:
    resolved = folder.resolve()
    return f"{resolved.parent.name}@{resolved.name}" if _is_step(resolved) else resolved.name


def _is_step(folder: Path) -> bool:
    """Whether a folder is one checkpoint of a training run, named by its parent."""
    return bool(_STEP.match(folder.name))


def _of_entry(name: str, entry: Entry, allow_pickle: bool) -> Checkpoint:
    """A model of the table, or a user's own; weights on the Hub are not fetched yet."""
    if entry.folder:
        folder = Path(entry.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: {folder} is no folder; look at its entry in the file of models.")
        found = _of_folder(name, folder, allow_pickle, entry.delta_of)
    else:
        seen = hub.look(entry.hub_id, hub.commit_of(name, entry), allow_pickle, name)
        n_parameters = seen.n_parameters or _cached(Path(seen.folder), name) or int(entry.n_parameters)
        folder = Path(seen.folder)
        found = _inspect(name, folder, seen.commit, n_parameters, entry.delta_of, allow_pickle=allow_pickle)
        found = replace(found, hub_id=entry.hub_id)
        if not n_parameters and allow_pickle:  # no header and no table says it: the weights must come to be counted
            weights = Path(hub.fetch(entry.hub_id, seen.commit, allow_pickle))
            n_parameters = pickles.count(weights, name, allow_pickle) if pickles.are_all_of(weights) else 0
            found = replace(found, n_parameters=n_parameters or _count(weights, name))
    if entry.delta_of and not found.adapter:
        base = _of_entry(entry.delta_of, _known(entry.delta_of), allow_pickle)
        found = replace(found, base_folder=base.folder, base_hub_id=base.hub_id, new_rows=entry.new_rows)
        found = replace(found, revision=f"{found.revision}+{base.revision}", stamp=f"{found.stamp}+{base.stamp}")
    return replace(found, tuned_from=entry.tuned_from, pair_source="table") if entry.tuned_from else found


def _adapted(name: str, folder: Path, revision: str, base_name: str, allow_pickle: bool) -> Checkpoint:
    """An adapter without a model beside it; but for its tokenizer, if it brings one, all is its base's."""
    wanted = base_name or adapter_config.base_of(folder, name, adapter_config.read(folder, name))
    if adapter_config.is_adapter(Path(wanted)) and not (Path(wanted) / "config.json").is_file():  # or one of itself
        raise ValueError(
            f"{name}: its base {wanted} is itself an adapter; merge that one first, and name the merged folder."
        )
    try:
        base = resolve(wanted, allow_pickle=allow_pickle)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{name}: its base {wanted} cannot be had: {error}") from error
    if base.adapter or base.base_folder:
        kind = "an adapter" if base.adapter else "a difference"
        raise ValueError(
            f"{name}: its base {wanted} is itself {kind}; merge that one first, and name the merged folder."
        )
    found = replace(
        base, name=name, folder=str(folder), revision=f"{revision}+{base.revision}", hub_id="", tuned_from=base.name,
        pair_source="adapter", base_folder=base.folder, base_hub_id=base.hub_id,
        adapter=adapter_config.read(folder, name).kind,
    )  # fmt: skip
    tokenizer = _tokenizer_file(folder)
    if tokenizer is None:
        return found
    config = model_configs.load(base.folder, name)
    tokenization = _tokenization(folder, config, name)
    architecture, notes = _architecture(Path(base.folder), folder, config, tokenization), tokenization.notes
    return replace(found, architecture=architecture, notes=notes, reading=_reading(config, notes))


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


def require_planned(checkpoint: Checkpoint) -> None:
    """Raise where a checkpoint's files, or its base's, are no longer those that were planned.

    Raises:
        fingerprints.CheckpointChangedError: if they have changed; the message says how.
    """
    own, _, base = checkpoint.revision.partition("+")
    own_stamp, _, base_stamp = checkpoint.stamp.partition("+")
    fingerprints.require_planned(checkpoint.name, checkpoint.folder, own, own_stamp)
    if base and checkpoint.base_folder:
        fingerprints.require_planned(checkpoint.name, checkpoint.base_folder, base, base_stamp)


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint's folder holds a chat template, in either of the forms that transformers writes."""
    folder = Path(checkpoint.tokenizer_folder)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings, checkpoint.name).get("chat_template"))


def _inspect(
    name: str,
    folder: Path,
    revision: str,
    n_parameters: int | None = None,
    base_name: str = "",
    *,
    allow_pickle: bool = False,
) -> Checkpoint:
    """From a folder's small files; its parameters are counted in its weights, unless they are given."""
    adapter = adapter_config.read(folder, name) if adapter_config.is_adapter(folder) else None
    if adapter and n_parameters is None:
        adapter_config.require_weights(folder, name)
    if adapter and not (folder / "config.json").is_file():
        return _adapted(name, folder, revision, base_name, allow_pickle)
    config = model_configs.load(folder, name)
    tokenization = _tokenization(folder, config, name)
    base = adapter_config.name_of_base(adapter) if adapter else model_card.base_of(folder)
    return Checkpoint(
        name=name,
        folder=str(folder),
        revision=f"{revision}+{revision}" if adapter else revision,  # of the adapter, and of the base beside it
        family=config.family,
        n_parameters=_count(folder, name) if n_parameters is None else n_parameters,
        n_layers=sum(config.n_blocks.values()),
        hidden_size=config.hidden_size,
        vocabulary=config.vocabulary,
        context_size=config.window,
        is_encoder_decoder=config.stack == "encoder-decoder",
        architecture=_architecture(folder, folder, config, tokenization),
        tuned_from=base,
        pair_source=("adapter" if adapter else "model card") if base else "",
        n_heads=config.n_heads,
        is_encoder=config.stack == "encoder",
        notes=tokenization.notes,
        reading=_reading(config, tokenization.notes),
        adapter=adapter.kind if adapter else "",
        quantization=quantization.method_of(quantization.stated(read_json(folder / "config.json", name))),
    )


def _reading(config: ModelConfig, notes: tuple[str, ...]) -> str:
    """Hash over what is peculiar to how a model reads a text; "" where nothing is."""
    # Decoders that state their window under an unusual name, or none, were once read in windows of 512 tokens.
    is_unusual = config.stack == "decoder" and not config.is_window_common
    peculiar = [*notes, *([f"window {config.window}"] if is_unusual else [])]
    return content_hash(peculiar)[:12] if peculiar else ""


def _tokenizer_file(folder: Path) -> Path | None:
    return next((file for file in map(folder.joinpath, tokenizers.FILES) if file.is_file()), None)


# Prefixes of the names of a tokenizer's files.
_TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spm", "spiece", "sentencepiece",
                    "source", "target", "bpe", "tekken", "normalizer", "emoji")  # fmt: skip
_CONFIG_FILES = ("config.json", "generation_config")


class _Tokenization(NamedTuple):
    """special_ids: put around a text (`special_ids`). notes: sentences on these and on the tokenizer."""

    special_ids: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]


# Hash of the files -> what they gave: checkpoints of one training share them.
_tokenizations: dict[str, _Tokenization] = {}


def _architecture(
    folder: Path, tokenizer_folder: Path, config: ModelConfig, tokenization: _Tokenization
) -> str:  # fmt: skip
    """Hash what an untrained control is made from: 16 hex digits.

    The configuration; the tokenizer (tokenizer.json, else all of its files); and the special ids around a text, unless
    they are just the one that the configuration names.
    """
    whole = tokenizer_folder / "tokenizer.json"
    files = [whole] if whole.is_file() else _with_prefix(tokenizer_folder, _TOKENIZER_FILES)
    content = b"".join(file.read_bytes() for file in (folder / "config.json", *files))
    usual = config.bos if config.stack == "decoder" else config.decoder_start
    is_usual = tokenization.special_ids[0] == (() if usual is None else (usual,)) or config.stack == "encoder"
    around = b"" if is_usual else repr(tokenization.special_ids).encode()
    return hashlib.sha256(content + around).hexdigest()[:16]


def _with_prefix(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    """Files whose names begin with one of the prefixes, sorted."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and file.name.startswith(prefixes)]


def _tokenization(folder: Path, config: ModelConfig, name: str) -> _Tokenization:
    """Load the tokenizer of a folder once, for its special ids and notes."""
    files = _with_prefix(folder, (*_CONFIG_FILES, *_TOKENIZER_FILES))
    key = content_hash([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    if key not in _tokenizations:
        try:
            published = tokenizers.load(folder, config.config)
            special = special_ids.around(config, published.tokenizer)
        except Exception as error:
            if _tokenizer_file(folder) is None:
                known = ", ".join(tokenizers.FILES)
                raise FileNotFoundError(
                    f"{name}: no tokenizer ({known}) in {folder}; save it with the model."
                ) from error
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{name}: its tokenizer cannot be used: {reason}") from error
        ids = (special.prefix, special.suffix, special.source_prefix)
        _tokenizations[key] = _Tokenization(ids, (*([published.note] if published.note else []), *special.notes))
    return _tokenizations[key]


def _count(folder: Path, name: str) -> int:
    """Parameters of a folder's safetensors, by their headers."""
    settings = quantization.stated(read_json(folder / "config.json", name))
    return headers.count((header_of(file, name) for file in weight_files(folder, name)), settings)
