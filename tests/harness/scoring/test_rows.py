"""Rows of the score tables: sizes and missing responses of each target."""

from __future__ import annotations

import numpy as np

from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Ceiling, Features, Layer, Responses
from harness.scoring.brain_scores import score_layers
from harness.scoring.rows import BrainRows

PROTOCOL = Protocol(
    "strict", "none", FoldRule("kfold", n=2), Regression("ridge", (10.0,)), "nested", aggregate="by subject"
)


def two_experiments() -> Responses:
    """Six rows of experiment "one" and eight of "two"; v2 is in "two" only, and three responses are missing."""
    values = np.random.default_rng(0).standard_normal((14, 3)).astype(np.float32)
    values[:6, 2] = np.nan
    values[1, 0] = values[7, 1] = values[8, 2] = np.nan
    names, parts = tuple(f"row {k}" for k in range(14)), ("one",) * 6 + ("two",) * 8
    subjects, rois = ("a", "b", "b"), ("front", "back", "back")
    return Responses(values, names, names, names, ("v0", "v1", "v2"), subjects, rois, "z", row_parts=parts)


def rows_of(responses: Responses) -> BrainRows:
    features = np.random.default_rng(1).standard_normal((len(responses.row_ids), 2))
    fits = score_layers(Features({Layer("decoder", 1): features}, responses.row_ids), responses, PROTOCOL)
    parts = responses.parts
    unknown = np.full((len(parts), len(responses.neuroid_ids)), np.nan)
    return BrainRows({}, responses, fits, Ceiling(parts, unknown, ("",) * unknown.shape[1]), PROTOCOL, 0)


def test_sizes_and_missing_responses_are_those_of_the_target():
    rows = rows_of(two_experiments())
    for table in (rows.layers(), rows.models()):
        sizes = {row["target"]: (row["n_rows"], row["n_missing"], row["n_folds"], row["n_neuroids"]) for row in table}
        assert sizes == {
            "all": (14, 3, 4, 3), "one": (6, 1, 2, 2), "two": (8, 2, 2, 3), "front": (13, 1, 4, 1),
            "back": (14, 2, 4, 2),
        }  # fmt: skip


def test_each_neuroid_has_its_own_rows_and_missing_responses():
    (columns,) = rows_of(two_experiments()).neuroids()
    assert columns["n_rows"].tolist() == [13, 13, 7]
    assert columns["n_missing"].tolist() == [1, 1, 1]
