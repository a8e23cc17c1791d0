"""What must hold before a time is worth reading: the same alphas and the same r as others compute.

Two alphas may differ where their errors are so close that rounding decides; how close is judged by a third
computation, the errors of all alphas by the plain definition, one inner fit after the other, in float64.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ours
import peers
from workloads import ALPHAS, Workload, inner_blocks, load, make, split

Array = Any


@dataclass(frozen=True)
class Tolerance:
    """How much two results may differ.

    Attributes:
        share: of (layer, fold, neuroid) with another alpha.
        gap: relative difference of the errors of the two alphas, where they differ.
        dr: difference of r, where they do not.
    """

    share: float
    gap: float
    dr: float


SAME = Tolerance(share=1.0, gap=1e-9, dr=1e-5)  # two in float64
ROUNDED = Tolerance(share=0.005, gap=1e-5, dr=1e-5)  # ours in float32 against ours in float64
LOOSE = Tolerance(share=0.005, gap=1e-4, dr=1e-4)  # himalaya may be in float32 with all it does

SETS = (
    Workload("power law", 200, 300, 400),
    Workload("massive activations", 200, 300, 400, massive=True),
    Workload("few features", 200, 64, 400),
    Workload("long", 1500, 40, 60),
)


def errors(X: Array, Y: Array, rule: str) -> Array:
    """(alpha, neuroid) mean squared error of training rows that were left out, by the definition; one column for all
    neuroids under "one alpha"."""
    n = len(X)
    labels = inner_blocks(n) if rule == "inner 5-fold" else None
    if labels is None:
        Z, y = X - X.mean(axis=0), Y - Y.mean(axis=0)
        lam, U = _eigenvectors(Z)
        W, left_out = U.T @ y, []
        for alpha in ALPHAS:
            shrunk = lam / (lam + alpha)
            residual = (y - U @ (shrunk[:, None] * W)) / (1 - U**2 @ shrunk - 1 / n)[:, None]
            left_out.append((residual**2).mean(axis=0))
        found = np.array(left_out)
        return found.mean(axis=1, keepdims=True) if rule == "one alpha" else found
    blocks = []
    for label in np.unique(labels):
        rest, block = labels != label, labels == label
        Z, y = X - X[rest].mean(axis=0), Y - Y[rest].mean(axis=0)
        lam, U = _eigenvectors(Z[rest])
        T, W = Z[block] @ (Z[rest].T @ U), U.T @ y[rest]
        squares = [(y[block] - T @ (W / (lam + alpha)[:, None])) ** 2 for alpha in ALPHAS]
        blocks.append(np.array(squares).mean(axis=1) * n / 5)
    return np.sum(blocks, axis=0) / n


def _eigenvectors(Z: Array) -> tuple[Array, Array]:
    """Eigenvalues and eigenvectors of Z Z'; of the features where these are fewer."""
    if len(Z) <= Z.shape[1]:
        return np.linalg.eigh(Z @ Z.T)
    lam, V = np.linalg.eigh(Z.T @ Z)
    return lam, Z @ V / np.sqrt(lam.clip(min=np.finfo(float).tiny))


def compare(
    found: dict[str, Array], truth: dict[str, Array], allowed: Tolerance, gaps: Callable[..., float]
) -> tuple[bool, str]:
    """Whether a result may stand beside another, and the numbers.

    Args:
        found, truth: r and alpha, (layer, fold, neuroid); `found` may have fewer folds.
        allowed: how much they may differ.
        gaps: (layer, fold, neuroids, alphas of the one, of the other) -> the largest relative difference of errors.
    """
    folds = found["r"].shape[1]
    r, alpha = truth["r"][:, :folds], truth["alpha"][:, :folds]
    differs = (found["alpha"] != alpha) & ~(np.isnan(found["alpha"]) & np.isnan(alpha))
    gap = 0.0
    for layer, fold in zip(*np.nonzero(differs.any(axis=2)), strict=True):
        neuroids = np.flatnonzero(differs[layer, fold])
        gap = max(gap, gaps(layer, fold, neuroids, found["alpha"][layer, fold], alpha[layer, fold]))
    apart = np.where(np.isnan(found["r"]) & np.isnan(r), 0.0, abs(found["r"] - r))[~differs]
    dr = float(np.nan_to_num(apart, nan=np.inf).max(initial=0.0))
    share = float(differs.mean())
    passed = share <= allowed.share and gap <= allowed.gap and dr <= allowed.dr
    return passed, f"{differs.sum():,} of {differs.size:,} alphas differ, gap {gap:.0e}, |dr| {dr:.0e}"


