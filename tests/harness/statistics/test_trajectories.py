"""Trend, peak and comparison of training runs, on curves with a known answer."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.statistics import scores, trajectories

TOKENS = [2**k * 10**6 for k in range(8)]


def fold_rows(model, table, target="all", kind="model", n_averaged=100):
    """Rows of fold_scores: (fold, subject) scores of a model."""
    n_folds, n_subjects = table.shape
    return [
        {"model": model, "kind": kind, "dataset": "d", "dataset_version": "1", "protocol": "strict",
         "protocol_hash": "h", "target": target, "metric": "pearson_r", "part": "", "fold": fold,
         "subject": f"s{subject}", "score": table[fold, subject], "n_averaged": n_averaged, "fold_correlation": 0.25}
        for fold in range(n_folds) for subject in range(n_subjects)
    ]  # fmt: skip


def made(tables, about=None):
    """Scores of checkpoints: model -> (fold, subject) scores; about: model -> facts about it."""
    rows = pd.DataFrame([
        {"model": model, "dataset": "d", "protocol": "strict", "target": "all", "metric": "pearson_r",
         "score": table.mean()}
        for model, table in tables.items()
    ])  # fmt: skip
    facts = [{"family": "", "base": "", "pair_source": "", "is_main": True, **(about or {}).get(name, {})}
             for name in tables]  # fmt: skip
    models = pd.DataFrame(facts, index=pd.Index(list(tables), name="model"))
    folds = pd.DataFrame([row for model, table in tables.items() for row in fold_rows(model, table)])
    return scores.replace(scores.of_frames("a test", rows, models), fold_scores=folds)


def arm(name, curve, seeds, rng, noise=0.02, cells=(6, 5), common=None):
    """Checkpoints of one arm of `harness tune` and facts about them; noise per seed, per cell, and common to all."""
    tables, about = {}, {}
    for seed in range(seeds):
        shift = rng.normal(0, noise)
        for step, value in enumerate(curve, start=1):
            model = f"{name}-{seed}-{step}"
            tables[model] = value + shift + rng.normal(0, noise, cells) + (0 if common is None else common)
            about[model] = {
                "base": "m",
                "arm": name,
                "tuning_seed": seed,
                "tuning_step": step,
                "tuning_tokens": 1000.0 * step,
            }
    return tables, about


def test_a_score_that_rises_along_a_training_run_is_detected():
    tables = {f"m@step{k}": np.full((1, 1), 0.1 * k) for k in range(1, 7)}
    tables |= {"other@step1": np.full((1, 1), 0.3), "n": np.full((1, 1), 0.2)}
    (row,) = trajectories.trajectories(made(tables)).to_dict("records")
    assert (row["training"], row["n_checkpoints"], row["first_step"], row["last_step"]) == ("m", 6, 1, 6)
    assert row["rho"] == pytest.approx(1)
    assert row["p"] == pytest.approx(2 / math.factorial(6), rel=0.01)
    assert math.isnan(row["last_tokens"])


def test_the_trend_equals_scipy():
    r = np.random.default_rng(0).uniform(size=9)
    (row,) = trajectories.trajectories(made({f"m@step{k}": np.full((1, 1), r[k]) for k in range(9)})).to_dict("records")
    expected = stats.spearmanr(range(9), r)
    assert (row["rho"], row["p"]) == (pytest.approx(expected.statistic), pytest.approx(expected.pvalue, abs=0.03))


def test_the_base_is_the_start_and_seeds_are_one_training():
    rng = np.random.default_rng(0)
    tables, about = arm("with instructions", [0.2, 0.3], 3, rng, noise=0.0)
    tables["m"] = np.full((6, 5), 0.1)
    points = trajectories.checkpoints(made(tables, about))
    assert set(points["training"]) == {"m with instructions"}
    assert sorted(points["step"]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert sorted(set(points["x"])) == [0, 1000, 2000]
    (row,) = trajectories.trajectories(made(tables, about)).to_dict("records")
    assert (row["n_seeds"], row["n_checkpoints"], row["first_score"]) == (3, 3, pytest.approx(0.1))
    assert (row["last_score"], row["last_tokens"], row["peak_step"]) == (pytest.approx(0.3), 2000, 2)


def test_two_tunings_of_one_base_and_arm_are_two_trainings():
    """Their checkpoints are named by their folders; with one name they would be averaged."""
    tables, about = {}, {}
    for folder, value in (("tuned", 0.2), ("tuned-lora", 0.4)):
        for step in (1, 2):
            model = f"{folder}-m-with-instructions-seed0@step-00000{step}"
            tables[model] = np.full((6, 5), value)
            about[model] = {"base": "m", "arm": "with instructions", "tuning_seed": 0, "tuning_step": step,
                            "tuning_tokens": 1000.0 * step}  # fmt: skip
    found = trajectories.trajectories(made(tables, about)).set_index("training")
    assert found["last_score"].to_dict() == pytest.approx(
        {"tuned-m-with-instructions": 0.2, "tuned-lora-m-with-instructions": 0.4}
    )
    assert (found["n_seeds"] == 1).all()


def rising_and_falling(rng, peak=4, n=8, drop=0.03, noise=0.02):
    curve = np.array([0.3 - drop * abs(k - peak) for k in range(n)])
    cells = rng.normal(0, noise, (6, 5))  # stimuli and subjects shared by all checkpoints
    return {f"m@step{k + 1}-tokens{TOKENS[k] // 10**6}M": curve[k] + cells + rng.normal(0, noise, (6, 5))
            for k in range(n)}  # fmt: skip


def test_the_peak_lies_in_its_interval_and_the_decline_after_it_is_found():
    holds, found = 0, 0
    for seed in range(20):
        tables = rising_and_falling(np.random.default_rng(seed))
        (row,) = trajectories.trajectories(made(tables)).to_dict("records")
        holds += row["peak_low"] <= TOKENS[4] <= row["peak_high"]
        found += row["decline_p"] < 0.05
        assert row["peak_low"] <= row["peak_tokens"] <= row["peak_high"]
    assert holds >= 18
    assert found == 20


def test_a_flat_training_has_no_decline_although_it_has_a_highest_score():
    rejected, differences = 0, []
    for seed in range(30):
        tables = rising_and_falling(np.random.default_rng(seed), drop=0.0)
        (row,) = trajectories.trajectories(made(tables)).to_dict("records")
        rejected += row["decline_p"] < 0.05
        differences.append(row["decline"])
    assert rejected <= 4
    assert abs(np.mean(differences)) < 3 * np.std(differences) / math.sqrt(30)


def test_two_arms_differ_by_what_was_planted():
    rng = np.random.default_rng(1)
    common = rng.normal(0, 0.05, (6, 5))
    one, about_one = arm("with instructions", [0.20, 0.24, 0.28], 4, rng, 0.005, common=common)
    other, about_other = arm("without instructions", [0.20, 0.21, 0.22], 4, rng, 0.005, common=common)
    tests = trajectories.tests(made(one | other, about_one | about_other)).set_index("statistic")
    assert set(tests.index) == {"mean", "last", "slope"}
    assert tests.loc["mean", "difference"] == pytest.approx(0.03, abs=0.01)
    assert tests.loc["last", "difference"] == pytest.approx(0.06, abs=0.012)
    assert (tests["p_both"] < 0.05).all()
    assert (tests["training"] == "m with instructions").all()
    assert (tests["n_seeds"] == 4).all()


def test_the_statistics_over_seeds_equal_scipy():
    rng = np.random.default_rng(2)
    one, about_one = arm("a", [0.2, 0.3], 3, rng)
    other, about_other = arm("b", [0.2, 0.25], 3, rng)
    tests = trajectories.tests(made(one | other, about_one | about_other)).set_index("statistic")
    by_seed = [np.mean([one[f"a-{seed}-{k}"].mean() - other[f"b-{seed}-{k}"].mean() for k in (1, 2)])
               for seed in range(3)]  # fmt: skip
    assert tests.loc["mean", "difference"] == pytest.approx(np.mean(by_seed))
    assert tests.loc["mean", "p_seeds"] == pytest.approx(stats.ttest_1samp(by_seed, 0).pvalue)
    last = [one[f"a-{seed}-2"].mean() - other[f"b-{seed}-2"].mean() for seed in range(3)]
    assert tests.loc["last", "p_seeds"] == pytest.approx(stats.ttest_1samp(last, 0).pvalue)
    of_stimuli, over_all = ((tests.loc["mean", high] - tests.loc["mean", low]) / 2
                            for low, high in (("low", "high"), ("low_both", "high_both")))  # fmt: skip
    of_seeds = stats.t.ppf(0.975, 2) * np.std(by_seed, ddof=1) / math.sqrt(3)
    assert over_all == pytest.approx(math.hypot(of_stimuli, of_seeds))
    assert tests.loc["mean", "p_both"] > max(tests.loc["mean", "p"], tests.loc["mean", "p_seeds"])
    slopes = [stats.linregress(np.log10([1000, 2000]), [
        one[f"a-{seed}-{k}"].mean() - other[f"b-{seed}-{k}"].mean() for k in (1, 2)
    ]).slope for seed in range(3)]  # fmt: skip
    assert tests.loc["slope", "difference"] == pytest.approx(np.mean(slopes))


def test_equal_arms_are_rarely_told_apart():
    rejected = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        common = rng.normal(0, 0.05, (6, 5))
        one, about_one = arm("a", [0.2, 0.25, 0.3], 3, rng, common=common)
        other, about_other = arm("b", [0.2, 0.25, 0.3], 3, rng, common=common)
        tests = trajectories.tests(made(one | other, about_one | about_other)).set_index("statistic")
        rejected += tests.loc["mean", "p_both"] < 0.05
    assert rejected <= 3


def test_published_trainings_are_compared_where_both_have_checkpoints():
    rng = np.random.default_rng(3)
    tables = {f"pythia-1b@step{k}": 0.2 + rng.normal(0, 0.01, (6, 5)) for k in (1, 8, 64, 512)}
    tables |= {f"pythia-410m@step{k}": 0.1 + rng.normal(0, 0.01, (6, 5)) for k in (8, 64, 512, 1000)}
    tests = trajectories.tests(made(tables)).set_index("statistic")
    assert (tests["n_points"] == 3).all()
    assert (tests["x"] == "tokens").all()
    assert tests.loc["mean", "difference"] == pytest.approx(0.1, abs=0.01)
    assert tests["n_seeds"].tolist() == [1, 1, 1]
    assert tests["p_seeds"].isna().all()
    assert tests.loc["mean", "p_both"] == tests.loc["mean", "p"] < 0.05


def test_trainings_with_other_checkpoints_are_compared_at_equal_tokens():
    """OLMo and Pythia take other steps; linear curves in log tokens are interpolated without error."""

    def score(tokens, slope):
        return np.full((6, 5), slope * math.log10(tokens)) + np.random.default_rng(tokens).normal(0, 1e-6, (6, 5))

    olmo = {"olmo-2-1b@stage1-step10-tokens1B": 10**9, "olmo-2-1b@stage1-step30-tokens40B": 4 * 10**10,
            "olmo-2-1b@stage1-step60-tokens900B": 9 * 10**11}  # fmt: skip
    pythia = {f"pythia-1b@step{k}": k * 1024 * 2048 for k in (64, 1000, 16_000, 143_000)}
    tables = {name: score(tokens, 0.02) for name, tokens in olmo.items()}
    tables |= {name: score(tokens, 0.01) for name, tokens in pythia.items()}
    tests = trajectories.tests(made(tables)).set_index("statistic")
    points = np.array(sorted([10**9, pythia["pythia-1b@step1000"], pythia["pythia-1b@step16000"], 4 * 10**10,
                              pythia["pythia-1b@step143000"]]))  # fmt: skip
    assert (tests["first_x"].iloc[0], tests["last_x"].iloc[0]) == (points[0], points[-1])
    assert (tests["n_points"] == 5).all()
    assert tests.loc["slope", "difference"] == pytest.approx(0.01, abs=1e-5)
    assert tests.loc["mean", "difference"] == pytest.approx(0.01 * np.log10(points).mean(), abs=1e-5)


def test_nothing_is_compared_without_common_steps_or_scores_of_folds():
    tables = {name: np.full((6, 5), 0.1 * k) for k, name in enumerate(["a@step1", "a@step2", "b@step3", "b@step4"])}
    assert trajectories.tests(made(tables)).empty
    common = {name: np.full((6, 5), 0.1 * k) for k, name in enumerate(["a@step1", "a@step2", "b@step1", "b@step2"])}
    assert not trajectories.tests(made(common)).empty
    assert trajectories.tests(scores.replace(made(common), fold_scores=None)).empty
    assert trajectories.trajectories(made({"a": np.zeros((2, 2))})).empty
