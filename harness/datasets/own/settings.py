"""Reads `dataset.json` of a user's folder: name, licence, ceiling, language, context, folds, response model, images.

    {"name": "mylab-stories", "title": "Stories", "licence": "CC BY 4.0", "citation": "...", "unit": "z",
     "language": "zh", "joiner": "", "encoding": "windows-1252",
     "ceiling": {"value": 0.3, "source": "split half of our sessions"}, "context": "passage", "repetitions": "keep",
     "strict": {"folds": {"kind": "grouped", "n": 5}}, "in_order": false,
     "response": {"delays": [1, 2, 3, 4]},
     "epochs": {"lags_ms": [100, 200, 300, 400], "window_ms": 100, "baseline_ms": [-200, 0]},
     "bold": {"derivatives": "derivatives/fmriprep", "space": "MNI152NLin2009cAsym", "confounds": ["trans_*", "rot_*"],
              "high_pass_s": 128, "zscore": true},
     "sensors": {"derivatives": "derivatives/mne-bids-pipeline", "proc": "clean", "high_pass_hz": 0.1}}

`language` (BCP 47, default English) selects word frequencies and the rules for sentence ends. `joiner` is the separator
between stimuli in the text given to a model: a space by default, "" for languages without spaces between words.
`repetitions` says what happens to sentences that were presented repeatedly: "average" (default) or "keep".
`in_order` (default true) states whether the rows are in order of presentation, which the control "drift" needs.
`response` replaces the response model of STRICT for scans: `delays` in TRs (a list, or a number n for 1 to n),
`shift_s`, `pool` ("lanczos" filters, "hrf" is the canonical response without delays) and `clock`, as in
`harness.protocol.Sampling`. `epochs` cuts scans (samples of EEG, MEG or ECoG) into
one row per word: see `epochs.py`. `bold` is read for BOLD images only, `sensors` for files of EEG, MEG or ECoG only:
`BoldSettings`, `SensorSettings`.
`encoding` applies to tables that are not UTF-8 and do not declare their encoding.

All keys are optional, and so is the file. A misspelt key is an error, because it would have no effect.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, get_args

from harness.datasets.own.epochs import EpochSettings
from harness.datasets.own.files import nearest
from harness.datasets.own.presentations import Setting
from harness.delimited.encodings import TextSource, text_of
from harness.protocol import FoldRule, Pool, Sampling
from harness.text.frequencies import require_language

_FILE = "dataset.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # becomes part of paths


@dataclass(frozen=True)
class BoldSettings:
    """`bold` of dataset.json: which images, and how the courses of a run are cleaned.

    Attributes:
        derivatives: folder with the images below the root, such as "derivatives/fmriprep".
        space: entity `space` of the images, if a run has several.
        words: column of the events that has the words.
        sound_onset_s: onset of the sound of a TextGrid after the first scan.
        confounds: columns of `*_desc-confounds_timeseries.tsv`; `*` stands for any characters.
        high_pass_s: longest period that is kept, in seconds; 0 keeps all.
        zscore: whether every neuroid is standardised in each run.
    """

    derivatives: str = ""
    space: str = ""
    words: str = ""
    sound_onset_s: float | None = None
    confounds: tuple[str, ...] = ()
    high_pass_s: float = 128.0
    zscore: bool = True

    @property
    def in_words(self) -> str:
        """What is done to the courses of a run."""
        removed = [f"drift of periods above {self.high_pass_s:g} s"] if self.high_pass_s else []
        removed += [f"confounds {', '.join(self.confounds)}"] if self.confounds else []
        cleaned = f"{' and '.join(removed)} removed" if removed else "nothing removed"
        return f"BOLD, {cleaned}{', z-scored' if self.zscore else ''} in each run"


@dataclass(frozen=True)
class SensorSettings:
    """`sensors` of dataset.json: which files of EEG, MEG or ECoG, and how they are filtered.

    Attributes:
        derivatives: folder with the files below the root, such as "derivatives/mne-bids-pipeline".
        proc: entity `proc` of the files, if a run has several.
        words: column of the events that has the words.
        sound_onset_s: onset of the sound of a TextGrid after the first sample.
        high_pass_hz: lowest frequency that is kept; files that were filtered so already are not filtered again; 0 keeps
            all.
        low_pass_hz: highest frequency that is kept; None keeps all.
    """

    derivatives: str = ""
    proc: str = ""
    words: str = ""
    sound_onset_s: float | None = None
    high_pass_hz: float = 0.1
    low_pass_hz: float | None = None


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
    bold: BoldSettings = BoldSettings()
    sensors: SensorSettings = SensorSettings()
    response: Mapping[str, Any] = field(default_factory=dict)
    epochs: EpochSettings | None = None


_TEXT_KEYS = (
    "name", "title", "licence", "citation", "unit", "context", "language", "joiner", "encoding", "repetitions",
)  # fmt: skip
_FOLD_KEYS: dict[str, type] = {
    "kind": str, "n": int, "gap": int, "seed": int, "test_fraction": float, "min_test_rows": int,
}  # fmt: skip
_BOLD_KEYS: dict[str, type] = {
    "derivatives": str, "space": str, "words": str, "sound_onset_s": float, "confounds": list, "high_pass_s": float,
    "zscore": bool,
}  # fmt: skip
_SENSOR_KEYS: dict[str, type] = {
    "derivatives": str, "proc": str, "words": str, "sound_onset_s": float, "high_pass_hz": float, "low_pass_hz": float,
}  # fmt: skip
_RESPONSE_KEYS: dict[str, type] = {"delays": list, "shift_s": float, "pool": str, "clock": str}
_MAX_DELAY = 60  # TRs
_CHOICES: dict[str, tuple[str, ...]] = {
    "context": ("none", "passage", "corpus"), "repetitions": get_args(Setting),
    "pool": get_args(Pool), "clock": ("end", "onset"),
    "kind": ("grouped", "contiguous", "kfold", "shuffled"),
}  # fmt: skip


def read(folder: Path) -> Settings:
    """Read and check dataset.json; ValueError names the wrong key and, if it is unknown, the nearest known one."""
    path = folder / _FILE
    try:
        content = json.loads(text_of(TextSource(str(path)))) if path.is_file() else {}
    except ValueError as error:
        raise ValueError(f"{_FILE} is not valid JSON: {error}") from error
    types: dict[str, type] = {
        **dict.fromkeys(_TEXT_KEYS, str),
        **dict.fromkeys(("ceiling", "strict", "bold", "sensors", "response", "epochs"), dict),
    }
    types["in_order"] = bool
    values = _checked(content, "", types)
    ceiling = _checked(values.pop("ceiling", {}), "ceiling", {"value": float, "source": str}, complete=True)
    strict = _checked(values.pop("strict", {}), "strict", {"folds": dict})
    folds = _checked(strict.get("folds", {}), "strict.folds", _FOLD_KEYS)
    if folds:
        folds = {"min_test_rows": 10, "kind": "grouped", **folds}
    values["bold"] = _bold(values.pop("bold", {}))
    values["sensors"] = _sensors(values.pop("sensors", {}))
    values["response"] = _response(values.pop("response", {}))
    values["epochs"] = _epochs(values.pop("epochs", {}))
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


def _bold(content: Any) -> BoldSettings:
    """Check the settings of images."""
    values = _checked(content, "bold", _BOLD_KEYS)
    confounds = values.get("confounds", [])
    if not all(isinstance(name, str) for name in confounds):
        raise ValueError(f"{_FILE}, bold: confounds is {confounds!r}; wanted names of columns.")
    if values.get("high_pass_s", 0) < 0:
        raise ValueError(f"{_FILE}, bold: high_pass_s is {values['high_pass_s']}; wanted seconds, or 0 for none.")
    return BoldSettings(**{**values, "confounds": tuple(confounds)})


def _sensors(content: Any) -> SensorSettings:
    """Check the settings of files of samples."""
    values = _checked(content, "sensors", _SENSOR_KEYS)
    low, high = values.get("high_pass_hz", 0.0), values.get("low_pass_hz")
    if low < 0 or (high is not None and high <= low):
        raise ValueError(
            f"{_FILE}, sensors: high_pass_hz is {low} and low_pass_hz {high}; wanted frequencies of at least 0 Hz, the "
            "second above the first."
        )
    return SensorSettings(**values)


def _epochs(content: Any) -> EpochSettings | None:
    """Check the windows of epochs."""
    values = _checked(content, "epochs", {"lags_ms": list, "window_ms": float, "baseline_ms": list})
    if not values:
        return None
    lags, baseline, window = values.get("lags_ms"), values.get("baseline_ms"), values.get("window_ms", 100.0)
    if not lags or not _are_numbers(lags) or len(set(lags)) < len(lags):
        raise ValueError(f"{_FILE}, epochs: lags_ms is {lags!r}; wanted different times in ms, such as [300, 400].")
    if window <= 0:
        raise ValueError(f"{_FILE}, epochs: window_ms is {window!r}; wanted a length in ms above 0.")
    if baseline is not None and (len(baseline) != 2 or not _are_numbers(baseline) or baseline[0] >= baseline[1]):
        raise ValueError(
            f"{_FILE}, epochs: baseline_ms is {baseline!r}; wanted [first, last] in ms, such as [-200, 0]."
        )
    return EpochSettings(tuple(lags), float(window), (baseline[0], baseline[1]) if baseline else None)


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value) for value in values)


def _response(content: Any) -> dict[str, Any]:
    """Check the response model: fields of `Sampling` that replace those of STRICT; a number n of delays is 1 to n."""
    delays = content.get("delays") if isinstance(content, dict) else None
    kind = int if isinstance(delays, int) else list
    values = _checked(content, "response", {**_RESPONSE_KEYS, "delays": kind})
    if "delays" not in values:
        return values | ({"delays": (0,)} if values.get("pool") == "hrf" else {})
    given = list(range(1, delays + 1)) if isinstance(delays, int) else delays
    if not given or not all(type(delay) is int and 0 <= delay <= _MAX_DELAY for delay in given):
        raise ValueError(
            f"{_FILE}, response: delays is {delays!r}; wanted a number of TRs, or a list of whole TRs such as "
            f"[1, 2, 3, 4], of at most {_MAX_DELAY}."
        )
    if len(set(given)) < len(given):
        raise ValueError(f"{_FILE}, response: delays {delays!r} repeat a delay; give each once.")
    values["delays"] = tuple(given)
    try:
        Sampling(**values)
    except ValueError as error:
        raise ValueError(f"{_FILE}, response: {error}") from error
    return values


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
