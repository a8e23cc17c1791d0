"""Paired tests against hand calculations, their selection rules, and their false positives."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.statistics import evidence, paired
from harness.storage import tables

RHO = 1 / 9  # correlation of ten disjoint folds without an effect
ONE = ("",) * 10


def fold_scores(scores, kinds=None, rho=RHO, **columns):
    """Rows of the table: source -> (fold, subject) scores."""
    constant = {
        "dataset": "d", "dataset_version": "1", "protocol": "strict", "protocol_hash": "h", "target": "all",
        "metric": "pearson_r", "part": "", "n_averaged": 5, "fold_correlation": rho,
    }  # fmt: skip
    rows = [
        {
            **constant, "model": model, "kind": (kinds or {}).get(model, "model"), "fold": fold,
            "subject": f"s{subject}", "score": score, **columns,
        }
        for model, table in scores.items() for (fold, subject), score in np.ndenumerate(np.asarray(table))
    ]  # fmt: skip
    return pd.DataFrame(rows)


def one_row(table, relation, model="m"):
    (row,) = table[(table["relation"] == relation) & (table["model"] == model)].to_dict("records")
    return row


def noise(seed, shape=(10, 5)):
    return np.random.default_rng(seed).normal(0.1, 0.05, shape)


def test_with_two_subjects_it_is_the_corrected_t_test_over_folds():
    m, u = noise(0, (10, 2)), noise(1, (10, 2))
    row = one_row(
        paired.tests(fold_scores({"m": m, "m:untrained": u}, {"m:untrained": "untrained"}), {}), "untrained control"
    )
    by_fold = (m - u).mean(axis=1)
    se = math.sqrt(by_fold.var(ddof=1) * (1 / 10 + RHO / (1 - RHO)))
    assert row["difference"] == pytest.approx(by_fold.mean())
    assert row["p"] == pytest.approx(2 * stats.t.sf(abs(by_fold.mean()) / se, 9))
    assert row["low"] == pytest.approx(by_fold.mean() - stats.t.ppf(0.975, 9) * se)
    assert (row["other"], row["n_folds"], row["n_subjects"]) == ("m:untrained", 10, 0)
    assert row["method"] == "t over 10 folds, corrected for shared training rows"


def test_differences_between_subjects_widen_the_interval():
    m, u = noise(0), noise(1)
    of_subject = np.array([0.3, -0.3, 0.2, -0.2, 0.0])
    narrow, wide = (paired.compare(m + shift - u, ONE, RHO) for shift in (0.0, of_subject))
    assert wide.difference == pytest.approx(narrow.difference)
    assert (wide.n_subjects, wide.method) == (5, "t over 10 folds and 5 subjects, corrected for shared training rows")
    assert np.diff(wide.interval()) > 2 * np.diff(narrow.interval())
    assert np.diff(wide.interval())[0] / 2 > stats.t.ppf(0.975, 4) * of_subject.std(ddof=1) / math.sqrt(5) * 0.9


@pytest.mark.parametrize("spread", [0.0, 0.2])
def test_p_is_below_0_05_exactly_if_the_interval_excludes_0(spread):
    shift = spread * np.array([1.0, -1.0, 0.5, -0.5, 0.0])
    table = noise(0) + shift - noise(1)
    half = np.diff(paired.compare(table, ONE, RHO).interval())[0] / 2
    for difference, expected in ((half * 0.999, False), (half * 1.001, True)):
        moved = paired.compare(table - table.mean() + difference, ONE, RHO)
        assert (moved.p() < 0.05) == expected == (moved.interval()[0] > 0)
        assert moved.p() == pytest.approx(0.05, rel=0.02)


def test_experiments_are_averaged():
    table = np.concatenate([np.full((4, 3), 0.1), np.full((6, 3), 0.3)]) + noise(0, (10, 3)) * 1e-6
    test = paired.compare(table, ("one",) * 4 + ("two",) * 6, RHO)
    assert test.difference == pytest.approx(0.2, abs=1e-5)
    assert 0 < np.diff(test.interval())[0] < 1e-3


def test_only_folds_and_subjects_of_both_sources_are_compared():
    m, u = noise(0), noise(1)
    u[3], u[:, 2] = np.nan, np.nan
    test = paired.compare(m - u, ONE, RHO)
    kept = np.ix_(np.delete(np.arange(10), 3), [0, 1, 3, 4])
    assert test.difference == pytest.approx((m - u)[kept].mean())
    assert (test.n_folds, test.n_subjects) == (9, 4)


def test_without_two_folds_there_is_no_test():
    table = fold_scores({"m": noise(0, (1, 5)), "b": noise(1, (1, 5))})
    row = one_row(paired.tests(table, {"m": "b"}), "base")
    assert math.isnan(row["p"]) and math.isnan(row["low"]) and math.isfinite(row["difference"])
    assert math.isnan(row["p_adjusted"])


def test_a_model_must_exceed_every_control():
    """Far above one control, slightly above the other: the second one counts."""
    m = noise(0)
    kinds = {"far": "control", "near": "control"}
    table = paired.tests(fold_scores({"m": m, "far": m - noise(1), "near": m - 0.1 * noise(2) + 0.005}, kinds), {})
    row = one_row(table, "best control")
    near = paired.compare(0.1 * noise(2) - 0.005, ONE, RHO)
    assert (row["other"], row["n_others"]) == ("near", 2)
    assert row["p"] == pytest.approx(near.p())


def test_a_control_that_is_constant_in_most_folds_is_not_the_hardest_and_the_highest_one_is_tested_too():
    """ "few" has scores in four of ten folds and the largest p; "high" has the highest score, "unsteady" the next p."""
    m, kinds = noise(0) + 0.3, {"few": "control", "high": "control", "unsteady": "control"}
    scores = {"m": m, "high": m - 0.15 + 0.1 * noise(2), "unsteady": m - 0.4 + 2 * noise(3)}
    scores["few"] = np.where(np.arange(10)[:, None] < 4, m - 0.6 + 4 * noise(1), np.nan)
    p = {name: paired.compare(m - scores[name], ONE, RHO).p() for name in kinds}
    assert p["few"] > p["unsteady"] > p["high"]
    table = paired.tests(fold_scores(scores, kinds), {})
    assert one_row(table, "best control")["other"] == "unsteady"
    assert one_row(table, "highest-scoring control")["other"] == "high"


@pytest.mark.parametrize("rounding", [0.0, 1e-16])
def test_a_control_with_the_same_scores_is_not_exceeded(rounding):
    m, kinds = noise(0), {"same": "control", "low": "control"}
    same = m + rounding * np.random.default_rng(2).choice([-1, 1], m.shape)
    row = one_row(
        paired.tests(fold_scores({"m": m, "same": same, "low": m - 0.3 + noise(1)}, kinds), {}), "best control"
    )
    assert (row["other"], row["n_others"]) == ("same", 2)
    assert row["difference"] == pytest.approx(0, abs=1e-12)
    assert math.isnan(row["p"])
    assert math.isnan(row["low"])


def test_a_higher_control_without_a_second_fold_leaves_no_claim_about_the_controls():
    m, kinds = noise(0), {"once": "control", "low": "control", "nothing": "control"}
    once = np.where(np.arange(10)[:, None] == 3, m + 0.2, np.nan)
    scores = {"m": m, "once": once, "low": m - 0.3 + noise(1), "nothing": np.full_like(m, np.nan)}
    row = one_row(paired.tests(fold_scores(scores, kinds), {}), "best control")
    assert (row["other"], row["n_others"], row["n_folds"]) == ("once", 2, 1)
    assert math.isnan(row["p"])


def test_of_several_tests_of_a_pair_the_most_careful_one_is_quoted():
    base = noise(0)
    scores = {"tuned": base - 0.03 + noise(1) - 0.1, "base": base, "x": base - 0.3, "y": base - 0.4}
    tests = paired.tests(fold_scores(scores), {"tuned": "base"})
    of_base, of_best = (one_row(tests, relation, "tuned") for relation in ("base", "best model"))
    assert of_base["p"] < of_best["p"]
    for pair, sign in ((("tuned", "base"), 1), (("base", "tuned"), -1)):
        quoted = evidence.between(tests, *pair, "d", "strict", "all")
        assert quoted.value == pytest.approx(sign * of_best["difference"])
        assert quoted.p == of_best["p_adjusted"]
        assert quoted.high - quoted.low == pytest.approx(of_best["high"] - of_best["low"])


def test_p_of_a_control_above_the_model_counts_the_controls_it_was_selected_from():
    m = noise(0)
    kinds = {"above": "control", "below": "control", "equal": "control"}
    scores = {"m": m, "above": m + 0.1 * noise(1), "below": m - noise(2), "equal": m + noise(3) - noise(4)}
    row = one_row(paired.tests(fold_scores(scores, kinds), {}), "best control")
    above = paired.compare(-0.1 * noise(1), ONE, RHO)
    assert (row["other"], row["difference"]) == ("above", pytest.approx(above.difference))
    assert row["p"] == pytest.approx(3 * above.p())
    assert row["low"] == pytest.approx(above.interval(3)[0])
    assert above.interval(3)[0] < above.interval()[0]
    assert row["method"].endswith("Bonferroni over 3")


def test_every_other_model_is_compared_with_the_best_one():
    scores = {"best": noise(0) + 0.3, "m": noise(1), "n": noise(2) + 0.1}
    table = paired.tests(fold_scores(scores), {})
    rows = table[table["relation"] == "best model"]
    assert set(rows["model"]) == {"m", "n"}
    assert set(rows["other"]) == {"best"}
    test = paired.compare(scores["m"] - scores["best"], ONE, RHO)
    assert one_row(table, "best model")["p"] == pytest.approx(2 * test.p())
    assert list(rows["p_adjusted"]) == pytest.approx(list(stats.false_discovery_control(rows["p"])))


def test_stories_are_weighted_by_their_words():
    gains, words = np.array([[0.02], [0.01], [-0.01], [0.03]]), [100, 100, 200, 400]
    rows = fold_scores({"m": gains}, rho=0.0, target="reading", metric="delta_ll", subject="")
    rows["n_averaged"] = words
    row = one_row(paired.tests(rows, {}), "controls")
    mean = np.average(gains[:, 0], weights=words)
    weights = np.array(words) / 800
    se = math.sqrt(4 / 3 * np.square(weights * (gains[:, 0] - mean)).sum())
    assert row["difference"] == pytest.approx(mean)
    assert row["p"] == pytest.approx(2 * stats.t.sf(mean / se, 3))
    assert (row["n_folds"], row["method"]) == (4, "t over 4 stories, weighted by words")


def test_the_table_has_the_columns_of_its_schema():
    table = paired.tests(fold_scores({"m": noise(0), "b": noise(1)}), {"m": "b"})
    assert ["run", *table.columns] == list(tables.SCHEMAS["paired_tests"])
    assert list(paired.tests(fold_scores({"m": noise(0)}), {}).columns) == list(table.columns)


def test_false_positives_of_folds_that_share_training_rows():
    """Differences of two null models: any two folds correlate by RHO, and all subjects share the folds' noise.

    400 tests; 2.7 to 7.5 % is where 99 % of samples of a rate of 5 % lie.
    """
    rng = np.random.default_rng(0)
    p = []
    for _ in range(400):
        shared = math.sqrt(RHO) * rng.normal() + math.sqrt(1 - RHO) * rng.normal(size=(10, 1))
        p.append(paired.compare(shared + 0.5 * rng.normal(size=(10, 5)), ONE, RHO).p())
    assert 0.027 <= np.mean(np.array(p) < 0.05) <= 0.075


def test_variants_are_compared_with_their_own_model_alone():
    """A prompt with none; localised units with as many random ones, the untrained control's, and the whole layer."""
    kinds = {
        "m:condition-x": "condition", "m:localised-8": "localised", "m:untrained-localised-8": "untrained localised",
        "m:random-units-8": "random units", "m:random-units-8-2": "random units", "m:random-units-80": "random units",
    }  # fmt: skip
    scores = {name: noise(seed) for seed, name in enumerate(["m", "m2", *kinds])}
    tests = paired.tests(fold_scores(scores, kinds), {})
    of_variants = tests[tests["model"].isin(kinds)]
    assert [(row.model, row.other, row.relation) for row in of_variants.itertuples()] == [
        ("m:condition-x", "m", "no prompt"),
        ("m:localised-8", "m:random-units-8", "random units"),
        ("m:localised-8", "m:random-units-8-2", "random units"),
        ("m:localised-8", "m:untrained-localised-8", "untrained control's localised units"),
        ("m:localised-8", "m", "whole layer"),
    ]
    row = one_row(tests, "no prompt", "m:condition-x")
    assert row["difference"] == pytest.approx((scores["m:condition-x"] - scores["m"]).mean())


def test_a_model_tuned_in_stages_is_tested_against_its_untuned_base_and_the_stage_before():
    scores = {"m": noise(0), "m-sft": noise(1), "m-dpo": noise(2)}
    found = paired.tests(fold_scores(scores), {"m-sft": "m", "m-dpo": "m-sft"})
    base, stage = (one_row(found, relation, "m-dpo") for relation in ("base", "previous stage"))
    assert (base["other"], stage["other"]) == ("m", "m-sft")
    assert stage["difference"] == pytest.approx((scores["m-dpo"] - scores["m-sft"]).mean())
    assert one_row(found, "base", "m-sft")["other"] == "m"
    assert found[(found["relation"] == "previous stage")]["model"].tolist() == ["m-dpo"]
