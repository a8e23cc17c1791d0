"""Pairs and correlations, against arithmetic done by hand and against SciPy."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness import statistics, tables

NAN = math.nan
SIZES = {"a": 1e6, "b": 1e7, "c": 1e8, "d": 1e9, "e": 1e10}
SCORES = {"a": 0.11, "b": 0.19, "c": 0.18, "d": 0.31, "e": 0.33}


def brain(scores, dataset="synthetic", protocol="strict", target="all"):
    columns = {"dataset": dataset, "protocol": protocol, "target": target, "metric": "pearson_r"}
    kinds = {name: "untrained" if ":" in name else "control" if name == "oasm" else "model" for name in scores}
    return pd.DataFrame([{"model": name, "kind": kinds[name], "r": r, **columns} for name, r in scores.items()])


def reading(scores, dataset="futrell2018-2021"):
    return brain(scores, dataset).drop(columns="target").assign(predictor="surprisal")


def properties(tuned_from=None, sizes=None):
    """Each model, and its untrained twin, which is of the same size and from the same base."""
    pairs = tuned_from or {}
    return pd.DataFrame([
        {"model": name + twin, "kind": "untrained" if twin else "model", "tuned_from": pairs.get(name, ""),
         "n_parameters": size, "pair_source": "paper/models.csv" if name in pairs else ""}
        for name, size in (sizes or SIZES).items() for twin in ("", ":untrained")
    ])  # fmt: skip


NOTHING = tables.schema("reading_scores").empty_table().to_pandas()


def test_a_tuned_model_stands_beside_its_base_on_every_target():
    rows = statistics.comparisons(
        pd.concat([brain({"a": 0.2, "b": 0.25}), brain({"a": 0.1, "b": 0.08}, target="IFG")]),
        reading({"a": 0.3, "b": 0.36}), properties({"b": "a"}), "run-1",
    )  # fmt: skip
    gains = {(row["dataset"], row["target"]): row["gain_percent"] for row in rows}
    expected = {("synthetic", "all"): 25, ("synthetic", "IFG"): -20, ("futrell2018-2021", "reading"): 20}
    assert gains == pytest.approx(expected)
    row = rows[0]
    assert (row["base"], row["tuned"], row["pair_source"]) == ("a", "b", "paper/models.csv")
    assert (row["metric"], row["base_score"], row["tuned_score"]) == ("pearson_r", 0.2, 0.25)
    assert row["difference"] == pytest.approx(0.05)
    assert tables.rows_to_arrow("comparisons", rows).num_rows == 3


@pytest.mark.parametrize("base", [0.0, NAN])
def test_a_gain_over_nothing_is_not_measurable(base):
    (row,) = statistics.comparisons(
        brain({"a": base, "b": 0.2, "b:untrained": 0.1}), NOTHING, properties({"b": "a"}), "run-1"
    )
    assert math.isnan(row["gain_percent"])


def test_protocols_are_never_compared_with_each_other():
    scores = pd.concat([brain({"a": 0.2}, protocol="strict"), brain({"b": 0.3}, protocol="paper")])
    assert statistics.comparisons(scores, NOTHING, properties({"b": "a"}), "run-1") == []


def test_a_pair_whose_base_did_not_run_has_no_row():
    assert statistics.comparisons(brain({"b": 0.2}), NOTHING, properties({"b": "z"}), "run-1") == []


def test_a_model_that_stands_twice_is_an_error_that_names_it():
    with pytest.raises(ValueError, match="a synthetic strict all"):
        statistics.comparisons(pd.concat([brain({"a": 0.2}), brain({"a": 0.3})]), NOTHING, properties(), "run-1")


def test_the_correlation_with_size_is_that_of_scipy_with_the_interval_of_fisher():
    others = {"oasm": 0.9, "a:untrained": 0.8}
    (row,) = statistics.correlations(brain(SCORES | others), NOTHING, properties(), "run-1")
    expected = stats.pearsonr(np.log10(list(SIZES.values())), list(SCORES.values()))
    assert (row["r"], row["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    half = 1.959964 / math.sqrt(len(SIZES) - 3)
    z = math.atanh(expected.statistic)
    assert (row["r_low"], row["r_high"]) == pytest.approx((math.tanh(z - half), math.tanh(z + half)), rel=1e-5)
    assert (row["n_models"], row["property"], row["target"]) == (5, "log10 n_parameters", "all")
    assert tables.rows_to_arrow("correlations", [row]).num_rows == 1


def test_p_values_are_adjusted_over_the_whole_run_by_benjamini_and_hochberg():
    noise = {"a": 0.2, "b": 0.1, "c": 0.3, "d": 0.1, "e": 0.25}
    scores = pd.concat([brain(SCORES), brain(noise, dataset="tuckute2024"), brain(noise, target="IFG")])
    rows = statistics.correlations(scores, reading(SCORES), properties(), "run-1")
    assert len(rows) == 3  # a roi is no row
    expected = stats.false_discovery_control([row["p"] for row in rows])
    assert [row["p_adjusted"] for row in rows] == pytest.approx(list(expected))
    assert max(row["p_adjusted"] / row["p"] for row in rows) > 1.4


def test_three_models_are_too_few():
    three = {name: SCORES[name] for name in "abc"}
    assert statistics.correlations(brain(three), reading(three), properties(), "run-1") == []


def test_a_model_without_score_or_size_is_left_out_and_not_counted():
    sizes = SIZES | {"e": NAN}
    (row,) = statistics.correlations(brain(SCORES | {"z": 0.9}), NOTHING, properties(sizes=sizes), "run-1")
    assert row["n_models"] == 4
    assert statistics.correlations(brain(SCORES | {"d": NAN}), NOTHING, properties(sizes=sizes), "run-1") == []


def test_models_of_one_size_have_no_correlation():
    (row,) = statistics.correlations(brain(SCORES), NOTHING, properties(sizes=dict.fromkeys(SIZES, 1e6)), "run-1")
    assert all(math.isnan(row[name]) for name in ("r", "r_low", "r_high", "p", "p_adjusted"))
    assert row["n_models"] == 5
