"""The table of published checkpoints: one line of models.csv per model, and a user's own beside them.

The paper's 25 models (8 vanilla, 17 tuned) and the 8 GPT-2s reported beside them (App. A and B of arXiv 2312.00575),
the LM-adapted T5s that Flan-T5 was trained from, the pairs of its appendix J, current base models with their tuned
versions stage by stage, mixtures of experts, and the Pythias with their seeds. Sizes are nominal: those that the paper
prints ("paper"), the one in the model's own name ("name"), or the one that its publisher states ("publisher"); what
none of them says is empty. What a run records is counted in the checkpoint itself (harness/checkpoints/checkpoints.py).
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

_TABLE = Path(__file__).with_name("models.csv")
STACKS = ("decoder", "encoder-decoder", "encoder")
# The last stage of a checkpoint's training. "instruct" and "thinking" are releases whose stages are not published one
# by one; APO is a variant of DPO; a "merge" is an average of checkpoints.
STAGES = ("base", "LM-adapted", "mid-training", "SFT", "DPO", "APO", "RL", "merge", "instruct", "thinking")
# Forms of published weights; a difference to a base and an adapter also lie in one of the first two ("delta+pickle").
WEIGHTS = ("safetensors", "pickle", "delta", "adapter")


@dataclass(frozen=True)
class Entry:
    """A checkpoint that can be named.

    Attributes:
        name, hub_id: its name in the tables; where it is published. A user's own may have a `folder` instead.
        family: model_type of its configuration (llama, t5, gpt_neox ...).
        stack: "decoder", "encoder-decoder" or "encoder".
        tuned_from, tuning_data: name of the model that it is a tuned version of ("" of a base), and what it was tuned
            on. A model of several stages names the stage before (`chain`); the paper's T5s name the paper's pair.
        stage: last stage of its training, one of STAGES; "" where it is not known.
        trained_from: the checkpoint that its training started from, where that is another one than `tuned_from`:
            Flan-T5 started from an LM-adapted T5, and Flan-Alpaca from Flan-T5.
        n_parameters: nominal; 0 where it is not known. parameters_source: "paper", "name", "publisher", "user" or "".
        n_active_parameters: those that a token passes in a mixture of experts, by the name or the publisher; else 0.
        n_blocks: of all stacks that read text; 0 where it is not known.
        licence: as its publisher names it; "" where it was not looked up.
        gated: whether the Hub asks for an account; None where it is not known.
        weights: form of the files at `revision`, of WEIGHTS, several joined by "+"; "" where it was not looked up.
        delta_of: name of the base that its weights are a difference to, or an adapter of; both together are loaded.
        new_rows: of a difference, what its base counts as at tokens that tuning added: "zero" or "mean" (of its rows);
            "" leaves it to what its authors do (deltas.RECIPES), else "zero".
        revision: branch, tag or commit; resolved to a commit, which is recorded (or taken from a lock).
        checkpoints: revisions of its training run: patterns, or "refs" where the Hub lists them.
        group: "paper", "gpt2", "appendix J", "current", "lm-adapted", "polypythia", "encoders" or "user".
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
    gated: bool | None = None
    delta_of: str = ""
    revision: str = "main"
    checkpoints: str = ""
    group: str = "user"
    folder: str = ""
    stage: str = ""
    trained_from: str = ""
    n_active_parameters: float = 0
    weights: str = ""
    new_rows: str = ""


def _typed(row: Mapping[str, str]) -> dict[str, Any]:
    kinds: dict[str, Any] = {
        "n_parameters": float, "n_active_parameters": float, "n_blocks": int, "gated": lambda answer: answer == "yes",
    }  # fmt: skip
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


def chain(entry: Entry) -> list[str]:
    """Names of the models that an entry was tuned from, stage by stage: its base first, the stage before it last."""
    names: list[str] = []
    while entry.tuned_from and entry.tuned_from not in names:
        names.append(entry.tuned_from)
        entry = MODELS.get(entry.tuned_from, Entry(entry.tuned_from))
    return names[::-1]


def ancestors(name: str) -> list[str]:
    """The models that a checkpoint comes from, nearest first: those it was tuned from, then those trained from.

    Args:
        name: of the table, with or without a revision, or a Hub id of the table.

    Returns:
        Names of the table, without the model itself; empty for a base and for a name that is not in the table.
    """
    entry = find(name) or next((other for other in MODELS.values() if other.hub_id == name), None)
    if entry is None:
        return []
    names = [entry.name, *chain(entry)[::-1]]
    for known in names:  # grows while it is walked: what a stage was trained from has a history of its own
        before = MODELS[known].trained_from if known in MODELS else ""
        if before and before not in names:
            names += [before, *(name for name in chain(MODELS[before])[::-1] if name not in names)]
    return names[1:]


def steps(entry: Entry) -> list[str] | None:
    """The training checkpoints that patterns such as "step{1,2,1000..143000..1000}" stand for, in their order.

    Returns:
        Revisions; None where the Hub lists them.

    Raises:
        ValueError: if the model has none.
    """
    if not entry.checkpoints:
        known = [other.name for other in MODELS.values() if other.checkpoints and other.group != "polypythia"]
        raise ValueError(
            f"no training checkpoints of {entry.name} are known; of {', '.join(known)} and of the seeds of the small "
            "Pythias (`harness models --group polypythia`) they are."
        )
    if "{" not in entry.checkpoints:
        return None
    return [revision for pattern in entry.checkpoints.split() for revision in _expanded(pattern)]


def _expanded(pattern: str) -> list[str]:
    stem, brace, numbers = pattern.rstrip("}").partition("{")
    if not brace:
        return [pattern]
    found: list[int] = []
    for part in numbers.split(","):
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
        for key in ("tuned_from", "trained_from", "delta_of"):
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
        kind = (get_args(known[key]) or (known[key],))[0]
        wanted = (int, float) if kind is float else kind
        if not isinstance(value, wanted) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{path}: {name}: {key} must be {kind.__name__}, and is {value!r}.")
    entry = replace(Entry(name), **keys, parameters_source="user" if keys.get("n_parameters") else "")
    if bool(entry.hub_id) == bool(entry.folder):
        raise ValueError(f"{path}: {name}: give a hub_id or a folder, one of the two.")
    if entry.new_rows not in {"", "zero", "mean"}:
        raise ValueError(f"{path}: {name}: new_rows {entry.new_rows!r} is neither 'zero' nor 'mean'.")
    if entry.stack not in STACKS:
        raise ValueError(f"{path}: {name}: stack {entry.stack!r} is none of {', '.join(STACKS)}.")
    if entry.stage and entry.stage not in STAGES:
        raise ValueError(f"{path}: {name}: stage {entry.stage!r} is none of {', '.join(STAGES)}.")
    if not set(entry.weights.split("+")) <= {"", *WEIGHTS}:
        raise ValueError(f"{path}: {name}: weights {entry.weights!r} are none of {', '.join(WEIGHTS)} (joined by +).")
    return replace(entry, folder=str((path.parent / entry.folder).absolute())) if entry.folder else entry


def _near(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"; the nearest are {', '.join(near)}" if near else ""


def described(entry: Entry) -> dict[str, Any]:
    """An entry as a row, with the chain of stages that it was tuned from; what is not known is None."""
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    row |= {"n_parameters": int(entry.n_parameters), "n_active_parameters": int(entry.n_active_parameters)}
    return {key: (value if value or key == "gated" else None) for key, value in row.items()} | {"chain": chain(entry)}
