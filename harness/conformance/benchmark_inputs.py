"""What a recorded benchmark gives as input: features by layer, responses, splits and ceiling of each experiment.

Names are taken liberally (harness/conformance/recorded_names.py); rows are joined by stimulus id where the features
have ids of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.conformance import crossvalidation
from harness.conformance.recorded_names import (
    EXPERIMENT_NAMES,
    LAYER_NAMES,
    METRICS,
    N_DIMENSIONS,
    Key,
    experiments_in,
    key_of,
    layers_in,
)
from harness.conformance.rows import words
from harness.conformance.vectors import DamagedError, NotRunError, Vectors
from harness.records import Floats, Fold, Integers, indices_of
from harness.scoring import folds

# Coordinates of rows and neuroids, which are not results.
_COORDINATES = {
    *EXPERIMENT_NAMES, *LAYER_NAMES, "stimulus", "sentence", "passage_label", "passage_index", "passage_category",
    "atlas", "roi", "region", "subject", "subjects", "subject_id", "presentation", "stimulus_num", "sentence_num",
    "n_splits", "passage", "topic",
}  # fmt: skip
# Cross-validation of Brain-Score's benchmarks, for files that do not give it.
_GROUPED = {"split_coord": "story", "kfold": "group", "random_state": 1234}
_SHUFFLED = {"splits": 10, "train_size": 0.9, "kfold": False, "random_state": 1}
_ALPHAS = np.logspace(-3, 3, 7)


@dataclass
class Recording:
    """The arrays of a benchmark by what they hold.

    Attributes:
        arrays: all arrays by name. experiments, metrics, layers: labels; [""] for a single one without a name.
        coordinates: names of the arrays that describe rows, neuroids or features.
        used: names of the arrays used as input so far.
    """

    arrays: Mapping[str, NDArray[Any]]
    experiments: list[str]
    metrics: list[str]
    layers: list[str]
    coordinates: set[str]
    by_key: dict[Key, list[tuple[str, NDArray[Any]]]]
    used: set[str] = field(default_factory=set)

    def all(
        self, quantity: str, experiment: str, metric: str, layer: str, split: int = -1
    ) -> list[tuple[str, NDArray[Any]]]:
        """(name, array) of everything recorded for exactly this place."""
        return self.by_key.get(Key(quantity, experiment, metric, layer, split), [])

    def input(
        self, quantity: str, experiment: str = "", metric: str = "", layer: str = "", split: int = -1
    ) -> NDArray[Any] | None:
        """The array of the most specific name; None if there is none."""
        for e in dict.fromkeys((experiment, "")):
            for m in dict.fromkeys((metric, "")):
                for la in dict.fromkeys((layer, "")):
                    found = self.all(quantity, e, m, la, split)
                    if found:
                        self.used.add(found[0][0])
                        return found[0][1]
        return None


@dataclass
class Inputs:
    """Inputs of one experiment and metric.

    Attributes:
        features: layer -> (row, feature).
        responses: (row, neuroid) of the complete neuroids; `is_complete` tells which of all they are.
        splits: rows of the experiment. splits_agree: whether recorded splits equal the regenerated ones.
        ceiling: NaN if none is recorded.
        r_order: position of each recorded r among the complete neuroids; None if their order is not recorded.
    """

    experiment: str
    metric: str
    features: dict[str, Floats]
    responses: Floats
    is_complete: NDArray[np.bool_]
    splits: list[Fold]
    splits_agree: bool | None
    ceiling: float
    alphas: Floats
    stimulus_ids: NDArray[Any] | None
    neuroid_ids: NDArray[Any] | None
    r_order: Integers | None
    notes: list[str]
    used: set[str]


def read(vectors: Vectors) -> Recording:
    """Sort the arrays of a benchmark by what they hold.

    Raises:
        NotRunError: if no metric is named.
    """
    arrays, meta = vectors.arrays, vectors.meta
    experiments = experiments_in(arrays, meta)
    layers = layers_in(arrays, meta, experiments)
    described = [str(meta.get(name, "")) for name in ("metric", "metrics", "benchmark", "benchmarks", "case")]
    keys = {name: key for name in arrays if (key := key_of(name, experiments, layers)) is not None}
    spoken = {*words(" ".join([*described, vectors.case])), *(key.metric for key in keys.values())}
    metrics = [metric for metric in METRICS if metric in spoken]
    if not metrics:
        metrics = ["ridge"] if any(key.quantity == "alpha" for key in keys.values()) else []
    if not metrics:
        raise NotRunError("a benchmark without a metric: wanted `metric` in meta, or ridge or linear in the names")
    numbered = sorted({key.split for key in keys.values() if key.quantity == "X" and key.split >= 0})
    if not layers and numbered:
        layers = [str(number) for number in numbered]
    recording = Recording(
        arrays, experiments or [""], metrics, layers or [""], {n for n in arrays if n.lower() in _COORDINATES}, {}
    )
    for name, key in keys.items():
        for placed, array in _placed(recording, key, arrays[name]):
            recording.by_key.setdefault(placed, []).append((name, array))
    return recording


def _placed(recording: Recording, key: Key, array: NDArray[Any]) -> Iterator[tuple[Key, NDArray[Any]]]:
    """The key with labels that can only be one filled in; an array over layers, experiments or metrics in its parts."""
    if key.quantity == "X" and key.split >= 0:
        key = key._replace(layer=str(key.split), split=-1)
    if key.quantity in ("layer_scores", "layer_raw"):
        quantity = "normalised" if key.quantity == "layer_scores" else "raw"
        n_dimensions, key, first = 0, key._replace(quantity=quantity), "layer"
    else:
        n_dimensions, first = N_DIMENSIONS.get(key.quantity, 1), "experiment"
    labels = {"experiment": recording.experiments, "layer": recording.layers, "metric": recording.metrics}
    for name, values in labels.items():
        if not getattr(key, name) and len(values) == 1:
            key = _with_label(key, name, values[0])
    if array.ndim <= n_dimensions:
        yield key, array
        return
    for name in sorted(labels, key=lambda name: name != first):
        fits = not getattr(key, name) or len(labels[name]) == 1
        for axis in range(array.ndim - n_dimensions + (key.quantity == "X")):
            if fits and array.shape[axis] == len(labels[name]):
                for k, label in enumerate(labels[name]):
                    yield from _placed(recording, _with_label(key, name, label), array.take(k, axis=axis))
                return
    yield key, array


def _with_label(key: Key, name: str, label: str) -> Key:
    return Key(**(key._asdict() | {name: label}))


def of_experiment(vectors: Vectors, recording: Recording, experiment: str, metric: str) -> Inputs:
    """Inputs of one experiment and metric.

    Raises:
        NotRunError: if features or responses are missing.
        DamagedError: if arrays do not fit each other.
    """
    recording.used = set()
    Y = recording.input("Y", experiment, metric)
    if Y is None or Y.ndim != 2:
        raise NotRunError("no responses (row, neuroid) under a known name, such as Y")
    rows, n_all = _rows_of(recording, experiment, Y), len(Y)
    ids = _of_rows(recording.input("stimulus_id", experiment, metric), rows, n_all)
    responses = Y[rows].astype(float)
    is_complete = np.isfinite(responses).all(axis=0)
    if not is_complete.any():
        raise NotRunError(f"no neuroid has all responses of {experiment or 'the recording'}")
    neuroid_ids = _of_columns(recording.input("neuroid_id", experiment, metric), is_complete)
    splits, splits_agree, notes = _splits(vectors, recording, (experiment, metric), rows, n_all)
    alphas = recording.input("alphas", experiment, metric)
    order = recording.input("r_order", experiment, metric)
    return Inputs(
        experiment, metric, _features(recording, experiment, metric, rows, n_all, ids), responses[:, is_complete],
        is_complete, splits, splits_agree, _ceiling(recording, experiment, metric),
        _ALPHAS if alphas is None else alphas, ids, neuroid_ids, _order(order, neuroid_ids), notes, recording.used,
    )  # fmt: skip


def _rows_of(recording: Recording, experiment: str, Y: Floats) -> Integers:
    """Rows of an experiment in the array of responses; all of them if the responses are the experiment's own."""
    for name in EXPERIMENT_NAMES:
        labels = recording.arrays.get(name)
        if experiment and labels is not None and labels.shape == (len(Y),):
            rows = np.flatnonzero(labels.astype(str) == experiment)
            if len(rows):
                return rows
    return np.arange(len(Y))


