"""Ceilings of a whole benchmark: recomputed from its subjects where the file has the ceilings of the neuroids.

A ceiling is the score of a subject predicted from others, extrapolated to infinitely many (harness/scoring/
extrapolation.py). With at most five subjects all pools are used, so both programs compute the same; with more,
Brain-Score draws pools at random, and the ceiling is taken as recorded. A few curves have two minima, between which
rounding decides, so nine tenths of the neuroids must agree, and the ceiling of the recording.
"""

from __future__ import annotations

import numpy as np

from harness.conformance.benchmark_inputs import Inputs, Recording
from harness.conformance.vectors import Vectors
from harness.conformance.verdicts import Result, Tolerance
from harness.protocol import BRAINSCORE_RIDGE, FoldRule, Protocol, Regression
from harness.scoring import extrapolation

MOST_SUBJECTS, MOST_NEUROIDS = 5, 200
# As for recorded curves: SciPy stops at 1e-8 of the sum of squares.
_CURVES = Tolerance(r=1e-5, score=3e-6)
_MOST_UNSTABLE = 0.1


def compare(vectors: Vectors, recording: Recording, inputs: Inputs) -> tuple[Result | None, set[str]]:
    """Compare the ceilings of an experiment and metric; None if they cannot be recomputed. Also the arrays used."""
    place = (inputs.experiment, inputs.metric)
    subjects, recorded = recording.input("subject", *place), recording.input("neuroid_ceiling", *place)
    if subjects is None or recorded is None or subjects.shape != inputs.is_complete.shape:
        return None, set()
    subjects = subjects[inputs.is_complete].astype(str)
    n_subjects = len(set(subjects.tolist()))
    if not 2 < n_subjects <= MOST_SUBJECTS or recorded.shape != subjects.shape or len(subjects) > MOST_NEUROIDS:
        return None, set()
    ours = _neuroid_ceilings(inputs, subjects.tolist())
    # Without the order of the neuroids, the sorted ceilings are compared.
    differences = np.abs(np.sort(ours) - np.sort(recorded))
    typical = float(np.quantile(differences, 1 - _MOST_UNSTABLE))
    names = {name for name, _ in recording.all("neuroid_ceiling", inputs.experiment, inputs.metric, "")}
    reason = f"{int((differences < _CURVES.r).sum())} of {len(ours)} ceilings of neuroids within {_CURVES.r:.0e}"
    result = Result(
        f"{vectors.case}: {inputs.experiment or 'all rows'} {inputs.metric}: ceiling", vectors.kind, "",
        len(inputs.splits), typical, abs(float(np.median(ours)) - inputs.ceiling), tolerance=_CURVES,
        precision="float64", reason=reason,
    ).judged()  # fmt: skip
    return result, names


def _neuroid_ceilings(inputs: Inputs, subjects: list[str]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """(neuroid,) median over bootstraps of the extrapolated ceiling."""
    regression = BRAINSCORE_RIDGE if inputs.metric == "ridge" else Regression("ols")
    # The splits are given, so the rule is not used.
    protocol = Protocol("brainscore2026", "none", FoldRule("shuffled"), regression, "max", metric="brainscore_r")
    no_groups, all_pools = [""] * len(inputs.responses), 2 ** len(set(subjects))
    collected = extrapolation.collect(
        inputs.responses, subjects, no_groups, inputs.splits, protocol, n_pools=all_pools
    )  # fmt: skip
    ceilings: np.ndarray[tuple[int], np.dtype[np.float64]] = np.median(
        extrapolation.extrapolate(collected)[..., 0], axis=1
    )
    return ceilings
