"""Loads a folder of EEG, MEG or ECoG in BIDS style: samples of runs, read by MNE, are cut into epochs of words.

    sub-01/eeg/sub-01_task-alice_run-01_eeg.vhdr (.edf, .bdf, .set, .fif), ..._events.tsv, ..._channels.tsv
    sub-01/meg/..._meg.fif, sub-01/ieeg/..._ieeg.edf

A row is a word of a run, and a neuroid is a channel at a lag (`epochs.py`). Each subject has the onsets of the own
events; the words of a run must be the same for all. Channels called bad, in `*_channels.tsv` or the file, have no
values in that run, and neither have windows of which all samples are annotated as bad.

Source: Brain Imaging Data Structure 1.10, "Electroencephalography", "Magnetoencephalography" and "Intracranial EEG".
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.datasets.own import bids, epochs, files, words
from harness.datasets.own.bids import Run
from harness.datasets.own.epochs import Channels, EpochSettings
from harness.datasets.own.settings import SensorSettings
from harness.datasets.own.words import Words
from harness.delimited import table
from harness.delimited.encodings import TextSource
from harness.records import Floats, Responses, Stimuli

# Folder of BIDS -> types of MNE that are recordings there. Files without types (EDF) say that all channels are EEG.
_TYPES = {"eeg": ("eeg",), "meg": ("mag", "grad"), "ieeg": ("ecog", "seeg", "dbs", "eeg")}
# `type` of channels.tsv that are recordings.
_BIDS_TYPES = frozenset({"EEG", "MEGMAG", "MEGGRADAXIAL", "MEGGRADPLANAR", "ECOG", "SEEG", "DBS"})
# Type of MNE -> unit, and how many of it are a volt, tesla or tesla per metre.
_UNITS = {"mag": ("fT", 1e15), "grad": ("fT/cm", 1e13)}
_VOLTS = ("µV", 1e6)
_BLOCK_BYTES = 2**28  # of samples in memory at once
_BREAKS = re.compile(r"[\s/\\]+")


class Recording(NamedTuple):
    """Stimuli and responses of a folder."""

    stimuli: Stimuli
    responses: Responses


class _Part(NamedTuple):
    """Epochs of one run of one subject: values (word, lag, channel)."""

    channels: tuple[str, ...]
    values: Floats
    units: frozenset[str]


def read(
    folder: Path,
    options: SensorSettings,
    windows: EpochSettings,
    *,
    unit: str,
    joiner: str,
    encoding: str | None,
    notes: list[str],
) -> Recording:
    """Read all subjects and runs of a folder.

    Args:
        folder: root of the BIDS folder.
        options: which files, and how they are filtered.
        windows: lags and baseline of the epochs.
        unit: unit of the values; "" for that of the files.
        joiner: separator between words.
        encoding: encoding of tables that are not UTF-8 and do not declare theirs.
        notes: list to which notes are appended.

    Raises:
        ValueError: if MNE is not installed, a file is missing or damaged, or runs of two subjects differ in their
            words; names the file.
    """
    runs = bids.find_runs(folder, options.derivatives, options.proc, notes, bids.SENSORS)
    _require_mne(runs[0])
    heard: dict[str, Words] = {}
    parts: dict[str, dict[str, _Part]] = {}
    n_bad: dict[str, int] = {}
    for run in runs:
        raw = _opened(run)
        own = words.read(run, options.words, options.sound_onset_s, encoding)
        words.require_in_run(own, float(raw.times[-1]), "sample")
        _require_same(heard.setdefault(run.label, own), own, run)
        epochs.require_samples(raw.times, windows, run.file.name)
        names = _channels(raw, run, encoding)
        n_bad[run.subject] = n_bad.get(run.subject, 0) + len(_of_types(raw, run, encoding)) - len(names)
        parts.setdefault(run.subject, {})[run.label] = _cut(raw, names, own.onsets_s, options, windows)
    stimuli = words.stimuli_of(heard, joiner)
    notes += _notes(options, windows, parts, heard, n_bad)
    notes += files.ignored(folder, ["dataset", "participants"])
    values, channels = _side_by_side(parts, stimuli, len(windows.lags_ms))
    units = sorted(frozenset.union(*(part.units for own_parts in parts.values() for part in own_parts.values())))
    unit = unit or f"{' or '.join(units)}, {windows.in_words}"
    return Recording(stimuli, epochs.as_responses(stimuli, values, channels, windows, unit, notes))


# --- one run ----------------------------------------------------------------------------------------------------------


def _require_mne(run: Run) -> None:
    try:
        import mne  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"{run.file.name}: EEG, MEG and ECoG are read by MNE, which is not installed; run "
            "`pip install 'brain-alignment-harness[sensors]'`."
        ) from error


def _opened(run: Run) -> Any:
    """The run as MNE's Raw, whose samples are not read yet; ValueError if it cannot be read."""
    import mne

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on names and units, which matter to other analyses
            raw = mne.io.read_raw(str(run.file), preload=False, verbose="ERROR")
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"{run.file.name} cannot be read by MNE ({reason}).") from error
    if len(raw.times) < 2:
        raise ValueError(f"{run.file.name} has {len(raw.times)} samples; is it complete?")
    return raw


