"""local:FOLDER with EEG, MEG or ECoG in BIDS style; values are checked against loops over what was written.

BrainVision and EDF files are written byte by byte, by their published definitions (BrainVision Core Data Format 1.0;
Kemp et al. 1992); FIF files by MNE.
"""

from __future__ import annotations

import json
import struct

import mne
import numpy as np
import pandas as pd
import pytest

from harness import datasets, evaluate
from harness.datasets.own import recording
from harness.models import tiny

RATE, CHANNELS = 100, ("Cz", "Pz", "EOG")
WORDS = ("tea", "milk", "rain", "sun", "dog", "cat", "tree", "boy", "snow", "fire", "road", "bird")
NO_FILTER = {"sensors": {"high_pass_hz": 0}}
LAGS = (100, 200, 300, 400, 500, 600)


def words(n=40, seed=0):
    rng = np.random.default_rng(seed)
    onsets = (1 + np.cumsum(rng.uniform(0.3, 0.6, n))).round(2)
    texts = [str(rng.choice(WORDS)) if rng.random() < 0.6 else f"word{seed}{k}" for k in range(n)]
    return pd.DataFrame({"onset": onsets, "duration": 0.2, "word": texts})


def microvolts(events, seed=0, channels=CHANNELS):
    """(sample, channel) whole numbers, of whole seconds."""
    rng = np.random.default_rng(seed)
    return rng.integers(-500, 500, ((int(events.onset.max()) + 2) * RATE, len(channels)))


def brainvision(path, samples, channels=CHANNELS):
    """Header, markers and 16-bit samples in steps of half a microvolt, channel by channel within a sample."""
    listed = "".join(f"Ch{k}={name},,0.5,µV\n" for k, name in enumerate(channels, start=1))
    path.with_suffix(".vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\nMarkerFile={path.stem}.vmrk\nDataFormat=BINARY\nDataOrientation=MULTIPLEXED\n"
        f"NumberOfChannels={len(channels)}\nSamplingInterval={1_000_000 // RATE}\n\n[Binary Infos]\n"
        f"BinaryFormat=INT_16\n\n[Channel Infos]\n{listed}",
        encoding="utf-8",
    )
    path.with_suffix(".vmrk").write_text(
        f"Brain Vision Data Exchange Marker File, Version 1.0\n\n[Common Infos]\nCodepage=UTF-8\n"
        f"DataFile={path.stem}.eeg\n\n[Marker Infos]\nMk1=New Segment,,1,1,0,20260101120000000000\n"
    )
    path.with_suffix(".eeg").write_bytes((2 * samples).astype("<i2").tobytes())


def edf(path, samples, channels=CHANNELS):
    """Records of one second; a digital step is a microvolt."""
    n_records = len(samples) // RATE
    n = len(channels)

    def field(value, width):
        return str(value).ljust(width).encode("ascii")

    header = field("0", 8) + field("X X X X", 80) + field("Startdate X X X X", 80) + field("01.01.26", 8)
    header += field("12.00.00", 8) + field(256 * (n + 1), 8) + field("", 44) + field(n_records, 8) + field(1, 8)
    header += field(n, 4)
    for width, values in (
        (16, channels), (80, [""] * n), (8, ["uV"] * n), (8, [-32768] * n), (8, [32767] * n), (8, [-32768] * n),
        (8, [32767] * n), (80, [""] * n), (8, [RATE] * n), (32, [""] * n),
    ):  # fmt: skip
        header += b"".join(field(value, width) for value in values)
    body = b"".join(
        struct.pack(f"<{RATE}h", *samples[second * RATE : (second + 1) * RATE, k].tolist())
        for second in range(n_records) for k in range(n)
    )  # fmt: skip
    path.with_suffix(".edf").write_bytes(header + body)


