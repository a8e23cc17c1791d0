"""Conformance beyond regression: reading times and their ceiling, ceilings from other subjects, a model's states.

Each function takes a checked case and gives its results. What one number of a `Result` means here: `max_dr` the largest
difference of what is recorded in parts (halves, splits, hidden states), `max_dscore` that of what is made of them
(corrected halves, ceiling, score; bits of surprisal).
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from harness import ceilings, crossvalidation, folds, reading
from harness.datasets.futrell2018 import PAPER
from harness.records import Context, Dataset, Floats, Layer, ReadingTimes, Stimuli
from harness.spec import BRAINSCORE_RIDGE, FoldRule
from harness.vectors import DamagedError, NotRunError, Vectors
from harness.verdicts import Result, Tolerance
from kernels.gram import design
from kernels.metrics import brainscore_r
from kernels.ridge import Penalty, Split, fit_folds
from kernels.similarity import linear_cka, rsa

if TYPE_CHECKING:
    from harness.reader import Reader

_FLOAT64 = Tolerance(r=1e-9, score=1e-10)
# Hidden states of order 1 and bits of order 10, both computed in float32.
_FLOAT32 = Tolerance(r=1e-4, score=1e-4)


def compare(vectors: Vectors, folder: Path) -> list[Result]:
    """The results of a case that is no regression; errors as in `vectors.read`. `folder` holds the models."""
    if vectors.kind == "model":
        return [_model(vectors, folder)]
    call = {"futrell": _futrell, "similarity": _similarity, "extrapolation": _extrapolation}[vectors.kind]
    return [call(vectors)]


def _result(vectors: Vectors, n: int, parts: Floats, whole: Floats, tolerance: Tolerance, reason: str) -> Result:
    """A judged result from differences; what is not finite cannot pass."""
    largest = (float(np.where(np.isfinite(values), np.abs(values), np.inf).max()) for values in (parts, whole))
    dr, dscore = largest
    return Result(
        vectors.case, vectors.kind, "", n, dr, dscore, tolerance=tolerance, precision="float64", reason=reason
    ).judged()


# --- reading times ----------------------------------------------------------------------------------------------------


def _futrell(vectors: Vectors) -> Result:
    """Halves of the readers, their correction, the ceiling, and |r| of a model's surprisal over it."""
    times, in_first = vectors["rt"], vectors["half1_member"].astype(bool)
    if times.ndim != 2 or in_first.shape[1:] != times.shape[1:]:
        raise DamagedError(f"half1_member is {in_first.shape} for reading times {times.shape}; wanted (half, reader).")
    corrected = ceilings.corrected_halves(times, in_first)
    ceiling = float(np.median(corrected))
    score = reading.score(vectors["model_output"].astype(float), _read(vectors, times), PAPER)
    halves = corrected / (2.0 - corrected) - vectors["uncorrected"]
    parts = np.array([*halves, score.abs_r - abs(float(vectors["rvalue"]))])
    whole = [ceiling - float(vectors["ceiling"]), score.abs_r / ceiling - float(vectors["score"])]
    differences = np.array([*(corrected - vectors["corrected"]), *whole])
    return _result(vectors, len(in_first), parts, differences, _FLOAT64, "the first word of a sentence is not scored")


def _read(vectors: Vectors, times: Floats) -> Dataset:
    """The case as a data set: means over readers, sentences from the words' places in them."""
    first = vectors["word_within_sentence_id"] == 1
    ids = tuple(f"word.{row}" for row in range(len(times)))
    present = np.isfinite(times)
    n_readers = present.sum(axis=1)
    means = np.where(present, times, 0.0).sum(axis=1) / np.where(n_readers, n_readers, np.nan)
    sentences = tuple(map(str, np.cumsum(first)))
    return Dataset(
        vectors.case,
        "",
        Stimuli(ids, ids, ("text",) * len(ids)),
        reading=ReadingTimes(ids, means, sentences, ~first, ""),
    )


# --- whole matrices ---------------------------------------------------------------------------------------------------

# Score and its splits in the file -> the kernel that gives it from (row, feature) and (row, neuroid).
SIMILARITIES: dict[str, Callable[[Floats, Floats], float]] = {"cka": linear_cka, "rdm": rsa}


def _similarity(vectors: Vectors) -> Result:
    """Linear CKA and the correlation of dissimilarities on the test rows of each split."""
    if "test" not in vectors.arrays:
        raise DamagedError("`test` missing: (split, row) the rows that are compared. Record the case again.")
    parts, whole = [], []
    for name, kernel in SIMILARITIES.items():
        if f"{name}_score" in vectors.arrays:
            ours = np.array([kernel(vectors["X"][rows], vectors["Y"][rows]) for rows in vectors["test"]])
            parts.extend(ours - vectors[f"{name}_per_split"])
            whole.append(float(ours.mean()) - float(vectors[f"{name}_score"]))
    return _result(vectors, len(vectors["test"]), np.array(parts), np.array(whole), _FLOAT64, "")