def _require_same(first: Words, own: Words, run: Run) -> None:
    """Raise unless a subject's run has the words of the first subject's."""
    if words.differences(first, own) == float("inf"):
        raise ValueError(
            f"{run.subject} and others have different words in {run.label} "
            f"({words.difference_in_words(first.texts, own.texts)}); runs of the same task and number must have the "
            "same words: name runs after what was presented."
        )


def _of_types(raw: Any, run: Run, encoding: str | None) -> dict[str, bool]:
    """Channels that are recordings -> whether they are good, by channels.tsv if it has the column, else by the file."""
    type_of = dict(zip(raw.ch_names, raw.get_channel_types(), strict=True))
    datatype = run.file.parent.name
    recorded = {name: name not in raw.info["bads"] for name, kind in type_of.items() if kind in _TYPES[datatype]}
    path = run.find("channels", ".tsv")
    if not path:
        return recorded
    content = table.read(TextSource(str(path), encoding, files.REMEDY), ("name",))
    if "name" not in content.frame:
        raise ValueError(f"{path.name} has no column 'name'{files.nearest('name', content.frame.columns)}.")
    names = [name.strip() for name in content.texts("name")]
    if "type" in content.frame:
        kinds = dict(zip(names, (kind.strip().upper() for kind in content.texts("type")), strict=True))
        known = {name: name not in raw.info["bads"] for name in type_of if kinds.get(name) in _BIDS_TYPES}
        recorded = {name: good for name, good in known.items() if datatype != "meg" or name in recorded}
    if "status" in content.frame:
        status = dict(zip(names, (value.strip().lower() for value in content.texts("status")), strict=True))
        recorded = {name: good and status.get(name) != "bad" for name, good in recorded.items()}
    return recorded


def _channels(raw: Any, run: Run, encoding: str | None) -> list[str]:
    """The good channels of a run; ValueError if there are none."""
    recorded = _of_types(raw, run, encoding)
    good = [name for name, is_good in recorded.items() if is_good]
    if not good:
        has = ", ".join(sorted(set(raw.get_channel_types())))
        raise ValueError(
            f"{run.file.name} has no good channel of {run.file.parent.name}: {len(recorded)} are bad, and its types "
            f"are {has}; correct {run.subject}_{run.label}_channels.tsv."
        )
    return good


