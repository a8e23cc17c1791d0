"""Whole benchmarks: a recording with one or more experiments, scored split by split and divided by its ceiling.

As Brain-Score language does for Pereira2018 (243 and 384 sentences, each by ridge and by least squares), Blank2014 and
Tuckute2024: of each experiment the neuroids without missing responses are kept, each layer's activations are joined by
stimulus and scored over the experiment's splits, the score is the median over neuroids, its mean over splits is divided
by the ceiling and clipped to [0, 1], and layers and experiments are averaged. What a file records of this is compared;
the other arrays are listed in the result. The ceiling is taken as recorded, and recomputed if the file has the
ceilings of the neuroids (benchmark_ceilings.py).

Source: brain-score/language at 0e0bb4a2 (August 2026), benchmarks/*/benchmark.py, utils/ceiling.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from harness.conformance import benchmark_ceilings, benchmark_inputs, regression
from harness.conformance.benchmark_inputs import Inputs, Recording
from harness.conformance.rows import identities, positions
from harness.conformance.vectors import LINEAR, RIDGE, Vectors
from harness.conformance.verdicts import Result, Tolerance, largest
from harness.kernels.gram import design
from harness.records import Floats
from harness.scoring import aggregate

_KINDS = {"ridge": RIDGE, "linear": LINEAR}


@dataclass(frozen=True)
class Scored:
    """Our scores of one layer, or means over layers or experiments.

    normalised: raw divided by the ceiling and clipped to [0, 1]; raw without a ceiling. unclipped: NaN without one.
    """

    raw: float
    normalised: float
    unclipped: float = math.nan


@dataclass
class Differences:
    """The largest differences so far, and the names of the arrays that were compared."""

    r: float = math.nan
    score: float = math.nan
    split: float = math.nan
    predicted: float = math.nan
    alphas_agree: bool | None = None
    rank_agrees: bool | None = None
    compared: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, difference: float) -> None:
        """Note a difference of an array."""
        before = getattr(self, kind)
        setattr(self, kind, difference if math.isnan(before) else max(before, difference))
        self.compared.add(name)

    def compare(self, kind: str, name: str, ours: Floats, recorded: Floats) -> None:
        """Note the difference of an array from ours, or that it has another shape."""
        if np.shape(ours) != np.shape(recorded):
            self.note(f"{name} is {np.shape(recorded)}, wanted {np.shape(ours)}")
        self.add(kind, name, _largest_difference(ours, recorded))

    def note(self, sentence: str) -> None:
        """Add a sentence once."""
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)


def compare(vectors: Vectors) -> list[Result]:
    """Compare a whole benchmark: one result per experiment and metric, then one for what spans several of them.

    Args:
        vectors: a case of kind "benchmark".

    Raises:
        NotRunError: if features, responses or the metric are not recorded under a known name.
        DamagedError: if arrays do not fit each other.
    """
    recording = benchmark_inputs.read(vectors)
    results, scored, compared = [], {}, set(recording.used)
    for experiment in recording.experiments:
        for metric in recording.metrics:
            inputs = benchmark_inputs.of_experiment(vectors, recording, experiment, metric)
            result, mean, names = _experiment(vectors, recording, inputs)
            ceiling, ceiling_names = benchmark_ceilings.compare(vectors, recording, inputs)
            results += [result, *([ceiling] if ceiling else [])]
            scored[experiment, metric] = mean
            compared |= names | inputs.used | ceiling_names
    overall, names = _overall(vectors, recording, scored)
    results += [overall] if overall else []
    rest = sorted(set(vectors.arrays) - compared - names - recording.coordinates - {"meta"})
    if rest:
        shown = ", ".join(rest[:12]) + (f" and {len(rest) - 12} more" if len(rest) > 12 else "")
        reason = "; ".join(filter(None, [results[-1].reason, f"not compared, unknown names: {shown}"]))
        results[-1] = replace(results[-1], reason=reason)
    return results


def _experiment(vectors: Vectors, recording: Recording, inputs: Inputs) -> tuple[Result, Scored, set[str]]:
    """Score every layer of an experiment and compare what is recorded; also the mean over layers."""
    differences = Differences(notes=list(inputs.notes))
    by_layer = {}
    for layer, X in inputs.features.items():
        case = _case(vectors, inputs, X)
        fits = [regression.fit(case, design(X), k, "float64", given_alpha=False) for k in range(len(inputs.splits))]
        _compare_fits(recording, inputs, layer, case, fits, differences)
        raw = aggregate.mean(np.array([np.median(fit.r) for fit in fits]))
        by_layer[layer] = _scored(raw, inputs.ceiling)
        _compare_scores(recording, (inputs.experiment, inputs.metric, layer), by_layer[layer], differences)
    mean = _mean(list(by_layer.values()))
    if len(by_layer) > 1:
        _compare_scores(recording, (inputs.experiment, inputs.metric, ""), mean, differences)
    in_float32 = any(X.dtype != np.float64 for X in inputs.features.values())
    tolerance = regression.FLOAT32_FEATURES if in_float32 else regression.FLOAT64
    label = f"{inputs.experiment or 'all rows'} {inputs.metric}"
    result = _judged(vectors, label, len(inputs.splits), differences, tolerance, inputs.splits_agree)
    return result, mean, differences.compared


def _case(vectors: Vectors, inputs: Inputs, X: Floats) -> Vectors:
    """One layer of an experiment as a regression case."""
    rows = {f"{side}_{k}": getattr(fold, side) for k, fold in enumerate(inputs.splits) for side in ("train", "test")}
    placeholder = np.zeros((len(inputs.splits), inputs.responses.shape[1]))
    arrays = {"X": X, "Y": inputs.responses, "r": placeholder, "alphas": inputs.alphas, **rows}
    return Vectors(vectors.case, _KINDS[inputs.metric], vectors.meta, arrays)


def _scored(raw: float, ceiling: float) -> Scored:
    ratio = raw / ceiling
    return Scored(raw, raw if math.isnan(ratio) else min(max(ratio, 0.0), 1.0), ratio)


def _mean(scores: list[Scored]) -> Scored:
    means = (float(np.mean([getattr(score, name) for score in scores])) for name in ("raw", "normalised", "unclipped"))
    return Scored(*means)


def _compare_fits(
    recording: Recording, inputs: Inputs, layer: str, case: Vectors, fits: list[regression.Fit], found: Differences
) -> None:
    """Compare r per split and neuroid, the score of each split, alphas, ranks and predictions of one layer."""
    place = (inputs.experiment, inputs.metric, layer)
    ours = np.array([fit.r for fit in fits])
    for name, recorded in recording.all("r", *place):
        r = _per_neuroid(recorded, ours.shape, inputs)
        difference, note = _nearest(ours, r, inputs)
        found.add("r", name, difference)
        found.note(note if r.shape == ours.shape else f"{name} is {recorded.shape}, wanted {ours.shape}")
    for name, recorded in recording.all("per_split", *place):
        found.compare("split", name, np.median(ours, axis=1), recorded)
    for name, recorded in recording.all("rank", *place):
        found.rank_agrees = found.rank_agrees is not False and [fit.rank for fit in fits] == np.ravel(recorded).tolist()
        found.compared.add(name)
    for name, recorded in recording.all("alpha", *place):
        same = regression.same_alphas(case, [fit.alpha for fit in fits], np.ravel(recorded).tolist())
        found.alphas_agree = found.alphas_agree is not False and same
        found.compared.add(name)
    for k, fit in enumerate(fits):
        for name, recorded in recording.all("pred", *place, k):
            difference, note = _of_predictions(recording, inputs, k, fit.predicted, recorded)
            found.add("predicted", name, difference)
            found.note(note)


def _largest_difference(ours: Floats, recorded: Floats) -> float:
    """Largest difference; infinity if the shapes differ."""
    return largest(ours - recorded) if np.shape(ours) == np.shape(recorded) else math.inf


def _per_neuroid(recorded: Floats, shape: tuple[int, int], inputs: Inputs) -> Floats:
    """The recorded r as (split, complete neuroid): transposed, or without the columns of incomplete neuroids."""
    if recorded.shape != shape and recorded.T.shape == shape:
        return recorded.T
    for array in (recorded, recorded.T):
        if array.shape == (shape[0], len(inputs.is_complete)):
            return array[:, inputs.is_complete]
    return recorded


def _nearest(ours: Floats, recorded: Floats, inputs: Inputs) -> tuple[float, str]:
    """Difference of (split, neuroid) values in the recorded order of neuroids.

    Without a recorded order that of the responses, and the sorted one that Brain-Score's scores have.
    """
    if inputs.r_order is not None:
        return _largest_difference(ours[:, inputs.r_order], recorded), ""
    plain = _largest_difference(ours, recorded)
    if inputs.neuroid_ids is None or plain < regression.FLOAT64.r:
        return plain, ""
    by_name = _largest_difference(ours[:, np.argsort(inputs.neuroid_ids, kind="stable")], recorded)
    return (by_name, "r is in the sorted order of the neuroids") if by_name < plain else (plain, "")


def _of_predictions(
    recording: Recording, inputs: Inputs, k: int, ours: Floats, recorded: Floats
) -> tuple[float, str]:  # fmt: skip
    """Difference of predictions relative to the largest one, joined by their recorded rows."""
    rows = inputs.splits[k].test
    orders = {"": np.arange(len(rows)), "predictions are in the order of the file": rows.argsort()}
    name = identities(recording.arrays, k)
    if name:
        order = positions(recording.arrays[name], rows, inputs.stimulus_ids)
        orders = orders if order is None else {"predictions joined by their recorded rows": order}
    scale = max(1.0, largest(recorded))
    differences = {note: _largest_difference(ours[order], recorded) / scale for note, order in orders.items()}
    note = min(differences, key=lambda note: differences[note])
    return differences[note], note


def _compare_scores(recording: Recording, place: tuple[str, str, str], ours: Scored, found: Differences) -> None:
    """Compare the scores recorded for an experiment, metric and layer, or for means over them ("")."""
    for quantity in ("raw", "normalised", "unclipped"):
        for name, recorded in recording.all(quantity, *place):
            found.compare("score", name, np.array(getattr(ours, quantity)), recorded)
    for name, recorded in recording.all("score", *place):
        meanings = {"": ours.normalised, f"{name} is not clipped to [0, 1]": ours.unclipped}
        if not recording.all("raw", *place):
            meanings[f"{name} is the score before division by the ceiling"] = ours.raw
        differences = {note: _largest_difference(np.array(value), recorded) for note, value in meanings.items()}
        note = min(differences, key=lambda note: differences[note])
        is_plain = differences[""] <= regression.FLOAT64.score
        found.add("score", name, differences["" if is_plain else note])
        found.note("" if is_plain else note)


def _overall(
    vectors: Vectors, recording: Recording, scored: dict[tuple[str, str], Scored]
) -> tuple[Result | None, set[str]]:
    """Compare the means over experiments, of each metric and of all; None if none are recorded."""
    found = Differences()
    if len(recording.experiments) > 1:
        for metric in recording.metrics:
            mean = _mean([scored[experiment, metric] for experiment in recording.experiments])
            _compare_scores(recording, ("", metric, ""), mean, found)
    if len(recording.metrics) > 1:
        for experiment in recording.experiments if len(recording.experiments) > 1 else ():
            mean = _mean([scored[experiment, metric] for metric in recording.metrics])
            _compare_scores(recording, (experiment, "", ""), mean, found)
        _compare_scores(recording, ("", "", ""), _mean(list(scored.values())), found)
    if not found.compared:
        return None, set()
    return _judged(vectors, "means", 0, found, regression.FLOAT64, None), found.compared


def _judged(
    vectors: Vectors, label: str, n_splits: int, found: Differences, tolerance: Tolerance, splits_agree: bool | None
) -> Result:
    result = Result(
        f"{vectors.case}: {label}", vectors.kind, "not run", n_splits, found.r, found.score, found.split,
        found.predicted, splits_agree=splits_agree, alphas_agree=found.alphas_agree, rank_agrees=found.rank_agrees,
        tolerance=tolerance, precision="float64", reason="; ".join(found.notes),
    )  # fmt: skip
    if not found.compared:
        reason = "; ".join([*found.notes, "no result of it is recorded under a known name"])
        return replace(result, reason=reason)
    compared = f"{len(found.compared)} recorded {'array' if len(found.compared) == 1 else 'arrays'} compared"
    return replace(result, reason="; ".join([*found.notes, compared])).judged()
