"""Gains of tuned models against hand calculations, and the mixed model against textbook results and statsmodels."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.statistics import scores, tuning
from harness.storage import tables

NAN = math.nan
NO_READING = tables.schema("reading_scores").empty_table().to_pandas()


def brain(r, dataset="synthetic", protocol="strict", target="all"):
    columns = {"dataset": dataset, "protocol": protocol, "target": target, "metric": "pearson_r", "kind": "model"}
    return pd.DataFrame([{"model": name, "r": value, **columns} for name, value in r.items()])


def make_scores(*brain_rows, bases, families=None, by_subject=None, reading_rows=NO_READING):
    """Scores of models; `bases`: tuned model -> its base."""
    rows = pd.concat(brain_rows)
    names = sorted(set(rows["model"]) | set(bases))
    properties = pd.DataFrame({
        "model": names, "kind": "model", "tuned_from": [bases.get(name, "") for name in names], "n_parameters": 1e6,
        "family": [(families or {}).get(name, "") for name in names], "pair_source": "card", "next_word_loss": NAN,
    })  # fmt: skip
    result = scores.of_run("a test", rows, reading_rows, properties)
    return scores.replace(result, by_subject=by_subject) if by_subject is not None else result


def test_a_tuned_model_is_paired_with_its_base_on_every_target():
    reading_rows = brain({"a": 0.3, "b": 0.36}, "futrell2018-2021").assign(delta_ll=NAN)
    paired = tuning.pairs(make_scores(
        brain({"a": 0.2, "b": 0.25}), brain({"a": 0.1, "b": 0.08}, target="IFG"), bases={"b": "a"},
        reading_rows=reading_rows,
    )).set_index(["dataset", "target"])  # fmt: skip
    expected = {("synthetic", "all"): 25, ("synthetic", "IFG"): -20, ("futrell2018-2021", "reading"): 20}
    assert paired["gain_percent"].to_dict() == pytest.approx(expected)
    row = paired.loc[("synthetic", "all")]
    assert (row["base"], row["tuned"], row["pair_source"], row["metric"]) == ("a", "b", "card", "pearson_r")
    assert (row["base_score"], row["tuned_score"], row["difference"]) == pytest.approx((0.2, 0.25, 0.05))


@pytest.mark.parametrize("base", [0.0, NAN, -0.1])
def test_the_gain_over_a_base_score_that_is_not_positive_is_nan(base):
    (row,) = tuning.pairs(make_scores(brain({"a": base, "b": 0.2}), bases={"b": "a"})).to_dict("records")
    assert math.isnan(row["gain_percent"])


@pytest.mark.parametrize(("low", "gain"), [(0.02, 100), (-0.01, NAN), (NAN, NAN)])
def test_the_gain_is_nan_unless_the_interval_of_the_base_lies_above_0(low, gain):
    """NaN as the lower end in a run's table: the score has no interval."""
    rows = brain({"a": 0.1, "b": 0.2}).assign(r_low=[low, 0.1])
    (row,) = tuning.pairs(make_scores(rows, bases={"b": "a"})).to_dict("records")
    assert row["gain_percent"] == pytest.approx(gain, nan_ok=True)
    assert row["difference"] == pytest.approx(0.1)


def test_no_pairs_across_protocols_or_without_the_base():
    assert tuning.pairs(make_scores(brain({"a": 0.2}), brain({"b": 0.3}, protocol="paper"), bases={"b": "a"})).empty
    assert tuning.pairs(make_scores(brain({"b": 0.2}), bases={"b": "z"})).empty
    assert tuning.tests(
        make_scores(brain({"b": 0.2}), bases={}), tuning.pairs(make_scores(brain({"b": 0.2}), bases={}))
    ).empty


def six_bases(seed=0):
    """Six bases with 3, 2, 2, 1, 1 and 1 tuned models; the first two bases are T5, the others LLaMA."""
    rng = np.random.default_rng(seed)
    r, bases, families = {}, {}, {}
    for i, n in enumerate((3, 2, 2, 1, 1, 1)):
        base = f"base{i}"
        r[base], families[base] = rng.uniform(0.2, 0.4), "t5" if i < 2 else "llama"
        for k in range(n):
            tuned = f"{base}-tuned{k}"
            r[tuned], bases[tuned], families[tuned] = r[base] + rng.normal(0.02, 0.03), base, families[base]
    return r, bases, families