def fif(path, samples, channels=CHANNELS):
    kinds = ["eog" if name == "EOG" else "eeg" for name in channels]
    info = mne.create_info(list(channels), RATE, kinds)
    raw = mne.io.RawArray(samples.T * 1e-6, info, verbose="ERROR")
    raw.save(path.with_suffix(".fif"), fmt="double", verbose="ERROR")


WRITERS = {"vhdr": brainvision, "edf": edf, "fif": fif}
TYPES = pd.DataFrame({"name": CHANNELS, "type": ["EEG", "EEG", "EOG"], "units": "µV"})


def run(root, subject, label, events, samples, writer=brainvision, *, datatype="eeg", channels=CHANNELS):
    """One run of one subject; the events as BIDS has them."""
    folder = root / subject / datatype
    folder.mkdir(parents=True, exist_ok=True)
    writer(folder / f"{subject}_{label}_{datatype}", samples, channels)
    events.to_csv(folder / f"{subject}_{label}_events.tsv", sep="\t", index=False)
    return folder


@pytest.fixture
def lab(tmp_path):
    """An empty folder, without a filter and with the types of channels."""
    root = tmp_path / "lab"
    root.mkdir()
    (root / "dataset.json").write_text(json.dumps(NO_FILTER))
    TYPES.to_csv(root / "task-alice_channels.tsv", sep="\t", index=False)
    return root


def mean_at(samples, onset, lag):
    first = round((onset + lag / 1000 - 0.05) * RATE)
    return samples[first : first + 10].mean(axis=0)


@pytest.mark.parametrize("form", sorted(WRITERS))
def test_a_value_is_the_mean_of_a_channel_at_a_lag_in_microvolts(form, lab):
    events = words()
    samples = microvolts(events)
    run(lab, "sub-01", "task-alice", events, samples, WRITERS[form])
    responses = datasets.load(f"local:{lab}", ".").responses
    assert responses.neuroid_ids == tuple(f"sub-01.{name}@{lag}ms" for lag in LAGS for name in ("Cz", "Pz"))
    assert responses.rois == tuple(f"{lag} ms" for lag in LAGS for _ in range(2))
    assert responses.unit == "µV, mean over 100 ms"
    assert responses.row_ids == tuple(f"task-alice.{k}" for k in range(1, 41))
    for row, onset in enumerate(events.onset):
        for k, lag in enumerate(LAGS):
            got = responses.values[row, 2 * k : 2 * k + 2]
            np.testing.assert_allclose(got, mean_at(samples, onset, lag)[:2], rtol=1e-5, atol=1e-3)


def test_every_subject_has_its_own_onsets_and_may_lack_runs_and_channels(lab):
    events, later, other = words(), words(), words(seed=1)
    later["onset"] += 2.5
    samples = [microvolts(later, seed) for seed in range(3)]
    run(lab, "sub-01", "task-alice_run-01", events, samples[0])
    run(lab, "sub-02", "task-alice_run-01", later, samples[1])
    folder = run(lab, "sub-02", "task-alice_run-02", other, samples[2])
    bad = TYPES.assign(status=["good", "bad", "good"])
    bad.to_csv(folder / "sub-02_task-alice_run-01_channels.tsv", sep="\t", index=False)
    dataset = datasets.load(f"local:{lab}", ".")
    responses = dataset.responses
    assert set(responses.row_blocks) == {"task-alice_run-01", "task-alice_run-02"}
    column = {name: k for k, name in enumerate(responses.neuroid_ids)}
    second = responses.values[:, column["sub-02.Cz@300ms"]]
    assert second[3] == pytest.approx(mean_at(samples[1], later.onset[3], 300)[0], rel=1e-5)
    assert second[43] == pytest.approx(mean_at(samples[2], other.onset[3], 300)[0], rel=1e-5)
    assert np.isnan(responses.values[40:, column["sub-01.Cz@300ms"]]).all()
    assert np.isnan(responses.values[:40, column["sub-02.Pz@300ms"]]).all()
    assert np.isfinite(responses.values[40:, column["sub-02.Pz@300ms"]]).all()
    notes = recording.entry(f"local:{lab}").notes
    assert "sub-01 has 1 of 2 runs." in notes
    assert "sub-02: 1 bad channels have no values." in notes


