"""Neuroids -> subjects -> data set -> model, and the choice of the layer.

The score of a layer is the median over neuroids in each fold, then the mean over folds (METHODS section 2). PAPER takes
the best layer on these same scores; STRICT lets each fold choose it by the inner score of its training rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

from harness.records import GROUP, Floats, Integers, Layer, LayerFit, Responses

N_BOOTSTRAP = 500


@dataclass(frozen=True)
class Chosen:
    """The score of a model on one target.

    Attributes:
        layer, layer_folds: the layer chosen and in how many folds; where folds differ, the one chosen most often.
        r: median over neuroids, mean over folds. r_low, r_high: 95 % interval. interval_kind: over what.
        n_nan: neuroids without a score in any fold.
    """

    layer: Layer
    layer_folds: int
    layer_choice: str
    r: float
    r_low: float
    r_high: float
    interval_kind: str
    n_neuroids: int
    n_nan: int


def targets(responses: Responses) -> dict[str, Integers]:
    """Which neuroids are scored together: "all" (subjects), "group" (means over them, "all" if alone), each roi."""
    subjects = np.array(responses.subjects)
    single = np.flatnonzero(subjects != GROUP)
    found: dict[str, Integers] = {"all": single if len(single) else np.arange(len(subjects))}
    if 0 < len(single) < len(subjects):
        found[GROUP] = np.flatnonzero(subjects == GROUP)
    rois = np.array(responses.rois)
    if len(set(responses.rois)) > 1:
        found.update({str(roi): np.flatnonzero(rois == roi) for roi in dict.fromkeys(responses.rois)})
    return found


def fold_scores(r: Floats, neuroids: Integers) -> Floats:
    """(fold,) median over the given neuroids of r (fold, neuroid); NaN where no neuroid has a score."""
    return _median(r[:, neuroids])


def layer_score(fit: LayerFit, neuroids: Integers) -> float:
    """Median over neuroids, mean over folds; NaN where nothing could be measured."""
    return mean(fold_scores(fit.r, neuroids))


def choose(
    fits: dict[Layer, LayerFit], layer_choice: str, responses: Responses, neuroids: Integers, seed: int
) -> Chosen:
    """Choose a layer and give the model's score on one target.

    Args:
        fits: layer -> its held-out and inner scores, same folds and neuroids.
        layer_choice: "max" (best on the held-out scores, as the paper) or "nested" (each fold by its training rows).
        responses: whose neuroids the fits are over.
        neuroids: (n,) the target's columns.
        seed: of the bootstrap.
    """
    layers = list(fits)
    held_out = np.stack([fold_scores(fits[layer].r, neuroids) for layer in layers])  # (layer, fold)
    if layer_choice == "max":
        picked = np.full(held_out.shape[1], _argmax([mean(row) for row in held_out]))
        how = "best of the held-out scores"
    else:
        inner = np.stack([fold_scores(fits[layer].inner, neuroids) for layer in layers])
        picked = np.array([_argmax(column) for column in inner.T])
        how = "by training rows in each fold"
    r = np.stack([fits[layers[k]].r[fold] for fold, k in enumerate(picked)])  # (fold, neuroid)
    test_share = fits[layers[0]].test_share
    low, high, kind = _interval(r[:, neuroids], test_share, np.array(responses.subjects)[neuroids], seed)
    return Chosen(
        layer=layers[np.bincount(picked).argmax()],
        layer_folds=int(np.bincount(picked).max()),
        layer_choice=how,
        r=mean(fold_scores(r, neuroids)),
        r_low=low,
        r_high=high,
        interval_kind=kind,
        n_neuroids=len(neuroids),
        n_nan=int(np.isnan(r[:, neuroids]).all(axis=0).sum()),
    )


def _interval(
    r: Floats, test_share: float, subjects: np.ndarray[tuple[int], np.dtype[np.str_]], seed: int
) -> tuple[float, float, str]:
    """95 % t interval of the score, from the variance over folds and, where there are 3 or more, over subjects.

    Folds share training rows (and random splits test rows), so the variance of their mean is not s^2 / n but
    s^2 (1 / n + test rows / training rows). Subjects alone would not do: all saw the same stimuli, so what a null model
    owes to these stimuli is common to them.

    Source: Nadeau & Bengio 2003, Machine Learning 52, 239-281.
    """
    scores = _median(r)
    n_folds = int(np.isfinite(scores).sum())
    if n_folds < 2:
        return np.nan, np.nan, ""
    variance = np.nanvar(scores, ddof=1) * (1 / n_folds + test_share)
    kind = f"t, corrected for shared training rows, over {n_folds} folds"
    people = [np.flatnonzero(subjects == subject) for subject in dict.fromkeys(subjects) if subject != GROUP]
    if len(people) >= 3:
        draws = np.random.default_rng(seed).integers(len(people), size=(N_BOOTSTRAP, len(people)))
        means = [mean(_median(r[:, np.concatenate([people[k] for k in draw])])) for draw in draws]
        variance += np.nanvar(means)
        kind += f", and bootstrap over {len(people)} subjects"
    reach = stats.t.ppf(0.975, n_folds - 1) * np.sqrt(variance)
    return mean(scores) - reach, mean(scores) + reach, kind


def median_ceiling(ceiling: Floats, neuroids: Integers | list[int]) -> float:
    """Median of the neuroids' ceilings (METHODS section 4); NaN where none is known."""
    return float(_median(ceiling[None, neuroids])[0])


def _median(matrix: Floats) -> Floats:
    """Row-wise median without the NaNs; NaN for a row of NaNs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values: Floats = np.nanmedian(matrix, axis=1)
    return values


def mean_over_folds(r: Floats) -> Floats:
    """(neuroid,) mean of r (fold, neuroid) over the folds in which a neuroid was measured; NaN where in none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        values: Floats = np.nanmean(r, axis=0)
    return values


def median_over_folds(alpha: Floats) -> Floats:
    """(neuroid,) median of alpha (fold, neuroid); NaN where in no fold."""
    return _median(alpha.T)


def mean(values: Floats) -> float:
    """Mean without the NaNs; NaN where there is nothing else."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def deviation(values: Floats) -> float:
    """Standard deviation without the NaNs; NaN where there is nothing else."""
    return float(np.nanstd(values)) if np.isfinite(values).any() else np.nan


def _argmax(values: list[float] | Floats) -> int:
    """Place of the largest; the first where all are NaN."""
    return int(np.nanargmax(values)) if np.isfinite(values).any() else 0