def test_the_unit_of_the_tests_is_the_base():
    r, bases, families = six_bases()
    data = make_scores(brain(r), bases=bases, families=families)
    paired = tuning.pairs(data)
    (row,) = tuning.tests(data, paired).to_dict("records")
    means = paired.groupby("base")["difference"].mean().to_numpy()
    assert (row["n_pairs"], row["n_bases"], row["n_subjects"], row["interval_over"]) == (10, 6, 0, "bases")
    assert row["difference"] == pytest.approx(means.mean())
    assert row["gain_percent"] == pytest.approx(paired["gain_percent"].mean())
    assert row["p_interval"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(means).pvalue)
    assert row["d_z"] == pytest.approx(means.mean() / means.std(ddof=1))
    assert row["p_t_pairs"] == pytest.approx(stats.ttest_1samp(paired["difference"], 0).pvalue)
    assert row["p_min"] == 2 / 2**6 <= row["p_sign_flip"]
    assert row["low"] < row["difference"] < row["high"]
    assert row["p_adjusted"] == row["p_sign_flip"]  # a single test
    assert set(row) | {"run"} == set(tables.SCHEMAS["tuning_tests"])


def test_rank_biserial_is_one_if_all_bases_gain():
    data = make_scores(brain({"a": 0.1, "b": 0.2, "c": 0.1, "d": 0.3}), bases={"b": "a", "d": "c"})
    (row,) = tuning.tests(data, tuning.pairs(data)).to_dict("records")
    assert row["rank_biserial"] == 1
    assert math.isnan(row["low"])  # only two bases
    assert row["interval_over"] == ""


def test_gains_are_averaged_by_family():
    r, bases, families = six_bases()
    paired = tuning.pairs(make_scores(brain(r), bases=bases, families=families))
    table = tuning.by_family(paired).set_index("family")
    assert table["n_pairs"].to_dict() == {"t5": 5, "llama": 5}
    assert table["n_bases"].to_dict() == {"t5": 2, "llama": 4}
    assert table.loc["t5", "difference"] == pytest.approx(paired[paired["family"] == "t5"]["difference"].mean())
    assert len(tuning.by_base(paired)) == 6


def subjects_of(r, n_subjects, effect, seed=1):
    """Scores of each subject: the model's score, plus for tuned models a subject-specific effect of tuning."""
    rng = np.random.default_rng(seed)
    effects = rng.normal(0, effect, n_subjects)
    return pd.DataFrame([
        {"model": name, "dataset": "synthetic", "protocol": "strict", "subject": f"s{k}",
         "score": value + (effects[k] if "tuned" in name else 0) + rng.normal(0, 0.001)}
        for name, value in r.items() for k in range(n_subjects)
    ])  # fmt: skip


def test_differences_between_subjects_widen_the_interval():
    r, bases, _ = six_bases()
    data = make_scores(brain(r), bases=bases)
    with_subjects = make_scores(brain(r), bases=bases, by_subject=subjects_of(r, 7, 0.1))
    (row,) = tuning.tests(data, tuning.pairs(data)).to_dict("records")
    (wider,) = tuning.tests(with_subjects, tuning.pairs(with_subjects)).to_dict("records")
    assert (wider["n_subjects"], wider["interval_over"]) == (7, "bases and subjects")
    assert wider["difference"] == row["difference"]
    assert wider["high"] - wider["low"] > 2 * (row["high"] - row["low"])


def test_with_few_bases_there_is_no_interval_over_subjects_alone():
    r, bases = {"a": 0.1, "a-tuned": 0.2}, {"a-tuned": "a"}
    data = make_scores(brain(r), bases=bases, by_subject=subjects_of(r, 9, 0.02))
    (row,) = tuning.tests(data, tuning.pairs(data)).to_dict("records")
    assert (row["interval_over"], row["difference"]) == ("", pytest.approx(0.1))
    assert all(math.isnan(row[name]) for name in ("low", "high", "p_interval", "p_sign_flip"))


def test_the_mixed_model_of_balanced_groups_equals_a_t_test_over_their_means():
    """Textbook result for k groups of equal size with variance between them: t with k - 1 degrees of freedom."""
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(7), 4)
    values = rng.normal(0, 1, 7)[groups] + rng.normal(0.8, 0.5, 28)
    fit = tuning.mixed_model(values, groups)
    means = values.reshape(7, 4).mean(axis=1)
    expected = stats.ttest_1samp(means, 0)
    assert fit.icc > 0.3
    assert fit.df == pytest.approx(6, rel=1e-3)
    assert fit.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert (fit.low, fit.high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-3)


def test_the_mixed_model_without_variance_between_groups_equals_a_t_test_over_values():
    groups = np.repeat(np.arange(5), 2)
    values = np.tile([1.0, -0.7], 5) + np.linspace(0, 0.01, 10)
    fit = tuning.mixed_model(values, groups)
    assert fit.icc == 0
    assert fit.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_the_mixed_model_equals_statsmodels():
    import statsmodels.api as sm

    rng = np.random.default_rng(5)
    groups = np.repeat(np.arange(8), [5, 2, 2, 2, 2, 2, 1, 1])
    values = rng.normal(0, 1, 8)[groups] + rng.normal(0.8, 0.6, 17)
    expected = sm.MixedLM(values, np.ones((17, 1)), groups=groups).fit(reml=True)
    fit = tuning.mixed_model(values, groups)
    between = float(np.asarray(expected.cov_re)[0, 0])
    assert fit.mean == pytest.approx(expected.fe_params[0], rel=1e-4)
    assert fit.icc == pytest.approx(between / (between + expected.scale), rel=1e-3)
    error = (fit.high - fit.mean) / stats.t.ppf(0.975, fit.df)
    assert error == pytest.approx(expected.bse_fe[0], rel=1e-3)


