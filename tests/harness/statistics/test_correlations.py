"""Correlations against SciPy, and partial ones against the textbook's formula."""

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


def of(r=SCORES, sizes=SIZES, bases=None, **properties):
    """Scores on one data set; properties: name -> {model: value}."""
    names = list(r)
    models = pd.DataFrame({"family": "x", "base": [(bases or {}).get(name, "") for name in names], "pair_source": "",
                           "is_main": True}, index=pd.Index(names, name="model"))  # fmt: skip
    for name, values in {"n_parameters": sizes, **properties}.items():
        models[name] = pd.Series(values, dtype=float).reindex(models.index)
    rows = pd.DataFrame({"model": names, "dataset": "synthetic", "protocol": "strict", "target": "all",
                         "metric": "pearson_r", "score": list(r.values())})  # fmt: skip
    return scores.of_frames("a test", rows, models)


def one(found, **wanted):
    for name, value in ({"population": "all", "unit": "model", "given": "", "property": LOG_SIZE} | wanted).items():
        found = found[found[name] == value]
    (row,) = found.to_dict("records")
    return row


def test_the_correlation_with_size_is_that_of_scipy_with_the_interval_of_fisher():
    found = correlations.correlations(of())
    row = one(found)
    expected = stats.pearsonr(np.log10(list(SIZES.values())), list(SCORES.values()))
    assert (row["r"], row["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert (row["r_low"], row["r_high"]) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert row["n"] == 5
    assert set(found) | {"run"} == set(tables.SCHEMAS["correlations"])


def test_a_partial_correlation_is_the_textbooks():
    draw = np.random.default_rng(0)
    x, z = draw.normal(size=(2, 30))
    y = 0.5 * x + z + draw.normal(size=30)
    found = correlations.correlate(x, y, z[:, None])
    rxy, rxz, ryz = (np.corrcoef(one, other)[0, 1] for one, other in ((x, y), (x, z), (y, z)))
    r = (rxy - rxz * ryz) / math.sqrt((1 - rxz**2) * (1 - ryz**2))
    p = 2 * stats.t.sf(abs(r) * math.sqrt(27 / (1 - r**2)), 27)
    half = 1.959963984540054 / math.sqrt(30 - 4)
    ends = math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
    assert (found["r"], found["p"]) == pytest.approx((r, p))
    assert (found["r_low"], found["r_high"]) == pytest.approx(ends)


def test_size_and_knowledge_are_held_constant_for_each_other():
    known = dict(zip("abcde", (0.2, 0.35, 0.3, 0.5, 0.45), strict=True))
    stem = dict(zip("abcde", (0.1, 0.3, 0.2, 0.4, 0.6), strict=True))
    found = correlations.correlations(of(mmlu=known, **{"mmlu STEM": stem}))
    assert one(found, property="mmlu", given=LOG_SIZE)["n"] == 5
    assert one(found, given="mmlu")["n"] == 5
    assert one(found, property="mmlu STEM", given=LOG_SIZE)["n"] == 5
    assert "mmlu STEM" not in set(found["given"])  # of a benchmark the whole is held constant, not its parts


def test_the_mean_over_the_models_of_a_base_is_one_point():
    r = {f"{name}{k}": value + k / 100 for name, value in SCORES.items() for k in range(3)}
    sizes = {name: SIZES[name[0]] for name in r}
    bases = {name: f"{name[0]}0" for name in r if not name.endswith("0")}
    found = correlations.correlations(of(r, sizes, bases))
    expected = stats.pearsonr(np.log10(list(SIZES.values())), [value + 0.01 for value in SCORES.values()])
    row = one(found, unit="base")
    assert (row["n"], row["r"], row["p"]) == (5, pytest.approx(expected.statistic), pytest.approx(expected.pvalue))
    assert one(found)["n"] == 15
    assert one(found, population="tuned")["n"] == 10


def test_families_are_fixed_effects():
    """Within each family score falls with size, across them it rises."""
    sizes = {"a": 1e6, "b": 1e7, "c": 1e8, "d": 1e9, "e": 1e10, "f": 1e11}
    r = {"a": 0.12, "b": 0.115, "c": 0.1, "d": 0.32, "e": 0.315, "f": 0.3}
    found = of(r, sizes)
    found.models["family"] = ["x"] * 3 + ["y"] * 3
    table = correlations.correlations(found)
    assert one(table)["r"] > 0.8
    assert one(table, given="family")["r"] < -0.9


def test_p_values_are_adjusted_by_benjamini_and_hochberg_within_a_protocol():
    known = dict(zip("abcde", (0.4, 0.35, 0.5, 0.3, 0.45), strict=True))
    found = correlations.correlations(of(mmlu=known))
    plain = found[(found["population"] == "all") & (found["unit"] == "model") & (found["given"] == "")]
    assert plain["n_tests"].tolist() == [2, 2]
    assert plain["p_adjusted"].tolist() == pytest.approx(list(stats.false_discovery_control(plain["p"])))


def test_a_model_without_score_or_size_is_left_out_and_three_are_too_few():
    assert one(correlations.correlations(of(SCORES | {"z": 0.9})))["n"] == 5
    assert one(correlations.correlations(of(SCORES | {"e": math.nan})))["n"] == 4
    assert correlations.correlations(of({name: SCORES[name] for name in "abc"})).empty


def test_what_does_not_vary_has_no_correlation():
    same = dict.fromkeys(SIZES, 1e6)
    row = one(correlations.correlations(of(sizes=same)))
    assert all(math.isnan(row[name]) for name in ("r", "r_low", "r_high", "p", "p_adjusted"))
    twice = correlations.correlate(np.arange(8.0), np.arange(8.0) ** 2, np.arange(8.0)[:, None] * 2)
    assert math.isnan(twice["r"])  # nothing is left of the property
