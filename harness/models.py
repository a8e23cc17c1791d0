"""The table of published checkpoints: one line of models.csv per model, and a user's own beside them.

The paper's 25 models (8 vanilla, 17 tuned) and the 8 GPT-2s reported beside them (App. A and B of arXiv 2312.00575),
the pairs of its appendix J, and current base and instruct models up to 405B. Sizes are nominal: those that the paper
prints ("paper"), or the one in the model's own name ("name"); what neither says is empty. What a run records is counted
in the checkpoint itself (harness/checkpoints.py).
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_type_hints

_TABLE = Path(__file__).with_name("models.csv")
STACKS = ("decoder", "encoder-decoder", "encoder")


@dataclass(frozen=True)
class Entry:
    """A checkpoint that can be named.

    Attributes:
        name, hub_id: its name in the tables; where it is published. A user's own may have a `folder` instead.
        family: model_type of its configuration (llama, t5, gpt_neox ...).
        stack: "decoder", "encoder-decoder" or "encoder".
        tuned_from, tuning_data: name of its base ("" of a vanilla model), and what it was tuned on.
        n_parameters: nominal; 0 where it is not known. parameters_source: "paper", "name", "user" or "".
        n_blocks: of all stacks; 0 where it is not known.
        licence: as its publisher names it; "" where it was not looked up. gated: whether the Hub asks for an account.
        delta_of: name of the base that its weights are a difference to, or an adapter of; both together are loaded.
        new_rows: of a difference, what its base counts as at tokens that tuning added: "zero" or "mean" (of its rows);
            "" leaves it to what its authors do (deltas.RECIPES), else "zero".
        revision: branch, tag or commit; resolved to a commit, which is recorded (or taken from a lock).
        checkpoints: revisions of its training run: a pattern, or "refs" where the Hub lists them.
        group: "paper", "gpt2", "appendix J", "current", "encoders" or "user".
    """

    name: str
    hub_id: str = ""
    family: str = ""
    stack: str = "decoder"
    tuned_from: str = ""
    tuning_data: str = ""
    n_parameters: float = 0
    parameters_source: str = ""
    n_blocks: int = 0
    licence: str = ""
    gated: bool = False
    delta_of: str = ""
    revision: str = "main"
    checkpoints: str = ""
    group: str = "user"
    folder: str = ""
    new_rows: str = ""


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    kinds: dict[str, Any] = {"n_parameters": float, "n_blocks": int, "gated": lambda said: said == "yes"}
    return {key: kinds.get(key, str)(value) for key, value in row.items() if value}


def _built_in() -> dict[str, Entry]:
    with _TABLE.open(encoding="utf-8", newline="") as stream:
        return {row["name"]: Entry(**_typed(row)) for row in csv.DictReader(stream)}


MODELS: dict[str, Entry] = _built_in()


def find(name: str) -> Entry | None:
    """The entry of a name, or of NAME@REVISION with that revision; None where there is none."""
    if name in MODELS:
        return MODELS[name]
    stem, _, revision = name.partition("@")
    return replace(MODELS[stem], revision=revision) if stem in MODELS and revision else None


def scale() -> tuple[str, ...]:
    """The first 100 models of 60 million to 70 billion parameters: a fleet to plan for."""
    return tuple(entry.name for entry in MODELS.values() if 6e7 <= entry.n_parameters <= 7e10)[:100]


def steps(entry: Entry) -> list[str] | None:
    """The training checkpoints that a pattern "step{1,2,1000..143000..1000}" stands for; None where the Hub lists them.

    Raises:
        ValueError: if the model has none.
    """
    if not entry.checkpoints:
        known = [other.name for other in MODELS.values() if other.checkpoints]
        raise ValueError(f"no training checkpoints of {entry.name} are known; of {', '.join(known)} they are.")
    stem, brace, said = entry.checkpoints.rstrip("}").partition("{")
    if not brace:
        return None
    found: list[int] = []
    for part in said.split(","):
        first, _, rest = part.partition("..")
        last, _, step = rest.partition("..")
        found += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{stem}{number}" for number in found]


# --- a user's own -----------------------------------------------------------------------------------------------------


def extend(file: str) -> list[str]:
    """Add the models of a file to the table, or replace those of the same name; gives their names.

    A TOML file has a table for each model, `[my-model]`; a YAML file a mapping of names. The keys are those of `Entry`;
    `folder` is relative to the file.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it cannot be read, names a key that is unknown or of another type, or a base that is not known.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file; give a TOML or YAML file of models.")
    said = _parsed(path)
    made = {name: _entry(name, keys, path) for name, keys in said.items()}
    for entry in made.values():
        for key in ("tuned_from", "delta_of"):
            base = getattr(entry, key)
            if base and base not in made and base not in MODELS:
                raise ValueError(f"{path}: {entry.name}: {key} {base!r} is not a model{_near(base, [*made, *MODELS])}.")
    MODELS.update(made)
    return list(made)


def _parsed(path: Path) -> dict[str, Any]:
    content: Any
    try:
        if path.suffix.lower() in {".yaml", ".yml"}:
            import yaml  # type: ignore[import-untyped]

            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix.lower() == ".toml":
            import tomllib

            content = tomllib.loads(path.read_text(encoding="utf-8"))
        else:
            raise ValueError("its name ends neither in .toml nor in .yaml")
    except Exception as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(keys, dict) for keys in content.values()):
        raise ValueError(f"{path} must hold names of models, each with its keys, such as [my-model] hub_id = ...")
    return content


def _entry(name: str, keys: dict[str, Any], path: Path) -> Entry:
    known = get_type_hints(Entry)
    for key, value in keys.items():
        if key not in known or key in {"name", "group", "parameters_source"}:
            raise ValueError(f"{path}: {name}: key {key!r} is unknown{_near(key, list(known))}.")
        wanted = (int, float) if known[key] is float else known[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and known[key] is not bool):
            raise ValueError(f"{path}: {name}: {key} must be {known[key].__name__}, and is {value!r}.")
    entry = replace(Entry(name), **keys, parameters_source="user" if keys.get("n_parameters") else "")
    if bool(entry.hub_id) == bool(entry.folder):
        raise ValueError(f"{path}: {name}: give a hub_id or a folder, one of the two.")
    if entry.new_rows not in {"", "zero", "mean"}:
        raise ValueError(f"{path}: {name}: new_rows {entry.new_rows!r} is neither 'zero' nor 'mean'.")
    if entry.stack not in STACKS:
        raise ValueError(f"{path}: {name}: stack {entry.stack!r} is none of {', '.join(STACKS)}.")
    return replace(entry, folder=str((path.parent / entry.folder).absolute())) if entry.folder else entry


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(near)}" if near else ""


def described(entry: Entry) -> dict[str, Any]:
    """An entry as a row; what is not known is None."""
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    row["n_parameters"] = int(entry.n_parameters)
    return {key: (value if value or key == "gated" else None) for key, value in row.items()}
