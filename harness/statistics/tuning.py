"""Effect of tuning: each tuned model compared with its base, and tests with the base as the unit.

The 17 pairs of the paper share 8 bases, so a t-test over pairs rejects a true null too often (11 % of the time at the
5 % level if 0.3 of the variance lies between bases). It is reported only as a warning (`p_t_pairs`). Quote the
sign-flip test over bases and its interval.

Source: Aw et al. 2023 (arXiv 2312.00575v2), section 3 (gain = (tuned - base) / base).
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.records import Floats
from harness.scoring.permutation import benjamini_hochberg
from harness.statistics.resampling import NO_INTERVAL, Interval, bootstrap, sign_flip
from harness.statistics.scores import OVERALL, Scores, grouped, root_of

if TYPE_CHECKING:
    import pandas as pd

_GROUP = ["dataset", "protocol", "metric"]
# What the other model of a pair is: the untuned model at the start of a chain of stages; the checkpoint from which the
# training started, where that is another one; the previous stage ("stage SFT": of models whose last stage is SFT). An
# LM-adapted model is paired with the one that was adapted.
BASE, TRAINED_FROM, ADAPTED, STAGE = "base", "trained from", "LM adaptation", "stage"


def pairs(scores: Scores) -> pd.DataFrame:
    """Pair each tuned model with its base wherever both were scored, on whole data sets and on regions.

    Returns:
        base, tuned, root (the untuned model at the start of the chain, the unit of all tests), relation, pair_source,
        family, is_main, dataset, protocol, target, metric, base_score, tuned_score, difference, gain_percent (NaN if
        the base score is not positive, or its interval is known and reaches 0: a percentage of a score that may be 0
        means nothing). `relation` says what `base` is: "base"; "trained from", "LM adaptation" or "stage STAGE" where
        they add something.
    """
    keys = ["dataset", "protocol", "target", "metric"]
    tuned_rows = scores.rows.rename(columns={"model": "tuned", "score": "tuned_score"})
    base_rows = scores.rows.rename(columns={"model": "base", "score": "base_score", "low": "base_low"})
    paired = (
        _related(scores.models).merge(tuned_rows.drop(columns="low"), on="tuned").merge(base_rows, on=["base", *keys])
    )
    difference = paired["tuned_score"] - paired["base_score"]
    is_above_0 = (paired["base_score"] > 0) & ~(paired["base_low"] <= 0)
    gain = (100 * difference / paired["base_score"]).where(is_above_0, math.nan)
    columns = [*_RELATED, *keys, "base_score", "tuned_score"]
    return paired[columns].assign(difference=difference, gain_percent=gain)


_RELATED = ["base", "tuned", "root", "relation", "pair_source", "family", "is_main"]


def _related(models: pd.DataFrame) -> pd.DataFrame:
    """Which models are to be compared: the columns `_RELATED`."""
    import pandas as pd

    bases, starts = models["base"].to_dict(), models["trained_from"].to_dict()
    roots = {name: root_of(name, bases) for name in models.index}
    staged = {roots[name] for name, base in bases.items() if base and bases.get(base)}
    related = []
    for tuned, base in bases.items():
        root, start = roots[tuned], starts[tuned]
        if base:
            related.append((root, tuned, root, BASE))
            if root in staged:
                related.append((base, tuned, root, f"{STAGE} {models.at[tuned, 'stage'] or 'unknown'}"))
        if start in models.index and start != base:
            relation = TRAINED_FROM if base else ADAPTED
            related.append((start, tuned, root if base else root_of(start, bases), relation))
    rows = pd.DataFrame(related, columns=_RELATED[:4], dtype=object)
    return rows.join(models[["pair_source", "family", "is_main"]], on="tuned")


def by_base(paired: pd.DataFrame) -> pd.DataFrame:
    """Mean difference and gain over the pairs of each base, per data set, protocol and metric."""
    return _measured(of_base(paired)).groupby([*_GROUP, "base"], sort=False, as_index=False).agg(
        family=("family", "first"), is_main=("is_main", "max"), n_pairs=("tuned", "size"),
        difference=("difference", "mean"), gain_percent=("gain_percent", "mean"),
    )  # fmt: skip


def by_family(paired: pd.DataFrame) -> pd.DataFrame:
    """Mean over the pairs of each relation and family, including pairs of models that are not main models.

    Returns:
        n_pairs, n_bases, difference, gain_percent; by_base: mean difference over the family's bases; low, high: its
        95 % interval, NaN for fewer than five bases.
    """
    import pandas as pd

    rows = []
    for key, group in grouped(_measured(paired), [*_GROUP, "relation", "family"]):
        base_means = group.groupby("root")["difference"].mean()
        interval = bootstrap(base_means.to_numpy())
        rows.append({
            **key, "n_pairs": len(group), "n_bases": len(base_means),
            "gain_percent": group["gain_percent"].mean(), "difference": group["difference"].mean(),
            "by_base": base_means.mean(), "low": interval.low, "high": interval.high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def tests(scores: Scores, paired: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Test the null hypothesis "tuned minus base is 0" for each data set, protocol, metric and relation.

    Under "trained from" all pairs are tested, those that start from another checkpoint with that one as the base: what
    the test of "base" would be with the true parents.

    Args:
        scores: the scores the pairs were made from; with `by_subject` the interval also covers other subjects.
        paired: from `pairs`; only pairs of main models are tested.
        seed: of the random sign flips and bootstrap draws.

    Returns:
        The columns of the table "tuning_tests"; p_adjusted is p_sign_flip after Benjamini-Hochberg over the rows of a
        relation.
    """
    import pandas as pd

    main = _with_true_parents(_measured(paired[paired["is_main"]]))
    groups = grouped(main, [*_GROUP, "relation"])
    rows = [{**key, **_test(group, _by_subject(scores, group), seed)} for key, group in groups]
    table = pd.DataFrame(rows)
    if rows:
        table.insert(table.columns.get_loc("p_sign_flip") + 1, "p_adjusted", math.nan)
        for _, family in table.groupby("relation", sort=False):
            table.loc[family.index, "p_adjusted"] = benjamini_hochberg(family["p_sign_flip"].to_numpy(float))
    return table


