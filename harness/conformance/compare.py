"""Whether the harness gives what Brain-Score language gives, case by case, on recorded vectors.

Every case is fitted on its recorded rows, in its compatibility form: no scaling, one alpha for all neuroids by
leave-one-out, r with 1e-8 in the norms, median over neuroids, mean over splits. Beside it the splits are made anew from
the arguments of the cross-validation. A second line says how far our mixed precision is, given the recorded alpha.

Source: brain-score/language at 0e0bb4a2 (August 2026), as told in the description of the vectors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from harness.conformance import beyond_regression, crossvalidation
from harness.conformance.vectors import LINEAR, RIDGE, DamagedError, NotRunError, Vectors, read
from harness.conformance.verdicts import Result, Tolerance
from harness.kernels.gram import Design, decompose, design
from harness.kernels.metrics import brainscore_r
from harness.kernels.ridge import Penalty, Split, predict_held_out
from harness.records import Floats, Fold
from harness.scoring import aggregate

Precision = Literal["float64", "mixed"]

FLOAT64 = Tolerance(r=1e-9, score=1e-10)
MIXED = Tolerance(r=1e-5, score=1e-5)
# Brain-Score solved float32 features in float32: seven digits, times the condition of the features.
FLOAT32_FEATURES = Tolerance(r=1e-3, score=1e-4)
# The r of a constant target is rounding over 1e-8: 0, or this at most.
_ROUNDING_R = 5e-7
# Errors of features in float32 that are nearer than this cannot be told apart there.
_NEAR_IN_FLOAT32 = 1e-5
# So many roundings are allowed to add up in 1 - h.
_ROUNDINGS = 100


class Fit(NamedTuple):
    """What one split gave.

    Attributes:
        r: (neuroid,).
        predicted: (test, neuroid) in the unit of the responses.
        alpha: the one of all neuroids; NaN without a grid.
        rank: of the training features.
    """

    r: Floats
    predicted: Floats
    alpha: float
    rank: int


class LeaveOneOut(NamedTuple):
    """(alpha,) mean squared errors, and their relative rounding: both programs take 1 - h, which may be nearly 0."""

    errors: Floats
    rounding: Floats


def run(folder: str) -> list[Result]:
    """Compare every case of a folder.

    Args:
        folder: holds .npz archives of vectors; what else is there is listed.

    Returns:
        One result per entry of the folder, two per regression (float64, mixed), in order of names.

    Raises:
        ValueError: if there is no such folder or no vectors in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"conform: {folder} is no folder; give one that holds .npz vectors.")
    entries = sorted(root.iterdir())
    if not any(path.suffix == ".npz" for path in entries):
        raise ValueError(f"conform: no .npz vectors in {folder}; it holds {len(entries)} other entries.")
    return [result for path in entries for result in _results(path)]


def _results(path: Path) -> list[Result]:
    """The results of one entry; whatever is wrong with it, the others go on."""
    kind = ""
    try:
        vectors = read(path)
        kind = vectors.kind
        return list(
            _regression(vectors) if kind in (RIDGE, LINEAR) else beyond_regression.compare(vectors, path.parent)
        )
    except NotRunError as error:
        return [Result(path.name if path.suffix != ".npz" else path.stem, kind, "not run", reason=str(error))]
    except DamagedError as error:
        return [Result(path.stem, kind, "damaged", reason=str(error))]
    except Exception as error:  # noqa: BLE001 - a case from elsewhere may be wrong in ways that nobody foresaw
        return [Result(path.stem, kind, "damaged", reason=f"cannot be compared: {type(error).__name__}: {error}")]


def _regression(vectors: Vectors) -> Iterator[Result]:
    """The float64 line and the mixed line of a ridge or least-squares case."""
    splits_agree, notes = crossvalidation.agree(vectors)
    in_float32 = vectors["X"].dtype != np.float64
    if in_float32:
        notes.append(
            f"features are {vectors['X'].dtype}, which Brain-Score solves in that precision and ours in float64"
        )
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
    choosing = vectors.kind == RIDGE and precision == "float64"
    left_out = [_leave_one_out(vectors, features, fold) for fold in vectors.splits] if choosing else []
    choices, fits = [], []
    for k in range(len(vectors["r"])):
        fits.append(_fit(vectors, features, k, precision, given_alpha=precision == "mixed"))
        if choosing:
            choices.append(_compare_alpha(vectors, k, fits[k].alpha, left_out[k]))
        if choosing and choices[k] == "near":
            fits[k] = _fit(vectors, features, k, precision, given_alpha=True)
    if "near" in choices:
        notes = [
            *notes,
            f"{choices.count('near')} splits have alphas that rounding decides; fitted at the recorded one",
        ]
    scores = np.array([np.median(fit.r) for fit in fits])
    return Result(
        vectors.case,
        vectors.kind,
        "",
        n_splits=len(fits),
        max_dr=max(_difference(vectors, k, fit.r) for k, fit in enumerate(fits)),
        max_dscore=abs(aggregate.mean(scores) - float(vectors["score"])),
        max_dsplit_score=float(np.abs(scores - vectors["per_split_score"]).max()),
        max_dpredicted=_largest_of_predictions(vectors, fits),
        max_dloo_mse=_largest_of_errors(vectors, left_out, tolerance),
        alphas_agree="other" not in choices if choosing else None,
        rank_agrees=[fit.rank for fit in fits] == vectors["rank"].tolist() if vectors.kind == LINEAR else None,
        tolerance=tolerance,
        precision=precision,
        reason="; ".join(notes),
    )