def relations(r, bases, **facts):
    """Pairs of models with facts about them; facts: column -> model -> value."""
    rows = brain(r)
    properties = pd.DataFrame({
        "model": list(r), "kind": "model", "tuned_from": [bases.get(name, "") for name in r], "n_parameters": 1e6,
        "family": "", "pair_source": "table", "next_word_loss": NAN,
        **{column: [values.get(name, "") for name in r] for column, values in facts.items()},
    })  # fmt: skip
    return scores.of_run("a test", rows, NO_READING, properties)


def test_flan_t5_is_compared_with_both_its_parents():
    """The paper's parent is T5 1.1; its training started from the LM-adapted T5. Their difference is given too."""
    r = {"t5-xl": 0.20, "t5-xl-lm-adapt": 0.23, "flan-t5-xl": 0.25, "flan-alpaca-xl": 0.26, "llama-7b": 0.3,
         "vicuna-7b": 0.31}  # fmt: skip
    bases = {"flan-t5-xl": "t5-xl", "flan-alpaca-xl": "t5-xl", "vicuna-7b": "llama-7b"}
    data = relations(r, bases)
    paired = tuning.pairs(data)
    differences = paired.set_index(["relation", "tuned"])["difference"].round(6).to_dict()
    assert differences == {
        ("base", "flan-t5-xl"): 0.05, ("trained from", "flan-t5-xl"): 0.02, ("base", "flan-alpaca-xl"): 0.06,
        ("trained from", "flan-alpaca-xl"): 0.01, ("base", "vicuna-7b"): 0.01,
        ("LM adaptation", "t5-xl-lm-adapt"): 0.03,
    }  # fmt: skip
    tests = tuning.tests(data, paired).set_index("relation")
    assert tests["n_pairs"].to_dict() == {"base": 3, "trained from": 3, "LM adaptation": 1}
    assert tests["n_bases"].to_dict() == {"base": 2, "trained from": 2, "LM adaptation": 1}
    assert tests.loc["base", "difference"] == pytest.approx((0.055 + 0.01) / 2)
    assert tests.loc["trained from", "difference"] == pytest.approx((0.015 + 0.01) / 2)


def test_parents_given_by_their_hub_ids_are_found():
    r = {"google/t5-v1_1-xl": 0.20, "google/t5-xl-lm-adapt": 0.23, "google/flan-t5-xl": 0.25}
    paired = tuning.pairs(relations(r, {"google/flan-t5-xl": "google/t5-v1_1-xl"}))
    assert paired.set_index(["relation", "tuned"])["base"].to_dict() == {
        ("base", "google/flan-t5-xl"): "google/t5-v1_1-xl",
        ("trained from", "google/flan-t5-xl"): "google/t5-xl-lm-adapt",
        ("LM adaptation", "google/t5-xl-lm-adapt"): "google/t5-v1_1-xl",
    }


def test_without_the_true_parent_there_is_one_relation():
    data = relations({"t5-xl": 0.2, "flan-t5-xl": 0.25}, {"flan-t5-xl": "t5-xl"})
    assert set(tuning.pairs(data)["relation"]) == {"base"}


def test_each_stage_is_compared_with_the_one_before_and_with_the_base():
    chain = ["olmo-2-1b", "olmo-2-1b-sft", "olmo-2-1b-dpo", "olmo-2-1b-rlvr1", "olmo-2-1b-instruct"]
    r = dict(zip(chain, (0.20, 0.24, 0.25, 0.24, 0.27), strict=True))
    data = relations(r, dict(zip(chain[1:], chain, strict=False)))
    paired = tuning.pairs(data).set_index(["relation", "tuned"])
    against_base = {name: paired.loc[("base", name), "difference"] for name in chain[1:]}
    assert against_base == pytest.approx(dict(zip(chain[1:], (0.04, 0.05, 0.04, 0.07), strict=True)))
    tests = tuning.tests(data, tuning.pairs(data)).set_index("relation")
    assert tests["difference"].to_dict() == pytest.approx(
        {"base": 0.05, "stage SFT": 0.04, "stage DPO": 0.01, "stage RL": 0.01}
    )
    assert (tests["n_bases"] == 1).all()
    assert tests["n_pairs"].to_dict() == {"base": 4, "stage SFT": 1, "stage DPO": 1, "stage RL": 2}
    assert set(tuning.by_base(tuning.pairs(data))["base"]) == {"olmo-2-1b"}


def test_a_chain_that_names_itself_in_a_circle_ends():
    data = relations({"a": 0.1, "b": 0.2}, {"a": "b", "b": "a"})
    assert len(tuning.pairs(data)) > 0
