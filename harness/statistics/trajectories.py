"""Scores along a training run: its trend, where it peaks, and whether two trainings differ.

A training is a series of checkpoints; trainings that differ in their seed alone are one, and its curve is the mean over
seeds. Checkpoints are placed by the tokens seen if these are known for all of them, else by the step. What is tested is
always a number of a curve that is linear in the scores (its mean, its end, its slope), computed in every fold and for
every subject, and tested like any other score (paired.py); trainings with seeds are tested over these too.

Method and error rates: harness/statistics/README.md#along-a-training-run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.models import training_steps
from harness.records import Floats
from harness.scoring import intervals
from harness.scoring.intervals import Variance
from harness.scoring.permutation import benjamini_hochberg
from harness.statistics.paired import PairedTest, Sources
from harness.statistics.scores import Scores, grouped

if TYPE_CHECKING:
    import pandas as pd

FEWEST = 4  # checkpoints of a trend or a peak
N_BOOTSTRAPS = 2_000
MOST_TRAININGS = 10  # of which all pairs are tested; of more, only the arms of one base
_GROUP = ["dataset", "protocol", "metric"]
COLUMNS = (
    *("training", *_GROUP, "n_seeds", "n_checkpoints", "first_step", "last_step", "first_tokens", "last_tokens"),
    *("first_score", "last_score", "rho", "p", "peak_step", "peak_tokens", "peak_score", "peak_low", "peak_high"),
    *("decline", "decline_low", "decline_high", "decline_p"),
)
TEST_COLUMNS = (
    *(
        *_GROUP,
        "training",
        "other",
        "statistic",
        "difference",
        "low",
        "high",
        "p",
        "n_seeds",
        "low_seeds",
        "high_seeds",
    ),
    *("p_seeds", "low_both", "high_both", "p_both", "p_adjusted", "x", "first_x", "last_x", "n_points", "method"),
)


def checkpoints(scores: Scores) -> pd.DataFrame:
    """Scores of the models that are checkpoints of a training run with several, with their base as step 0.

    Returns:
        The columns of the scores, and training, seed (-1 without one), step, tokens (NaN if unknown), x: tokens where
        they are known for the whole training, else the step.
    """
    import pandas as pd

    all_rows = scores.overall
    places = [_place(str(model), about) for model, about in scores.models.iterrows()]
    placed = pd.DataFrame(
        [(model, *place) for model, place in zip(scores.models.index, places, strict=True) if place],
        columns=["model", *_Place._fields],
    ).astype({"seed": int, "step": int, "tokens": float})
    rows = all_rows.merge(placed, on="model")
    rows = rows[rows.groupby(["training", "seed"])["step"].transform("nunique") > 1]
    if rows.empty:
        return rows.assign(x=0.0)
    starts = rows[["training", "seed", "base"]].drop_duplicates().rename(columns={"base": "model"})
    bases = all_rows.merge(starts, on="model").assign(step=0, tokens=0.0)
    rows = pd.concat([bases[rows.columns], rows], ignore_index=True)
    has_tokens = rows["tokens"].notna().groupby(rows["training"]).transform("all")
    rows["x"] = rows["tokens"].where(has_tokens, rows["step"])
    return rows.sort_values(["training", "seed", "x"], kind="stable", ignore_index=True)


class _Place(NamedTuple):
    """Where a checkpoint stands; seed: -1 without one, tokens: NaN if unknown."""

    training: str
    seed: int
    step: int
    tokens: float


def _place(model: str, about: Mapping[str, Any]) -> _Place | None:
    """The place that the name states; seed, step and tokens as a record of `harness tune` states them, if there is one.

    Two tunings of one base and arm differ in their names, which contain those of their folders.
    """
    stated = training_steps.of_name(model)
    if not math.isnan(step := about["tuning_step"]):
        training = stated.training if stated else f"{about['base']} {about['arm']}"
        return _Place(training, int(about["tuning_seed"]), int(step), about["tuning_tokens"])
    if stated is None:
        return None
    tokens = math.nan if stated.tokens is None else float(stated.tokens)
    return _Place(stated.training, -1 if stated.seed is None else stated.seed, stated.step, tokens)


# --- one training -----------------------------------------------------------------------------------------------------


def trajectories(scores: Scores) -> pd.DataFrame:
    """Trend and peak of each training.

    Returns:
        The columns `COLUMNS`. rho: Spearman's, of score and step, p by permuting the steps (checkpoints of one run are
        not independent: p only tests whether order matters). peak_low, peak_high: 95 % interval of the step or tokens
        of the peak, by bootstrap over folds, and over subjects if there are three or more. decline: score at the peak
        minus the last, where the peak is chosen on the other folds, so that it is not above 0 by selection alone. NaN
        for fewer than four checkpoints, or without the scores of single folds.
    """
    import pandas as pd

    rows = []
    for key, group in grouped(checkpoints(scores), ["training", *_GROUP]):
        curve = curve_of(group)
        first, last, peak = curve.iloc[0], curve.iloc[-1], curve.loc[curve["score"].idxmax()]
        rho, p = _trend(curve["x"].to_numpy(float), curve["score"].to_numpy(float))
        rows.append({
            **key, "n_seeds": group["seed"].nunique(), "n_checkpoints": len(curve),
            **{f"{end}_{name}": row[name] for end, row in (("first", first), ("last", last), ("peak", peak))
               for name in ("step", "tokens", "score")},
            "rho": rho, "p": p, **_peak(scores, group, curve),
        })  # fmt: skip
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype({"first_step": int, "last_step": int, "peak_step": int})


def curve_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Step, tokens, x and score (mean over seeds) of the checkpoints of a training that all its seeds have.

    Args:
        rows: from `checkpoints`, of one training, data set, protocol and metric.
    """
    means = rows.groupby("step", as_index=False).agg(
        tokens=("tokens", "mean"), x=("x", "mean"), score=("score", "mean"), n=("seed", "nunique")
    )
    return means[means["n"] == means["n"].max()].sort_values("x", ignore_index=True)


