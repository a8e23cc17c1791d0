"""local:FOLDER with samples of EEG that are cut into epochs of words; checked against loops over samples."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from harness import datasets, evaluate
from harness.models import tiny

RATE, CHANNELS = 100, ("Cz", "Pz", "Oz")
LAGS = (100, 200, 300, 400, 500)
SETTINGS = {"lags_ms": list(LAGS), "window_ms": 60, "baseline_ms": [-150, 0]}
WORDS = ("tea", "milk", "rain", "sun", "dog", "cat", "tree", "boy", "snow", "fire", "road", "bird")


def words(n, stories, seed=0):
    """Words of irregular onsets, each story on its own clock."""
    rng = np.random.default_rng(seed)
    of_stories = []
    for story in stories:
        onsets = np.cumsum(rng.uniform(0.3, 0.6, n)).round(3)
        ids = [f"{story}.{k}" for k in range(n)]
        # As in running text, half of the different words occur once.
        texts = [str(rng.choice(WORDS)) if rng.random() < 0.6 else f"{story}word{k}" for k in range(n)]
        table = {"stimulus_id": ids, "text": texts, "onset_s": onsets, "end_s": onsets + 0.2}
        of_stories.append(pd.DataFrame(table).assign(passage=story))
    return pd.concat(of_stories, ignore_index=True)


def write(folder, stimuli, signals, settings=SETTINGS):
    """`signals`: subject -> story -> (sample, channel)."""
    folder.mkdir()
    lengths = {story: len(signal) for story, signal in next(iter(signals.values())).items()}
    scans = [
        pd.DataFrame({"scan_id": [f"{story}.{k}" for k in range(n)], "time_s": np.arange(n) / RATE, "block": story})
        for story, n in lengths.items()
    ]
    pd.concat(scans).to_csv(folder / "scans.csv", index=False)
    stimuli.to_csv(folder / "stimuli.csv", index=False)
    for subject, of_story in signals.items():
        np.savez(folder / f"responses_{subject}.npz", data=np.concatenate(list(of_story.values())), neuroid_id=CHANNELS)
    (folder / "dataset.json").write_text(json.dumps({"epochs": settings} if settings else {}))
    return folder


def noise(stimuli, seed=0):
    rng = np.random.default_rng(seed)
    lengths = stimuli.groupby("passage", sort=False).end_s.max()
    return {
        story: rng.standard_normal((int(end * RATE) + 60, len(CHANNELS))).astype(np.float32) + 5
        for story, end in lengths.items()
    }


def test_a_value_is_the_mean_over_its_window_minus_the_baseline(tmp_path):
    stimuli = words(30, ("a", "b"))
    signals = {subject: noise(stimuli, seed) for seed, subject in enumerate(("sub-1", "sub-2"))}
    signals["sub-1"]["a"][500:540, 1] = np.nan  # rejected
    signals["sub-1"]["b"][700:, :] = np.nan
    signals["sub-2"]["a"][:, 2] = np.nan  # a channel that is absent in one story
    responses = datasets.load(f"local:{write(tmp_path / 'lab', stimuli, signals)}", ".").responses
    assert responses.times_s is None
    assert responses.row_blocks == responses.row_groups == tuple(stimuli.passage)
    assert responses.row_ids == tuple(stimuli.stimulus_id)
    assert set(responses.rois) == {f"{lag} ms" for lag in LAGS}
    for subject, of_story in signals.items():
        for row, word in enumerate(stimuli.itertuples()):
            signal = of_story[word.passage].astype(float)
            times = np.arange(len(signal)) / RATE - word.onset_s
            for channel, name in enumerate(CHANNELS):
                rest = [
                    v for v, t in zip(signal[:, channel], times, strict=True) if -0.15 - 1e-9 <= t < -1e-9 and v == v
                ]
                for lag in LAGS:
                    inside = [
                        v for v, t in zip(signal[:, channel], times, strict=True)
                        if lag / 1000 - 0.03 - 1e-9 <= t < lag / 1000 + 0.03 - 1e-9 and v == v
                    ]  # fmt: skip
                    expected = np.mean(inside) - np.mean(rest) if inside and rest else np.nan
                    column = responses.neuroid_ids.index(f"{subject}.{name}@{lag}ms")
                    np.testing.assert_allclose(responses.values[row, column], expected, atol=1e-5)
    assert np.isnan(responses.values).any()


def test_a_planted_response_is_found_at_its_lag_only(tmp_path):
    stimuli = words(120, "abcd")
    rng = np.random.default_rng(1)
    features = rng.standard_normal((len(stimuli), 4))
    weights = rng.standard_normal((4, len(CHANNELS)))
    signals = {subject: noise(stimuli, seed) for seed, subject in enumerate(("sub-1", "sub-2"))}
    for word, vector in zip(stimuli.itertuples(), features, strict=True):
        peak = round((word.onset_s + 0.4) * RATE)
        for of_story in signals.values():
            of_story[word.passage][peak - 3 : peak + 3] += vector @ weights
    folder = write(tmp_path / "lab", stimuli, signals, {**SETTINGS, "baseline_ms": [-60, 0]})
    tiny.build("llama", tmp_path / "model", [" ".join(WORDS)] * 20, 7)
    results = evaluate(
        tmp_path / "model", folder, "strict", controls={"planted": features}, variants=(), progress=False
    )
    scores = results.model_scores[lambda frame: frame.model == "planted"].set_index("target").r
    assert scores["400 ms"] > 0.6
    assert scores[[f"{lag} ms" for lag in (100, 200, 500)]].abs().max() < 0.25


def test_the_gap_of_one_story_is_longer_than_an_epoch(tmp_path):
    stimuli = words(60, "a")
    folder = write(tmp_path / "lab", stimuli, {"sub-1": noise(stimuli)})
    strict = datasets.protocols(f"local:{folder}")["strict"]
    assert (strict.folds.kind, strict.folds.gap) == ("contiguous", 5)
    long = {"lags_ms": [300, 4000], "window_ms": 100}  # 3.8 s, and words are 0.3 to 0.6 s apart
    (folder / "dataset.json").write_text(json.dumps({"epochs": long}))
    assert 7 <= datasets.protocols(f"local:{folder}")["strict"].folds.gap <= 12


@pytest.mark.parametrize(("settings", "message"), [
    ({"lags_ms": []}, "lags_ms is \\[\\]"),
    ({"lags_ms": [100, 100]}, "wanted different times"),
    ({"lags_ms": ["100"]}, "wanted different times"),
    ({"lags_ms": [100], "window_ms": 0}, "window_ms is 0"),
    ({"lags_ms": [100], "window_ms": 5}, "5 ms is shorter than the 10 ms between samples"),
    ({"lags_ms": [100], "baseline_ms": [0, -100]}, "wanted \\[first, last\\]"),
    ({"lag_ms": [100]}, "lags_ms"),
    ({"lags_ms": [1e6]}, "no word has a sample"),
    ({"lags_ms": [float("nan")]}, "wanted different times"),
])  # fmt: skip
def test_settings_that_cannot_be_meant_are_refused(tmp_path, settings, message):
    stimuli = words(30, "ab")
    folder = write(tmp_path / "lab", stimuli, {"sub-1": noise(stimuli)}, settings)
    with pytest.raises(ValueError, match=message):
        datasets.load(f"local:{folder}", ".")


def test_epochs_need_samples_with_times(tmp_path):
    stimuli = words(30, "ab")
    folder = write(tmp_path / "lab", stimuli, {"sub-1": noise(stimuli)})
    (folder / "scans.csv").unlink()
    with pytest.raises(ValueError, match='"epochs" needs a table scans'):
        datasets.load(f"local:{folder}", ".")