def test_annotated_bad_time_has_no_values(lab):
    events = words()
    samples = microvolts(events)

    def with_bad_time(path, samples, channels):
        fif(path, samples, channels)
        raw = mne.io.read_raw(path.with_suffix(".fif"), preload=True, verbose="ERROR")
        raw.set_annotations(mne.Annotations([events.onset[5] - 0.1], [1.0], ["BAD_blink"]))
        raw.save(path.with_suffix(".fif"), fmt="double", overwrite=True, verbose="ERROR")

    run(lab, "sub-01", "task-alice", events, samples, with_bad_time)
    responses = datasets.load(f"local:{lab}", ".").responses
    assert "task-alice.6" not in responses.row_ids[:6] or np.isnan(responses.values[5]).any()
    row = responses.row_ids.index("task-alice.20")
    assert np.isfinite(responses.values[row]).all()


def test_slow_drift_is_removed_once(lab):
    """A file that MNE has filtered so already is read as it is."""
    events = words(200)
    samples = microvolts(events)
    drift = 3000 * np.sin(2 * np.pi * np.arange(len(samples)) / RATE / 40)[:, None]  # 0.025 Hz
    run(lab, "sub-01", "task-alice", events, np.round(samples + drift), fif)
    kept = datasets.load(f"local:{lab}", ".").responses.values[:, 4]
    (lab / "dataset.json").write_text(json.dumps({"sensors": {"high_pass_hz": 0.5}}))
    removed = datasets.load(f"local:{lab}", ".").responses.values[:, 4]
    plain = np.array([mean_at(samples, onset, 300)[0] for onset in events.onset])
    middle = slice(20, -20)
    assert np.corrcoef(kept[middle], plain[middle])[0, 1] < 0.3
    assert np.corrcoef(removed[middle], plain[middle])[0, 1] > 0.95
    path = lab / "sub-01" / "eeg" / "sub-01_task-alice_eeg.fif"
    raw = mne.io.read_raw(path, preload=True, verbose="ERROR").filter(0.5, None, verbose="ERROR")
    raw.save(path, fmt="double", overwrite=True, verbose="ERROR")
    np.testing.assert_allclose(datasets.load(f"local:{lab}", ".").responses.values[:, 4], removed, rtol=1e-4, atol=1e-2)


def test_meg_has_magnetometers_and_gradiometers_only(lab):
    def meg(path, samples, channels):
        info = mne.create_info(["MEG0111", "MEG0112", "EEG001", "STI101"], RATE, ["mag", "grad", "eeg", "stim"])
        scaled = np.c_[samples, samples[:, 0]].T * np.array([[1e-15], [1e-13], [1e-6], [1]])
        mne.io.RawArray(scaled, info, verbose="ERROR").save(path.with_suffix(".fif"), fmt="double", verbose="ERROR")

    (lab / "task-alice_channels.tsv").unlink()
    events = words()
    samples = microvolts(events)
    run(lab, "sub-01", "task-alice", events, samples, meg, datatype="meg")
    responses = datasets.load(f"local:{lab}", ".").responses
    assert responses.neuroid_ids[:2] == ("sub-01.MEG0111@100ms", "sub-01.MEG0112@100ms")
    assert len(responses.neuroid_ids) == 12
    assert responses.unit == "fT or fT/cm, mean over 100 ms"
    np.testing.assert_allclose(responses.values[3, :2], mean_at(samples, events.onset[3], 100)[:2], rtol=1e-4)


