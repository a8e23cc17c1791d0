"""Our side of the comparison: the one file that knows the kernels' interface."""

from __future__ import annotations

from typing import Any

import numpy as np
from measure import Subject
from workloads import ALPHAS, inner_blocks

Array = Any


def fit(layers: list[Array], Y: Array, folds: list[tuple[Array, Array]], **settings: Any) -> dict[str, Array]:
    """Fit all layers and folds.

    Args:
        layers: (row, feature) each.
        Y: (row, neuroid).
        folds: (train, test) rows.
        settings: rule "leave-one-out", "inner 5-fold", "one alpha" or "least squares"; precision "float64" or
            "mixed"; threads; way "primal", "dual" or (if not given) that with fewer operations.

    Returns:
        r and alpha, (layer, fold, neuroid) both.
    """
    fits = list(_fit(layers, Y, folds, **settings))
    return {name: np.stack([[getattr(fold, name) for fold in layer] for layer in fits]) for name in ("r", "alpha")}


def _fit(
    layers: list[Array], Y: Array, folds: list[tuple[Array, Array]], rule: str, precision: str, threads: int,
    way: str = "counted",
) -> Any:  # fmt: skip
    """For each layer, one fit per fold."""
    from harness.kernels.ridge import Penalty, Split, fit_layers

    inner = [inner_blocks(len(train)) if rule == "inner 5-fold" else None for train, _ in folds]
    alphas, mean_over = () if rule == "least squares" else ALPHAS, "blocks" if rule == "inner 5-fold" else "rows"
    penalty = Penalty(alphas, per_neuroid=rule != "one alpha", tie="smaller", mean_over=mean_over)
    splits = [Split(train, test, labels) for (train, test), labels in zip(folds, inner, strict=True)]
    return fit_layers(layers, Y, splits, penalty, precision=precision, threads=threads, way=way)


def _subject(rule: str, precision: str, threads: int) -> Subject:
    settings = {"rule": rule, "precision": precision, "threads": threads}
    return Subject(f"ours {precision} {rule} {threads}", "ours:fit", rule, precision, threads, settings)


_RULES = (
    ("leave-one-out", "mixed"), ("leave-one-out", "float64"), ("inner 5-fold", "mixed"), ("one alpha", "mixed"),
    ("least squares", "float64"),
)  # fmt: skip
# A subject that others are measured against stands first in its rule.
SUBJECTS = tuple(_subject(rule, precision, threads) for rule, precision in _RULES for threads in (2, 1))
