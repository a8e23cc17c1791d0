"""Variants of a model: how they are named in the tables, prompts (conditions), and numbers of units.

A variant of NAME is called NAME:VARIANT, such as gpt2:untrained, gpt2:condition-careful or gpt2:localised-10pct.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from harness.protocol import Variant

STIMULUS = "{stimulus}"
# Letters of a condition's name, which becomes part of a folder name.
_CONDITION = r"[A-Za-z0-9][A-Za-z0-9._-]{0,23}"
_N_UNITS = r"\d+(\.\d+)?(pct)?"
_VARIANT = re.compile(
    rf"{'|'.join(get_args(Variant))}|condition-{_CONDITION}|(untrained-)?localised-{_N_UNITS}|random-units-{_N_UNITS}(-\d+)?"
)


def is_variant(suffix: str) -> bool:
    """Whether this is the name of a variant, such as "untrained" or "localised-512"."""
    return _VARIANT.fullmatch(suffix) is not None


def base_name(source: str) -> str:
    """The model of a variant such as "model:untrained"; other names are returned unchanged."""
    name, _, suffix = source.rpartition(":")
    return name if is_variant(suffix) else source


# --- prompts ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Condition:
    """A prompt around the stimuli: text that the model reads, but whose tokens are neither pooled nor counted.

    Attributes:
        name: as in the tables, NAME:condition-{name}.
        before: text before the stimulus and its context, taken literally (usually it ends with a space or line end).
        after: text after them, which reaches encoders only: a causal model has not seen it at the stimulus.
    """

    name: str
    before: str
    after: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(_CONDITION, self.name):
            raise ValueError(
                f"the condition is called {self.name!r}; use 1 to 24 letters, digits, dots, dashes and underscores, "
                "and begin with a letter or digit."
            )
        if not self.before.strip() and not self.after.strip():
            raise ValueError(f"condition {self.name!r} has no text; give the text that precedes the stimulus.")

    @classmethod
    def of(cls, name: str, text: str) -> Condition:
        """Make a condition from a prefix, or from a template that contains {stimulus} once."""
        if text.count(STIMULUS) > 1:
            raise ValueError(f"condition {name!r} contains {STIMULUS} more than once; one place is wanted.")
        before, _, after = text.partition(STIMULUS)
        return cls(name, before, after)

    @property
    def template(self) -> str:
        """The prompt as one text, with {stimulus} where stimulus and context stand."""
        return f"{self.before}{STIMULUS}{self.after}"


def conditions(given: Iterable[str], file: str = "") -> tuple[Condition, ...]:
    """Collect the conditions of the command line.

    Args:
        given: NAME=TEXT each, where the text is a prefix or a template with {stimulus}.
        file: JSON or YAML file that maps names to such texts; "" for none.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if a condition has no name or no text, or if two have the same name.
    """
    pairs = [*(_of_file(Path(file)) if file else ())]
    for assignment in given:
        name, sign, text = assignment.partition("=")
        if not sign:
            raise ValueError(f'--condition {assignment!r} is not of the form NAME="text before the stimulus ".')
        pairs.append((name, text))
    names = [name for name, _ in pairs]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"two conditions are called {repeated!r}; give each a name of its own.")
    return tuple(Condition.of(name, text) for name, text in pairs)


def _of_file(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the file of conditions with --conditions.")
    try:
        content = _parsed(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise ValueError(
            f"{path.name} cannot be read: {error}. Write a JSON or YAML mapping of names to texts."
        ) from None
    pairs = list(content.items()) if isinstance(content, dict) else []
    if not pairs or not all(isinstance(part, str) for pair in pairs for part in pair):
        raise ValueError(f'{path.name} is not a mapping of names to texts; write {{"careful": "Read carefully: "}}.')
    return pairs


def _parsed(path: Path) -> object:
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        return json.loads(text)
    import yaml  # type: ignore[import-untyped]

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error).replace("\n", " ")) from None


# --- numbers of units -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class UnitCount:
    """How many units to choose: a number, or a percentage of all units.

    Attributes:
        text: as given, such as "512", "10%" or "0.5%".
    """

    text: str

    def __post_init__(self) -> None:
        number = self.text.removesuffix("%")
        is_percentage = number != self.text
        wanted = r"\d+(\.\d+)?" if is_percentage else r"\d+"
        if not re.fullmatch(wanted, number) or not 0 < float(number) <= (100 if is_percentage else 1e12):
            raise ValueError(f"{self.text!r} is not a number of units; use 512 or 10%.")

    @property
    def label(self) -> str:
        """As part of a name, without a percent sign."""
        return self.text.replace("%", "pct")

    def of(self, n_units: int) -> int:
        """Number of units out of `n_units`, at least 1."""
        if self.text.endswith("%"):
            return max(1, round(float(self.text[:-1]) / 100 * n_units))
        return int(self.text)