def of_base(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of "comparisons" or "tuning_tests" that compare tuned models with their untuned bases.

    Tables of an earlier version have no other rows.
    """
    return rows[rows["relation"].fillna(BASE) == BASE] if "relation" in rows else rows


def _with_true_parents(paired: pd.DataFrame) -> pd.DataFrame:
    """Complete the relation "trained from": models without such a row are paired with their base."""
    import pandas as pd

    keys = [*_GROUP, "tuned"]
    started = paired.loc[paired["relation"] == TRAINED_FROM, keys]
    others = paired[paired["relation"] == BASE].merge(started[_GROUP].drop_duplicates(), on=_GROUP)
    has_start = pd.MultiIndex.from_frame(others[keys]).isin(pd.MultiIndex.from_frame(started))
    return pd.concat([paired, others[~has_start].assign(relation=TRAINED_FROM)], ignore_index=True)


def _measured(paired: pd.DataFrame) -> pd.DataFrame:
    return paired[paired["target"].isin(OVERALL) & paired["difference"].notna()]


def _test(group: pd.DataFrame, subjects: pd.DataFrame | None, seed: int) -> dict[str, Any]:
    """All tests of one data set, protocol and metric; `subjects` as from `_by_subject`."""
    from scipy import stats

    base_means = group.groupby("root")[["difference", "gain_percent"]].mean()
    differences = base_means["difference"].to_numpy()
    flips, (p_wilcoxon, rank_biserial) = sign_flip(differences, seed), _wilcoxon(differences)
    interval, interval_over = _interval(differences, subjects, seed)
    gains = base_means["gain_percent"].dropna().to_numpy()
    gain_interval = bootstrap(gains, seed=seed)
    mixed = mixed_model(group["difference"].to_numpy(), group["root"].to_numpy())
    testable = len(group) > 1 and np.ptp(group["difference"]) > 0
    return {
        "n_pairs": len(group), "n_bases": len(differences), "n_subjects": 0 if subjects is None else subjects.shape[1],
        "gain_percent": float(group["gain_percent"].mean()),
        "gain_percent_bases": float(np.mean(gains)) if len(gains) else math.nan,
        "gain_low": gain_interval.low, "gain_high": gain_interval.high,
        "difference": float(differences.mean()), "low": interval.low, "high": interval.high,
        "interval_over": interval_over, "p_interval": interval.p, "d_z": _standardised(differences),
        "p_sign_flip": flips.p, "p_min": flips.p_min,
        "p_wilcoxon": p_wilcoxon, "rank_biserial": rank_biserial,
        "mixed_difference": mixed.mean, "mixed_low": mixed.low, "mixed_high": mixed.high, "mixed_df": mixed.df,
        "p_mixed": mixed.p, "icc": mixed.icc,
        "p_t_pairs": float(stats.ttest_1samp(group["difference"], 0).pvalue) if testable else math.nan,
    }  # fmt: skip


def _interval(differences: Floats, subjects: pd.DataFrame | None, seed: int) -> tuple[Interval, str]:
    """The interval and what it resamples: bases, and subjects too if there are enough of both.

    Never subjects alone: all of them saw the same stimuli, and a single base says nothing about others. A single pair
    is tested over folds and subjects (paired.py).
    """
    if subjects is not None:
        table = subjects.to_numpy()
        for over, interval in (
            ("bases and subjects", bootstrap(table.mean(axis=1), table, seed)),
            ("bases", bootstrap(differences, seed=seed)),
        ):
            if not math.isnan(interval.low):
                # The score is a median over all subjects' neuroids, not the mean over subjects: centre on the score.
                shift = 0.0 if over == "bases" else float(differences.mean() - table.mean())
                return interval._replace(low=interval.low + shift, high=interval.high + shift), over
        return NO_INTERVAL, ""
    interval = bootstrap(differences, seed=seed)
    return interval, "" if math.isnan(interval.low) else "bases"


def _by_subject(scores: Scores, group: pd.DataFrame) -> pd.DataFrame | None:
    """(root, subject) mean difference over the pairs of a base; None without scores of single subjects.

    Subjects without a score for one of the pairs are left out.
    """
    first = group.iloc[0]
    rows = scores.by_subject
    rows = rows[(rows["dataset"] == first["dataset"]) & (rows["protocol"] == first["protocol"])]
    if rows.empty or first["target"] != "all":
        return None
    by_model = rows.pivot(index="model", columns="subject", values="score")
    names = group[["base", "tuned"]]
    if not set(names["tuned"]) | set(names["base"]) <= set(by_model.index):
        return None
    difference = by_model.loc[names["tuned"]].to_numpy() - by_model.loc[names["base"]].to_numpy()
    table = by_model.iloc[:0].reindex(group.index).astype(float)
    table[:] = difference
    table = table.dropna(axis="columns").groupby(group["root"]).mean()
    return table if table.shape[1] > 1 else None


def _standardised(differences: Floats) -> float:
    """Cohen's d_z: mean divided by standard deviation, over bases."""
    sd = differences.std(ddof=1) if len(differences) > 1 else 0.0
    return float(differences.mean() / sd) if sd > 0 else math.nan


def _wilcoxon(differences: Floats) -> tuple[float, float]:
    """P of the signed-rank test and the rank-biserial r, (positive - negative rank sum) / total rank sum."""
    from scipy import stats

    if len(differences) < 2 or not np.any(differences):
        return math.nan, math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns about the approximation whenever there are ties
        p = float(stats.wilcoxon(differences).pvalue)
    nonzero = differences[differences != 0]
    ranks = stats.rankdata(np.abs(nonzero))
    return p, float((ranks * np.sign(nonzero)).sum() / ranks.sum())


class MixedModel(NamedTuple):
    """Fitted mean with its 95 % interval; icc: fraction of the variance that lies between groups."""

    mean: float
    low: float
    high: float
    p: float
    df: float
    icc: float


def mixed_model(values: Floats, groups: Any) -> MixedModel:
    """Mean of grouped values: value ~ 1 + (1 | group), by REML; estimates agree with statsmodels' MixedLM.

    MixedLM itself is not used because it tests by z, which has an error rate of 9 % at the 5 % level for 17 values in 8
    groups, and because it may miss the boundary where the between-group variance is 0. Here t has Satterthwaite's
    degrees of freedom, as in lmerTest, or n - 1 at that boundary.

    Args:
        values: (value,) for example tuned - base of each pair.
        groups: (value,) group of each value, for example its base.

    Returns:
        The fit; NaN for fewer than two groups or constant values.
    """
    from scipy import stats

    _, group_of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sizes = np.bincount(group_of).astype(float)
    if len(sizes) < 2 or np.ptp(values) == 0:
        return MixedModel(*[math.nan] * 6)
    means = np.bincount(group_of, values) / sizes
    within_ss = float(((values - means[group_of]) ** 2).sum())
    repeated = len(sizes) < len(group_of)  # groups of size one do not identify the variance between groups
    ratio = _variance_ratio(sizes, means, within_ss) if repeated else 0.0
    mean, within, weight = _fit(sizes, means, within_ss, ratio)
    variance = within / weight
    df = _satterthwaite(within, ratio, group_of) if ratio > 0 else len(group_of) - 1.0
    half = float(stats.t.ppf(0.975, df)) * math.sqrt(variance)
    p = float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), df))
    return MixedModel(mean, mean - half, mean + half, p, df, ratio / (1 + ratio))


