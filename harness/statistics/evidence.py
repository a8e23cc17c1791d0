"""Whether a difference is reliable, from its interval and its test, and how to say so.

A difference is called reliable only if its 95 % interval excludes 0 and its test rejects 0 at 0.05 (after correction
for several tests, where that is known). If one of the two is missing, the other decides; if they disagree, the sentence
says both. A difference without either counts as untested.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from harness.numbers import interval, number

if TYPE_CHECKING:
    import pandas as pd

Verdict = Literal["reliable", "not reliable", "contradictory", "untested"]
LEVEL = 0.05


def verdict(low: float, high: float, p: float) -> Verdict:
    """Judge a difference by its 95 % interval and its p value; NaN means that there is none."""
    by_interval = None if math.isnan(low + high) else low > 0 or high < 0
    by_test = None if math.isnan(p) else p < LEVEL
    answers = {answer for answer in (by_interval, by_test) if answer is not None}
    if not answers:
        return "untested"
    if len(answers) > 1:
        return "contradictory"
    return "reliable" if True in answers else "not reliable"


class Difference(NamedTuple):
    """Score of a model minus that of another source, with its interval and p value (NaN if there is none)."""

    value: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> Verdict:
        """Whether the difference is reliable."""
        return verdict(self.low, self.high, self.p)

    def in_words(self, digits: int = 3) -> str:
        """The numbers, such as "+0.12 (0.05 to 0.19), p = 0.003"."""
        ends = interval(self.low, self.high, digits)
        text = number(self.value, digits, sign=True) + (f" ({ends})" if ends != "–" else "")
        return text + (f", {p_in_words(self.p)}" if not math.isnan(self.p) else "")


UNTESTED = Difference(math.nan, math.nan, math.nan, math.nan)


def p_in_words(p: float) -> str:
    """A p value with its sign, such as "p = 0.012" or "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {number(p)}"


def contradiction(low: float, high: float) -> str:
    """Says what interval and test have found, for a contradictory difference."""
    excludes = low > 0 or high < 0
    found = "excludes 0, but the test does not reject it" if excludes else "includes 0, but the test rejects it"
    return f"the interval {found}"


def between(
    tests: pd.DataFrame | None, model: str, other: str, dataset: str, protocol: str, target: str, metric: str = ""
) -> Difference:  # fmt: skip
    """The tested difference of two sources, in either order of the table "paired_tests".

    Args:
        tests: rows with model, other, difference, low, high, p, p_adjusted, dataset, protocol, target; None if no test
            was made.
        model: the source whose score comes first.
        other: the source that is subtracted.
        dataset: data set of both scores.
        protocol: protocol of both scores.
        target: target of both scores.
        metric: of the score; "" takes any.

    Returns:
        The difference model - other; `UNTESTED` if the table does not have it. A pair can have several tests (a tuned
        model against its base, which is the best model too); the one with the largest p is given, since the pair may
        have been selected by its scores.
    """
    if tests is None or tests.empty:
        return UNTESTED
    rows = tests[(tests["dataset"] == dataset) & (tests["protocol"] == protocol) & (tests["target"] == target)]
    if metric and "metric" in rows:
        rows = rows[rows["metric"] == metric]
    rows = rows[rows["difference"].notna()]
    differences = [
        difference_of(row, sign)
        for first, second, sign in ((model, other, 1), (other, model, -1))
        for row in rows[(rows["model"] == first) & (rows["other"] == second)].to_dict("records")
    ]
    return max(differences, key=lambda difference: np.nan_to_num(difference.p, nan=-1.0), default=UNTESTED)


def difference_of(row: dict[str, Any], sign: int) -> Difference:
    """The difference of a row of "paired_tests", or with sign -1 its opposite; p after correction where it is known."""
    low, high = (row["low"], row["high"]) if sign > 0 else (-row["high"], -row["low"])
    corrected = row.get("p_adjusted", math.nan)
    return Difference(sign * row["difference"], low, high, row["p"] if math.isnan(corrected) else corrected)


def sentences(differences: Sequence[tuple[str, Difference]], subject: str = "Its score", digits: int = 3) -> str:
    """Sentences on the differences to other sources, one for each outcome; the untested ones at the end.

    Args:
        differences: (name of the other source, difference) in the order of the text.
        subject: what is compared, with which the sentences begin.
        digits: of the numbers.
    """
    if len(differences) > 1 and all(difference.verdict == "untested" for _, difference in differences):
        return "These differences were not tested."
    by_claim: dict[str, list[str]] = {}
    for name, difference in differences:
        claim = _CLAIMS[difference.verdict]
        if difference.verdict == "reliable":
            claim = claim.format("higher" if difference.value > 0 else "lower")
        numbers = "" if difference.verdict == "untested" else f" ({difference.in_words(digits)})"
        if difference.verdict == "contradictory":
            numbers = f"{numbers[:-1]}: {contradiction(difference.low, difference.high)})"
        by_claim.setdefault(claim, []).append(name + numbers)
    ordered = sorted(by_claim.items(), key=lambda item: item[0] == _CLAIMS["untested"])
    return " ".join(f"{subject} {claim} that of {joined(names)}." for claim, names in ordered)


_CLAIMS: dict[Verdict, str] = {
    "reliable": "is reliably {} than", "not reliable": "does not differ reliably from",
    "contradictory": "may or may not differ from", "untested": "was not tested against",
}  # fmt: skip


def phrases(differences: Sequence[tuple[str, Difference]]) -> str:
    """The same for the summary, without numbers, separated by semicolons."""
    if len(differences) > 1 and all(difference.verdict == "untested" for _, difference in differences):
        return "differences to controls and other models were not tested"
    by_claim: dict[str, list[str]] = {}
    for name, difference in differences:
        claim = {
            "reliable": "reliably above" if difference.value > 0 else "reliably below",
            "not reliable": "not reliably different from", "untested": "not tested against",
            "contradictory": "interval and test disagree about the difference to",
        }[difference.verdict]  # fmt: skip
        by_claim.setdefault(claim, []).append(name)
    return "; ".join(f"{claim} {joined(names)}" for claim, names in by_claim.items())


def joined(names: list[str]) -> str:
    """Names as a list in words."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
