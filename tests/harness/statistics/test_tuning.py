"""Tuned models beside their bases, against arithmetic done by hand, and the mixed model against textbooks."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness.statistics import scores, tuning
from harness.storage import tables

NAN = math.nan
NOTHING = tables.schema("reading_scores").empty_table().to_pandas()


def brain(r, dataset="synthetic", protocol="strict", target="all"):
    columns = {"dataset": dataset, "protocol": protocol, "target": target, "metric": "pearson_r", "kind": "model"}
    return pd.DataFrame([{"model": name, "r": value, **columns} for name, value in r.items()])


def of(*parts, bases, families=None, people=None, read=NOTHING):
    """Scores of models; `bases`: tuned model -> its base."""
    rows = pd.concat(parts)
    names = sorted(set(rows["model"]) | set(bases))
    known = pd.DataFrame({
        "model": names, "kind": "model", "tuned_from": [bases.get(name, "") for name in names], "n_parameters": 1e6,
        "family": [(families or {}).get(name, "") for name in names], "pair_source": "card", "next_word_loss": NAN,
    })  # fmt: skip
    found = scores.of_run("a test", rows, read, known)
    return scores.replace(found, people=people) if people is not None else found


def test_a_tuned_model_stands_beside_its_base_on_every_target():
    read = brain({"a": 0.3, "b": 0.36}, "futrell2018-2021").assign(delta_ll=NAN)
    found = tuning.pairs(of(
        brain({"a": 0.2, "b": 0.25}), brain({"a": 0.1, "b": 0.08}, target="IFG"), bases={"b": "a"}, read=read
    )).set_index(["dataset", "target"])  # fmt: skip
    expected = {("synthetic", "all"): 25, ("synthetic", "IFG"): -20, ("futrell2018-2021", "reading"): 20}
    assert found["gain_percent"].to_dict() == pytest.approx(expected)
    row = found.loc[("synthetic", "all")]
    assert (row["base"], row["tuned"], row["pair_source"], row["metric"]) == ("a", "b", "card", "pearson_r")
    assert (row["base_score"], row["tuned_score"], row["difference"]) == pytest.approx((0.2, 0.25, 0.05))


@pytest.mark.parametrize("base", [0.0, NAN, -0.1])
def test_a_gain_over_nothing_is_not_measurable(base):
    (row,) = tuning.pairs(of(brain({"a": base, "b": 0.2}), bases={"b": "a"})).to_dict("records")
    assert math.isnan(row["gain_percent"])


def test_protocols_are_never_compared_and_an_absent_base_makes_no_pair():
    assert tuning.pairs(of(brain({"a": 0.2}), brain({"b": 0.3}, protocol="paper"), bases={"b": "a"})).empty
    assert tuning.pairs(of(brain({"b": 0.2}), bases={"b": "z"})).empty
    assert tuning.tests(of(brain({"b": 0.2}), bases={}), tuning.pairs(of(brain({"b": 0.2}), bases={}))).empty


def six_bases(seed=0):
    """Six bases with 3, 2, 2, 1, 1, 1 tuned models; the first two of another family."""
    draw = np.random.default_rng(seed)
    r, bases, families = {}, {}, {}
    for i, n in enumerate((3, 2, 2, 1, 1, 1)):
        base = f"base{i}"
        r[base], families[base] = draw.uniform(0.2, 0.4), "t5" if i < 2 else "llama"
        for k in range(n):
            tuned = f"{base}-tuned{k}"
            r[tuned], bases[tuned], families[tuned] = r[base] + draw.normal(0.02, 0.03), base, families[base]
    return r, bases, families


def test_the_unit_of_the_tests_is_the_base():
    r, bases, families = six_bases()
    found = of(brain(r), bases=bases, families=families)
    paired = tuning.pairs(found)
    (row,) = tuning.tests(found, paired).to_dict("records")
    means = paired.groupby("base")["difference"].mean().to_numpy()
    assert (row["n_pairs"], row["n_bases"], row["n_people"], row["interval_over"]) == (10, 6, 0, "bases")
    assert row["difference"] == pytest.approx(means.mean())
    assert row["gain_percent"] == pytest.approx(paired["gain_percent"].mean())
    assert row["p_interval"] == pytest.approx(stats.ttest_1samp(means, 0).pvalue)
    assert row["p_wilcoxon"] == pytest.approx(stats.wilcoxon(means).pvalue)
    assert row["d_z"] == pytest.approx(means.mean() / means.std(ddof=1))
    assert row["p_t_pairs"] == pytest.approx(stats.ttest_1samp(paired["difference"], 0).pvalue)
    assert row["p_least"] == 2 / 2**6 <= row["p_sign_flip"]
    assert row["low"] < row["difference"] < row["high"]
    assert row["p_adjusted"] == row["p_sign_flip"]  # of one
    assert set(row) | {"run"} == set(tables.SCHEMAS["tuning_tests"])


def test_rank_biserial_is_one_when_all_rise():
    (row,) = tuning.tests(*(lambda s: (s, tuning.pairs(s)))(
        of(brain({"a": 0.1, "b": 0.2, "c": 0.1, "d": 0.3}), bases={"b": "a", "d": "c"})
    )).to_dict("records")  # fmt: skip
    assert row["rank_biserial"] == 1
    assert math.isnan(row["low"])  # of two bases
    assert row["interval_over"] == ""


def test_families_are_told_apart():
    r, bases, families = six_bases()
    paired = tuning.pairs(of(brain(r), bases=bases, families=families))
    found = tuning.by_family(paired).set_index("family")
    assert found["n_pairs"].to_dict() == {"t5": 5, "llama": 5}
    assert found["n_bases"].to_dict() == {"t5": 2, "llama": 4}
    assert found.loc["t5", "difference"] == pytest.approx(paired[paired["family"] == "t5"]["difference"].mean())
    assert len(tuning.by_base(paired)) == 6


def people_of(r, n_people, effect, seed=1):
    """Each person's score: the model's, and, for tuned models, what tuning does in that person."""
    draw = np.random.default_rng(seed)
    own = draw.normal(0, effect, n_people)
    return pd.DataFrame([
        {"model": name, "dataset": "synthetic", "protocol": "strict", "subject": f"s{k}",
         "score": value + (own[k] if "tuned" in name else 0) + draw.normal(0, 0.001)}
        for name, value in r.items() for k in range(n_people)
    ])  # fmt: skip


def test_people_who_differ_widen_the_interval():
    r, bases, _ = six_bases()
    alone = of(brain(r), bases=bases)
    with_people = of(brain(r), bases=bases, people=people_of(r, 7, 0.1))
    (one,) = tuning.tests(alone, tuning.pairs(alone)).to_dict("records")
    (other,) = tuning.tests(with_people, tuning.pairs(with_people)).to_dict("records")
    assert (other["n_people"], other["interval_over"]) == (7, "bases and people")
    assert other["difference"] == one["difference"]
    assert other["high"] - other["low"] > 2 * (one["high"] - one["low"])


def test_where_bases_are_few_the_interval_is_over_people():
    r, bases, _ = {"a": 0.1, "a-tuned": 0.2}, {"a-tuned": "a"}, None
    found = of(brain(r), bases=bases, people=people_of(r, 9, 0.02))
    (row,) = tuning.tests(found, tuning.pairs(found)).to_dict("records")
    assert row["interval_over"] == "people"
    assert row["low"] < 0.1 < row["high"]
    assert math.isnan(row["p_sign_flip"])


def test_the_mixed_model_of_balanced_groups_is_a_t_test_over_their_means():
    """Textbook: with k groups of the same size and a variance between them, t with k - 1 degrees of freedom."""
    draw = np.random.default_rng(3)
    groups = np.repeat(np.arange(7), 4)
    values = draw.normal(0, 1, 7)[groups] + draw.normal(0.8, 0.5, 28)
    found = tuning.mixed_model(values, groups)
    means = values.reshape(7, 4).mean(axis=1)
    expected = stats.ttest_1samp(means, 0)
    assert found.icc > 0.3
    assert found.df == pytest.approx(6, rel=1e-3)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-3)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()), rel=1e-3)


def test_the_mixed_model_without_variance_between_groups_is_a_t_test_over_values():
    groups = np.repeat(np.arange(5), 2)
    values = np.tile([1.0, -0.7], 5) + np.linspace(0, 0.01, 10)
    found = tuning.mixed_model(values, groups)
    assert found.icc == 0
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-6)


def test_the_mixed_model_is_that_of_statsmodels():
    import statsmodels.api as sm

    draw = np.random.default_rng(5)
    groups = np.repeat(np.arange(8), [5, 2, 2, 2, 2, 2, 1, 1])
    values = draw.normal(0, 1, 8)[groups] + draw.normal(0.8, 0.6, 17)
    expected = sm.MixedLM(values, np.ones((17, 1)), groups=groups).fit(reml=True)
    found = tuning.mixed_model(values, groups)
    between = float(np.asarray(expected.cov_re)[0, 0])
    assert found.mean == pytest.approx(expected.fe_params[0], rel=1e-4)
    assert found.icc == pytest.approx(between / (between + expected.scale), rel=1e-3)
    error = (found.high - found.mean) / stats.t.ppf(0.975, found.df)
    assert error == pytest.approx(expected.bse_fe[0], rel=1e-3)