def _fit(vectors: Vectors, features: Design, k: int, precision: Precision, given_alpha: bool) -> Fit:
    """Predict the test rows of a split; neuroids without a fit are given their training mean.

    Brain-Score's choice of one alpha for all, or the alpha recorded; least squares cuts off as the recording did.
    """
    fold, Y = vectors.splits[k], vectors["Y"].astype(float)
    grid = (
        () if vectors.kind == LINEAR else (vectors["alpha"][k],) if given_alpha else tuple(vectors["alphas"].tolist())
    )
    penalty = Penalty(grid, per_neuroid=False, tie="smaller", cutoff=_cutoff(vectors, fold))
    mean = Y[fold.train].mean(axis=0)
    predicted, observed = np.zeros((len(fold.test), Y.shape[1])), Y[fold.test] - mean
    alphas, rank = [np.nan], 0
    for part in predict_held_out(features, Y, Split(fold.train, fold.test), penalty, precision=precision):
        predicted[:, part.neuroids], observed[:, part.neuroids] = part.predicted, part.observed
        alphas.extend(part.alpha[np.isfinite(part.alpha)].tolist())
        rank = max(rank, part.rank)
    return Fit(brainscore_r(predicted, observed), predicted + mean, alphas[-1], rank)


def _cutoff(vectors: Vectors, fold: Fold) -> float:
    """Least squared singular value that scikit-learn kept, relative to the largest.

    Up to 1.5 its LinearRegression cut singular values off at eps, from 1.6 at max(shape) eps, from 1.9 at 1e-6. Without
    a version, 1e-12 of the squares.
    """
    found = re.match(r"(\d+)\.(\d+)", str((vectors.meta.get("versions") or {}).get("sklearn", "")))
    if found is None:
        return 1e-12
    version = (int(found[1]), int(found[2]))
    eps = float(np.finfo(vectors["X"].dtype).eps)
    if version >= (1, 9):
        return 1e-12
    return (eps if version < (1, 6) else eps * max(len(fold.train), vectors["X"].shape[1])) ** 2


def _difference(vectors: Vectors, k: int, r: Floats) -> float:
    """Largest |dr| of a split; the r of a constant target is rounding in both programs, and 0."""
    Y, recorded, fold = vectors["Y"], vectors["r"][k], vectors.splits[k]
    flat = (np.ptp(Y[fold.train], axis=0) == 0) | (np.ptp(Y[fold.test], axis=0) == 0)
    r, recorded = (np.where(flat & (np.abs(values) < _ROUNDING_R), 0.0, values) for values in (r, recorded))
    return _largest(r - recorded)


def _compare_alpha(vectors: Vectors, k: int, alpha: float, ours: LeaveOneOut) -> Literal["same", "near", "other"]:
    """Whether a split's alpha is the recorded one, or both have errors that rounding cannot tell from the least."""
    if alpha == vectors["alpha"][k]:
        return "same"
    recorded = vectors["loo_mse"][k]
    slack = np.maximum(ours.rounding, _NEAR_IN_FLOAT32 if vectors["X"].dtype != np.float64 else 0.0)
    near = recorded * (1.0 - slack) <= recorded.min() * (1.0 + slack[recorded.argmin()])
    return "near" if {alpha, vectors["alpha"][k]} <= set(vectors["alphas"][near].tolist()) else "other"


def _largest_of_predictions(vectors: Vectors, fits: list[Fit]) -> float:
    """Largest difference of a prediction, relative to the largest prediction; NaN where none is recorded."""
    found = [(vectors[f"pred_{k}"], fit.predicted) for k, fit in enumerate(fits) if f"pred_{k}" in vectors.arrays]
    return max((_largest(ours - theirs) / max(1.0, _largest(theirs)) for theirs, ours in found), default=np.nan)


def _largest_of_errors(vectors: Vectors, left_out: list[LeaveOneOut], tolerance: Tolerance) -> float:
    """Largest relative difference of a mean squared leave-one-out error, where rounding leaves it to be compared."""
    ratios = [np.abs(ours.errors / vectors["loo_mse"][k] - 1.0) for k, ours in enumerate(left_out)]
    exact = [ratio[ours.rounding < tolerance.r] for ratio, ours in zip(ratios, left_out, strict=True)]
    return max((_largest(ratio) for ratio in exact if len(ratio)), default=np.nan)


def _leave_one_out(vectors: Vectors, features: Design, fold: Fold) -> LeaveOneOut:
    """Errors of a split, one decomposition for all alphas.

    Written out as Brain-Score defines it, (e / (1 - h))^2, rather than taken from the kernel, whose choice of alpha is
    compared by itself.
    """
    basis, y = decompose(features, fold.train, fold.test), vectors["Y"][fold.train]
    y = y - y.mean(axis=0)
    W, n = basis.U.T @ y, len(y)
    errors, rounding = [], []
    for alpha in vectors["alphas"].tolist():
        fitted = basis.lam / (basis.lam + alpha)
        residual, free = y - basis.U @ (fitted[:, None] * W), 1.0 - 1.0 / n - basis.U**2 @ fitted
        errors.append(np.mean((residual / free[:, None]) ** 2))
        rounding.append(_ROUNDINGS * np.finfo(float).eps / max(float(free.min()), np.finfo(float).tiny))
    return LeaveOneOut(np.array(errors), np.array(rounding))


def _largest(values: Floats) -> float:
    """Largest size; infinite where something is not finite, so that it cannot pass."""
    return float(np.where(np.isfinite(values), np.abs(values), np.inf).max())
