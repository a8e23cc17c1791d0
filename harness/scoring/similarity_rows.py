"""Rows of `similarity_layers` and `similarity_scores`: values of all layers, and the value at the chosen layer.

Raw value, ceiling and ratio are three columns. The ceiling is what a perfect model reaches: if the responses of two
subjects share a signal and have independent noise, their similarity is the reliability of the pairs' values, and a
model that has the signal reaches its square root. It is known under "nested" (STRICT), for two subjects or more.

Method: harness/scoring/README.md#rsa-and-cka.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from harness.protocol import Protocol
from harness.records import GROUP, Features, Floats, Integers, Layer, Responses
from harness.scoring import aggregate, intervals, similarity
from harness.scoring.explainable import signed_root
from harness.scoring.similarity import POOLED, Metric, Similarities
from harness.scoring.target_ceilings import LEAST_CEILING

Row = dict[str, Any]
FEWEST_FOR_INTERVAL = 4  # subjects, for the interval of a ceiling
CEILING = "square root of the similarity of two subjects"
_NO_LAYER = "no pairs of training rows to choose a layer by"


class Ceiling(NamedTuple):
    """A noise ceiling and the ends of its 95 % interval; NaN where unknown."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class SimilarityRows:
    """Rows of one metric on one target.

    Attributes:
        origin: columns that identify how a row was made, with the metric.
        target: its name, and the experiment whose folds count; None for all.
        layers: layer -> number of features.
        found: similarities of all layers.
        layer_choice: of the protocol.
    """

    origin: Row
    target: tuple[str, str | None]
    layers: dict[Layer, int]
    found: Similarities
    layer_choice: str

    @cached_property
    def _folds(self) -> Integers:
        """The folds of the target."""
        part = self.target[1]
        return np.flatnonzero([part in (None, name) for name in self.found.parts])

    @cached_property
    def _parts(self) -> tuple[str, ...]:
        return tuple(self.found.parts[fold] for fold in self._folds)

    @cached_property
    def _single(self) -> Integers:
        """The single subjects, without all of them pooled."""
        return np.flatnonzero([name != POOLED for name in self.found.subjects])

    def _overall(self, values: Floats) -> Floats:
        """Aggregate (..., subject): all subjects pooled, or else the mean over subjects."""
        if POOLED in self.found.subjects:
            pooled: Floats = values[..., self.found.subjects.index(POOLED)]
            return pooled
        return intervals.mean(values, axis=-1)

    @cached_property
    def _by_layer(self) -> Floats:
        """(layer, fold, column) values of the aggregate and of each subject."""
        values = self.found.values[:, self._folds]
        return np.concatenate([self._overall(values)[..., None], values[..., self._single]], axis=-1)

    @cached_property
    def _inner(self) -> Floats:
        """(layer, fold, column) as `_by_layer`, over training rows."""
        inner = self.found.inner[:, self._folds]
        return np.concatenate([self._overall(inner)[..., None], inner[..., self._single]], axis=-1)

    @cached_property
    def _chosen(self) -> Integers:
        """(fold,) the chosen layer: the best value, or the best inner value of each fold; -1 if there is none."""
        if self.layer_choice == "nested":
            inner = self._inner[..., 0]
            best = np.where(np.isnan(inner), -np.inf, inner).argmax(axis=0)
            return np.where(np.isnan(inner).all(axis=0), -1, best)
        values = [aggregate.mean_of_parts(layer[:, 0], self._parts) for layer in self._by_layer]
        return np.full(len(self._folds), -1 if np.isnan(values).all() else int(np.nanargmax(values)))

    @property
    def _most_frequent(self) -> tuple[int, int]:
        """The layer that most folds chose, and how many; the first layer and 0 if none was chosen."""
        times = np.bincount(self._chosen[self._chosen >= 0], minlength=len(self.layers))
        return int(times.argmax()), int(times.max(initial=0))

    @property
    def _columns(self) -> list[tuple[str, Row]]:
        """The aggregate and the subjects: name, and what was compared."""
        found, part = self.found, self.target[1]
        experiments = [k for k, name in enumerate(dict.fromkeys(found.parts)) if part in (None, name)]
        n_rows, n_neuroids = (column[experiments] for column in (found.n_rows, found.n_neuroids))
        notes = [[found.notes[k][subject] for k in experiments] for subject in range(len(found.subjects))]
        of_subjects = [
            {
                "n_rows": int(n_rows[:, k].sum()), "n_neuroids": int(n_neuroids[:, k].sum()),
                "note": "; ".join(dict.fromkeys(notes[k])) if all(notes[k]) else "",
            }
            for k in range(len(found.subjects))
        ]  # fmt: skip
        together = {
            "n_rows": int(n_rows.max(axis=1, initial=0).sum()), "n_neuroids": int(n_neuroids.sum()),
            "note": of_subjects[0]["note"] if all(one["note"] for one in of_subjects) else "",
        }  # fmt: skip
        if POOLED in found.subjects:
            together = of_subjects[found.subjects.index(POOLED)]
        return [(POOLED, together)] + [(found.subjects[k], of_subjects[k]) for k in self._single]

    def of_layers(self) -> list[Row]:
        """One row per layer, for all subjects together and for each."""
        chosen, _ = self._most_frequent
        return [
            {
                **self.origin, "target": self.target[0], "subject": subject, "stack": layer.stack, "layer": layer.index,
                "value": aggregate.mean_of_parts(self._by_layer[k, :, column], self._parts),
                "inner": aggregate.mean_of_parts(self._inner[k, :, column], self._parts), "chosen": k == chosen,
                "n_features": n_features, "n_folds": len(self._folds), **sizes,
            }
            for column, (subject, sizes) in enumerate(self._columns)
            for k, (layer, n_features) in enumerate(self.layers.items())
        ]  # fmt: skip

    def of_source(self) -> list[Row]:
        """The value at the chosen layer, for all subjects together and for each."""
        chosen, n_chosen = self._most_frequent
        layer, folds = list(self.layers)[chosen], np.arange(len(self._folds))
        table = np.where((self._chosen >= 0)[:, None], self._by_layer[self._chosen, folds], np.nan)  # (fold, column)
        rule = "by training rows in each fold" if self.layer_choice == "nested" else "best value"
        rows = []
        for column, (subject, sizes) in enumerate(self._columns):
            value = aggregate.mean_of_parts(table[:, column], self._parts)
            low, high, kind = self._interval(table, column)
            ceiling = self._ceiling() if column == 0 else Ceiling()
            note = sizes["note"] or ("" if n_chosen else _NO_LAYER)
            rows.append({
                **self.origin, "target": self.target[0], "subject": subject, "stack": layer.stack, "layer": layer.index,
                "layer_folds": n_chosen, "layer_choice": rule, "value": value, "value_low": low, "value_high": high,
                "interval_kind": kind, **self._against(value, ceiling), **self._over_subjects(table, column),
                "n_features": self.layers[layer], "n_folds": len(self._folds), **sizes, "note": note,
            })  # fmt: skip
        return rows

    def _interval(self, table: Floats, column: int) -> tuple[float, float, str]:
        """95 % t interval over folds, and over subjects where the value is their mean."""
        by_fold, correlation = table[:, column], self.found.correlation
        variance = intervals.over_folds(by_fold, self._parts, correlation)
        if not math.isfinite(variance.value):
            return math.nan, math.nan, ""
        half = variance.squared_half_width() ** 0.5
        kind = f"t, corrected for shared pairs of rows, over {np.isfinite(by_fold).sum()} folds"
        n_subjects = int(np.isfinite(table[:, 1:]).any(axis=0).sum())
        if column == 0 and POOLED not in self.found.subjects and n_subjects >= intervals.FEWEST_SUBJECTS:
            half = intervals.effects(table[:, 1:], self._parts, correlation).half_width()
            kind += f" and {n_subjects} subjects"
        value = aggregate.mean_of_parts(by_fold, self._parts)
        return value - half, value + half, kind

    def _over_subjects(self, table: Floats, column: int) -> Row:
        """Number of subjects, and the median absolute deviation of their values; of the aggregate only."""
        values = [aggregate.mean_of_parts(by_fold, self._parts) for by_fold in table[:, 1:].T]
        return {
            "value_mad": aggregate.absolute_deviation(values) if column == 0 else math.nan,
            "n_subjects": int(np.isfinite(values).sum()) if column == 0 else 1,
        }

    def _against(self, value: float, ceiling: Ceiling) -> Row:
        is_clear = ceiling.value > LEAST_CEILING and ceiling.low > LEAST_CEILING
        return {
            "ceiling": ceiling.value, "ceiling_low": ceiling.low, "ceiling_high": ceiling.high,
            "ceiling_kind": CEILING if math.isfinite(ceiling.value) else "",
            "ratio": value / ceiling.value if is_clear else math.nan,
        }  # fmt: skip

    def _ceiling(self) -> Ceiling:
        """The root of the mean similarity of two subjects; its interval is over folds and, by jackknife, subjects."""
        if self.layer_choice != "nested":
            return Ceiling()
        between, n = self.found.between[self._folds].copy(), len(self.found.subjects)
        between[:, np.arange(n), np.arange(n)] = np.nan
        by_fold = intervals.mean(between, axis=(1, 2))
        value, measured = aggregate.mean_of_parts(by_fold, self._parts), np.isfinite(between).any(axis=(0, 1))
        folds = intervals.over_folds(by_fold, self._parts, self.found.correlation)
        if measured.sum() < FEWEST_FOR_INTERVAL or not math.isfinite(folds.value):
            return Ceiling(float(signed_root(np.array(value))))
        without = [self._similarity_without(between, k) for k in np.flatnonzero(measured)]
        n_left = len(without)
        variance = (n_left - 1) ** 2 / n_left * np.var(without, ddof=1)
        half = math.sqrt(folds.squared_half_width() + intervals.t_quantile(0.975, n_left - 1) ** 2 * variance)
        return Ceiling(*map(float, signed_root(np.array([value, value - half, value + half]))))

    def _similarity_without(self, between: Floats, subject: int) -> float:
        """Mean similarity of two subjects, without one of them."""
        others = np.delete(np.delete(between, subject, axis=1), subject, axis=2)
        return aggregate.mean_of_parts(intervals.mean(others, axis=(1, 2)), self._parts)


def make(
    origin: Row, features: Features, responses: Responses, protocol: Protocol, metrics: Sequence[Metric]
) -> tuple[list[Row], list[Row]]:
    """Compare features with a recording.

    Args:
        origin: columns that identify how a row was made; `metric` is set here.
        features: on the rows of the responses, or of more.
        responses: the recording.
        protocol: its folds and choice of the layer.
        metrics: names of `similarity.METRICS`.

    Returns:
        The rows of `similarity_layers` and of `similarity_scores`. Targets are "all", "group" and the experiments.
    """
    targets = aggregate.targets(responses)
    sizes = {layer: int(shape[1]) for layer, shape in features.shapes.items()}
    layer_rows, source_rows = [], []
    for metric in metrics:
        for name in (name for name in ("all", GROUP) if name in targets):
            found = similarity.compare(features, responses, protocol, targets[name].neuroids, metric)
            parts = responses.parts if name == "all" and len(responses.parts) > 1 else ()
            for target in ((name, None), *((part, part) for part in parts)):
                rows = SimilarityRows({**origin, "metric": metric}, target, sizes, found, protocol.layer_choice)
                layer_rows += rows.of_layers()
                source_rows += rows.of_source()
    return layer_rows, source_rows
