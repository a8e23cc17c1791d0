"""Does tuning bring models closer? Each tuned model beside its base, and tests whose unit is the base.

The 17 pairs of the paper share 8 bases, so a t-test over pairs is wrong about as often as its author likes (13 % where
a third of the variance is the base's); it stands beside the others as a warning (`p_t_pairs`). The test to quote is
the sign flip over bases, with the interval beside it.

Source: Aw et al. 2023 (arXiv 2312.00575v2), section 3 (gain = (tuned - base) / base); METHODS.md, sections 5 and 6.5.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.records import Floats
from harness.statistics.resampling import NO_INTERVAL, Interval, bootstrap, sign_flip
from harness.statistics.scores import OVERALL, Scores

if TYPE_CHECKING:
    import pandas as pd

_GROUP = ["dataset", "protocol", "metric"]


def pairs(scores: Scores) -> pd.DataFrame:
    """Each tuned model beside its base, wherever both were scored, on whole data sets and on regions.

    Returns:
        base, tuned, pair_source, family, is_main, dataset, protocol, target, metric, base_score, tuned_score,
        difference, gain_percent (NaN where the base is not above 0).
    """
    tuned = scores.models[scores.models["base"] != ""].reset_index(names="tuned")
    keys = ["dataset", "protocol", "target", "metric"]
    of = scores.rows.rename(columns={"model": "tuned", "score": "tuned_score"})
    beside = scores.rows.rename(columns={"model": "base", "score": "base_score"})
    both = (
        tuned[["base", "tuned", "pair_source", "family", "is_main"]]
        .merge(of, on="tuned")
        .merge(beside, on=["base", *keys])
    )
    difference = both["tuned_score"] - both["base_score"]
    gain = (100 * difference / both["base_score"]).where(both["base_score"] > 0, math.nan)
    first = ["base", "tuned", "pair_source", "family", "is_main", *keys, "base_score", "tuned_score"]
    return both[first].assign(difference=difference, gain_percent=gain)


def by_base(paired: pd.DataFrame) -> pd.DataFrame:
    """Mean difference and gain over the pairs of each base, for each data set, protocol and metric."""
    measured = _measured(paired)
    return measured.groupby([*_GROUP, "base"], sort=False, as_index=False).agg(
        family=("family", "first"), is_main=("is_main", "max"), n_pairs=("tuned", "size"),
        difference=("difference", "mean"), gain_percent=("gain_percent", "mean"),
    )  # fmt: skip


def by_family(paired: pd.DataFrame) -> pd.DataFrame:
    """Mean over the pairs of each family, those beside the main models too: n_pairs, n_bases, difference, gain_percent.

    low and high are the 95 % interval of the mean over the family's bases, `by_base` their mean difference; NaN where
    there are fewer than five.
    """
    import pandas as pd

    rows = []
    for key, part in _measured(paired).groupby([*_GROUP, "family"], sort=False):
        of_bases = part.groupby("base")["difference"].mean()
        found = bootstrap(of_bases.to_numpy())
        rows.append({
            **dict(zip([*_GROUP, "family"], key, strict=True)), "n_pairs": len(part), "n_bases": len(of_bases),
            "gain_percent": part["gain_percent"].mean(), "difference": part["difference"].mean(),
            "by_base": of_bases.mean(), "low": found.low, "high": found.high,
        })  # fmt: skip
    return pd.DataFrame(rows)


def tests(scores: Scores, paired: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Tests of "tuned minus base is 0", for each data set, protocol and metric; columns as in table "tuning_tests".

    Args:
        scores: what the pairs were made of; its `people` widen the interval.
        paired: as `pairs` gives them; only those of main models are tested.
        seed: of the draws.
    """
    import pandas as pd
    from scipy import stats

    main = _measured(paired[paired["is_main"]])
    rows = [
        {**dict(zip(_GROUP, key, strict=True)), **_test(part, _people(scores, part), seed)}
        for key, part in main.groupby(_GROUP, sort=False)
    ]
    found = pd.DataFrame(rows)
    if rows:
        p = found["p_sign_flip"].to_numpy(float)
        known = np.isfinite(p)
        adjusted = np.full(len(p), math.nan)
        adjusted[known] = stats.false_discovery_control(p[known]) if known.any() else []
        found.insert(found.columns.get_loc("p_sign_flip") + 1, "p_adjusted", adjusted)
    return found


