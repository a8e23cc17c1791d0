"""Cases other than regression: reading times and their ceiling, similarities, ceilings from other subjects.

Each function takes a checked case and returns its results. In these results `max_dr` is the largest difference of the
recorded intermediate values (halves, splits), and `max_dscore` that of the values computed from them (corrected halves,
ceiling, score).
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from harness.conformance import crossvalidation
from harness.conformance.vectors import DamagedError, NotRunError, Vectors
from harness.conformance.verdicts import Result, Tolerance, largest
from harness.datasets.formats import natural_stories
from harness.datasets.futrell2018 import PAPER
from harness.kernels.similarity import linear_cka, rsa
from harness.protocol import BRAINSCORE_RIDGE, FoldRule, Protocol, Regression
from harness.records import Dataset, Floats, Integers, ReadingTimes, Stimuli
from harness.scoring import ceilings, extrapolation, folds, reading_times, saturation

_FLOAT64 = Tolerance(r=1e-9, score=1e-10)
# For v0 of one bootstrap, and for its median: SciPy stops at 1e-8 of the sum of squares, which allows such differences.
_CURVES = Tolerance(r=1e-5, score=3e-6)
_SCIPY_ACCURACY = "a change in the last digit of the data moves SciPy's v0 by 2e-6, medians by 5e-7"


def compare(vectors: Vectors) -> list[Result]:
    """Compare a case of kind "futrell", "similarity" or "extrapolation".

    Raises:
        NotRunError, DamagedError: as `vectors.read`.
    """
    if vectors.kind == "extrapolation":
        return _extrapolation(vectors)
    return [{"futrell": _futrell, "similarity": _similarity}[vectors.kind](vectors)]


def _result(vectors: Vectors, n_splits: int, parts: Floats, whole: Floats, tolerance: Tolerance, reason: str) -> Result:
    """Judge differences of intermediate values (`parts`) and of final values (`whole`); non-finite ones fail."""
    return Result(
        vectors.case, vectors.kind, "", n_splits, largest(parts), largest(whole), tolerance=tolerance,
        precision="float64", reason=reason,
    ).judged()  # fmt: skip


# --- reading times ----------------------------------------------------------------------------------------------------


def _futrell(vectors: Vectors) -> Result:
    """Split halves of the readers, their correction, the ceiling, and |r| of a model's surprisal divided by it."""
    times, in_first = vectors["rt"], vectors["half1_member"].astype(bool)
    if times.ndim != 2 or in_first.shape[1:] != times.shape[1:]:
        raise DamagedError(f"half1_member is {in_first.shape} for reading times {times.shape}; wanted (half, reader).")
    corrected = ceilings.corrected_halves(times, in_first)
    ceiling = float(np.median(corrected))
    score = reading_times.score(vectors["model_output"].astype(float), _as_dataset(vectors, times), PAPER)
    halves = corrected / (2.0 - corrected) - vectors["uncorrected"]
    parts = np.array([*halves, score.abs_r - abs(float(vectors["rvalue"]))])
    whole = [ceiling - float(vectors["ceiling"]), score.abs_r / ceiling - float(vectors["score"])]
    differences = np.array([*(corrected - vectors["corrected"]), *whole])
    return _result(vectors, len(in_first), parts, differences, _FLOAT64, "first words of sentences are not scored")


def _as_dataset(vectors: Vectors, times: Floats) -> Dataset:
    """The case as a data set: mean times over readers, sentences from the positions of words within them."""
    is_first = vectors["word_within_sentence_id"] == 1
    ids = tuple(f"word.{row}" for row in range(len(times)))
    stimuli = Stimuli(ids, ids, ("text",) * len(ids), sentences=tuple(map(str, np.cumsum(is_first))))
    reading = ReadingTimes(ids, natural_stories.mean_of_readers(times), ~is_first, "")
    return Dataset(vectors.case, "", stimuli, reading=reading)


# --- whole matrices ---------------------------------------------------------------------------------------------------

# Prefix of the score's arrays in the file -> kernel of (row, feature) and (row, neuroid).
SIMILARITIES: dict[str, Callable[[Floats, Floats], float]] = {"cka": linear_cka, "rdm": rsa}


def _similarity(vectors: Vectors) -> Result:
    """Linear CKA and the correlation of dissimilarity matrices (RSA) on the test rows of each split."""
    if "test" not in vectors.arrays:
        raise DamagedError(
            "`test` missing; wanted the indices of the compared rows, (split, row). Record the case again."
        )
    parts, whole = [], []
    for name, kernel in SIMILARITIES.items():
        if f"{name}_score" in vectors.arrays:
            ours = np.array([kernel(vectors["X"][rows], vectors["Y"][rows]) for rows in vectors["test"]])
            parts.extend(ours - vectors[f"{name}_per_split"])
            whole.append(float(ours.mean()) - float(vectors[f"{name}_score"]))
    return _result(vectors, len(vectors["test"]), np.array(parts), np.array(whole), _FLOAT64, "")


