"""Scores per fold, of neuroids and of subjects, at the layer that the fold chose."""

import numpy as np
import pandas as pd
import pytest

from harness.protocol import WIDE_RIDGE, FoldRule, Protocol
from harness.records import Ceiling, Layer, LayerFit, Responses
from harness.scoring.fold_rows import FoldRows
from harness.scoring.permutation import NeuroidTest
from harness.scoring.rows import BrainRows

PROTOCOL = Protocol("strict", "none", FoldRule("grouped", n=2), WIDE_RIDGE, "nested", aggregate="by subject")
NAMES, SUBJECTS = ("v0", "v1", "v2", "v3"), ("a", "a", "b", "group")


def _rows(choice="nested"):
    """Two experiments with two folds each; b was measured in the second only; layers differ in r by 0.1."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(16, 4)).astype(np.float32)
    values[:8, 2] = np.nan
    ids, groups = tuple(f"r{i}" for i in range(16)), tuple(f"g{i // 4}" for i in range(16))
    parts = ("one",) * 8 + ("two",) * 8
    responses = Responses(values, ids, groups, groups, NAMES, SUBJECTS, ("",) * 4, "z", row_parts=parts)
    r = rng.uniform(0, 0.3, (4, 4))
    r[:2, 2] = np.nan
    inner = np.tile(np.array([0.1, 0.3, 0.1, 0.1])[:, None], 4)
    inner_of_group = inner.copy()
    inner_of_group[:, 3] = [0.3, 0.3, 0.3, 0.1]
    fits = {
        Layer("decoder", k): LayerFit(
            r + 0.1 * k, np.ones((4, 4)), np.full((4, 4), 0.2) if k == 1 else inner_of_group, 0.0, 0.0,
            np.ones(4, int), 3, 16, 0.5, ("one", "one", "two", "two"),
        )
        for k in (1, 2)
    }  # fmt: skip
    protocol = Protocol("strict", "none", PROTOCOL.folds, WIDE_RIDGE, choice, aggregate="by subject")
    return FoldRows({"model": "m"}, responses, fits, protocol), r


def test_each_fold_uses_the_layer_that_it_chose_for_the_neuroids_target():
    rows, r = _rows()
    assert rows.chosen_layers.tolist() == [[0, 0, 0, 1], [1, 1, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]]
    assert rows.most_frequent_layer.tolist() == [0, 0, 0, 1]
    frame = pd.concat([pd.DataFrame(columns) for columns in rows.of_neuroids()])
    assert len(frame) == 14  # without the cells of b in the first experiment
    row = frame[(frame["fold"] == 1) & (frame["neuroid_id"] == "v1")].iloc[0]
    assert (row["layer"], row["part"], row["target"], row["r"]) == (2, "one", "all", pytest.approx(r[1, 1] + 0.2))
    row = frame[(frame["fold"] == 2) & (frame["neuroid_id"] == "v3")].iloc[0]
    assert (row["layer"], row["part"], row["target"], row["r"]) == (2, "two", "group", pytest.approx(r[2, 3] + 0.2))


def test_a_subjects_score_is_the_median_over_its_neuroids():
    rows, r = _rows()
    frame = pd.DataFrame(rows.of_subjects()).set_index(["target", "subject", "fold"])
    assert frame.loc[("all", "a", 0), "score"] == pytest.approx(np.median(r[0, :2] + 0.1))
    assert frame.loc[("all", "a", 0), "n_averaged"] == 2
    assert frame.loc[("group", "group", 3), "score"] == pytest.approx(r[3, 3] + 0.1)
    assert sorted(frame.loc[("all", "b")].index) == [2, 3]
    assert set(frame["held_out"]) == {"g0", "g1", "g2", "g3"}


@pytest.mark.parametrize("choice", ["nested", "max"])
def test_the_mean_over_subjects_and_folds_is_the_score_of_the_model(choice):
    rows, _ = _rows(choice)
    frame = pd.DataFrame(rows.of_subjects())
    own = frame[frame["target"] == "all"]
    by_part = own.groupby(["part", "fold"])["score"].mean().groupby("part").mean()
    ceiling = Ceiling(("one", "two"), np.full((2, 4), np.nan), ("",) * 4)
    brain = BrainRows({}, rows.responses, rows.fits, ceiling, rows.protocol, 0)
    assert by_part.mean() == pytest.approx(brain.chosen("all").r)


def test_tests_stand_at_the_chosen_layer_of_each_neuroid():
    rows, _ = _rows()
    tests = NeuroidTest(np.arange(4) / 10, np.full(4, 0.01), np.arange(4) / 5)
    ceiling = Ceiling(("one", "two"), np.full((2, 4), np.nan), ("",) * 4)
    brain = BrainRows({}, rows.responses, rows.fits, ceiling, rows.protocol, 0, tests=tests)
    first, second = brain.neuroids()
    assert (first["layer"], first["chosen"].tolist()) == (1, [True, True, True, False])
    assert (second["layer"], second["chosen"].tolist()) == (2, [False, False, False, True])
    assert first["p"] == pytest.approx([0, 0.1, 0.2, np.nan], nan_ok=True)
    assert second["q"] == pytest.approx([np.nan, np.nan, np.nan, 0.6], nan_ok=True)
