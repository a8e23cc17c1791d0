"""Resolve a model name, Hub id or folder to a checkpoint of a known revision, with the facts in its small files.

The revision is a commit for a Hub model, a hash over the files for a folder. All facts are read from the checkpoint's
own files; no model is loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from harness import names
from harness.checkpoints import (
    adapter_config,
    fingerprints,
    hub,
    model_configs,
    pickles,
    special_ids,
    tokenizers,
    training_records,
)
from harness.checkpoints.adapter_config import AdapterConfig
from harness.checkpoints.headers import count as n_parameters_of
from harness.checkpoints.headers import read_json, weight_files
from harness.checkpoints.model_configs import ModelConfig
from harness.checkpoints.quantization import method_of, settings_of
from harness.checkpoints.safetensors_file import header_of
from harness.checkpoints.special_ids import SpecialIds
from harness.checkpoints.training_records import TrainingRecord
from harness.models.model_table import MODELS, Entry, current_name, find
from harness.protocol import content_hash

# A folder with such a name is one checkpoint of a training run; its parent folder gives the model's name.
_STEP = re.compile(r"^(step|checkpoint|revision|epoch)?[-_]?\d+$", re.IGNORECASE)


# Maximum number of parent folders used to make a folder's name unique; beyond that a hash of its path is used.
_MAX_PARENTS = 3
_HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+(@[\w./+=-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """A model whose files are in a folder.

    Attributes:
        name: name in the tables; the Hub id or the folder's own name if the model is not in the model table.
        folder: folder with config.json and the safetensors.
        revision: commit, or "files-" and 16 hex digits over names and contents of the files; with "+" and the base's
            revision for a delta or an adapter.
        family: model_type of the configuration (llama, gpt2, t5, ...).
        n_parameters: numbers stored in the safetensors, without masks.
        n_layers: transformer blocks of all stacks.
        hidden_size: width of the hidden states.
        vocabulary: number of embeddings.
        context_size: maximum number of tokens per forward pass; None if unlimited.
        is_encoder_decoder: whether the model has both stacks.
        architecture: hash of configuration and tokenizer, from which the untrained control is made.
        tuned_from: base model; "" if unknown.
        pair_source: source of `tuned_from`: "table", "training record", "adapter", "model card", "name" or "".
        trained_from: checkpoint from which its training started, if that is not `tuned_from`; "" if unknown.
        stage: last training stage, such as "SFT"; "" if unknown.
        base_folder: folder with the base's weights, for a delta or an adapter; else "".
        hub_id, base_hub_id: repositories from which weights must still be fetched (`with_weights`); else "".
        n_heads: attention heads; 0 if not stated.
        is_encoder: whether attention is bidirectional, so that the model gives no next-word probabilities.
        notes: sentences on differences from what the files state or from what transformers does.
        reading: hash of the notes and other peculiarities of tokenisation and windows, part of the keys of the model's
            units; "" for most models.
        adapter: kind of the adapter (LORA, ...) merged at loading; "" if there is none.
        new_rows: for a delta, how the base is extended at tokens added by tuning: "zero", "mean", or "" for the choice
            of `deltas.recipe_of`.
        quantization: method by which the stored weights are quantised; "" if they are not.
        fingerprint: `fingerprints.files_fingerprint` of the folder when it was resolved; with "+" and the base's.
        training: base, arm, seed and step, for a checkpoint that `harness tune` wrote.
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
    trained_from: str = ""
    stage: str = ""
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
    fingerprint: str = field(default="", compare=False)
    training: TrainingRecord | None = None

    @property
    def config_folder(self) -> str:
        """Folder with the configuration; an adapter uses its base's."""
        return self.base_folder if self.adapter and self.base_folder else self.folder

    @property
    def tokenizer_folder(self) -> str:
        """Folder with the tokenizer; an adapter without one uses its base's."""
        return self.folder if _tokenizer_file(Path(self.folder)) else self.config_folder

    @property
    def stack(self) -> Literal["decoder", "encoder-decoder", "encoder"]:
        """Architecture of the model: "decoder", "encoder-decoder" or "encoder"."""
        if self.is_encoder_decoder:
            return "encoder-decoder"
        return "encoder" if self.is_encoder else "decoder"