def _fit(sizes: Floats, means: Floats, within_ss: float, ratio: float) -> tuple[float, float, float]:
    """Fit the mean at a given variance ratio.

    Args:
        sizes: (group,) number of values.
        means: (group,) mean of the values.
        within_ss: sum of squares within groups.
        ratio: variance between groups divided by variance within.

    Returns:
        Mean, variance within groups, sum of the groups' weights.
    """
    weights = sizes / (1 + ratio * sizes)
    mean = float(weights @ means / weights.sum())
    within = (within_ss + float(weights @ (means - mean) ** 2)) / (sizes.sum() - 1)
    return mean, float(within), float(weights.sum())


def _variance_ratio(sizes: Floats, means: Floats, within_ss: float) -> float:
    """Between-group variance over within-group variance by maximum restricted likelihood; 0 at the boundary."""
    from scipy.optimize import minimize_scalar

    def deviance(log_ratio: float) -> float:
        ratio = math.exp(log_ratio)
        _, within, weight = _fit(sizes, means, within_ss, ratio)
        return float((sizes.sum() - 1) * math.log(within) + np.log1p(ratio * sizes).sum() + math.log(weight))

    boundary = -20.0
    best = minimize_scalar(deviance, bounds=(-10, 10), method="bounded", options={"xatol": 1e-8})
    return math.exp(best.x) if best.fun < deviance(boundary) - 1e-9 else 0.0


def _satterthwaite(within: float, ratio: float, group_of: Any) -> float:
    """Degrees of freedom 2 Var² / Var(Var) of the mean's variance, from the expected information of both variances."""
    same_group = (group_of[:, None] == group_of).astype(float)
    precision = np.linalg.inv(np.eye(len(group_of)) + ratio * same_group) / within
    weights = precision.sum(axis=1)
    variance = 1 / weights.sum()
    projection = precision - variance * np.outer(weights, weights)
    # Derivatives of the covariance: the identity for the variance within, `same_group` for the variance between.
    derivatives = (projection, projection @ same_group)
    information = [[float((first * second.T).sum()) / 2 for second in derivatives] for first in derivatives]
    slope = variance**2 * np.array([weights @ weights, weights @ same_group @ weights])
    return float(2 * variance**2 / (slope @ np.linalg.solve(information, slope)))