def _of_rows(values: NDArray[Any] | None, rows: Integers, n_all: int) -> NDArray[Any] | None:
    """Values of the experiment's rows, recorded for these or for all rows; None if they are recorded for neither."""
    if values is None or values.ndim != 1 or len(values) not in (n_all, len(rows)):
        return None
    return values[rows] if len(values) == n_all else values


def _of_columns(values: NDArray[Any] | None, is_complete: NDArray[np.bool_]) -> NDArray[Any] | None:
    if values is None or values.ndim != 1 or len(values) not in (len(is_complete), is_complete.sum()):
        return None
    return values[is_complete] if len(values) == len(is_complete) else values


def _order(recorded: NDArray[Any] | None, neuroid_ids: NDArray[Any] | None) -> Integers | None:
    """Position among the complete neuroids of each recorded neuroid; incomplete ones are skipped."""
    if recorded is None or neuroid_ids is None or recorded.ndim != 1:
        return None
    place = {name: position for position, name in enumerate(neuroid_ids.tolist())}
    order = [place[name] for name in recorded.tolist() if name in place]
    return np.array(order, dtype=np.int64) if sorted(order) == list(range(len(place))) else None


def _features(
    recording: Recording, experiment: str, metric: str, rows: Integers, n_all: int, ids: NDArray[Any] | None
) -> dict[str, Floats]:
    """Layer -> (row, feature), joined to the experiment's rows by stimulus id where the features have ids."""
    features = {}
    for layer in recording.layers:
        X = recording.input("X", experiment, metric, layer)
        if X is None or X.ndim != 2:
            raise NotRunError("no features (row, feature) under a known name, such as X")
        X_ids = recording.input("X_stimulus_id", experiment, metric, layer)
        if X_ids is not None and ids is not None and X_ids.shape == (len(X),):
            try:
                X = X[indices_of(ids.tolist(), X_ids.tolist(), "features")]
            except ValueError as error:
                raise DamagedError(str(error).split(" Delete")[0]) from error
        elif len(X) == n_all:
            X = X[rows]
        elif len(X) != len(rows):
            raise DamagedError(f"features have {len(X)} rows, responses {n_all}; wanted as many, or stimulus ids of X.")
        features[layer] = X[:, _columns(recording, layer, X.shape[1])]
        if not np.isfinite(features[layer]).all():
            raise DamagedError("features contain NaN or infinity. Record the case again.")
    return features


