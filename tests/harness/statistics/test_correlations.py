"""Correlations against SciPy, and partial correlations against the textbook formula."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.statistics import correlations, scores
from harness.statistics.correlations import LOG_SIZE
from harness.storage import tables

SIZES = {"a": 1e6, "b": 1e7, "c": 1e8, "d": 1e9, "e": 1e10}
SCORES = {"a": 0.11, "b": 0.19, "c": 0.18, "d": 0.31, "e": 0.33}


def make_scores(r=SCORES, sizes=SIZES, bases=None, **properties):
    """Scores on one data set; r: model -> score; properties: name -> {model: value}."""
    names = list(r)
    models = pd.DataFrame({"family": "x", "base": [(bases or {}).get(name, "") for name in names], "pair_source": "",
                           "is_main": True}, index=pd.Index(names, name="model"))  # fmt: skip
    for name, values in {"n_parameters": sizes, **properties}.items():
        models[name] = pd.Series(values, dtype=float).reindex(models.index)
    rows = pd.DataFrame({"model": names, "dataset": "synthetic", "protocol": "strict", "target": "all",
                         "metric": "pearson_r", "score": list(r.values())})  # fmt: skip
    return scores.of_frames("a test", rows, models)


def row_where(table, **conditions):
    """The one row that meets the conditions."""
    defaults = {"population": "all", "unit": "model", "covariate": "", "property": LOG_SIZE}
    for name, value in (defaults | conditions).items():
        table = table[table[name] == value]
    (row,) = table.to_dict("records")
    return row


def test_the_correlation_with_size_equals_scipy_and_has_fishers_interval():
    table = correlations.correlations(make_scores())
    row = row_where(table)
    expected = stats.pearsonr(np.log10(list(SIZES.values())), list(SCORES.values()))
    assert (row["r"], row["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert (row["r_low"], row["r_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert row["n"] == 5
    assert set(table) | {"run"} == set(tables.SCHEMAS["correlations"])


def test_a_partial_correlation_equals_the_textbook_formula():
    draw = np.random.default_rng(0)
    x, z = draw.normal(size=(2, 30))
    y = 0.5 * x + z + draw.normal(size=30)
    result = correlations.correlate(x, y, z[:, None])
    rxy, rxz, ryz = (np.corrcoef(first, second)[0, 1] for first, second in ((x, y), (x, z), (y, z)))
    r = (rxy - rxz * ryz) / math.sqrt((1 - rxz**2) * (1 - ryz**2))
    p = 2 * stats.t.sf(abs(r) * math.sqrt(27 / (1 - r**2)), 27)
    half = 1.959963984540054 / math.sqrt(30 - 4)
    ends = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    assert (result["r"], result["p"]) == pytest.approx((r, p))
    assert (result["r_low"], result["r_high"]) == pytest.approx(ends)


def test_size_and_knowledge_are_held_constant_for_each_other():
    mmlu = dict(zip("abcde", (0.2, 0.35, 0.3, 0.5, 0.45), strict=True))
    stem = dict(zip("abcde", (0.1, 0.3, 0.2, 0.4, 0.6), strict=True))
    table = correlations.correlations(make_scores(mmlu=mmlu, **{"mmlu STEM": stem}))
    assert row_where(table, property="mmlu", covariate=LOG_SIZE)["n"] == 5
    assert row_where(table, covariate="mmlu")["n"] == 5
    assert row_where(table, property="mmlu STEM", covariate=LOG_SIZE)["n"] == 5
    assert "mmlu STEM" not in set(table["covariate"])  # only whole benchmarks are held constant, not their categories


def test_models_that_share_a_base_are_averaged_to_one_point():
    r = {f"{name}{k}": value + k / 100 for name, value in SCORES.items() for k in range(3)}
    sizes = {name: SIZES[name[0]] for name in r}
    bases = {name: f"{name[0]}0" for name in r if not name.endswith("0")}
    table = correlations.correlations(make_scores(r, sizes, bases))
    expected = stats.pearsonr(np.log10(list(SIZES.values())), [value + 0.01 for value in SCORES.values()])
    row = row_where(table, unit="base")
    assert (row["n"], row["r"], row["p"]) == (5, pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert row_where(table)["n"] == 15
    assert row_where(table, population="tuned")["n"] == 10


def test_families_are_fixed_effects():
    """Within each family the score falls with size; across families it rises."""
    sizes = {"a": 1e6, "b": 1e7, "c": 1e8, "d": 1e9, "e": 1e10, "f": 1e11}
    r = {"a": 0.12, "b": 0.115, "c": 0.1, "d": 0.32, "e": 0.315, "f": 0.3}
    data = make_scores(r, sizes)
    data.models["family"] = ["x"] * 3 + ["y"] * 3
    table = correlations.correlations(data)
    assert row_where(table)["r"] > 0.8
    assert row_where(table, covariate="family")["r"] < -0.9


def test_p_values_are_adjusted_by_benjamini_and_hochberg_within_a_protocol():
    mmlu = dict(zip("abcde", (0.4, 0.35, 0.5, 0.3, 0.45), strict=True))
    table = correlations.correlations(make_scores(mmlu=mmlu))
    plain = table[(table["population"] == "all") & (table["unit"] == "model") & (table["covariate"] == "")]
    assert plain["n_tests"].tolist() == [2, 2]
    assert plain["p_adjusted"].tolist() == pytest.approx(list(stats.false_discovery_control(plain["p"])))


def test_a_model_without_score_or_size_is_left_out_and_three_models_are_too_few():
    assert row_where(correlations.correlations(make_scores(SCORES | {"z": 0.9})))["n"] == 5
    assert row_where(correlations.correlations(make_scores(SCORES | {"e": math.nan})))["n"] == 4
    assert correlations.correlations(make_scores({name: SCORES[name] for name in "abc"})).empty


def test_a_constant_or_fully_explained_property_has_no_correlation():
    equal_sizes = dict.fromkeys(SIZES, 1e6)
    row = row_where(correlations.correlations(make_scores(sizes=equal_sizes)))
    assert all(math.isnan(row[name]) for name in ("r", "r_low", "r_high", "p", "p_adjusted"))
    result = correlations.correlate(np.arange(8.0), np.arange(8.0) ** 2, np.arange(8.0)[:, None] * 2)
    assert math.isnan(result["r"])  # the covariate explains the property completely
