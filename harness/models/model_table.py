"""Table of published checkpoints (models.csv, one row per model) and models that a user adds from a file.

The table holds the paper's 25 models (8 vanilla, 17 tuned) and the 8 GPT-2 models reported beside them (App. A and B of
arXiv 2312.00575), the LM-adapted T5 models from which Flan-T5 was trained, the pairs of the paper's appendix J, current
base models with each published stage of their tuning, mixtures of experts, and the Pythias with their seeds. Sizes are
nominal: as printed in the paper ("paper"), in the model's name ("name") or by its publisher ("publisher"); otherwise
empty. A run records the number counted in the checkpoint (harness/checkpoints/checkpoints.py).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from harness.names import nearest

_TABLE = Path(__file__).with_name("models.csv")
STACKS = ("decoder", "encoder-decoder", "encoder")
# Last training stage of a checkpoint. "instruct" and "thinking" are releases without separately published stages; APO
# is a variant of DPO; a "merge" is an average of checkpoints.
STAGES = ("base", "LM-adapted", "mid-training", "SFT", "DPO", "APO", "RL", "merge", "instruct", "thinking")
# Forms of published weights. Deltas and adapters are combined with one of the first two ("delta+pickle").
WEIGHTS = ("safetensors", "pickle", "delta", "adapter")


@dataclass(frozen=True)
class Entry:
    """A model of the table.

    Attributes:
        name: name in the tables.
        hub_id: repository on the Hub; a user's own model may have a `folder` instead.
        family: model_type of its configuration (llama, t5, gpt_neox ...).
        stack: "decoder", "encoder-decoder" or "encoder".
        tuned_from: name of the model it was tuned from; "" for a base. With several stages, the previous stage
            (`chain`). The paper's T5 models name the paper's pair.
        tuning_data: data of the tuning.
        stage: last training stage, one of STAGES; "" if unknown.
        trained_from: checkpoint from which its training started, if different from `tuned_from`: Flan-T5 started from
            an LM-adapted T5, Flan-Alpaca from Flan-T5.
        n_parameters: nominal size; 0 if unknown.
        parameters_source: source of the size: "paper", "name", "publisher", "user" or "".
        n_active_parameters: parameters that one token uses in a mixture of experts, by name or publisher; else 0.
        n_blocks: transformer blocks of all text stacks; 0 if unknown.
        licence: licence as named by the publisher; "" if not looked up.
        gated: whether the Hub requires an account; None if unknown.
        weights: form of the files at `revision`, from WEIGHTS, joined by "+"; "" if not looked up.
        delta_of: name of the base of a delta or an adapter; both are loaded together.
        new_rows: for a delta, value of the base at tokens added by tuning: "zero" or "mean" (of its rows); "" for the
            authors' choice (deltas.RECIPES), else "zero".
        revision: branch, tag or commit; resolved to a commit, which is recorded (or taken from a lock).
        checkpoints: revisions of its training run: patterns, or "refs" if the Hub lists them.
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


# The Hub's first models had no owner: owner -> their ids then, which the Hub redirects and users still give.
_OWNERS = {
    "openai-community": "gpt2 gpt2-medium gpt2-large gpt2-xl openai-gpt",
    "google-bert": "bert-base-uncased bert-base-cased bert-large-uncased bert-large-cased bert-base-chinese "
    "bert-base-german-cased bert-base-multilingual-cased bert-base-multilingual-uncased "
    "bert-large-uncased-whole-word-masking bert-large-cased-whole-word-masking",
    "FacebookAI": "roberta-base roberta-large xlm-roberta-base xlm-roberta-large xlm-mlm-en-2048 xlm-mlm-100-1280 "
    "xlm-mlm-17-1280 xlm-mlm-ende-1024 xlm-mlm-enfr-1024 xlm-mlm-enro-1024 xlm-clm-ende-1024 xlm-clm-enfr-1024",
    "distilbert": "distilgpt2 distilroberta-base distilbert-base-uncased distilbert-base-cased "
    "distilbert-base-german-cased distilbert-base-multilingual-cased",
    "albert": "albert-base-v1 albert-base-v2 albert-large-v1 albert-large-v2 albert-xlarge-v1 albert-xlarge-v2 "
    "albert-xxlarge-v1 albert-xxlarge-v2",
    "google-t5": "t5-small t5-base t5-large t5-3b t5-11b",
}
# Such an id -> the full one. t5-small and so on are names of the table, where they are T5 1.1.
WITH_OWNER = {word: f"{owner}/{word}" for owner, words in _OWNERS.items() for word in words.split()}


