"""Sentences on unique variance."""

from __future__ import annotations

import math

import pytest

from harness.report.findings import _beyond_controls

EXPLAINS = {"unique_r2": 0.12, "unique_low": 0.03, "unique_high": 0.2, "controls_r2": 0.05, "joint_r2": 0.17}


def test_a_model_explains_variance_where_its_interval_lies_above_0_and_the_joint_fit_reaches_it():
    assert _beyond_controls(EXPLAINS) == (
        " Beyond the controls it explains R² = 0.120 (0.030 to 0.200); R² of model and controls is 0.170, of the "
        "controls alone 0.050."
    )


@pytest.mark.parametrize("change", [
    {"unique_low": -0.01}, {"unique_low": 0.0}, {"joint_r2": 0.088}, {"joint_r2": -0.02}, {"joint_r2": math.nan},
    {"unique_low": math.nan, "unique_high": math.nan},
])  # fmt: skip
def test_nothing_is_explained_otherwise(change):
    sentence = _beyond_controls(EXPLAINS | change)
    assert "explain" not in sentence
    assert sentence.startswith(" No variance beyond the controls is shown: unique R² = 0.120")


def test_there_is_no_sentence_where_unique_variance_was_not_computed():
    assert _beyond_controls(EXPLAINS | {"unique_r2": math.nan}) == ""
