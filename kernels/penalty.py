"""The ridge penalty: a grid of alphas and the rule for choosing one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.kernels.arrays import Array, namespace


@dataclass(frozen=True)
class Penalty:
    """A grid of alphas as in scikit-learn (HuthLab's alpha is its square root), and the rule for choosing one.

    Attributes:
        alphas: the grid, positive; empty for minimum-norm least squares.
        relative: multiply the grid by tr(C) / n of the training rows.
        per_neuroid: one alpha per neuroid, or one for all neuroids with the same rows (Brain-Score's rule).
        tie: which alpha to keep if errors are equal within 10 eps: "larger", or "smaller" as in scikit-learn.
        cutoff: least squares drops directions whose squared singular value is under this fraction of the largest.
        mean_over: the inner error is the mean over "rows", or the mean over "blocks" of each block's mean (as in
            himalaya and scikit-learn's GridSearchCV); the two agree for blocks of equal size.
    """

    alphas: tuple[float, ...] = ()
    relative: bool = False
    per_neuroid: bool = True
    tie: Literal["larger", "smaller"] = "larger"
    cutoff: float = 1e-12
    mean_over: Literal["rows", "blocks"] = "rows"

    def __post_init__(self) -> None:
        if not all(0 < alpha < np.inf for alpha in self.alphas):
            raise ValueError(f"alphas must be positive and finite, got {self.alphas}; give none for least squares.")
        for field, rules in (("tie", ("larger", "smaller")), ("mean_over", ("rows", "blocks"))):
            if getattr(self, field) not in rules:
                raise ValueError(f"{field} must be one of {', '.join(rules)}, got {getattr(self, field)!r}.")
        object.__setattr__(self, "alphas", tuple(sorted(float(alpha) for alpha in self.alphas)))

    def choose(self, errors: Array) -> Array:
        """(neuroid,) index of the smallest of (neuroid, alpha) errors; ties within 10 eps go by `tie`."""
        xp = namespace(errors)
        is_least = near_least(errors, 10.0 * float(xp.finfo(errors.dtype).eps))
        return (
            is_least.argmax(axis=1) if self.tie == "smaller" else errors.shape[1] - 1 - is_least[:, ::-1].argmax(axis=1)
        )


def near_least(errors: Array, rounding: float) -> Array:
    """(neuroid, alpha) whether an error is the smallest of its neuroid, up to this fraction of its size.

    The smallest may be negative by rounding, if features predict the responses exactly.
    """
    least = errors.min(axis=1, keepdims=True)
    is_near: Array = errors <= least + rounding * abs(least)
    return is_near
