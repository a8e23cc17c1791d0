"""Comparison of one recorded regression: r, scores, predictions, alphas, ranks and leave-one-out errors.

Each split is fitted on its recorded rows with Brain-Score's settings: no scaling, one alpha for all neuroids chosen by
leave-one-out, 1e-8 added to the norms in r, median over neuroids, mean over splits. The splits are also regenerated
from the arguments of the cross-validation. A second result gives the deviation of our mixed precision at the recorded
alpha.

Source: brain-score/language at 0e0bb4a2 (August 2026), as described with the vectors.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from harness.conformance import crossvalidation
from harness.conformance.vectors import LINEAR, RIDGE, Vectors
from harness.conformance.verdicts import Result, Tolerance, largest
from harness.kernels.gram import Design, decompose, design
from harness.kernels.metrics import brainscore_r
from harness.kernels.ridge import Penalty, Split, predict_held_out
from harness.records import Floats, Fold
from harness.scoring import aggregate

Precision = Literal["float64", "mixed"]

FLOAT64 = Tolerance(r=1e-9, score=1e-10)
MIXED = Tolerance(r=1e-5, score=1e-5)
# Brain-Score solves float32 features in float32: seven digits, times the condition number of the features.
FLOAT32_FEATURES = Tolerance(r=1e-3, score=1e-4)
# The r of a constant target is a rounding error divided by 1e-8: at most this.
_ROUNDING_R = 5e-7
# Relative difference below which leave-one-out errors of float32 features are indistinguishable.
_NEAR_IN_FLOAT32 = 1e-5
# Rounding errors assumed to accumulate in 1 - h.
_ROUNDINGS = 100


class Fit(NamedTuple):
    """Result of one split.

    Attributes:
        r: (neuroid,).
        predicted: (test, neuroid) in the unit of the responses.
        alpha: the alpha shared by all neuroids; NaN for least squares.
        rank: rank of the training features.
    """

    r: Floats
    predicted: Floats
    alpha: float
    rank: int


class LeaveOneOut(NamedTuple):
    """(alpha,) mean squared errors, and their relative rounding error, large where 1 - h is near 0."""

    errors: Floats
    rounding: Floats


def compare(vectors: Vectors) -> Iterator[Result]:
    """Results of a ridge or least-squares case in float64 and in mixed precision."""
    splits_agree, notes = crossvalidation.agree(vectors)
    in_float32 = vectors["X"].dtype != np.float64
    if in_float32:
        notes.append(f"features are {vectors['X'].dtype}: Brain-Score solves in that precision, the harness in float64")
    features = design(vectors["X"])
    ours = _compare(vectors, features, "float64", FLOAT32_FEATURES if in_float32 else FLOAT64, notes)
    yield replace(ours, splits_agree=splits_agree).judged()
    try:
        yield _compare(vectors, features, "mixed", FLOAT32_FEATURES if in_float32 else MIXED, []).judged()
    except NotImplementedError as error:
        reason = f"mixed precision: {error}"
        yield Result(vectors.case, vectors.kind, "not run", len(vectors["r"]), precision="mixed", reason=reason)


def _compare(
    vectors: Vectors, features: Design, precision: Precision, tolerance: Tolerance, notes: list[str]
) -> Result:
    """Fit every split and take the largest differences."""
    checks_alpha = vectors.kind == RIDGE and precision == "float64"
    loo_errors = [_leave_one_out(vectors, features, fold) for fold in vectors.splits] if checks_alpha else []
    choices, fits = [], []
    for k in range(len(vectors["r"])):
        fits.append(fit(vectors, features, k, precision, given_alpha=precision == "mixed"))
        if checks_alpha:
            choices.append(_compare_alpha(vectors, k, fits[k].alpha, loo_errors[k]))
        if checks_alpha and choices[k] == "near":
            fits[k] = fit(vectors, features, k, precision, given_alpha=True)
    n_near = choices.count("near")
    if n_near:
        notes = [*notes, f"rounding decides the alpha of {n_near} splits; they were fitted at the recorded alpha"]
    scores = np.array([np.median(fit.r) for fit in fits])
    max_dpredicted, order_notes = _largest_of_predictions(vectors, fits)
    return Result(
        vectors.case, vectors.kind, "", n_splits=len(fits), tolerance=tolerance, precision=precision,
        max_dr=max(_difference(vectors, k, fit.r) for k, fit in enumerate(fits)),
        max_dscore=abs(aggregate.mean(scores) - float(vectors["score"])),
        max_dsplit_score=float(np.abs(scores - vectors["per_split_score"]).max()),
        max_dpredicted=max_dpredicted,
        max_dloo_mse=_largest_of_errors(vectors, loo_errors, tolerance),
        alphas_agree="other" not in choices if checks_alpha else None,
        rank_agrees=[fit.rank for fit in fits] == vectors["rank"].tolist() if vectors.kind == LINEAR else None,
        reason="; ".join([*notes, *order_notes]),
    )  # fmt: skip


def fit(vectors: Vectors, features: Design, k: int, precision: Precision, given_alpha: bool) -> Fit:
    """Predict the test rows of a split; neuroids without a fit are predicted by their training mean.

    Alpha is chosen from the recorded grid as Brain-Score does (one for all neuroids), or is the recorded alpha of the
    split if `given_alpha`. Least squares uses the recording's cut-off for singular values.
    """
    fold, Y = vectors.splits[k], vectors["Y"].astype(float)
    grid: tuple[float, ...] = ()
    if vectors.kind != LINEAR:
        grid = (vectors["alpha"][k],) if given_alpha else tuple(vectors["alphas"].tolist())
    penalty = Penalty(grid, per_neuroid=False, tie="smaller", cutoff=_cutoff(vectors, fold))
    mean = Y[fold.train].mean(axis=0)
    predicted, observed = np.zeros((len(fold.test), Y.shape[1])), Y[fold.test] - mean
    alphas, rank = [np.nan], 0
    for block in predict_held_out(features, Y, Split(fold.train, fold.test), penalty, precision=precision):
        predicted[:, block.neuroids], observed[:, block.neuroids] = block.predicted, block.observed
        alphas.extend(block.alpha[np.isfinite(block.alpha)].tolist())
        rank = max(rank, block.rank)
    return Fit(brainscore_r(predicted, observed), predicted + mean, alphas[-1], rank)


def _cutoff(vectors: Vectors, fold: Fold) -> float:
    """Smallest squared singular value that scikit-learn keeps, relative to the largest.

    LinearRegression cuts singular values off at eps up to version 1.5, at max(shape) * eps from 1.6, at 1e-6 from 1.9.
    Without a recorded version: 1e-12 for the squares.
    """
    match = re.match(r"(\d+)\.(\d+)", str((vectors.meta.get("versions") or {}).get("sklearn", "")))
    if match is None:
        return 1e-12
    version = (int(match[1]), int(match[2]))
    eps = float(np.finfo(vectors["X"].dtype).eps)
    if version >= (1, 9):
        return 1e-12
    return (eps if version < (1, 6) else eps * max(len(fold.train), vectors["X"].shape[1])) ** 2


def _difference(vectors: Vectors, k: int, r: Floats) -> float:
    """Largest |dr| of a split; r of a constant target counts as 0, since it is a rounding error in both programs."""
    Y, recorded, fold = vectors["Y"], vectors["r"][k], vectors.splits[k]
    constant = (np.ptp(Y[fold.train], axis=0) == 0) | (np.ptp(Y[fold.test], axis=0) == 0)
    r, recorded = (np.where(constant & (np.abs(values) < _ROUNDING_R), 0.0, values) for values in (r, recorded))
    return largest(r - recorded)


def _compare_alpha(vectors: Vectors, k: int, alpha: float, ours: LeaveOneOut) -> Literal["same", "near", "other"]:
    """Compare a split's alpha with the recorded one.

    Returns:
        "same"; "near" if the errors of both alphas equal the smallest error up to rounding; else "other".
    """
    if alpha == vectors["alpha"][k]:
        return "same"
    recorded = vectors["loo_mse"][k]
    slack = np.maximum(ours.rounding, _NEAR_IN_FLOAT32 if vectors["X"].dtype != np.float64 else 0.0)
    near = recorded * (1.0 - slack) <= recorded.min() * (1.0 + slack[recorded.argmin()])
    return "near" if {alpha, vectors["alpha"][k]} <= set(vectors["alphas"][near].tolist()) else "other"


def same_alphas(vectors: Vectors, ours: Sequence[float], recorded: Sequence[float]) -> bool:
    """Whether the alphas of all splits are the recorded ones, or equal to them up to rounding of the errors."""
    if len(ours) != len(recorded):
        return False
    features = design(vectors["X"])
    for fold, alpha, theirs in zip(vectors.splits, ours, recorded, strict=True):
        if alpha != theirs:
            loo = _leave_one_out(vectors, features, fold)
            slack = np.maximum(loo.rounding, _NEAR_IN_FLOAT32 if vectors["X"].dtype != np.float64 else 0.0)
            near = loo.errors * (1.0 - slack) <= loo.errors.min() * (1.0 + slack[loo.errors.argmin()])
            if not {alpha, theirs} <= set(vectors["alphas"][near].tolist()):
                return False
    return True


def _largest_of_predictions(vectors: Vectors, fits: list[Fit]) -> tuple[float, list[str]]:
    """Largest difference of a prediction, relative to the largest prediction; NaN if none is recorded.

    The second value has a sentence on the order of the rows where it is not that of `test_k`.
    """
    differences, notes = [math.nan], []
    for k, fit in enumerate(fits):
        if f"pred_{k}" in vectors.arrays:
            theirs, orders = vectors[f"pred_{k}"], vectors.prediction_orders(k)
            by_order = {
                note: largest(fit.predicted[order] - theirs) / max(1.0, largest(theirs)) for note, order in orders
            }
            note = min(by_order, key=lambda note: by_order[note])
            differences.append(by_order[note])
            notes += [note] if note and note not in notes else []
    return float(np.nanmax(differences)) if len(differences) > 1 else math.nan, notes


def _largest_of_errors(vectors: Vectors, loo_errors: list[LeaveOneOut], tolerance: Tolerance) -> float:
    """Largest relative difference of a mean squared leave-one-out error, where rounding is below the tolerance."""
    differences = [np.abs(ours.errors / vectors["loo_mse"][k] - 1.0) for k, ours in enumerate(loo_errors)]
    exact = [difference[ours.rounding < tolerance.r] for difference, ours in zip(differences, loo_errors, strict=True)]
    return max((largest(difference) for difference in exact if len(difference)), default=np.nan)


def _leave_one_out(vectors: Vectors, features: Design, fold: Fold) -> LeaveOneOut:
    """Leave-one-out errors of a split for all alphas, from one decomposition.

    Computed from Brain-Score's definition, (e / (1 - h))², and not by the ridge kernel, whose choice of alpha is
    compared separately.
    """
    basis, y = decompose(features, fold.train, fold.test), vectors["Y"][fold.train]
    y = y - y.mean(axis=0)
    W, n = basis.U.T @ y, len(y)
    errors, rounding = [], []
    for alpha in vectors["alphas"].tolist():
        shrinkage = basis.lam / (basis.lam + alpha)
        residual, one_minus_h = y - basis.U @ (shrinkage[:, None] * W), 1.0 - 1.0 / n - basis.U**2 @ shrinkage
        errors.append(np.mean((residual / one_minus_h[:, None]) ** 2))
        rounding.append(_ROUNDINGS * np.finfo(float).eps / max(float(one_minus_h.min()), np.finfo(float).tiny))
    return LeaveOneOut(np.array(errors), np.array(rounding))