def _columns(recording: Recording, layer: str, n_features: int) -> NDArray[np.bool_]:
    """Which features are the layer's, if the file has the layer of each feature."""
    for name in LAYER_NAMES:
        labels = recording.arrays.get(name)
        if labels is not None and labels.shape == (n_features,) and (labels.astype(str) == layer).any():
            return np.asarray(labels.astype(str) == layer, dtype=bool)
    return np.ones(n_features, dtype=bool)


def _ceiling(recording: Recording, experiment: str, metric: str) -> float:
    """The recorded ceiling; the median of recorded ceilings of neuroids; NaN if there is none."""
    for quantity in ("ceiling", "neuroid_ceiling"):
        recorded = recording.input(quantity, experiment, metric)
        if recorded is not None and recorded.dtype.kind == "f":
            return float(np.median(recorded))
    return math.nan


def _splits(
    vectors: Vectors, recording: Recording, place: tuple[str, str], rows: Integers, n_all: int
) -> tuple[list[Fold], bool | None, list[str]]:
    """The recorded splits as rows of the experiment, else the regenerated ones, and whether both agree."""
    labels = _of_rows(recording.input("group", *place), rows, n_all)
    arguments = _arguments(vectors, place, labels is not None)
    regenerated, notes = _regenerated(recording, arguments, labels, rows, n_all)
    recorded = _recorded_splits(recording, place, rows, n_all, regenerated)
    if not recorded and not regenerated:
        raise NotRunError("; ".join(["splits are neither recorded nor regenerated", *notes]))
    if not recorded:
        return regenerated, None, [*notes, "splits regenerated, none are recorded"]
    return recorded, crossvalidation.same(regenerated, recorded) if regenerated else None, notes