def current_name(name: str) -> str:
    """Replace an id without owner (gpt2) by the name of the table, or by the full Hub id; other names are unchanged."""
    stem, at, revision = name.partition("@")
    if stem in MODELS or stem not in WITH_OWNER:
        return name
    hub_id = WITH_OWNER[stem]
    return f"{next((entry.name for entry in MODELS.values() if entry.hub_id == hub_id), hub_id)}{at}{revision}"


def find(name: str) -> Entry | None:
    """Return the entry called NAME, or the one of NAME@REVISION with that revision; None if there is none."""
    name = current_name(name)
    if name in MODELS:
        return MODELS[name]
    stem, _, revision = name.partition("@")
    return replace(MODELS[stem], revision=revision) if stem in MODELS and revision else None


def entry_of(name: str) -> Entry | None:
    """Return the entry called NAME or NAME@REVISION, or the one with that Hub id; None if there is none."""
    return find(name) or next((entry for entry in MODELS.values() if entry.hub_id == name), None)


def scale() -> tuple[str, ...]:
    """Return the first 100 models of 60 million to 70 billion parameters, the workload of the placement benchmarks."""
    return tuple(entry.name for entry in MODELS.values() if 6e7 <= entry.n_parameters <= 7e10)[:100]


def stages() -> tuple[str, ...]:
    """Return the published chains base -> SFT -> DPO -> RL of OLMo 2 (1B, 7B), OLMo 3 (7B) and Tulu 3 (8B)."""
    last = ("olmo-2-1b-instruct", "olmo-2-7b-instruct", "olmo-3-7b-think", "olmo-3-7b-instruct", "tulu-3-8b")
    return tuple(dict.fromkeys(name for end in last for name in (*chain(MODELS[end]), end)))


def chain(entry: Entry) -> list[str]:
    """Return names of all models that an entry was tuned from, base first, previous stage last."""
    names: list[str] = []
    while entry.tuned_from and entry.tuned_from not in names:
        names.append(entry.tuned_from)
        entry = MODELS.get(entry.tuned_from, Entry(entry.tuned_from))
    return names[::-1]


def ancestors(name: str) -> list[str]:
    """Return the models that a checkpoint derives from, nearest first: by `tuned_from`, then by `trained_from`.

    Args:
        name: table name with or without revision, or Hub id of a model in the table.

    Returns:
        Names of the table, without the model itself; empty for a base or an unknown name.
    """
    entry = entry_of(name)
    if entry is None:
        return []
    names = [entry.name, *chain(entry)[::-1]]
    for ancestor in names:  # the list grows in the loop, since each start checkpoint has ancestors of its own
        start = MODELS[ancestor].trained_from if ancestor in MODELS else ""
        if start and start not in names:
            names += [start, *(name for name in chain(MODELS[start])[::-1] if name not in names)]
    return names[1:]