def gaps_of(layers: list[Array], Y: Array, rule: str) -> Callable[..., float]:
    """The last argument of `compare` for some data."""

    def gaps(layer: int, fold: int, neuroids: Array, one: Array, other: Array) -> float:
        train = split(len(Y))[fold][0]
        columns = slice(None) if rule == "one alpha" else neuroids
        found = errors(layers[layer][train].astype(float), Y[train][:, columns].astype(float), rule)
        first, second = (np.searchsorted(np.log10(ALPHAS), np.log10(each[neuroids]) - 0.1) for each in (one, other))
        columns = 0 if rule == "one alpha" else np.arange(len(neuroids))
        difference = abs(found[first, columns] - found[second, columns])
        return float((difference / found.min(axis=0)).max())

    return gaps


def first(installed: list[str]) -> dict[str, Any]:
    """All comparisons on small data, among them massive activations; `said` is a list of rows."""
    rows = []
    for workload in SETS:
        with tempfile.TemporaryDirectory() as folder:
            make(workload, Path(folder))
            layers, Y = load(Path(folder))
        folds = split(len(Y))

        def mine(rule: str, precision: str, data: tuple[Any, ...] = (layers, Y, folds)) -> dict[str, Array]:
            return ours.fit(*data, rule=rule, precision=precision, threads=2)

        by_primal = _PRIMAL if workload.n > 2 * workload.p else []
        for rule, name, package, theirs in [*_comparisons(installed), *by_primal]:
            allowed = ROUNDED if theirs is None else SAME
            row = {"workload": str(workload), "subject": name, "inner_rule": rule, "gate": "not installed"}
            if package in ("", *installed):
                truth = mine(rule, "float64")
                found = mine(rule, "mixed") if theirs is None else theirs(layers, Y, folds)
                passed, numbers = compare(found, truth, allowed, gaps_of(layers, Y, rule))
                row |= {"gate": "passed" if passed else "FAILED", "setting": numbers}
            rows.append(row)
    return {"said": rows}


# Few features per row: both of our ways.
_PRIMAL = [
    (rule, "ours primal", "", partial(ours.fit, rule=rule, precision="float64", threads=2, way="primal"))
    for rule in ("leave-one-out", "inner 5-fold", "one alpha", "least squares")
]


def _comparisons(installed: list[str]) -> list[tuple[str, str, str, Callable[..., dict[str, Array]] | None]]:
    """(rule, name, package, who) of what ours in float64 is compared with; nobody: ours in float32."""

    def with_(call: Callable[..., dict[str, Array]], **settings: Any) -> Callable[..., dict[str, Array]]:
        return lambda *data: call(*data, **settings)

    himalaya = {"backend": "numpy", "dtype": "float64", "kernel": "linear"}
    return [
        ("leave-one-out", "ours mixed", "", None),
        ("inner 5-fold", "ours mixed", "", None),
        ("one alpha", "ours mixed", "", None),
        ("leave-one-out", "scikit-learn RidgeCV", "sklearn", peers.scikit_learn),
        ("inner 5-fold", "himalaya KernelRidgeCV float64", "himalaya", with_(peers.himalaya, **himalaya)),
        ("one alpha", "Brain-Score's way, torch svd", "torch", with_(peers.brain_score, by="svd")),
        ("one alpha", "Brain-Score's way, torch Gram", "torch", with_(peers.brain_score, by="Gram")),
        ("one alpha", "Brain-Score's way, scikit-learn", "sklearn", with_(peers.scikit_learn, per_target=False)),
        ("least squares", "scikit-learn LinearRegression", "sklearn", peers.linear_regression),
    ]