def _measured(paired: pd.DataFrame) -> pd.DataFrame:
    return paired[paired["target"].isin(OVERALL) & paired["difference"].notna()]


def _test(part: pd.DataFrame, people: pd.DataFrame | None, seed: int) -> dict[str, Any]:
    from scipy import stats

    of_bases = part.groupby("base")[["difference", "gain_percent"]].mean()
    means = of_bases["difference"].to_numpy()
    flipped, ranks = sign_flip(means, seed), _wilcoxon(means)
    spread, over = _interval(means, people, seed)
    gains = of_bases["gain_percent"].dropna().to_numpy()
    of_gains = bootstrap(gains, seed=seed)
    mixed = mixed_model(part["difference"].to_numpy(), part["base"].to_numpy())
    several = len(part) > 1 and np.ptp(part["difference"]) > 0
    return {
        "n_pairs": len(part), "n_bases": len(means), "n_people": 0 if people is None else people.shape[1],
        "gain_percent": float(part["gain_percent"].mean()),
        "gain_percent_bases": float(np.mean(gains)) if len(gains) else math.nan,
        "gain_low": of_gains.low, "gain_high": of_gains.high,
        "difference": float(means.mean()), "low": spread.low, "high": spread.high, "interval_over": over,
        "p_interval": spread.p, "d_z": _standardised(means),
        "p_sign_flip": flipped.p, "p_least": flipped.p_least,
        "p_wilcoxon": ranks[0], "rank_biserial": ranks[1],
        "mixed_difference": mixed.mean, "mixed_low": mixed.low, "mixed_high": mixed.high, "mixed_df": mixed.df,
        "p_mixed": mixed.p, "icc": mixed.icc,
        "p_t_pairs": float(stats.ttest_1samp(part["difference"], 0).pvalue) if several else math.nan,
    }  # fmt: skip


def _interval(means: Floats, people: pd.DataFrame | None, seed: int) -> tuple[Interval, str]:
    """Over bases and people where both are enough; over one of them where only that is; and which."""
    if people is not None:
        table = people.to_numpy()
        for over, found in (
            ("bases and people", bootstrap(table.mean(axis=1), table, seed)),
            ("bases", bootstrap(means, seed=seed)),
            ("people", bootstrap(table.mean(axis=0), seed=seed)),
        ):
            if not math.isnan(found.low):
                # The score itself is a median over all people's neuroids: the spread is theirs, the place its own.
                shift = 0.0 if over == "bases" else float(means.mean() - table.mean())
                return found._replace(low=found.low + shift, high=found.high + shift), over
        return NO_INTERVAL, ""
    found = bootstrap(means, seed=seed)
    return found, "" if math.isnan(found.low) else "bases"


def _people(scores: Scores, part: pd.DataFrame) -> pd.DataFrame | None:
    """(base, person) mean difference over the pairs of a base; None where people are not known.

    People who lack a score for any of the pairs are left out.
    """
    first = part.iloc[0]
    known = scores.people
    known = known[(known["dataset"] == first["dataset"]) & (known["protocol"] == first["protocol"])]
    if known.empty or first["target"] != "all":
        return None
    by_person = known.pivot(index="model", columns="subject", values="score")
    names = part[["base", "tuned"]]
    if not set(names["tuned"]) | set(names["base"]) <= set(by_person.index):
        return None
    difference = by_person.loc[names["tuned"]].to_numpy() - by_person.loc[names["base"]].to_numpy()
    table = by_person.iloc[:0].reindex(part.index).astype(float)
    table[:] = difference
    table = table.dropna(axis="columns").groupby(part["base"]).mean()
    return table if table.shape[1] > 1 else None


def _standardised(means: Floats) -> float:
    """Mean over standard deviation, both over bases (Cohen's d_z)."""
    sd = means.std(ddof=1) if len(means) > 1 else 0.0
    return float(means.mean() / sd) if sd > 0 else math.nan


