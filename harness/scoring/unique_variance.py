"""Unique variance: what a model explains of held-out responses beyond the controls.

It is R2 of the joint fit of model and controls minus R2 of the controls alone, on the protocol's folds. R2 is relative
to the training mean: 1 - sum (y - predicted)^2 / sum (y - training mean)^2. Both fits are banded ridge
(kernels/banded.py): model and controls have separate penalties, chosen for each neuroid on training rows by inner folds
of the form of the outer ones, with their gap. A joint fit can thus drop the model, and a control is not drowned out by
a model's 4,096 features. Each wide control (OASM, word vectors) has the same weight as all narrow controls together.
Least squares has no penalties, so this is ridge under PAPER too, on PAPER's folds.

Controls that extrapolate badly to distant test rows have a negative R2, and a joint fit that drops them would book the
harm avoided to the model. So both fits can choose nothing, the training mean: on inner folds, and by counting as 0 for
a neuroid on which the R2 of a fit (mean over the folds) is negative. Simulated, unique variance is within 0.03 of the
gain of a model whose controls are known, and 0 without an effect. Without the floors, with a floor of the controls
alone, by partial r and by the product measure it is further off or exceeds the joint R2: figures on the method's page.

Method: harness/scoring/README.md#unique-variance-over-controls. Source: Feghhi, Hadidi et al. (Nat Commun 2026, arXiv
2406.01538), who also use R2 of banded ridge.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from harness.kernels import costs
from harness.kernels.arrays import to_device
from harness.kernels.banded import gain, unique_variance
from harness.kernels.gram import Design, Scale, design
from harness.kernels.ridge import Penalty, Split
from harness.kernels.streams import variances
from harness.kernels.work import Precision
from harness.protocol import WIDE_RIDGE, Protocol
from harness.records import Features, Floats, Integers, Layer, Responses, indices_of
from harness.scoring import fitting
from harness.scoring.fitting import BlockRunner, at_once

# Controls with at most this many columns share one band.
_FEW_COLUMNS = 8
# (candidate, 2) candidate weights of the model and of the controls.
TRIED = ((1.0, 1.0), (1.0, 1e-2), (1e-2, 1.0), (1.0, 0.0), (0.0, 1.0))


class UniqueVariance(NamedTuple):
    """Variance explained; (fold, neuroid) each, NaN where not measurable.

    Attributes:
        joint: R2 of model and controls, relative to the training mean; not bounded below.
        controls: R2 of the controls alone; not bounded below.
        unique: joint - controls, where a fit counts as 0 for a neuroid on which its mean over the folds of an
            experiment is negative.
        parts: (fold,) the experiment of each fold.
        names: names of the controls.
    """

    joint: Floats
    controls: Floats
    unique: Floats
    parts: tuple[str, ...]
    names: tuple[str, ...]


def over_controls(
    model: Features, layer: Layer, controls: dict[str, Features], responses: Responses, protocol: Protocol,
    run: BlockRunner = at_once,
) -> UniqueVariance:  # fmt: skip
    """Compute the unique variance of one layer of a model over controls.

    Args:
        model: features on the rows of the responses, in any order.
        layer: layer of the model.
        controls: name -> features on these rows; the variants of a control (OASM's widths) are used together.
        responses: brain responses; each experiment is fitted on its own rows.
        protocol: its folds are used, and for ridge its rule for leaving out training rows.
        run: executes the fits of all folds and neuroids, in this process or divided.

    Raises:
        ValueError: if there is no control, a row has no features (naming it), or the folds cannot be made.
    """
    if not controls:
        raise ValueError("unique variance: no controls given; give at least one.")
    by_part, parts = [], []
    for part in responses.parts:
        measured, neuroids = responses.of_part(part)
        X = fitting.on_rows(model.values[layer], _at(measured, model))
        task = _task(X, controls, measured, protocol)
        joint, alone = run(task, measured.values, task.operations(measured.values.shape[1]))
        wide = np.full((3, len(joint), len(responses.neuroid_ids)), np.nan)
        wide[:, :, neuroids] = joint, alone, gain(joint) - gain(alone)
        by_part.append(wide)
        parts += [part] * wide.shape[1]
    joint, controls_alone, unique = np.concatenate(by_part, axis=1)
    return UniqueVariance(joint, controls_alone, unique, tuple(parts), tuple(controls))


class _Band(NamedTuple):
    """Features that share a penalty.

    Attributes:
        X: (row, feature).
        scale: of the columns, see `design`.
        weight: scales the band to the variance of one z-scored column.
    """

    X: Any
    scale: Scale
    weight: float

    def design(self, on_gpu: bool) -> Design:
        """The band for the kernels."""
        return design(to_device(np.asarray(self.X)) if on_gpu else self.X, self.scale)


@dataclass(frozen=True)
class _Task:
    """The fits of all or some folds and neuroids; small but for the features.

    Attributes:
        model: the model's band.
        controls: those of the controls.
        splits, penalty: as for the kernels.
        precision: of the neuroid side.
    """

    model: _Band
    controls: tuple[_Band, ...]
    splits: tuple[Split, ...]
    penalty: Penalty
    precision: Precision

    def __call__(self, Y: Floats, *, on_gpu: bool = False) -> Floats:
        """(2, fold, neuroid) R2 of the joint fit and of the controls."""
        of_controls = np.array([band.weight for band in self.controls])
        joint_weights = [[model * self.model.weight, *(others * of_controls)] for model, others in TRIED]
        found = unique_variance(
            self.model.design(on_gpu), [band.design(on_gpu) for band in self.controls],
            to_device(Y) if on_gpu else Y, self.splits, self.penalty, joint_weights=np.array(joint_weights),
            control_weights=of_controls[None], precision=self.precision,
        )  # fmt: skip
        return np.stack([found.joint, found.controls])

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return len(self.splits)

    def of_folds(self, which: slice) -> _Task:
        """The fits of some folds."""
        return replace(self, splits=self.splits[which])

    @property
    def n_features(self) -> int:
        """Columns of all bands."""
        return sum(band.X.shape[1] for band in (self.model, *self.controls))

    def operations(self, n_neuroids: int) -> float:
        """Rough number of floating-point operations."""
        return len(TRIED) * fitting.flops_of_layer(self.splits, self.n_features, n_neuroids)

    def n_bytes(self, n_neuroids: int) -> float:
        """Forecast of the memory that the fits take beside the data."""
        largest = max(self.splits, key=lambda split: len(split.train))
        sizes = costs.Sizes(
            len(largest.train), len(largest.test), self.n_features, n_neuroids, len(self.penalty.alphas), self.n_folds,
            costs.blocks_of(largest), self.precision == "mixed", n_grams=1 + len(self.controls), is_banded=True,
        )  # fmt: skip
        return costs.of_fit(sizes).n_bytes


def ridge_of(protocol: Protocol) -> Protocol:
    """The protocol with the regression of unique variance: ridge that leaves out training rows as the protocol does."""
    inner = protocol.regression.inner if protocol.regression.kind == "ridge" else "loo"
    ridge = replace(WIDE_RIDGE, inner=inner, inner_folds=protocol.regression.inner_folds, precision="mixed")
    return replace(protocol, regression=ridge)


def _task(X: Any, controls: dict[str, Features], responses: Responses, protocol: Protocol) -> _Task:
    """The fits of one experiment: ridge on the protocol's folds."""
    setup = fitting.of_experiment(responses, ridge_of(protocol))
    model = _Band(X, "center", _one_column(X))
    bands = tuple(_bands(controls, responses))
    return _Task(model, bands, setup.splits, setup.penalty, setup.regression.precision)


def _bands(controls: dict[str, Features], responses: Responses) -> list[_Band]:
    """One band for all narrow controls and one per wide control, with weights that scale each to one column.

    Narrow controls have different units and are z-scored. Wide ones have one unit and are not z-scored, like the
    features of a model: a column of OASM that is almost 0 in the training rows would become about 1,000 in its own row,
    where it is 1.
    """
    matrices = [_variants(control, _at(responses, control)) for control in controls.values()]
    narrow = [np.asarray(Z) for Z in matrices if Z.shape[1] <= _FEW_COLUMNS]
    bands = [_Band(Z := np.hstack(narrow), "zscore", 1.0 / Z.shape[1])] if narrow else []
    return bands + [_Band(Z, "center", _one_column(Z)) for Z in matrices if Z.shape[1] > _FEW_COLUMNS]


def _variants(control: Features, rows: Integers) -> Floats:
    """(row, column) the variants of a control side by side, on these rows."""
    variants = [fitting.on_rows(matrix, rows) for matrix in control.values.values()]
    return variants[0] if len(variants) == 1 else np.hstack(variants)


def _one_column(Z: Floats) -> float:
    """Weight that scales (row, column) Z, in one unit, to the variance of one z-scored column; 1 if Z is constant."""
    variance = float(variances(Z).sum())
    return 1.0 / variance if variance > 0 else 1.0


def _at(responses: Responses, features: Features) -> Integers:
    return indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