class UnknownModelError(ValueError):
    """A name is not a folder, not a Hub id and not in the model table."""


def resolve(name: str, known_as: str = "", *, allow_pickle: bool = False) -> Checkpoint:
    """Find a model by its name in the model table, its Hub id or its folder.

    Args:
        name: NAME, NAME@REVISION (a branch, a tag, a commit, or refs/pr/N for a pull request), or a folder.
        known_as: name of a folder in the tables (`names_of`); "" for the folder's own name.
        allow_pickle: whether a model with only pickled weights is accepted. They are not opened in this process.

    Raises:
        UnknownModelError: if the name is unknown; the message lists similar names.
        ValueError: if the checkpoint is damaged or not supported.
        FileNotFoundError: if configuration, tokenizer or weights are missing, if all weights are pickles and these are
            not allowed, or if the Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(names.require(known_as or _folder_name(folder)), folder, allow_pickle)
    names.require(name)
    require_known(name)
    name = current_name(name)
    if entry := find(name):
        return _of_entry(name, entry, allow_pickle)
    hub_id, _, revision = name.partition("@")
    return _of_entry(name, Entry(name, hub_id, revision=revision or "main"), allow_pickle)


def of_memory(name: str, folder: Path, revision: str, n_parameters: int) -> Checkpoint:
    """The checkpoint of a model that is already in memory.

    Args:
        name: its name in the tables.
        folder: folder with its configuration and tokenizer, without weights.
        revision: hash over weights, configuration and tokenizer.
        n_parameters: its number of parameters.

    Raises:
        ValueError: if the model or its tokenizer is not supported.
    """
    return _inspect(names.require(name), folder.absolute(), revision, n_parameters, "", allow_pickle=False)


def _of_folder(name: str, folder: Path, allow_pickle: bool, base_name: str = "") -> Checkpoint:
    folder, n_parameters = folder.absolute(), None  # workers have another working directory
    if pickles.folder_has_only_pickles(folder):
        pickles.require_allowed(folder, name, allow_pickle)
        n_parameters = None if adapter_config.is_alone(folder) else pickles.count(folder, name, allow_pickle)
    fingerprint, revision = fingerprints.files_fingerprint(folder), fingerprints.revision_of(folder)
    checkpoint = _with_training(_inspect(name, folder, revision, n_parameters, base_name, allow_pickle), folder)
    base_fingerprint = f"+{checkpoint.fingerprint}" if checkpoint.fingerprint else ""
    return replace(checkpoint, fingerprint=fingerprint + base_fingerprint)


def require_known(name: str) -> None:
    """Raise UnknownModelError, with similar names, if a name is not a folder, Hub id or table name.

    A name that could be a Hub id but is close to an existing folder counts as a mistyped folder.
    """
    if Path(name).is_dir() or find(name):
        return
    parent = Path(name).parent
    folders = [str(parent / path.name) for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []
    similar = names.nearest(name, folders, cutoff=0.8)
    if _HUB_ID.fullmatch(current_name(name)) and not similar:
        return
    similar = [*similar, *names.nearest(name, MODELS)][:3]
    raise UnknownModelError(
        f"model {name!r} is neither a folder, nor a Hub id, nor in the table (`harness models`)"
        + (f"; the nearest names are {', '.join(similar)}." if similar else ".")
    )


def name_of(given: str) -> str:
    """Return a model's name in the tables; a folder's own name, or PARENT@STEP for a checkpoint of a training run."""
    if Path(given).is_dir():
        return _folder_name(Path(given))
    given = current_name(given)
    return given if find(given) or _HUB_ID.fullmatch(given) else Path(given).name  # a missing folder


def names_of(given: Iterable[str]) -> dict[str, str]:
    """Return each model as the user gave it -> its name in the tables, unique within the run.

    If two models would have the same name, a folder's name is preceded by its parents': exp1/final and exp2/final
    become exp1-final and exp2-final.
    """
    given = list(given)
    folders = {name: Path(name).resolve() for name in given if Path(name).is_dir()}
    table_names = {name: name_of(name) for name in given}
    parents = {name: list(folder.parents)[_is_step(folder) :][:_MAX_PARENTS] for name, folder in folders.items()}
    while taken := [name for name in folders if _is_taken(name, table_names, folders)]:
        for name in taken:
            parent = parents[name].pop(0).name if parents[name] else content_hash(str(folders[name]))[:8]
            table_names[name] = f"{parent}-{table_names[name]}"
    return table_names


def _is_taken(name: str, names: Mapping[str, str], folders: Mapping[str, Path]) -> bool:
    """Return whether another model has a folder's name; the same folder given twice counts as one model."""
    return any(
        other != name and table_name == names[name] and folders.get(other) != folders[name]
        for other, table_name in names.items()
    )