def _wilcoxon(means: Floats) -> tuple[float, float]:
    """P of the signed-rank test, and its effect size: (sum of ranks up - down) / all."""
    from scipy import stats

    if len(means) < 2 or not np.any(means):
        return math.nan, math.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # ties make it approximate, which scipy says each time
        p = float(stats.wilcoxon(means).pvalue)
    moved = means[means != 0]
    ranks = stats.rankdata(np.abs(moved))
    return p, float((ranks * np.sign(moved)).sum() / ranks.sum())


class MixedModel(NamedTuple):
    """Mean of a mixed model with its 95 % interval; icc: share of the variance that is the group's."""

    mean: float
    low: float
    high: float
    p: float
    df: float
    icc: float


def mixed_model(values: Floats, groups: Any) -> MixedModel:
    """Mean of values that come in groups: value ~ 1 + (1 | group), by REML; it must agree with statsmodels' MixedLM.

    MixedLM is not used because it tests by z, which is wrong in 9 % of samples of 17 values in 8 groups, and may end
    off the border where the groups' variance is 0. Here t has Satterthwaite's degrees of freedom, as in lmerTest, or n
    - 1 at that border.

    Args:
        values: (value,) such as tuned - base of each pair.
        groups: (value,) the group of each, such as its base.
    """
    from scipy import stats

    _, of = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    sizes = np.bincount(of).astype(float)
    if len(sizes) < 2 or np.ptp(values) == 0:
        return MixedModel(*[math.nan] * 6)
    means = np.bincount(of, values) / sizes
    rest = float(((values - means[of]) ** 2).sum())
    ratio = _variance_ratio(sizes, means, rest) if len(sizes) < len(of) else 0.0  # of groups of one nothing is between
    mean, within, weight = _fit(sizes, means, rest, ratio)
    variance = within / weight
    df = _satterthwaite(within, ratio, of) if ratio > 0 else len(of) - 1.0
    half = float(stats.t.ppf(0.975, df)) * math.sqrt(variance)
    p = float(2 * stats.t.sf(abs(mean) / math.sqrt(variance), df))
    return MixedModel(mean, mean - half, mean + half, p, df, ratio / (1 + ratio))


def _fit(sizes: Floats, means: Floats, rest: float, ratio: float) -> tuple[float, float, float]:
    """(mean, variance within groups, sum of the groups' weights) where the ratio of the variances is known.

    Args:
        sizes: (group,) number of values.
        means: (group,) of the values.
        rest: sum of squares within groups.
        ratio: variance between groups over variance within.
    """
    weights = sizes / (1 + ratio * sizes)
    mean = float(weights @ means / weights.sum())
    within = (rest + float(weights @ (means - mean) ** 2)) / (sizes.sum() - 1)
    return mean, float(within), float(weights.sum())


def _variance_ratio(sizes: Floats, means: Floats, rest: float) -> float:
    """Variance between over variance within groups, where the restricted likelihood is highest; 0 at the border."""
    from scipy.optimize import minimize_scalar

    def deviance(log_ratio: float) -> float:
        ratio = math.exp(log_ratio)
        _, within, weight = _fit(sizes, means, rest, ratio)
        return float((sizes.sum() - 1) * math.log(within) + np.log1p(ratio * sizes).sum() + math.log(weight))

    border = -20.0
    best = minimize_scalar(deviance, bounds=(-10, 10), method="bounded", options={"xatol": 1e-8})
    return math.exp(best.x) if best.fun < deviance(border) - 1e-9 else 0.0


def _satterthwaite(within: float, ratio: float, of: Any) -> float:
    """Degrees of freedom of the mean's variance, 2 Var^2 / Var(Var), by the expected information of both variances."""
    same = (of[:, None] == of).astype(float)
    precision = np.linalg.inv(np.eye(len(of)) + ratio * same) / within
    weights = precision.sum(axis=1)
    variance = 1 / weights.sum()
    projection = precision - variance * np.outer(weights, weights)
    moved = (projection, projection @ same)  # by the derivatives of the covariance: the identity, and `same`
    information = [[float((one * other.T).sum()) / 2 for other in moved] for one in moved]
    slope = variance**2 * np.array([weights @ weights, weights @ same @ weights])
    return float(2 * variance**2 / (slope @ np.linalg.solve(information, slope)))
