"""Result of comparing one case with recorded vectors, and its presentation as text or JSON.

NaN is a difference that was not measured and None an agreement that was not checked; neither makes a case fail.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np


class Tolerance(NamedTuple):
    """Limits from which a difference fails. r: also for leave-one-out errors and, times 10, predictions (relative)."""

    r: float
    score: float


def largest(differences: Any) -> float:
    """Largest absolute value; infinity if a value is not finite, so that the case cannot pass."""
    return float(np.where(np.isfinite(differences), np.abs(differences), np.inf).max())


_NO_TOLERANCE = Tolerance(math.nan, math.nan)


@dataclass(frozen=True)
class Result:
    """Comparison of one case in one precision.

    Attributes:
        case, kind: name of the file; "ridge", "linear", ...
        verdict: "agrees", "differs", "damaged" or "not run".
        max_dr, max_dscore, max_dsplit_score: largest difference of r, of the score, of the score of one split.
        max_dpredicted: largest difference of a prediction, relative to the largest prediction.
        max_dloo_mse: largest relative difference of a leave-one-out error.
        splits_agree, alphas_agree, rank_agrees: None if not checked.
        precision: "float64" or "mixed" (float32 on the neuroid side).
        reason: why the case was not run or differs, and what could not be checked.
    """

    case: str
    kind: str
    verdict: str
    n_splits: int = 0
    max_dr: float = math.nan
    max_dscore: float = math.nan
    max_dsplit_score: float = math.nan
    max_dpredicted: float = math.nan
    max_dloo_mse: float = math.nan
    splits_agree: bool | None = None
    alphas_agree: bool | None = None
    rank_agrees: bool | None = None
    tolerance: Tolerance = _NO_TOLERANCE
    precision: str = ""
    reason: str = ""

    @property
    def fails(self) -> bool:
        """Whether this result makes the command fail."""
        return self.verdict in ("differs", "damaged")

    def judged(self) -> Result:
        """Set the verdict, and put what exceeds the tolerance before the other reasons."""
        bounds = {
            "r": (self.max_dr, self.tolerance.r), "score": (self.max_dscore, self.tolerance.score),
            "score of a split": (self.max_dsplit_score, self.tolerance.score),
            "prediction": (self.max_dpredicted, 10 * self.tolerance.r),
            "leave-one-out error": (self.max_dloo_mse, self.tolerance.r),
        }  # fmt: skip
        failures = [f"{name} differs by {value:.1e}" for name, (value, limit) in bounds.items() if value >= limit]
        agreements = {"splits": self.splits_agree, "alphas": self.alphas_agree, "ranks": self.rank_agrees}
        failures += [f"different {name}" for name, agree in agreements.items() if agree is False]
        reason = "; ".join([*failures, *([self.reason] if self.reason else [])])
        return replace(self, verdict="differs" if failures else "agrees", reason=reason)

    def as_row(self) -> dict[str, Any]:
        """The fields as JSON values; what was not measured is null."""
        row = {name: value for name, value in vars(self).items() if name != "tolerance"}
        row |= {"tolerance_r": self.tolerance.r, "tolerance_score": self.tolerance.score}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }


def in_lines(results: Sequence[Result]) -> list[str]:
    """The results as a text table, then the reasons, then a line with counts."""
    rows = [_HEADINGS, *(_cells(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [""] + [f"{_name(result)}: {result.verdict}: {result.reason}" for result in results if result.reason]
    counts = Counter(result.verdict for result in results)
    labels = {"agrees": "agree", "differs": "differ", "damaged": "damaged", "not run": "not run"}
    summary = ", ".join(f"{counts[verdict]} {label}" for verdict, label in labels.items())
    return [*lines, "", f"{len(results)} comparisons: {summary}"]


_HEADINGS = (
    "case", "precision", "splits", "max |dr|", "max |dscore|", "per split", "same splits", "same alphas", "same rank",
    "tolerance r, score", "verdict",
)  # fmt: skip


def _cells(result: Result) -> tuple[str, ...]:
    numbers = (result.max_dr, result.max_dscore, result.max_dsplit_score)
    checks = (result.splits_agree, result.alphas_agree, result.rank_agrees)
    return (
        result.case, result.precision or "–", str(result.n_splits or "–"), *map(_number, numbers),
        *("–" if check is None else "yes" if check else "NO" for check in checks),
        ", ".join(map(_number, result.tolerance)).replace("–, –", "–"), result.verdict,
    )  # fmt: skip


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1e}"


def _name(result: Result) -> str:
    return f"{result.case} ({result.precision})" if result.precision == "mixed" else result.case
