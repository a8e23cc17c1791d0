"""Rows of scores per fold, at the layer chosen in the fold: of single neuroids, and of subjects.

They show how a score varies over stimuli and subjects, and paired tests of two sources are computed from them
(harness/statistics/paired.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from harness.protocol import Protocol
from harness.records import GROUP, Floats, Integers, Layer, LayerFit, Responses
from harness.scoring import aggregate, folds
from harness.scoring.aggregate import Target

Row = dict[str, Any]


@dataclass(frozen=True)
class FoldRows:
    """Rows of `split_scores` and `fold_scores` from the fits of all layers; `origin` as in `rows.BrainRows`."""

    origin: Row
    responses: Responses
    fits: dict[Layer, LayerFit]
    protocol: Protocol

    @cached_property
    def chosen_layers(self) -> Integers:
        """(fold, neuroid) index into `fits` of the layer chosen for the neuroid's target: "group", or else "all"."""
        by_target = {
            name: aggregate.layers_of_folds(self.fits, self.protocol.layer_choice, target)
            for name, target in self._whole.items()
        }
        chosen = np.repeat(by_target["all"][:, None], len(self.responses.neuroid_ids), axis=1)
        for name, target in self._whole.items():
            chosen[:, target.neuroids] = by_target[name][:, None]
        return chosen

    @property
    def most_frequent_layer(self) -> Integers:
        """(neuroid,) the layer that most folds chose, the first in a tie, as in `aggregate.choose`."""
        times_chosen = np.stack([(self.chosen_layers == k).sum(axis=0) for k in range(len(self.fits))])
        most_frequent: Integers = times_chosen.argmax(axis=0)
        return most_frequent

    def of_neuroids(self) -> Iterator[Row]:
        """Per fold the columns of its rows of `split_scores`, one row per neuroid that the experiment measured."""
        layers, chosen, r = list(self.fits), self.chosen_layers, self._r
        target = np.full(len(self.responses.neuroid_ids), "all", dtype=object)
        for name, own in self._whole.items():
            target[own.neuroids] = name
        labels = {
            "target": target.tolist(), "neuroid_id": self.responses.neuroid_ids, "subject": self.responses.subjects,
            "roi": self.responses.rois,
        }  # fmt: skip
        for fold, part in enumerate(self._parts):
            neuroids = self._measured[part]
            of_layer = [layers[k] for k in chosen[fold, neuroids]]
            yield {
                **self.origin, **{name: tuple(map(column.__getitem__, neuroids)) for name, column in labels.items()},
                "part": part, "fold": fold, "stack": tuple(layer.stack for layer in of_layer),
                "layer": tuple(layer.index for layer in of_layer), "r": r[fold, neuroids],
            }  # fmt: skip

    def of_subjects(self) -> list[Row]:
        """The rows of `fold_scores`: each subject's median over neuroids, in each fold whose experiment measured it."""
        r, subjects = self._r, np.array(self.responses.subjects)
        correlation = next(iter(self.fits.values())).fold_correlation
        held_out = folds.held_out_groups(self.protocol.folds, self.responses)
        rows = []
        for name, target in self._whole.items():
            for subject in dict.fromkeys(subjects[target.neuroids].tolist()):
                own = target.neuroids[subjects[target.neuroids] == subject]
                scores, n_scored = aggregate.medians(r[:, own]), np.isfinite(r[:, own]).sum(axis=1)
                rows += [
                    {
                        **self.origin, "target": name, "part": part, "fold": fold, "held_out": held_out[fold],
                        "subject": subject, "score": scores[fold], "n_averaged": n_scored[fold],
                        "fold_correlation": correlation,
                    }
                    for fold, part in enumerate(self._parts) if np.isin(own, self._measured[part]).any()
                ]  # fmt: skip
        return rows

    @cached_property
    def _whole(self) -> dict[str, Target]:
        """The targets that cover the recording: "all", and "group" if there are means over subjects beside it."""
        targets = aggregate.targets(self.responses, self.protocol.aggregate)
        return {name: target for name, target in targets.items() if name in ("all", GROUP)}

    @cached_property
    def _measured(self) -> dict[str, Integers]:
        """Experiment -> the neuroids that it measured."""
        return {part: self.responses.of_part(part)[1] for part in self.responses.parts}

    @property
    def _parts(self) -> tuple[str, ...]:
        """(fold,) the experiment of each fold."""
        return next(iter(self.fits.values())).parts

    @property
    def _r(self) -> Floats:
        """(fold, neuroid) r at the layer chosen in the fold."""
        chosen, r = self.chosen_layers, np.full_like(self.chosen_layers, np.nan, dtype=float)
        for k, fit in enumerate(self.fits.values()):
            r = np.where(chosen == k, fit.r, r)
        return r
