"""The fits of one source on one recording, as rows of the score tables.

Raw score, ceiling and ratio are three columns, and nothing is clipped; no ratio to a ceiling that is not above 0.
`origin` are the columns that make a row again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from harness import aggregate
from harness.records import Ceiling, Layer, LayerFit, Responses
from harness.spec import Protocol

Row = dict[str, Any]


@dataclass(frozen=True)
class BrainRows:
    """Rows of `neuroid_scores`, `layer_scores` and `model_scores` from the fits of all layers."""

    origin: Row
    responses: Responses
    fits: dict[Layer, LayerFit]
    ceiling: Ceiling
    protocol: Protocol
    seed: int

    def neuroids(self) -> list[Row]:
        """One row per layer and neuroid."""
        return [row for layer, fit in self.fits.items() for row in self._neuroids_of(layer, fit)]

    def _neuroids_of(self, layer: Layer, fit: LayerFit) -> Iterable[Row]:
        r, alpha = aggregate.mean_over_folds(fit.r), aggregate.median_over_folds(fit.alpha)
        unmeasured = np.isnan(fit.r).sum(axis=0)
        of = self.responses
        for i, names in enumerate(zip(of.neuroid_ids, of.subjects, of.rois, strict=True)):
            yield {
                **self.origin, **_place(layer), **dict(zip(("neuroid_id", "subject", "roi"), names, strict=True)),
                **self._against_ceiling(r[i], [i]), "alpha": alpha[i], "n_folds_nan": unmeasured[i], **_sizes(fit),
            }  # fmt: skip

    def layers(self) -> list[Row]:
        """One row per layer and target."""
        return [
            self._layer_row(layer, fit, target, neuroids)
            for target, neuroids in aggregate.targets(self.responses).items()
            for layer, fit in self.fits.items()
        ]

    def _layer_row(self, layer: Layer, fit: LayerFit, target: str, neuroids: Any) -> Row:
        per_fold = aggregate.fold_scores(fit.r, neuroids)
        return {
            **self.origin, **_place(layer), "target": target,
            **self._against_ceiling(aggregate.mean(per_fold), neuroids), "r_std_folds": aggregate.deviation(per_fold),
            "inner": aggregate.mean(aggregate.fold_scores(fit.inner, neuroids)), "alpha_at_low": fit.at_low,
            "alpha_at_high": fit.at_high, "rank": float(np.mean(fit.rank)), "n_neuroids": len(neuroids),
            "n_nan": np.isnan(fit.r[:, neuroids]).all(axis=0).sum(), **_sizes(fit),
        }  # fmt: skip

    def models(self) -> list[Row]:
        """One row per target: the layer that the protocol chooses."""
        return [self._model_row(target, neuroids) for target, neuroids in aggregate.targets(self.responses).items()]

    def _model_row(self, target: str, neuroids: Any) -> Row:
        chosen = aggregate.choose(self.fits, self.protocol.layer_choice, self.responses, neuroids, self.seed)
        score = asdict(chosen) | _place(chosen.layer) | self._against_ceiling(chosen.r, neuroids)
        return {**self.origin, "target": target, **score, **_sizes(self.fits[chosen.layer])}

    def _against_ceiling(self, r: float, neuroids: Iterable[int]) -> Row:
        at = list(neuroids)
        ceiling = aggregate.median_ceiling(self.ceiling.values, at)
        kinds = sorted({self.ceiling.kinds[i] for i in at} - {""})
        return {
            "r": r,
            "ceiling": ceiling,
            "ceiling_kind": ", ".join(kinds),
            "ratio": r / ceiling if ceiling > 0 else np.nan,
        }


def _place(layer: Layer) -> Row:
    return {"stack": layer.stack, "layer": layer.index}


def _sizes(fit: LayerFit) -> Row:
    return {"n_rows": fit.n_rows, "n_features": fit.n_features, "n_folds": len(fit.r)}
