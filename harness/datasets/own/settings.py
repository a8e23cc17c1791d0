"""What `dataset.json` of a laboratory's folder says: name, licence, ceiling, language, encoding, context, folds.

    {"name": "mylab-stories", "title": "Stories", "licence": "CC BY 4.0", "citation": "...", "unit": "z",
     "language": "zh", "joiner": "", "encoding": "windows-1252",
     "ceiling": {"value": 0.3, "source": "split half of our sessions"}, "context": "passage",
     "strict": {"folds": {"kind": "grouped", "n": 5}}}

`language` (BCP 47) chooses word frequencies and sentence ends, English where it is absent. `joiner` stands between
stimuli in the text that a model reads: a space where it is absent, "" for words of a language without spaces.
`encoding` is that of tables that are not UTF-8 and do not state their own.

Every key may be absent, and the file too. A misspelt key is an error, since it would be silently without effect.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.datasets.own.files import nearest
from harness.delimited.encodings import TextSource, text_of
from harness.protocol import FoldRule
from harness.text.frequencies import require_language

_FILE = "dataset.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # stands in the paths of the tables


@dataclass(frozen=True)
class Settings:
    """What dataset.json says, or what stands where it is silent."""

    name: str
    title: str = "A recording of one's own"
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


_FOLD_KEYS: dict[str, type] = {
    "kind": str, "n": int, "gap": int, "seed": int, "test_fraction": float, "min_test_rows": int,
}  # fmt: skip
_WORDS: dict[str, tuple[str, ...]] = {
    "context": ("none", "passage", "corpus"), "kind": ("grouped", "contiguous", "kfold", "shuffled"),
}  # fmt: skip


def read(folder: Path) -> Settings:
    """Read and check dataset.json; ValueError names the key that is wrong, and the nearest known one."""
    path = folder / _FILE
    try:
        content = json.loads(text_of(TextSource(str(path)))) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{_FILE} is no JSON: {error}") from error
    texts = ("name", "title", "licence", "citation", "unit", "context", "language", "joiner", "encoding")
    text = dict.fromkeys(texts, str)
    said = _checked(content, "", {**text, "ceiling": dict, "strict": dict})
    ceiling = _checked(said.pop("ceiling", {}), "ceiling", {"value": float, "source": str}, needed=True)
    strict = _checked(said.pop("strict", {}), "strict", {"folds": dict})
    folds = _checked(strict.get("folds", {}), "strict.folds", _FOLD_KEYS)
    if folds:
        folds = {"min_test_rows": 10, "kind": "grouped", **folds}
    name = said.pop("name", "") or "local-" + re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name)[:58]
    if not _NAME.fullmatch(name):
        raise ValueError(f"{_FILE}: name {name!r}; use letters, digits, '.', '_' and '-', 64 at most, a letter first.")
    if said.get("language"):
        try:
            said["language"] = require_language(said["language"])
        except ValueError as error:
            raise ValueError(f"{_FILE}: language {error}") from None
    return Settings(
        name, **said, ceiling=ceiling.get("value"), ceiling_source=ceiling.get("source", ""),
        folds=FoldRule(**folds) if folds else None,
    )  # fmt: skip


def _checked(content: Any, where: str, known: dict[str, type], *, needed: bool = False) -> dict[str, Any]:
    """An object of JSON whose keys are known, and all there if `needed` and it holds anything."""
    place = f"{_FILE}, {where}" if where else _FILE
    if not isinstance(content, dict):
        raise ValueError(f"{place}: {content!r} where an object {{...}} with {', '.join(known)} was wanted.")
    for key, value in content.items():
        if key not in known:
            raise ValueError(f"{place}: key {key!r} is unknown{nearest(key, known)}.")
        wanted = (int, float) if known[key] is float else known[key]
        if not isinstance(value, wanted) or isinstance(value, bool):
            raise ValueError(f"{place}: {key} is {value!r}; a value of type {known[key].__name__} was wanted.")
        if key in _WORDS and value not in _WORDS[key]:
            raise ValueError(f"{place}: {key} is {value!r}; use one of {', '.join(_WORDS[key])}.")
    if needed and content and (absent := [key for key in known if key not in content]):
        raise ValueError(f"{place}: {absent[0]} is missing; give {' and '.join(known)}.")
    return dict(content)
