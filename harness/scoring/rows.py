"""Convert the fits of one source on one recording to rows of the score tables.

Raw score, ceiling and ratio are three columns. Nothing is clipped; the ratio is NaN for a ceiling near 0. `origin`
holds the columns that identify how a row was made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.protocol import Protocol
from harness.records import Ceiling, Layer, LayerFit, Responses
from harness.scoring import aggregate, target_ceilings
from harness.scoring.aggregate import ChosenLayer, Target
from harness.scoring.fold_rows import FoldRows
from harness.scoring.permutation import NeuroidTest
from harness.scoring.target_ceilings import TargetCeiling
from harness.scoring.unique_variance import UniqueVariance

Row = dict[str, Any]
# Columns of a ceiling, in the order of `target_ceilings.TargetCeiling`.
_CEILING = ("ceiling", "ceiling_low", "ceiling_high", "ceiling_kind", "n_ceiling_subjects", "n_pool_sizes")


@dataclass(frozen=True)
class BrainRows:
    """Rows of `neuroid_scores`, `layer_scores` and `model_scores` from the fits of all layers.

    A response counts as missing if it is NaN in an experiment in which its neuroid has any response; a neuroid that was
    not measured in an experiment at all has nothing missing there.
    """

    origin: Row
    responses: Responses
    fits: dict[Layer, LayerFit]
    ceiling: Ceiling
    protocol: Protocol
    seed: int
    unique: UniqueVariance | None = None
    tests: NeuroidTest | None = None

    def neuroids(self) -> Iterator[Row]:
        """Per layer the columns of its rows, (neuroid,) arrays or single values: there can be half a million rows."""
        recording, ceiling = self.responses, self._neuroid_ceilings()
        value, low, _, kinds, _, n_sizes = ceiling.values()
        divisor = target_ceilings.divisors(value, low, n_sizes, kinds)
        names = {"neuroid_id": recording.neuroid_ids, "subject": recording.subjects, "roi": recording.rois}
        chosen = self.by_fold.most_frequent_layer
        for k, (layer, fit) in enumerate(self.fits.items()):
            r = aggregate.mean_over_folds(fit.r)
            yield {
                **self.origin, **_place(layer), **names, "r": r, **ceiling, "ratio": r / divisor,
                "alpha": aggregate.median_over_folds(fit.alpha), "n_folds_nan": np.isnan(fit.r).sum(axis=0),
                "n_missing": self._missing.sum(axis=0), "chosen": chosen == k, **self._tests_at(chosen == k),
                **_sizes(fit),
                "n_rows": np.isfinite(recording.values).sum(axis=0),
            }  # fmt: skip

    @cached_property
    def by_fold(self) -> FoldRows:
        """The scores by fold, at the chosen layers."""
        return FoldRows(self.origin, self.responses, self.fits, self.protocol)

    def _tests_at(self, is_chosen: NDArray[np.bool_]) -> Row:
        """The tests of the neuroids at their chosen layer; NaN for the others."""
        nothing = np.full(len(is_chosen), np.nan)
        tests = self.tests._asdict() if self.tests else dict.fromkeys(NeuroidTest._fields, nothing)
        return {name: np.where(is_chosen, values, np.nan) for name, values in tests.items()}

    @cached_property
    def _targets(self) -> dict[str, Target]:
        return aggregate.targets(self.responses, self.protocol.aggregate)

    @cached_property
    def _missing(self) -> NDArray[np.bool_]:
        """(row, neuroid) whether a response is missing."""
        missing = np.isnan(self.responses.values)
        row_parts = np.array(self.responses.row_parts)
        for part in self.responses.parts:
            rows = row_parts == part
            missing[rows] &= ~missing[rows].all(axis=0)
        return missing

    def layers(self) -> list[Row]:
        """One row per layer and target."""
        return [
            self._layer_row(layer, fit, name, target)
            for name, target in self._targets.items()
            for layer, fit in self.fits.items()
        ]

    def _layer_row(self, layer: Layer, fit: LayerFit, name: str, target: Target) -> Row:
        inner = aggregate.mean_of_parts(aggregate.fold_scores(fit, target, "inner"), aggregate.fold_parts(fit, target))
        return {
            **self.origin, **_place(layer), "target": name,
            **self._against_ceiling(aggregate.layer_score(fit, target), target),
            "r_std_folds": aggregate.deviation(aggregate.fold_scores(fit, target)),
            "inner": inner, "alpha_at_low": fit.at_low,
            "alpha_at_high": fit.at_high, "rank": float(np.mean(fit.rank)), "n_neuroids": len(target.neuroids),
            "n_nan": np.isnan(target.of(fit.r, fit.parts)).all(axis=0).sum(),
            **self._sizes(fit, target),
        }  # fmt: skip

    def models(self) -> list[Row]:
        """One row per target, for the layer chosen by the protocol."""
        return [self._model_row(name, target) for name, target in self._targets.items()]

    def chosen(self, target: str) -> ChosenLayer:
        """The layer chosen by the protocol for a target, and its score."""
        choice = self.protocol.layer_choice
        return aggregate.choose(self.fits, choice, self.responses, self._targets[target], self.seed)

    def _model_row(self, name: str, target: Target) -> Row:
        chosen = self.chosen(name)
        score = asdict(chosen) | _place(chosen.layer) | self._against_ceiling(chosen.r, target)
        sizes = self._sizes(self.fits[chosen.layer], target)
        return {**self.origin, "target": name, **score, **self._beyond_controls(target), **sizes}

    def _beyond_controls(self, target: Target) -> Row:
        """Unique variance, aggregated like r; NaN if it was not computed."""
        if self.unique is None:
            columns = ("unique_r2", "unique_low", "unique_high", "controls_r2", "joint_r2")
            return {**dict.fromkeys(columns, np.nan), "unique_over": ""}
        over_controls, fit = self.unique, next(iter(self.fits.values()))
        parts = aggregate.fold_parts(fit, target)
        unique, controls, joint = (
            aggregate.mean_of_parts(target.by_fold(target.of(values, over_controls.parts)), parts)
            for values in (over_controls.unique, over_controls.controls, over_controls.joint)
        )
        subjects = np.array(self.responses.subjects)[target.neuroids]
        low, high, _ = aggregate.interval(
            target.of(over_controls.unique, over_controls.parts),
            parts,
            fit.fold_correlation,
            subjects,
            target,
            self.seed,
        )
        return {
            "unique_r2": unique, "unique_low": low, "unique_high": high, "controls_r2": controls, "joint_r2": joint,
            "unique_over": ", ".join(over_controls.names),
        }  # fmt: skip

    def _against_ceiling(self, r: float, target: Target) -> Row:
        ceiling = target_ceilings.of_target(self.ceiling, target, self.responses.subjects, self.protocol)
        return {"r": r, **ceiling_row(ceiling), "ratio": r / ceiling.divisor}

    def _neuroid_ceilings(self) -> Row:
        """(neuroid,) columns of the ceilings: means over experiments; numbers of the smallest one that is known."""
        ceiling = self.ceiling
        known = np.isfinite(ceiling.values)
        value, low, high = (aggregate.mean_over_folds(ends) for ends in (ceiling.values, ceiling.low, ceiling.high))
        numbers = [
            np.where(known.any(axis=0), np.where(known, counts, np.iinfo(np.int64).max).min(axis=0), 0)
            for counts in (ceiling.n_subjects, ceiling.n_sizes)
        ]
        return dict(zip(_CEILING, (value, low, high, ceiling.kinds, *numbers), strict=True))

    def _sizes(self, fit: LayerFit, target: Target) -> Row:
        """Sizes of a target's data: rows with a response of its neuroids, missing responses, folds."""
        rows = np.array([target.part in (None, part) for part in self.responses.row_parts])
        n_rows = np.isfinite(self.responses.values[rows][:, target.neuroids]).any(axis=1).sum()
        missing = self._missing[rows][:, target.neuroids].sum()
        n_folds = len(aggregate.fold_parts(fit, target))
        return {**_sizes(fit), "n_folds": n_folds, "n_rows": int(n_rows), "n_missing": int(missing)}


def ceiling_row(ceiling: TargetCeiling) -> Row:
    """The columns of a ceiling."""
    return dict(zip(_CEILING, ceiling, strict=True))


def _place(layer: Layer) -> Row:
    return {"stack": layer.stack, "layer": layer.index}


def _sizes(fit: LayerFit) -> Row:
    return {"n_features": fit.n_features, "n_folds": len(fit.r)}
