"""What a comparison with recorded vectors found, and how it is said.

A difference that was not measured is NaN and an agreement that was not checked is None: neither counts against a case.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple


class Tolerance(NamedTuple):
    """Largest difference that still agrees: of r (and of predictions and errors, relative), of the score."""

    r: float
    score: float


_NO_TOLERANCE = Tolerance(math.nan, math.nan)


@dataclass(frozen=True)
class Result:
    """One case in one precision.

    Attributes:
        case, kind: name of the file; "ridge", "linear", ...
        verdict: "agrees", "differs", "damaged" or "not run".
        max_dr, max_dscore, max_dsplit_score: largest differences of r, of the score, of the score of one split.
        max_dpredicted: of a prediction, relative to the largest; max_dloo_mse: of a leave-one-out error, relative.
        splits_agree, alphas_agree, rank_agrees: None where not checked.
        precision: "float64" or "mixed" (float32 on the neuroid side).
        reason: why a case was not run or does not agree, and what could not be checked.
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
        """Whether it makes the run fail."""
        return self.verdict in ("differs", "damaged")

    def judged(self) -> Result:
        """With its verdict, and what is past tolerance before the other reasons."""
        bounds = {
            "r": (self.max_dr, self.tolerance.r), "score": (self.max_dscore, self.tolerance.score),
            "score of a split": (self.max_dsplit_score, self.tolerance.score),
            "predictions": (self.max_dpredicted, 10 * self.tolerance.r),
            "leave-one-out error": (self.max_dloo_mse, self.tolerance.r),
        }  # fmt: skip
        past = [f"{what} differs by {found:.1e}" for what, (found, most) in bounds.items() if found >= most]
        agreements = {"splits": self.splits_agree, "alphas": self.alphas_agree, "ranks": self.rank_agrees}
        past += [f"other {what}" for what, agree in agreements.items() if agree is False]
        reason = "; ".join([*past, *([self.reason] if self.reason else [])])
        return replace(self, verdict="differs" if past else "agrees", reason=reason)

    def as_row(self) -> dict[str, Any]:
        """Its fields, as JSON can hold them: what was not measured is null."""
        row = {name: value for name, value in vars(self).items() if name != "tolerance"}
        row |= {"tolerance_r": self.tolerance.r, "tolerance_score": self.tolerance.score}
        return {
            name: None if isinstance(value, float) and not math.isfinite(value) else value
            for name, value in row.items()
        }


def in_lines(results: Sequence[Result]) -> list[str]:
    """The results as a table for people, the reasons under it, and a last line that counts."""
    columns = [_HEADINGS, *(_cells(result) for result in results)]
    widths = [max(map(len, column)) for column in zip(*columns, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in columns]
    lines += [""] + [f"{_name(result)}: {result.verdict}: {result.reason}" for result in results if result.reason]
    counts = Counter(result.verdict for result in results)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("agrees", "differs", "damaged", "not run"))
    return [*lines, "", f"{len(results)} comparisons: {said}".replace("agrees", "agree").replace("differs", "differ")]


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