# --- ceilings from other subjects -------------------------------------------------------------------------------------


def _extrapolation(vectors: Vectors) -> Result:
    """Each subject of each subset of subjects, predicted from the others of the subset."""
    splits = folds.make(*_rule_and_groups(vectors))
    subjects, collected = vectors["subject_id"], vectors["collected"]
    wanted = (len(vectors["collected_subsets"]), len(splits), len(subjects))
    if collected.ndim != 4 or collected.shape[1:] != wanted:
        raise DamagedError(f"collected is {collected.shape}; wanted (number of subjects, *{wanted}).")
    alphas = BRAINSCORE_RIDGE.alphas if vectors.meta.get("metric") == "ridge_pearsonr" else ()
    penalty = Penalty(alphas, per_neuroid=False, tie="smaller")
    differences, scores = [], []
    for place, name in enumerate(vectors["collected_subsets"]):
        subset = ast.literal_eval(str(name))
        recorded = collected[vectors["collected_num_subjects"].tolist().index(len(subset)), place]
        for subject in subset:
            own, others = subjects == subject, np.isin(subjects, subset) & (subjects != subject)
            parts = [Split(*fold) for fold in splits]
            fits = fit_folds(design(vectors["Y"][:, others]), vectors["Y"][:, own], parts, penalty, metric=brainscore_r)
            r = np.stack([fit.r for fit in fits])
            differences.append(np.abs(r - recorded[:, own]).max())
            scores.append(np.median(r, axis=1).mean() - np.median(recorded[:, own], axis=1).mean())
    reason = (
        "the scores of all subsets; the curves through them (v0 of each neuroid, its 100 bootstraps) are not fitted"
    )
    return _result(vectors, len(splits), np.array(differences), np.array(scores), _FLOAT64, reason)


def _rule_and_groups(vectors: Vectors) -> tuple[FoldRule, list[str]]:
    """Folds of the case's own arguments: no rows are recorded with it."""
    rule = crossvalidation.rule_of(vectors.meta.get("crossvalidation_kwargs") or {})
    if rule.kind.startswith("stratified"):
        raise NotRunError("stratified splits, and no labels in the file")
    return rule, vectors["group"].tolist() if "group" in vectors.arrays else [""] * len(vectors["Y"])


# --- a model's hidden states and surprisals ---------------------------------------------------------------------------


def _model(vectors: Vectors, folder: Path) -> Result:
    """States at the last token of each part, and bits of each part, from the model beside the vectors.

    Ours puts a BOS token before a text; Brain-Score does not, so it is left out here. Parts past the model's window are
    not compared.
    """
    from harness import checkpoints
    from harness.reader import load

    models = sorted(path.parent for path in folder.glob("*/config.json"))
    if len(models) != 1:
        raise NotRunError(f"wanted one model in a folder beside the vectors, found {len(models)}")
    reader = replace(load(checkpoints.resolve(str(models[0]))), prefix=())
    states, bits, n_parts, n_left_out = [], [], 0, 0
    for text, contexts in vectors.meta["contexts"].items():
        ours_states, ours_bits, inside = _read_parts(reader, contexts, vectors.meta["layers"])
        states.append(np.abs(ours_states - vectors[f"{text}__neural"])[inside].max())
        recorded = vectors[f"{text}__surprisal_bits"]
        known = inside & ~(np.isnan(ours_bits) & np.isnan(recorded))
        bits.extend((ours_bits - recorded)[known])
        n_parts, n_left_out = n_parts + int(inside.sum()), n_left_out + int((~inside).sum())
    said = f"{n_parts} parts read without BOS, {n_left_out} past the window of {reader.limit} tokens left out"
    return _result(vectors, len(states), np.array(states), np.array([0.0, *bits]), _FLOAT32, said)


def _read_parts(reader: Reader, contexts: list[str], layers: list[str]) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """(part, layer x hidden) states, (part,) bits, (part,) whether inside the first window; contexts grow by a part."""
    from harness.extract import extract

    ends = np.array([len(context) for context in contexts])
    spans = np.stack([np.concatenate([[0], ends[:-1]]), ends], axis=1)
    read = reader.encode(Context(contexts[-1], tuple(f"part.{k}" for k in range(len(contexts))), spans))
    found = extract(reader, [read], reader.limit)
    assert found.features is not None and found.log_probabilities is not None  # noqa: S101 - both are asked for
    blocks = [Layer("decoder", int(layer.rsplit(".", 1)[1]) + 1) for layer in layers]
    states = np.hstack([found.features.values[block] for block in blocks])
    bits = np.full(len(contexts), np.nan)
    for part in range(len(contexts)):
        logs = found.log_probabilities[0][read.owners == part]
        logs = logs[np.isfinite(logs)]  # nothing precedes the first token
        bits[part] = -logs.sum() / np.log(2) if len(logs) else np.nan
    return states, bits, read.last < reader.limit