# --- ceilings from other subjects -------------------------------------------------------------------------------------


def _extrapolation(vectors: Vectors) -> list[Result]:
    """Compare scores of subjects predicted from others; then curves and ceilings fitted to the recorded scores."""
    subjects, names = vectors["subject_id"], [str(name) for name in vectors["collected_subsets"]]
    rule, groups = _rule_and_groups(vectors)
    splits, collected = folds.make(rule, groups), vectors["collected"]
    shape = (len(names), len(splits), len(subjects))
    if collected.ndim != 4 or collected.shape[1:] != shape:
        raise DamagedError(f"collected is {collected.shape}; wanted (number of subjects, *{shape}).")
    sizes, subsets = vectors["collected_num_subjects"].tolist(), [ast.literal_eval(name) for name in names]
    recorded = np.stack([collected[sizes.index(len(subset)), place] for place, subset in enumerate(subsets)])
    regression = BRAINSCORE_RIDGE if vectors.meta.get("metric") == "ridge_pearsonr" else Regression("ols")
    protocol = Protocol("brainscore2026", "none", rule, regression, "max", metric="brainscore_r")
    all_pools = 2 ** len(set(subjects.tolist()))
    ours = extrapolation.collect(vectors["Y"], subjects.tolist(), groups, splits, protocol, n_pools=all_pools)
    differences, scores = [], []
    for subset, theirs in zip(subsets, recorded, strict=True):
        for subject in subset:
            own, pool = subjects == subject, tuple(sorted(set(subset) - {subject}))
            r = ours.scores[ours.pools.index(pool)][:, own]
            differences.append(np.abs(r - theirs[:, own]).max())
            scores.append(np.median(r, axis=1).mean() - np.median(theirs[:, own], axis=1).mean())
    reason = "scores of all subsets of subjects"
    of_scores = _result(vectors, len(splits), np.array(differences), np.array(scores), _FLOAT64, reason)
    return [of_scores, _curves(vectors, extrapolation.PooledScores(tuple(subset[1:] for subset in subsets), recorded))]


def _curves(vectors: Vectors, recorded: extrapolation.PooledScores) -> Result:
    """Compare v0 of each bootstrap, the curves and their endpoints; ceilings of neuroids and of the recording."""
    theirs = vectors["boot_params"]
    if theirs.ndim != 3 or theirs.shape[::2] != (recorded.scores.shape[2], 2):
        raise DamagedError(f"boot_params are {theirs.shape}; wanted ({recorded.scores.shape[2]}, bootstrap, 2).")
    ours = extrapolation.extrapolate(recorded, n_bootstraps=theirs.shape[1])
    x = vectors["collected_num_subjects"]
    v0 = ours[..., 0] - theirs[..., 0]
    curves = saturation.curve(x, ours) - saturation.curve(x, theirs)
    ends = (_ends(ours) - vectors["endpoint_x"]).astype(float)
    parts = np.concatenate([v0.ravel(), curves.ravel(), ends])
    ceiling = np.median(ours[..., 0], axis=1)
    whole = np.array([*(ceiling - vectors["neuroid_ceiling"]), np.median(ceiling) - float(vectors["ceiling"])])
    reason = f"v0, curves and their endpoints; {_SCIPY_ACCURACY}"
    result = _result(vectors, theirs.shape[1], parts, whole, _CURVES, reason)
    return replace(result, case=f"{vectors.case}: curves")


def _ends(parameters: Floats) -> Integers:
    """(neuroid,) first number of subjects after which the median curve rises by less than 0.0005."""
    medians = np.median(saturation.curve(np.arange(1000), parameters), axis=1)
    ends: Integers = (np.diff(medians, axis=-1) < 0.0005).argmax(axis=-1)
    return ends


def _rule_and_groups(vectors: Vectors) -> tuple[FoldRule, list[str]]:
    """Rule and (row,) groups for regenerating the folds; such a case has no recorded rows."""
    rule = crossvalidation.rule_of(vectors.meta.get("crossvalidation_kwargs") or {})
    n_rows = len(vectors["Y"])
    labels = next(iter(crossvalidation.labels_of(vectors, n_rows).values()), None)
    if labels is None and rule.kind.startswith("stratified"):
        raise NotRunError("stratified splits, but no labels in the file")
    if labels is None and "group" in vectors.arrays:
        labels = vectors["group"].tolist()
    return rule, labels if labels is not None else [""] * n_rows