def _arguments(vectors: Vectors, place: tuple[str, str], has_groups: bool) -> Mapping[str, Any]:
    """Arguments of the cross-validation in `meta`, or of Brain-Score's benchmark of that name."""
    recorded = vectors.meta.get("crossvalidation_kwargs")
    if isinstance(recorded, Mapping) and recorded and all(isinstance(v, Mapping) for v in recorded.values()):
        named = [key for key in recorded if place[1] in words(key)]
        exact = [key for key in named if place[0] and place[0] in key]
        found = [*exact, *named, *([place[0]] if place[0] in recorded else [])]
        recorded = recorded[found[0]] if found else None
    if isinstance(recorded, Mapping) and recorded:
        return recorded
    if place[1] == "ridge" and has_groups:
        is_blank = any(word.startswith("blank") for word in words(f"{vectors.case} {vectors.meta.get('benchmark')}"))
        return _GROUPED | ({"splits": 8} if is_blank else {})
    return _SHUFFLED


def _regenerated(
    recording: Recording, arguments: Mapping[str, Any], groups: NDArray[Any] | None, rows: Integers, n_all: int
) -> tuple[list[Fold], list[str]]:
    """Folds from the arguments; none, and the reason, if that is not possible."""
    try:
        rule = crossvalidation.rule_of(dict(arguments))
    except NotRunError as error:
        return [], [str(error)]
    labels: list[Any] = [""] * len(rows)
    coordinate = crossvalidation.coordinate_of(dict(arguments))
    if coordinate:
        found = _of_rows(recording.arrays.get(coordinate), rows, n_all)
        found = groups if found is None and rule.kind == "grouped" else found
        if found is None:
            return [], [f"splits: not checkable (no labels of {coordinate!r} in the file)"]
        labels = found.tolist()
    try:
        return folds.make(rule, labels), []
    except ValueError as error:
        return [], [str(error)]


def _recorded_splits(
    recording: Recording, place: tuple[str, str], rows: Integers, n_all: int, regenerated: list[Fold]
) -> list[Fold]:
    """Recorded test and training rows of the experiment; numbered within the experiment or in the whole recording."""
    tests, n = [], 0
    while (test := recording.input("test", *place, split=n)) is not None:
        tests.append((recording.input("train", *place, split=n), test))
        n += 1
    readings = []
    for within in (np.arange(len(rows)), rows):
        place_of = np.full(n_all, -1)
        place_of[within] = np.arange(len(rows))
        splits = [_fold(train, test, place_of, len(rows)) for train, test in tests]
        if all(fold is not None for fold in splits):
            readings.append([fold for fold in splits if fold is not None])
    if tests and not readings:
        raise DamagedError(f"test rows of {place[0] or 'the recording'} are not among its {len(rows)} rows.")
    return next((r for r in readings if crossvalidation.same(regenerated, r)), readings[0] if readings else [])


def _fold(train: NDArray[Any] | None, test: NDArray[Any], place_of: Integers, n_rows: int) -> Fold | None:
    """A recorded split as rows of the experiment; None if its rows are not among them. No training rows: the others."""
    sides: list[Integers | None] = []
    for side in (train, test):
        if side is None:
            sides.append(None)
            continue
        side = np.flatnonzero(side) if side.dtype == bool else side
        if side.ndim != 1 or side.dtype.kind not in "iu" or not len(side) or side.max() >= len(place_of):
            return None
        sides.append(place_of[side])
        if (place_of[side] < 0).any():
            return None
    given, held_out = sides
    assert held_out is not None  # noqa: S101 - `test` is an array
    return Fold(np.setdiff1d(np.arange(n_rows), held_out) if given is None else given, held_out)
