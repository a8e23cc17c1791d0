"""What an adapter's folder says of itself: its kind, and the model that it was trained on. No weight is read.

An adapter (LoRA and its relatives, in the form of the PEFT library) is two files, adapter_config.json and
adapter_model.safetensors; it is loaded by merging it onto its base.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from harness.checkpoints import headers
from harness.checkpoints.safetensors_file import header_of, require_regular
from harness.models import model_table

_HUB_ID = re.compile(r"(?!\.)[\w.-]+/[\w.-]+")
CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"


@dataclass(frozen=True)
class AdapterConfig:
    """What adapter_config.json states.

    kind: peft_type (LORA, IA3, ...). base: name, Hub id or path of the model that was adapted; "" where it states none.
    revision: of the base; "" where it states none.
    """

    kind: str
    base: str
    revision: str


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter, with or without a whole model beside it."""
    return (folder / CONFIG).is_file()


def read(folder: Path, name: str) -> AdapterConfig:
    """The configuration of an adapter.

    Raises:
        ValueError: if it is no JSON object, or names no peft_type.
    """
    content = headers.read_json(folder / CONFIG, name)
    kind = content.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"{name}: {CONFIG} names no peft_type (LORA, ...); copy the adapter again.")
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    return AdapterConfig(kind, base if isinstance(base, str) else "", revision if isinstance(revision, str) else "")


def require_weights(folder: Path, name: str) -> None:
    """Raise as `weights_file` where an adapter has no weights. A model beside it may hold them, not merged yet."""
    if not (folder / "config.json").is_file():
        weights_file(folder, name, allow_pickle=True)


def weights_file(folder: Path, name: str, allow_pickle: bool = False) -> Path:
    """The file that holds an adapter's weights, checked to be whole.

    Raises:
        FileNotFoundError: if there is none, or only a pickle and this is not allowed.
        ValueError: if it is damaged or no file.
    """
    if headers.is_there(folder / WEIGHTS):
        header_of(folder / WEIGHTS, name)
        return folder / WEIGHTS
    if headers.is_there(folder / PICKLED):
        require_regular(folder / PICKLED, name)
        if allow_pickle:
            return folder / PICKLED
        raise FileNotFoundError(
            f"{name}: the adapter's weights are a pickle ({PICKLED}) in {folder}; give --allow-pickle, or save it as "
            "safetensors."
        )
    raise FileNotFoundError(
        f"{name}: {CONFIG} is in {folder}, and neither {WEIGHTS} nor {PICKLED}; copy the adapter's weights, or remove "
        f"{CONFIG} if the adapter is merged."
    )


# --- its base ---------------------------------------------------------------------------------------------------------

# Names without an owner that the Hub redirects: adapters of before 2024 call their bases so.
_OWNERS = (
    ("distilbert", ("distilgpt2", "distilbert-", "distilroberta-")), ("openai-community", ("gpt2", "openai-gpt")),
    ("google-bert", ("bert-",)), ("FacebookAI", ("roberta-", "xlm-roberta-", "xlm-mlm-")), ("albert", ("albert-",)),
)  # fmt: skip
# Of these the table has others by the same names: T5 v1.1.
_T5 = frozenset(("t5-small", "t5-base", "t5-large", "t5-3b", "t5-11b"))


def name_of_base(config: AdapterConfig) -> str:
    """What to call the base of an adapter that lies beside it: as it is written, of a path the last part."""
    return Path(config.base).name if config.base.startswith(("/", ".", "~")) else config.base


def base_of(folder: Path, name: str, config: AdapterConfig) -> str:
    """The base of an adapter, as `checkpoints.resolve` takes it: a folder, a name of the table, or a Hub id.

    An absolute path is taken as it is written; a relative one from the adapter's own folder, else from the working
    folder, as transformers and PEFT take it. A Hub id of the table becomes its name there. A word alone is what the Hub
    calls so (gpt2, t5-base), else a name of the table.

    Args:
        folder: of the adapter.
        name: of the adapter's model, for messages.
        config: of `read`.

    Raises:
        ValueError: if no base is named, or what is named is none of these; the message says how to name it.
    """
    base = config.base
    advice = (
        f'Name it in a file of models (--models FILE): ["{name}"] with folder = "{folder}" and delta_of = the base, a '
        "name of the table or of that file."
    )
    if not base:
        raise ValueError(f"{name}: {CONFIG} names no base_model_name_or_path, the model that was adapted. {advice}")
    for path in (folder / Path(base).expanduser(), Path(base).absolute()):  # the first is the path itself if absolute
        if path.is_dir():
            return str(path)
    if Path(base).expanduser().is_absolute() or base.startswith("."):
        raise ValueError(f"{name}: its base, the folder {base} that {CONFIG} names, is not here. {advice}")
    at = f"@{config.revision}" if config.revision and config.revision != "main" else ""
    hub_id = base if "/" in base else _hub_id(base)
    rows = (entry for entry in model_table.MODELS.values() if hub_id and entry.hub_id == hub_id)
    listed = next((entry.name for entry in rows if entry.revision == "main"), "")
    if listed or (not hub_id and model_table.find(base)):
        return f"{listed or base}{at}"
    if hub_id and _HUB_ID.fullmatch(hub_id):
        return f"{hub_id}{at}"
    raise ValueError(
        f"{name}: its base {base!r}, which {CONFIG} names, is no folder (in the adapter's or the working "
        f"folder), not in the table (`harness models`), and no Hub id (owner/name). {advice}"
    )


def _hub_id(word: str) -> str:
    """The full id of a repository that once had no owner; "" where the word is none of these, or of the table."""
    if word in _T5:
        return f"google-t5/{word}"
    owner = next((owner for owner, stems in _OWNERS if word.startswith(stems)), "")
    return f"{owner}/{word}" if owner and word not in model_table.MODELS else ""