def _trend(x: Floats, scores: Floats) -> tuple[float, float]:
    """Spearman's rho, and p by permuting the scores (all orders of up to seven, else 5,040 random ones)."""
    from scipy import stats

    if len(x) < FEWEST or np.ptp(scores) == 0:
        return math.nan, math.nan
    of_x, of_scores = (stats.zscore(stats.rankdata(values)) / math.sqrt(len(x)) for values in (x, scores))
    result = stats.permutation_test(
        (of_scores,), lambda order, axis: (order * of_x).sum(axis=axis), permutation_type="pairings",
        vectorized=True, n_resamples=5040, rng=np.random.default_rng(0),
    )  # fmt: skip
    return float(result.statistic), float(result.pvalue)


def _peak(scores: Scores, rows: pd.DataFrame, curve: pd.DataFrame) -> dict[str, float]:
    """Interval of the place of the peak, and the decline after it with its test."""
    names = ("peak_low", "peak_high", "decline", "decline_low", "decline_high", "decline_p")
    sources = _sources(scores, rows)
    if sources is None or len(curve) < FEWEST:
        return dict.fromkeys(names, math.nan)
    table = np.stack([_mean_table(sources, rows[rows["step"] == step]["model"]) for step in curve["step"]])
    low, high = _place_of_peak(table, curve["x"].to_numpy(float), sources)
    test = _decline(table, sources)
    return dict(zip(names, (low, high, test.difference, *test.interval(), test.p()), strict=True))


def _mean_table(sources: Sources, models: Any) -> Floats:
    """(fold, subject) mean scores of a training's seeds at one step."""
    tables = [sources.tables[model] for model in models if model in sources]
    return np.mean(tables, axis=0) if tables else np.full_like(next(iter(sources.tables.values())), math.nan)


def _place_of_peak(table: Floats, x: Floats, sources: Sources) -> tuple[float, float]:
    """95 % percentile interval of the place of the highest score.

    Args:
        table: (checkpoint, fold, subject) scores.
        x: (checkpoint,) their places.
        sources: gives the words of stories, which weigh their scores.

    Returns:
        Ends; NaN if there are fewer than two folds, or scores are missing.
    """
    _, n_folds, n_subjects = table.shape
    complete = np.isfinite(table).all(axis=0)
    if n_folds < 2 or not complete.any():
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    folds = rng.multinomial(n_folds, np.full(n_folds, 1 / n_folds), size=N_BOOTSTRAPS).astype(float)
    subjects = np.ones((N_BOOTSTRAPS, n_subjects))
    if n_subjects >= intervals.FEWEST_SUBJECTS:
        subjects = rng.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=N_BOOTSTRAPS).astype(float)
    weights = np.where(complete, sources.weights, 0.0)
    curves = np.einsum("bf,bs,fs,kfs->bk", folds, subjects, weights, np.where(complete, table, 0.0), optimize=True)
    drawn = np.einsum("bf,bs,fs->b", folds, subjects, weights, optimize=True) > 0
    low, high = np.quantile(x[curves[drawn].argmax(axis=1)], [0.025, 0.975], method="nearest")
    return float(low), float(high)


