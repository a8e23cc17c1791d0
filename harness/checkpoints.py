"""A name -> a checkpoint of a known revision, with all that its small files say.

A revision is a commit for a Hub model and a hash over the files for a folder. Everything is read from the folder
itself; nothing is loaded.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from harness import hub, model_configs, pickles, published_tokenizers, special_ids
from harness.headers import n_numbers, read_json, weight_files
from harness.model_configs import ModelConfig
from harness.models import MODELS, Entry, find
from harness.spec import content_hash

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
        tuned_from, pair_source: base model and who says so: "table", "model card", "name", or empty.
        n_parameters: numbers stored in the safetensors, masks left out; n_layers: blocks of all stacks.
        context_size: tokens that the model can read at once; None if it has no limit.
        architecture: hash of configuration and tokenizer: what an untrained twin is made from.
        base_folder: where the weights of the base are, of a checkpoint whose weights are a difference to it; else "".
        hub_id, base_hub_id: repositories that weights are still to be fetched from (`with_weights`); else "".
        n_heads: attention heads; 0 if not stated. is_encoder: whether it reads both ways and gives no next word.
        notes: sentences on what is not used as the files say, or not as transformers would. reading: hash over these
            and over what else is peculiar to how this model reads a text; "" for most. Part of the keys of its units.
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

    @property
    def stack(self) -> Literal["decoder", "encoder-decoder", "encoder"]:
        """What it is made of."""
        if self.is_encoder_decoder:
            return "encoder-decoder"
        return "encoder" if self.is_encoder else "decoder"


def resolve(name: str, known_as: str = "", *, allow_pickle: bool = False) -> Checkpoint:
    """Find a model by its name in the table, its Hub id or its folder.

    Args:
        name: NAME, NAME@REVISION (a branch, a tag, a commit, or refs/pr/N for a pull request), or a folder.
        known_as: name of a folder in the tables (`names_of`); "" for the folder's own.
        allow_pickle: whether weights that are pickles only will do. They are not opened here.

    Raises:
        ValueError: if the name is unknown; the nearest names are listed.
        FileNotFoundError: if a folder lacks its configuration, tokenizer or weights, if weights are pickles only and
            these are not allowed, or if the Hub cannot be reached.
    """
    folder = Path(name)
    if folder.is_dir():
        return _of_folder(known_as or _folder_name(folder), folder, allow_pickle)
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


def names_of(given: Iterable[str]) -> dict[str, str]:
    """The names in the tables of models that are read together, each as a user gives it -> its name.

    A folder has its own name. Where another model has the same, the folders around it come before it: exp1/final and
    exp2/final are exp1-final and exp2-final.
    """
    folders = {name: Path(name).resolve() for name in given if Path(name).is_dir()}
    names = {name: name_of(name) for name in given}
    around = {name: list(folder.parents)[_is_step(folder) :][:_MOST_AROUND] for name, folder in folders.items()}
    while doubled := [name for name in folders if _is_taken(name, names, folders)]:
        for name in doubled:
            above = around[name].pop(0).name if around[name] else content_hash(str(folders[name]))[:8]
            names[name] = f"{above}-{names[name]}"
    return names


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
    config = model_configs.load(folder, name)
    tokenizer = next((file for file in map(folder.joinpath, published_tokenizers.FILES) if file.is_file()), None)
    notes, base = _notes(folder, config, name), _model_card_base(folder)
    # Decoders that state their window under an unusual name, or none, were once read in windows of 512 tokens.
    is_unusual = config.stack == "decoder" and not config.is_window_common
    peculiar = [*notes, *([f"window {config.window}"] if is_unusual else [])]
    return Checkpoint(
        name=name,
        folder=str(folder),
        revision=revision,
        family=config.family,
        n_parameters=_count(folder, name) if n_parameters is None else n_parameters,
        n_layers=sum(config.n_blocks.values()),
        hidden_size=config.hidden_size,
        vocabulary=config.vocabulary,
        context_size=config.window,
        is_encoder_decoder=config.stack == "encoder-decoder",
        architecture=_hash_of([folder / "config.json", *([tokenizer] if tokenizer else [])])[:16],
        tuned_from=base,
        pair_source="model card" if base else "",
        n_heads=config.n_heads,
        is_encoder=config.stack == "encoder",
        notes=notes,
        reading=content_hash(peculiar)[:12] if peculiar else "",
    )


# How the names of the files begin that decide the notes; and, of folders that were looked at before, hash of these
# files -> the notes.
_DECIDE_NOTES = ("config.json", "generation_config", "tokenizer", "vocab", "merges", "special_tokens", "added_tokens",
                 "spm", "spiece", "sentencepiece", "source", "target", "bpe", "tekken")  # fmt: skip
_noted: dict[str, tuple[str, ...]] = {}


def _notes(folder: Path, config: ModelConfig, name: str) -> tuple[str, ...]:
    """The sentences on tokenizer and special ids; the checkpoints of a training have the same files, looked at once."""
    files = (file for file in sorted(folder.iterdir()) if file.is_file() and file.name.startswith(_DECIDE_NOTES))
    key = content_hash([(file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files])
    if key not in _noted:
        try:
            published = published_tokenizers.load(folder)
            special = special_ids.around(config, published.tokenizer)
        except Exception as error:
            if not any((folder / file).is_file() for file in published_tokenizers.FILES):
                known = ", ".join(published_tokenizers.FILES)
                raise FileNotFoundError(
                    f"{name}: no tokenizer ({known}) in {folder}; save it with the model."
                ) from error
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise ValueError(f"{name}: its tokenizer cannot be used: {reason}") from error
        _noted[key] = (*([published.note] if published.note else []), *special.notes)
    return _noted[key]


def _hash_of(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _count(folder: Path, name: str) -> int:
    return sum(n_numbers(file) for file in weight_files(folder, name))


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