def steps(entry: Entry) -> list[str] | None:
    """Return the revisions of a training run, expanded from patterns such as "step{1,2,1000..143000..1000}".

    Returns:
        Revisions in training order; None if the Hub must be asked for them.

    Raises:
        ValueError: if no training checkpoints of the model are known.
    """
    if not entry.checkpoints:
        with_steps = [other.name for other in MODELS.values() if other.checkpoints and other.group != "polypythia"]
        raise ValueError(
            f"no training checkpoints of {entry.name} are known. Models with training checkpoints: "
            f"{', '.join(with_steps)}, and the seeds of the small Pythias (`harness models --group polypythia`)."
        )
    if "{" not in entry.checkpoints:
        return None
    return [revision for pattern in entry.checkpoints.split() for revision in _expanded(pattern)]


def _expanded(pattern: str) -> list[str]:
    stem, brace, numbers = pattern.rstrip("}").partition("{")
    if not brace:
        return [pattern]
    step_numbers: list[int] = []
    for step_range in numbers.split(","):
        first, _, rest = step_range.partition("..")
        last, _, step = rest.partition("..")
        step_numbers += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{stem}{number}" for number in step_numbers]


# --- user-defined models ----------------------------------------------------------------------------------------------


def extend(file: str) -> list[str]:
    """Add the models of a user's file to the table, replacing those of the same name, and return their names.

    A TOML file has one table per model, `[my-model]`; a YAML file one mapping per name. The keys are the attributes of
    `Entry`; `folder` is relative to the file.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it cannot be parsed, or has an unknown key, a value of the wrong type or an unknown base.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file; give a TOML or YAML file of models.")
    content = _parsed(path)
    entries = {name: _entry(name, keys, path) for name, keys in content.items()}
    for entry in entries.values():
        for key in ("tuned_from", "trained_from", "delta_of"):
            base = getattr(entry, key)
            if base and base not in entries and base not in MODELS:
                raise ValueError(
                    f"{path}: {entry.name}: {key} {base!r} is not a model{_suggestion(base, [*entries, *MODELS])}."
                )
    MODELS.update(entries)
    return list(entries)


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
    types = get_type_hints(Entry)
    for key, value in keys.items():
        if key not in types or key in {"name", "group", "parameters_source"}:
            raise ValueError(f"{path}: {name}: key {key!r} is unknown{_suggestion(key, list(types))}.")
        kind = (get_args(types[key]) or (types[key],))[0]
        expected = (int, float) if kind is float else kind
        if not isinstance(value, expected) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{path}: {name}: {key} must be {kind.__name__}, and is {value!r}.")
    entry = replace(Entry(name), **keys, parameters_source="user" if keys.get("n_parameters") else "")
    if bool(entry.hub_id) == bool(entry.folder):
        raise ValueError(f"{path}: {name}: give either hub_id or folder.")
    if entry.new_rows not in {"", "zero", "mean"}:
        raise ValueError(f"{path}: {name}: new_rows {entry.new_rows!r} is neither 'zero' nor 'mean'.")
    if entry.stack not in STACKS:
        raise ValueError(f"{path}: {name}: stack {entry.stack!r} is none of {', '.join(STACKS)}.")
    if entry.stage and entry.stage not in STAGES:
        raise ValueError(f"{path}: {name}: stage {entry.stage!r} is none of {', '.join(STAGES)}.")
    if not set(entry.weights.split("+")) <= {"", *WEIGHTS}:
        raise ValueError(f"{path}: {name}: weights {entry.weights!r} are none of {', '.join(WEIGHTS)} (joined by +).")
    return replace(entry, folder=str((path.parent / entry.folder).absolute())) if entry.folder else entry


def _suggestion(word: str, known: list[str]) -> str:
    similar = nearest(word, known)
    return f"; the nearest are {', '.join(similar)}" if similar else ""


def described(entry: Entry) -> dict[str, Any]:
    """Return an entry as a row, with the chain of stages it was tuned from; unknown values are None."""
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    row |= {"n_parameters": int(entry.n_parameters), "n_active_parameters": int(entry.n_active_parameters)}
    return {key: (value if value or key == "gated" else None) for key, value in row.items()} | {"chain": chain(entry)}
