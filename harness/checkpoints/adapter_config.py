"""Adapter folders (PEFT): kind of adapter and base model, read from adapter_config.json without loading weights.

An adapter (LoRA and its relatives) is two files, adapter_config.json and adapter_model.safetensors. It is merged onto
its base when the model is loaded.
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
    """Contents of adapter_config.json.

    Attributes:
        kind: peft_type (LORA, IA3, ...).
        base: name, Hub id or path of the base model; "" if not stated.
        revision: revision of the base; "" if not stated.
    """

    kind: str
    base: str
    revision: str


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter, with or without a full model beside it."""
    return (folder / CONFIG).is_file()


def is_alone(folder: Path) -> bool:
    """Return whether a folder holds an adapter without a full model beside it."""
    return is_adapter(folder) and not (folder / "config.json").is_file()


def read(folder: Path, name: str) -> AdapterConfig:
    """Read an adapter's configuration.

    Args:
        folder: folder of the adapter.
        name: model name, for error messages.

    Raises:
        ValueError: if the file is not a JSON object or has no peft_type.
    """
    content = headers.read_json(folder / CONFIG, name)
    kind = content.get("peft_type")
    if not isinstance(kind, str) or not kind:
        raise ValueError(f"{name}: {CONFIG} has no peft_type (LORA, ...); copy the adapter again.")
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    return AdapterConfig(kind, base if isinstance(base, str) else "", revision if isinstance(revision, str) else "")


def require_weights(folder: Path, name: str) -> None:
    """Raise like `weights_file` if an adapter has no weights; a full model beside it may hold the unmerged weights."""
    if is_alone(folder):
        weights_file(folder, name, allow_pickle=True)


def weights_file(folder: Path, name: str, allow_pickle: bool = False) -> Path:
    """Return the file with an adapter's weights, after checking that it is complete.

    Raises:
        FileNotFoundError: if there is none, or only a pickle and pickles are not allowed.
        ValueError: if it is damaged or not a regular file.
    """
    if headers.exists_or_link(folder / WEIGHTS):
        header_of(folder / WEIGHTS, name)
        return folder / WEIGHTS
    if headers.exists_or_link(folder / PICKLED):
        require_regular(folder / PICKLED, name)
        if allow_pickle:
            return folder / PICKLED
        raise FileNotFoundError(
            f"{name}: the adapter's weights in {folder} are a pickle ({PICKLED}); pass --allow-pickle or save them as "
            "safetensors."
        )
    raise FileNotFoundError(
        f"{name}: {folder} has {CONFIG} but neither {WEIGHTS} nor {PICKLED}; copy the adapter's weights, or delete "
        f"{CONFIG} if the adapter is already merged."
    )


# --- base model -------------------------------------------------------------------------------------------------------


def name_of_base(config: AdapterConfig) -> str:
    """Return the base name of an adapter stored beside its base model; for a path, its last component."""
    return Path(config.base).name if config.base.startswith(("/", ".", "~")) else config.base


def base_of(folder: Path, name: str, config: AdapterConfig) -> str:
    """Return the base of an adapter in a form that `checkpoints.resolve` accepts: folder, table name or Hub id.

    A relative path is looked up in the adapter's folder, then in the working directory, as transformers and PEFT do. A
    Hub id that the model table lists becomes its table name. A single word (gpt2, t5-base) is first taken as a Hub id
    without owner, then as a table name.

    Args:
        folder: folder of the adapter.
        name: name of the adapter's model, for error messages.
        config: result of `read`.

    Raises:
        ValueError: if no base is stated or it cannot be found; the message says how to name one.
    """
    base = config.base
    advice = (
        f'Name the base in a file of models (--models FILE): ["{name}"] with folder = "{folder}" and delta_of = a name '
        "from the model table or from that file."
    )
    if not base:
        raise ValueError(f"{name}: {CONFIG} has no base_model_name_or_path (the adapted model). {advice}")
    for path in (folder / Path(base).expanduser(), Path(base).absolute()):  # an absolute path replaces `folder`
        if path.is_dir():
            return str(path)
    if Path(base).expanduser().is_absolute() or base.startswith("."):
        raise ValueError(f"{name}: the base folder {base} named in {CONFIG} does not exist. {advice}")
    revision_suffix = f"@{config.revision}" if config.revision and config.revision != "main" else ""
    hub_id = base if "/" in base else model_table.WITH_OWNER.get(base, "")
    entries = (entry for entry in model_table.MODELS.values() if hub_id and entry.hub_id == hub_id)
    table_name = next((entry.name for entry in entries if entry.revision == "main"), "")
    if table_name or (not hub_id and model_table.find(base)):
        return f"{table_name or base}{revision_suffix}"
    if hub_id and _HUB_ID.fullmatch(hub_id):
        return f"{hub_id}{revision_suffix}"
    raise ValueError(
        f"{name}: the base {base!r} named in {CONFIG} is not a folder (in the adapter's folder or the working "
        f"directory), not in the model table (`harness models`) and not a Hub id (owner/name). {advice}"
    )