def _folder_name(folder: Path) -> str:
    resolved = folder.resolve()
    return f"{resolved.parent.name}@{resolved.name}" if _is_step(resolved) else resolved.name


def _is_step(folder: Path) -> bool:
    """Return whether a folder is one checkpoint of a training run."""
    return bool(_STEP.match(folder.name))


def _of_entry(name: str, entry: Entry, allow_pickle: bool) -> Checkpoint:
    """Resolve a model of the table or of a user's file, without fetching weights from the Hub."""
    if entry.folder:
        folder = Path(entry.folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{name}: {folder} is no folder; check its entry in the file of models.")
        checkpoint = _of_folder(name, folder, allow_pickle, entry.delta_of)
    else:
        snapshot = hub.resolve_revision(entry.hub_id, hub.commit_of(name, entry), allow_pickle, name)
        n_parameters = snapshot.n_parameters or _count_cached(Path(snapshot.folder), name) or int(entry.n_parameters)
        folder = Path(snapshot.folder)
        checkpoint = _inspect(name, folder, snapshot.commit, n_parameters, entry.delta_of, allow_pickle)
        checkpoint = replace(checkpoint, hub_id=entry.hub_id)
        if not n_parameters and allow_pickle:  # stated neither by headers nor by the table: fetch the weights to count
            weights = Path(hub.fetch(entry.hub_id, snapshot.commit, allow_pickle))
            n_parameters = pickles.count(weights, name, allow_pickle) if pickles.folder_has_only_pickles(weights) else 0
            checkpoint = replace(checkpoint, n_parameters=n_parameters or _count(weights, name))
    if entry.delta_of and not checkpoint.adapter:
        if (base_entry := find(entry.delta_of)) is None:
            raise ValueError(f"model {entry.delta_of!r} is not in the table (`harness models`).")
        base = _of_entry(entry.delta_of, base_entry, allow_pickle)
        checkpoint = replace(
            checkpoint,
            base_folder=base.folder,
            base_hub_id=base.hub_id,
            new_rows=entry.new_rows,
            revision=f"{checkpoint.revision}+{base.revision}",
            fingerprint=f"{checkpoint.fingerprint}+{base.fingerprint}",
        )
    return replace(checkpoint, tuned_from=entry.tuned_from, pair_source="table") if entry.tuned_from else checkpoint


def _with_training(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """Return the checkpoint with its training record and the base that it names, if it has one."""
    record = training_records.read(folder, checkpoint.name)
    if record is None:
        return checkpoint
    return replace(checkpoint, training=record, tuned_from=record.parent, pair_source="training record")


def _of_adapter(
    name: str, folder: Path, revision: str, adapter: AdapterConfig, base_name: str, allow_pickle: bool
) -> Checkpoint:
    """Resolve an adapter without a model beside it; all facts are its base's, except its own tokenizer if it has one.

    The adapter's base is resolved too, and must not itself be an adapter or a delta.
    """
    wanted = base_name or adapter_config.base_of(folder, name, adapter)
    if adapter_config.is_alone(Path(wanted)):  # maybe itself
        raise ValueError(f"{name}: its base {wanted} is itself an adapter; merge that one first and use its folder.")
    try:
        base = resolve(wanted, allow_pickle=allow_pickle)
    except (ValueError, FileNotFoundError) as error:
        raise type(error)(f"{name}: its base {wanted} cannot be resolved: {error}") from error
    if base.adapter or base.base_folder:
        kind = "an adapter" if base.adapter else "a delta"
        raise ValueError(f"{name}: its base {wanted} is itself {kind}; merge that one first and use its folder.")
    checkpoint = replace(
        base, name=name, folder=str(folder), revision=f"{revision}+{base.revision}", hub_id="", tuned_from=base.name,
        pair_source="adapter", base_folder=base.folder, base_hub_id=base.hub_id, adapter=adapter.kind,
    )  # fmt: skip
    if _tokenizer_file(folder) is None:
        return checkpoint
    config = model_configs.load(base.folder, name)
    special = _special_ids(folder, config, name)
    architecture, reading = _architecture(Path(base.folder), folder, config, special), _reading_hash(config, special)
    return replace(checkpoint, architecture=architecture, notes=special.notes, reading=reading)


def _count_cached(folder: Path, name: str) -> int:
    """Count parameters in weights fetched earlier; 0 if they are missing or incomplete."""
    try:
        return _count(folder, name) if any(folder.glob("*.safetensors")) else 0
    except FileNotFoundError:
        return 0


def with_weights(checkpoint: Checkpoint, allow_pickle: bool = False) -> Checkpoint:
    """Return the checkpoint with its weights on this machine, fetched at exactly its commit if necessary.

    Called on the machine that loads the model. Local folders are returned unchanged.

    Args:
        checkpoint: checkpoint resolved on this or another machine.
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


def require_unchanged(checkpoint: Checkpoint) -> None:
    """Raise if the files of a checkpoint or its base are no longer those that were planned.

    Raises:
        fingerprints.CheckpointChangedError: if they have changed; the message says how.
    """
    own_revision, _, base_revision = checkpoint.revision.partition("+")
    own_fingerprint, _, base_fingerprint = checkpoint.fingerprint.partition("+")
    fingerprints.require_planned(checkpoint.name, checkpoint.folder, own_revision, own_fingerprint)
    if base_revision and checkpoint.base_folder:
        fingerprints.require_planned(checkpoint.name, checkpoint.base_folder, base_revision, base_fingerprint)


def has_chat_template(checkpoint: Checkpoint) -> bool:
    """Return whether the tokenizer's folder holds a chat template, in either of transformers' two file forms."""
    folder = Path(checkpoint.tokenizer_folder)
    if (folder / "chat_template.jinja").is_file():
        return True
    settings = folder / "tokenizer_config.json"
    return settings.is_file() and bool(read_json(settings, checkpoint.name).get("chat_template"))


def _inspect(
    name: str, folder: Path, revision: str, n_parameters: int | None, base_name: str, allow_pickle: bool
) -> Checkpoint:
    """Build a checkpoint from a folder's small files; parameters are counted in the weights unless given."""
    adapter = adapter_config.read(folder, name) if adapter_config.is_adapter(folder) else None
    if adapter and adapter_config.is_alone(folder):
        if n_parameters is None:
            adapter_config.require_weights(folder, name)
        return _of_adapter(name, folder, revision, adapter, base_name, allow_pickle)
    config = model_configs.load(folder, name)
    special = _special_ids(folder, config, name)
    base = adapter_config.name_of_base(adapter) if adapter else _base_on_card(folder)
    return Checkpoint(
        name, str(folder),
        revision=f"{revision}+{revision}" if adapter else revision,  # adapter and base are in one folder
        family=config.family,
        n_parameters=_count(folder, name) if n_parameters is None else n_parameters,
        n_layers=sum(config.n_blocks.values()),
        hidden_size=config.hidden_size, vocabulary=config.vocabulary, context_size=config.window,
        n_heads=config.n_heads,
        is_encoder_decoder=config.stack == "encoder-decoder", is_encoder=config.stack == "encoder",
        architecture=_architecture(folder, folder, config, special),
        tuned_from=base, pair_source=("adapter" if adapter else "model card") if base else "",
        notes=special.notes, reading=_reading_hash(config, special), adapter=adapter.kind if adapter else "",
        quantization=method_of(settings_of(read_json(folder / "config.json", name))),
    )  # fmt: skip


def _base_on_card(folder: Path) -> str:
    """Return `base_model` from the front matter of a model card, README.md (the first, if it is a list), or ""."""
    card = folder / "README.md"
    text = card.read_text(errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    match = re.search(r"^base_model:\s*(?:-\s+)?[\"']?(\w[\w./-]*)", front[1], re.MULTILINE) if front else None
    return match[1] if match else ""


def _reading_hash(config: ModelConfig, special: SpecialIds) -> str:
    """Hash peculiarities of a model's tokenisation and windows; "" if there are none."""
    # Decoders without a window, or with one under an unusual name, used to be run in windows of 512 tokens.
    is_unusual = config.stack == "decoder" and not config.is_window_common
    peculiar = [*special.notes, *([f"window {config.window}"] if is_unusual else [])]
    return content_hash(peculiar)[:12] if peculiar else ""


def _tokenizer_file(folder: Path) -> Path | None:
    return next((file for file in map(folder.joinpath, tokenizers.FILES) if file.is_file()), None)


# Prefixes of tokenizer file names.
_TOKENIZER_FILES = ("tokenizer", "vocab", "merges", "special_tokens", "added_tokens", "spm", "spiece", "sentencepiece",
                    "source", "target", "bpe", "tekken", "normalizer", "emoji")  # fmt: skip
_CONFIG_FILES = ("config.json", "generation_config")


# Hash of the files -> result; checkpoints of one training run share their tokenizer.
_known_ids: dict[str, SpecialIds] = {}


def _architecture(folder: Path, tokenizer_folder: Path, config: ModelConfig, special: SpecialIds) -> str:
    """Hash what an untrained control is made from, as 16 hex digits.

    Hashed: the configuration; the tokenizer (tokenizer.json, else all its files); and the special ids around a text,
    unless they are only the one that the configuration names.
    """
    tokenizer_json = tokenizer_folder / "tokenizer.json"
    files = [tokenizer_json] if tokenizer_json.is_file() else _with_prefix(tokenizer_folder, _TOKENIZER_FILES)
    content = b"".join(file.read_bytes() for file in (folder / "config.json", *files))
    usual = config.bos if config.stack == "decoder" else config.decoder_start
    is_usual = special.prefix == (() if usual is None else (usual,)) or config.stack == "encoder"
    around = b"" if is_usual else repr((special.prefix, special.suffix, special.source_prefix)).encode()
    return hashlib.sha256(content + around).hexdigest()[:16]


def _with_prefix(folder: Path, prefixes: tuple[str, ...]) -> list[Path]:
    """Return files whose names begin with one of the prefixes, sorted."""
    return [file for file in sorted(folder.iterdir()) if file.is_file() and file.name.startswith(prefixes)]


def _special_ids(folder: Path, config: ModelConfig, name: str) -> SpecialIds:
    """Return special ids and notes of a folder's tokenizer, loading it only once."""
    files = _with_prefix(folder, (*_CONFIG_FILES, *_TOKENIZER_FILES))
    key = content_hash([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    if key not in _known_ids:
        try:
            _known_ids[key] = special_ids.load(folder, config)[1]
        except Exception as error:
            if _tokenizer_file(folder) is None:
                expected = ", ".join(tokenizers.FILES)
                raise FileNotFoundError(
                    f"{name}: no tokenizer ({expected}) in {folder}; save it with the model."
                ) from error
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{name}: its tokenizer cannot be used: {reason}") from error
    return _known_ids[key]


def _count(folder: Path, name: str) -> int:
    """Count the parameters in a folder's safetensors from their headers."""
    settings = settings_of(read_json(folder / "config.json", name))
    return n_parameters_of((header_of(file, name) for file in weight_files(folder, name)), settings)