def _decline(table: Floats, sources: Sources) -> PairedTest:
    """Score at the peak minus the last score; in each fold the peak is that of the mean over the other folds."""
    by_fold = intervals.mean(table, axis=2)  # (checkpoint, fold)
    difference = np.full(table.shape[1:], math.nan)
    for fold in range(table.shape[1]):
        others = intervals.mean(np.delete(by_fold, fold, axis=1), axis=1)
        if np.isfinite(others).all():
            difference[fold] = table[others.argmax(), fold] - table[-1, fold]
    return sources.test(difference)


def _sources(scores: Scores, rows: pd.DataFrame) -> Sources | None:
    """The scores of single folds of some models; None if they are unknown."""
    folds = scores.fold_scores
    if folds is None or folds.empty:
        return None
    first, models = rows.iloc[0], set(rows["model"])
    same = reduce(lambda kept, name: kept & (folds[name] == first[name]), _GROUP, folds["model"].isin(models))
    own = folds[same & (folds["target"] == first["target"])]
    return Sources(own) if set(own["model"]) == models else None


# --- two trainings ----------------------------------------------------------------------------------------------------


def tests(scores: Scores) -> pd.DataFrame:
    """Compare trainings, two at a time, over the part of training that both have.

    Compared are the arms of one base (with and without instructions), and all pairs of at most ten trainings. Arms are
    compared at equal steps, where they have seen the same examples; other trainings at equal tokens, between which
    scores are interpolated linearly in log tokens, or at equal steps where the tokens are not known.

    Returns:
        The columns `TEST_COLUMNS`; statistic is "mean" (over the points of comparison, all after the start), "last" or
        "slope" (per tenfold x, the tokens or steps; least squares). difference
        is training minus other. low, high, p: over folds, and subjects if there are three or more (paired.py);
        low_seeds, high_seeds, p_seeds: t over the seeds that both have, NaN with one. low_both, high_both, p_both: for
        other stimuli, subjects and seeds, whose variances are added (as in `intervals.effects`); with one seed as
        without seeds. p_adjusted: p_both after Benjamini-Hochberg over the pairs of a data set, protocol, metric and
        statistic.
    """
    import pandas as pd

    rows = [
        {**key, "training": one, "other": other, **test}
        for key, group in grouped(checkpoints(scores), _GROUP)
        for one, other in _compared(group)
        for test in _tests(scores, group[group["training"] == one], group[group["training"] == other])
    ]
    table = pd.DataFrame(rows, columns=list(TEST_COLUMNS))
    for _, family in table.groupby([*_GROUP, "statistic"], sort=False):
        table.loc[family.index, "p_adjusted"] = benjamini_hochberg(family["p_both"].to_numpy(float))
    return table


