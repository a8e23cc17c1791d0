"""Reads `dataset.json` of a user's folder: name, licence, ceiling, language, encoding, context, folds.

    {"name": "mylab-stories", "title": "Stories", "licence": "CC BY 4.0", "citation": "...", "unit": "z",
     "language": "zh", "joiner": "", "encoding": "windows-1252",
     "ceiling": {"value": 0.3, "source": "split half of our sessions"}, "context": "passage", "repetitions": "keep",
     "strict": {"folds": {"kind": "grouped", "n": 5}}, "in_order": false}

`language` (BCP 47, default English) selects word frequencies and the rules for sentence ends. `joiner` is the separator
between stimuli in the text given to a model: a space by default, "" for languages without spaces between words.
`repetitions` says what happens to sentences that were presented repeatedly: "average" (default) or "keep".
`in_order` (default true) states whether the rows are in order of presentation, which the control "drift" needs.
`encoding` applies to tables that are not UTF-8 and do not declare their encoding.

All keys are optional, and so is the file. A misspelt key is an error, because it would have no effect.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from harness.datasets.own.files import nearest
from harness.datasets.own.presentations import Setting
from harness.delimited.encodings import TextSource, text_of
from harness.protocol import FoldRule
from harness.text.frequencies import require_language

_FILE = "dataset.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # becomes part of paths


@dataclass(frozen=True)
class Settings:
    """Contents of dataset.json, with defaults."""

    name: str
    title: str = "Local recording"
    licence: str = "not stated"
    citation: str = ""
    unit: str = "not stated"
    ceiling: float | None = None
    ceiling_source: str = ""
    context: str | None = None
    folds: FoldRule | None = None
    language: str = ""
    joiner: str | None = None
    encoding: str | None = None
    repetitions: Setting = "average"
    in_order: bool = True


_TEXT_KEYS = (
    "name", "title", "licence", "citation", "unit", "context", "language", "joiner", "encoding", "repetitions",
)  # fmt: skip
_FOLD_KEYS: dict[str, type] = {
    "kind": str, "n": int, "gap": int, "seed": int, "test_fraction": float, "min_test_rows": int,
}  # fmt: skip
_CHOICES: dict[str, tuple[str, ...]] = {
    "context": ("none", "passage", "corpus"), "repetitions": get_args(Setting),
    "kind": ("grouped", "contiguous", "kfold", "shuffled"),
}  # fmt: skip


def read(folder: Path) -> Settings:
    """Read and check dataset.json; ValueError names the wrong key and, if it is unknown, the nearest known one."""
    path = folder / _FILE
    try:
        content = json.loads(text_of(TextSource(str(path)))) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{_FILE} is not valid JSON: {error}") from error
    types = {**dict.fromkeys(_TEXT_KEYS, str), "ceiling": dict, "strict": dict, "in_order": bool}
    values = _checked(content, "", types)
    ceiling = _checked(values.pop("ceiling", {}), "ceiling", {"value": float, "source": str}, complete=True)
    strict = _checked(values.pop("strict", {}), "strict", {"folds": dict})
    folds = _checked(strict.get("folds", {}), "strict.folds", _FOLD_KEYS)
    if folds:
        folds = {"min_test_rows": 10, "kind": "grouped", **folds}
    name = values.pop("name", "") or "local-" + re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:58]
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{_FILE}: name {name!r}; use at most 64 letters, digits, '.', '_' and '-', beginning with a letter or "
            "digit."
        )
    if values.get("language"):
        try:
            values["language"] = require_language(values["language"])
        except ValueError as error:
            raise ValueError(f"{_FILE}: language {error}") from None
    return Settings(
        name, **values, ceiling=ceiling.get("value"), ceiling_source=ceiling.get("source", ""),
        folds=FoldRule(**folds) if folds else None,
    )  # fmt: skip


def _checked(content: Any, key_path: str, types: dict[str, type], *, complete: bool = False) -> dict[str, Any]:
    """Check keys and types of a JSON object; with `complete`, a non-empty object must have all keys."""
    place = f"{_FILE}, {key_path}" if key_path else _FILE
    if not isinstance(content, dict):
        raise ValueError(f"{place}: wanted an object {{...}} with {', '.join(types)}, not {content!r}.")
    for key, value in content.items():
        if key not in types:
            raise ValueError(f"{place}: key {key!r} is unknown{nearest(key, types)}.")
        wanted = (int, float) if types[key] is float else types[key]
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):
            raise ValueError(f"{place}: {key} is {value!r}; wanted a value of type {types[key].__name__}.")
        if key in _CHOICES and value not in _CHOICES[key]:
            raise ValueError(f"{place}: {key} is {value!r}; use one of {', '.join(_CHOICES[key])}.")
    if complete and content and (missing := [key for key in types if key not in content]):
        raise ValueError(f"{place}: {missing[0]} is missing; give {' and '.join(types)}.")
    return dict(content)