def test_preprocessed_files_are_chosen_by_derivatives_and_proc(lab):
    events = words()
    run(lab, "sub-01", "task-alice", events, microvolts(events))
    derived = lab / "derivatives" / "mne-bids-pipeline" / "sub-01" / "eeg"
    derived.mkdir(parents=True)
    samples = microvolts(events, seed=5)
    for proc, values in (("filt", samples * 0), ("clean", samples)):
        fif(derived / f"sub-01_task-alice_proc-{proc}_raw", values)
    assert any("derivatives/mne-bids-pipeline is ignored" in note for note in recording.entry(f"local:{lab}").notes)
    settings = {"derivatives": "derivatives/mne-bids-pipeline", "high_pass_hz": 0}
    (lab / "dataset.json").write_text(json.dumps({"sensors": settings}))
    with pytest.raises(ValueError, match=r'has 2 files of task-alice: .*choose by "proc" of "sensors"'):
        recording.entry(f"local:{lab}")
    (lab / "dataset.json").write_text(json.dumps({"sensors": settings | {"proc": "clean"}}))
    responses = datasets.load(f"local:{lab}", ".").responses
    np.testing.assert_allclose(responses.values[3, :2], mean_at(samples, events.onset[3], 100)[:2], rtol=1e-5)


def other_words(root):
    run(root, "sub-02", "task-alice", words(seed=3), microvolts(words(seed=3)))


def in_milliseconds(root):
    events = words()
    events["onset"] *= 1000
    events.to_csv(root / "sub-01" / "eeg" / "sub-01_task-alice_events.tsv", sep="\t", index=False)


def without_samples(root):
    (root / "sub-01" / "eeg" / "sub-01_task-alice_eeg.eeg").unlink()


def all_bad(root):
    TYPES.assign(status="bad").to_csv(root / "task-alice_channels.tsv", sep="\t", index=False)


def short_windows(root):
    (root / "dataset.json").write_text(json.dumps({"epochs": {"lags_ms": [100], "window_ms": 5}}))


def band_upside_down(root):
    (root / "dataset.json").write_text(json.dumps({"sensors": {"high_pass_hz": 40, "low_pass_hz": 1}}))


@pytest.mark.parametrize(("damage", "message"), [
    (other_words, "sub-02 and others have different words in task-alice .*word 1 is"),
    (in_milliseconds, "begin after the last sample.*milliseconds"),
    (without_samples, r"sub-01_task-alice_eeg\.vhdr cannot be read by MNE"),
    (all_bad, "has no good channel of eeg: 2 are bad"),
    (short_windows, "a window of 5 ms is shorter than the 10 ms between samples of sub-01_task-alice_eeg.vhdr"),
    (band_upside_down, "high_pass_hz is 40 and low_pass_hz 1"),
])  # fmt: skip
def test_an_error_names_the_file_and_the_fault(damage, message, lab):
    events = words()
    run(lab, "sub-01", "task-alice", events, microvolts(events))
    damage(lab)
    with pytest.raises(ValueError, match=message):
        recording.entry(f"local:{lab}")


def test_a_planted_response_is_found_at_its_lag(lab):
    """Longer words have a larger response at 400 ms, in one channel."""
    for label, seed in (("task-alice_run-01", 0), ("task-alice_run-02", 1), ("task-alice_run-03", 2)):
        events = words(120, seed)
        samples = microvolts(events, seed).astype(float) / 10
        for onset, word in zip(events.onset, events.word, strict=True):
            first = round((onset + 0.35) * RATE)
            samples[first : first + 10, 0] += 60 * len(word)
        run(lab, "sub-01", label, events, np.round(samples))
    folder = tiny.build("gpt2", lab.parent / "tiny", [" ".join(WORDS)] * 20, 0)
    results = evaluate(folder, lab, "strict", controls=("length",), variants=(), progress=False)
    scores = results.model_scores[lambda frame: frame.model == "length"].set_index("target").r
    assert scores["400 ms"] > 0.5
    assert scores[["100 ms", "200 ms", "600 ms"]].abs().max() < 0.3