def _compared(rows: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Pairs of trainings: the arms of one base, and all pairs if there are few."""
    names = list(dict.fromkeys(rows["training"]))
    after = rows[rows["step"] > 0]
    base_of = dict(zip(after["training"], after["base"], strict=True))
    for one, other in combinations(names, 2):
        same_base = base_of.get(one) and base_of.get(one) == base_of.get(other)
        if same_base or len(names) <= MOST_TRAININGS:
            yield one, other


def _tests(scores: Scores, one: pd.DataFrame, other: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row per statistic; none with fewer than two points of comparison, or without scores of single folds."""
    import pandas as pd

    aligned = _align(curve_of(one), curve_of(other), _are_arms(one, other))
    sources = _sources(scores, pd.concat([one, other]).drop_duplicates("model"))
    if aligned is None or sources is None:
        return
    seeds = sorted(set(one["seed"]) & set(other["seed"])) if one["seed"].nunique() > 1 else []
    for statistic, weights in _weights(aligned.points).items():
        of_one, of_other = weights @ aligned.one, weights @ aligned.other
        test = sources.test(_functional(sources, one, of_one) - _functional(sources, other, of_other))
        by_seed = [_of_seed(one, seed, of_one) - _of_seed(other, seed, of_other) for seed in seeds]
        known = np.array([value for value in by_seed if math.isfinite(value)])
        both = _with_seeds(test, known)
        (low, high), (low_both, high_both) = test.interval(), both.interval()
        yield {
            "statistic": statistic, "difference": test.difference, "low": low, "high": high, "p": test.p(),
            **_over_seeds(known), "low_both": low_both, "high_both": high_both, "p_both": both.p(), "x": aligned.x,
            "first_x": aligned.points[0], "last_x": aligned.points[-1], "n_points": len(aligned.points),
            "method": test.method,
        }  # fmt: skip


def _are_arms(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two trainings are arms of `harness tune` on one base."""
    after = [rows[rows["step"] > 0].iloc[0] for rows in (one, other)]
    return all(row["arm"] for row in after) and after[0]["base"] == after[1]["base"]


class _Aligned(NamedTuple):
    """Points of comparison, in tokens or steps, and the (point, checkpoint) weights by which a curve is read there."""

    x: str
    points: Floats
    one: Floats
    other: Floats


def _align(one: pd.DataFrame, other: pd.DataFrame, are_arms: bool) -> _Aligned | None:
    """Where two curves can be compared; None with fewer than two points.

    Args:
        one: a curve, from `curve_of`.
        other: another.
        are_arms: whether they are to be compared at equal steps.
    """
    has_tokens = one["tokens"].notna().all() and other["tokens"].notna().all()
    x = "tokens" if has_tokens and not are_arms else "step"
    places = [curve[x].to_numpy(float) for curve in (one, other)]
    after = [own[own > 0] for own in places]
    if x == "step":
        points = np.intersect1d(*after)
    else:
        union = np.union1d(*after)
        low, high = max(own.min(initial=math.inf) for own in after), min(own.max(initial=0) for own in after)
        points = union[(union >= low) & (union <= high)]
    if len(points) < 2:
        return None
    return _Aligned(x, points, *(_interpolation(own, points) for own in places))


def _interpolation(places: Floats, points: Floats) -> Floats:
    """(point, checkpoint) weights of linear interpolation in the logarithm; a checkpoint at 0 has none."""
    weights = np.zeros((len(points), len(places)))
    after = np.flatnonzero(places > 0)
    for checkpoint in after:
        own = (after == checkpoint).astype(float)
        weights[:, checkpoint] = np.interp(np.log10(points), np.log10(places[after]), own)
    return weights


def _weights(x: Floats) -> dict[str, Floats]:
    """Statistic -> the weights of the checkpoints' scores in it."""
    n = len(x)
    weights = {"mean": np.full(n, 1 / n), "last": np.eye(n)[-1]}
    log_x = np.log10(x)
    centred = log_x - log_x.mean()
    if centred @ centred > 0:
        weights["slope"] = centred / (centred @ centred)
    return weights


def _functional(sources: Sources, rows: pd.DataFrame, weights: Floats) -> Floats:
    """(fold, subject) weighted sum over the checkpoints of `curve_of` of the mean over seeds."""
    used = np.flatnonzero(weights)
    steps = curve_of(rows)["step"].to_numpy()[used]
    tables = [_mean_table(sources, rows[rows["step"] == step]["model"]) for step in steps]
    return np.tensordot(weights[used], np.stack(tables), axes=1)


def _of_seed(rows: pd.DataFrame, seed: int, weights: Floats) -> float:
    """The statistic of the curve of one seed."""
    own = rows[rows["seed"] == seed].drop_duplicates("step").set_index("step")["score"]
    used = np.flatnonzero(weights)
    return float(weights[used] @ own.reindex(curve_of(rows)["step"].to_numpy()[used]).to_numpy(float))


def _with_seeds(test: PairedTest, differences: Floats) -> PairedTest:
    """The test over stimuli and subjects with the variance over seeds added; (seed,) differences."""
    n = len(differences)
    if n < 2 or test.effects is None:
        return test
    seeds = Variance(float(differences.var(ddof=1)) / n, n - 1.0)
    return test._replace(effects=test.effects._replace(seeds=seeds))


def _over_seeds(differences: Floats) -> dict[str, float]:
    """T interval and p over seeds; (seed,) differences of two independent trainings each."""
    from scipy import stats

    n = len(differences)
    if n < 2 or np.ptp(differences) == 0:
        return {"n_seeds": max(n, 1), "low_seeds": math.nan, "high_seeds": math.nan, "p_seeds": math.nan}
    result = stats.ttest_1samp(differences, 0)
    low, high = result.confidence_interval(0.95)
    return {"n_seeds": n, "low_seeds": float(low), "high_seeds": float(high), "p_seeds": float(result.pvalue)}