def _cut(raw: Any, names: Sequence[str], onsets: Floats, options: SensorSettings, windows: EpochSettings) -> _Part:
    """Epochs of the words of one run, read and filtered some channels at a time."""
    kinds = raw.get_channel_types(picks=list(names))
    units = [_UNITS.get(kind, _VOLTS) for kind in kinds]
    values = np.empty((len(onsets), len(windows.lags_ms), len(names)), dtype=np.float32)
    rejected = np.isnan(raw.get_data(picks=[names[0]], reject_by_annotation="NaN", verbose="ERROR")[0])
    step = max(1, _BLOCK_BYTES // (8 * len(raw.times)))
    for start in range(0, len(names), step):
        block = slice(start, start + step)
        samples = _filtered(raw, list(names[block]), options) * np.array([[scale] for _, scale in units[block]])
        samples[:, rejected] = np.nan
        values[..., block] = epochs.of_run(onsets, raw.times, samples.T, windows)
    labels = tuple(_BREAKS.sub("-", name.strip()) for name in names)
    return _Part(labels, values, frozenset(unit for unit, _ in units))


def _filtered(raw: Any, names: list[str], options: SensorSettings) -> Floats:
    """(channel, sample) without frequencies that are not to be kept."""
    import mne

    samples: Floats = raw.get_data(picks=names, verbose="ERROR")
    low = options.high_pass_hz if raw.info["highpass"] < options.high_pass_hz else None
    high = options.low_pass_hz if options.low_pass_hz and raw.info["lowpass"] > options.low_pass_hz else None
    if low is None and high is None:
        return samples
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a short recording is shorter than the filter
        filtered: Floats = mne.filter.filter_data(samples, raw.info["sfreq"], low, high, copy=False, verbose="ERROR")
    return filtered


# --- all runs ---------------------------------------------------------------------------------------------------------


def _side_by_side(parts: Mapping[str, Mapping[str, _Part]], stimuli: Stimuli, n_lags: int) -> tuple[Floats, Channels]:
    """(word, lag, channel) of all subjects, and the channels; NaN for runs and channels that a subject lacks."""
    columns = [
        (subject, name) for subject, own in parts.items()
        for name in dict.fromkeys(chain(*(part.channels for part in own.values())))
    ]  # fmt: skip
    place = {column: k for k, column in enumerate(columns)}
    passages = np.array(stimuli.passages)
    values = np.full((len(stimuli), n_lags, len(columns)), np.nan, dtype=np.float32)
    for subject, own in parts.items():
        for label, part in own.items():
            rows, places = np.flatnonzero(passages == label), [place[subject, name] for name in part.channels]
            values[rows[:, None], :, np.array(places)] = np.moveaxis(part.values, 2, 1)
    measured = np.flatnonzero(np.isfinite(values).any(axis=(0, 1)))
    subjects, names = zip(*(columns[k] for k in measured), strict=True) if len(measured) else ((), ())
    ids = tuple(f"{subject}.{name}" for subject, name in zip(subjects, names, strict=True))
    return values[..., measured], Channels(ids, subjects, ("",) * len(ids))


def _notes(
    options: SensorSettings,
    windows: EpochSettings,
    parts: Mapping[str, Mapping[str, _Part]],
    heard: Mapping[str, Words],
    n_bad: Mapping[str, int],
) -> list[str]:
    """How the files were read, and what was not."""
    lags = ", ".join(f"{lag:g}" for lag in windows.lags_ms)
    kept = f"frequencies above {options.high_pass_hz:g} Hz" if options.high_pass_hz else "all frequencies"
    kept += f" and below {options.low_pass_hz:g} Hz" if options.low_pass_hz else ""
    notes = [
        f"Responses are {windows.in_words}, at {lags} ms after the onset of a word, of {kept}; the reference is that "
        'of the files. "epochs" and "sensors" in dataset.json choose otherwise.'
    ]
    n_omitted = sum(own.n_omitted for own in heard.values())
    notes += [f"{n_omitted} rows of events or TextGrids are no words (silences, n/a) and omitted."] if n_omitted else []
    for subject, own in parts.items():
        notes += [f"{subject} has {len(own)} of {len(heard)} runs."] if len(own) < len(heard) else []
        notes += [f"{subject}: {n_bad[subject]} bad channels have no values."] if n_bad[subject] else []
    return notes
