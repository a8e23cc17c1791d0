"""What a model explains of held-out responses beyond the controls: its unique variance.

R2 of the joint fit of model and controls, less R2 of the controls alone, on the folds of the protocol. The fits are
banded ridge (kernels/banded.py): model and controls have penalties of their own, chosen on training rows for each
neuroid, so that a joint fit may leave the model out and a control is not drowned by 4,096 features beside it. Among the
controls each wide one (OASM, word vectors) counts as much as the few columns of all others together. Least squares has
no such thing, so that under PAPER too this is ridge; the folds are PAPER's.

Source: METHODS section 6.2; Feghhi, Hadidi et al. (Nat Commun 2026, arXiv 2406.01538), R2 of banded ridge likewise.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from harness.kernels.banded import unique_variance
from harness.kernels.gram import Design, design
from harness.protocol import WIDE_RIDGE, Protocol
from harness.records import Features, Floats, Integers, Layer, Responses, indices_of
from harness.scoring import fitting, folds

# Controls of so few columns share one band.
_FEW_COLUMNS = 8
# (candidate, 2) weights of the model and of the controls that are tried.
_TRIED = ((1.0, 1.0), (1.0, 1e-2), (1e-2, 1.0), (1.0, 0.0), (0.0, 1.0))


class UniqueVariance(NamedTuple):
    """Variance explained; (fold, neuroid) each, NaN where not measurable.

    Attributes:
        joint, controls: R2 of model and controls, and of the controls alone; not bounded below.
        unique: joint - controls.
        parts: (fold,) the experiment of each fold.
        names: of the controls.
    """

    joint: Floats
    controls: Floats
    unique: Floats
    parts: tuple[str, ...]
    names: tuple[str, ...]


def over_controls(
    model: Features,
    layer: Layer,
    controls: dict[str, Features],
    responses: Responses,
    protocol: Protocol,
    *,
    threads: int = 1,
) -> UniqueVariance:
    """The unique variance of one layer of a model over controls.

    Args:
        model: on the rows of the responses, in any order.
        layer: of the model.
        controls: name -> features on these rows; all variants (OASM's widths) of a control count together.
        responses: of several experiments each is fitted on its own rows.
        protocol: its folds; where it is ridge, its way of leaving training rows out.
        threads: on how many cores.

    Raises:
        ValueError: if there is no control, a row has no features (naming it), or the folds cannot be made.
    """
    if not controls:
        raise ValueError("unique variance: no control is given to be beyond of.")
    found, parts = [], []
    for part in responses.parts:
        measured, neuroids = responses.of_part(part)
        fits = _of_part(model.values[layer][_at(measured, model)], controls, measured, protocol, threads)
        wide = np.full((3, len(fits[0]), len(responses.neuroid_ids)), np.nan)
        wide[:, :, neuroids] = fits
        found.append(wide)
        parts += [part] * wide.shape[1]
    joint, alone, unique = np.concatenate(found, axis=1)
    return UniqueVariance(joint, alone, unique, tuple(parts), tuple(controls))


def _of_part(
    X: Floats, controls: dict[str, Features], responses: Responses, protocol: Protocol, threads: int
) -> tuple[Floats, Floats, Floats]:
    inner = protocol.regression.inner if protocol.regression.kind == "ridge" else "loo"
    ridge = replace(WIDE_RIDGE, inner=inner, inner_folds=protocol.regression.inner_folds, precision="mixed")
    splits = folds.make(protocol.folds, responses.row_groups)
    # The folds with inner blocks, and the penalty in the kernel's terms.
    way = fitting.prepare(responses.values, responses.row_groups, splits, replace(protocol, regression=ridge))
    bands = _bands(controls, responses)
    of_model, of_controls = 1.0 / X.shape[1], np.array([weight for _, weight in bands])
    return unique_variance(
        design(X, "zscore"),
        [band for band, _ in bands],
        responses.values,
        way.splits,
        way.penalty,
        joint_weights=np.array([[model * of_model, *(others * of_controls)] for model, others in _TRIED]),
        control_weights=of_controls[None],
        precision=ridge.precision,
        threads=threads,
    )


def _bands(controls: dict[str, Features], responses: Responses) -> list[tuple[Design, float]]:
    """Each wide control, and all others side by side; with the weight that puts a band on the scale of one column.

    The few columns are in units of their own, and z-scored. The wide ones are in one unit, and are not: a column of
    OASM that is nearly nothing in the training rows would be blown up to a thousand where it is 1, in its own row.
    """
    whole = [np.hstack(list(each.values.values()))[_at(responses, each)] for each in controls.values()]
    few = [Z for Z in whole if Z.shape[1] <= _FEW_COLUMNS]
    side_by_side = [np.hstack(few)] if few else []
    bands = [(design(Z, "zscore"), 1.0 / Z.shape[1]) for Z in side_by_side]
    return bands + [(design(Z), 1.0 / float(Z.var(axis=0).sum())) for Z in whole if Z.shape[1] > _FEW_COLUMNS]


def _at(responses: Responses, features: Features) -> Integers:
    return indices_of(responses.row_ids, features.row_ids, "features for the rows of the responses")
