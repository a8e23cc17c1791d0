"""Forecast of scoring and of ceilings, from counted sizes, before anything is computed.

Operations are counted as those of matrix products (kernels/costs.py), so a machine's time is their number divided by
its rate in products. Memory is that of the process that scores, and of a piece of its fits. What is left out (tables,
figures, aggregation) takes seconds. Forecast against measurement: harness/scoring/README.md#forecast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.kernels import costs
from harness.kernels.costs import Cost, Sizes
from harness.kernels.responses import patterns
from harness.kernels.split import Split
from harness.protocol import Protocol
from harness.records import GROUP, Fold, Responses
from harness.scoring import extrapolation, fitting, folds, permutation, similarity, unique_variance

# A Python process with the libraries of scoring, and what it holds per neuroid and layer (scores, rows of tables) and
# per neuroid and fold; in bytes, estimated from the columns of the tables, not measured.
_PROCESS, _PER_LAYER, _PER_FOLD = 4e8, 250.0, 300.0
# Operations in the time that the bootstraps of a neuroid's ceiling take (0.4 ms on a core that does 45 GFLOP/s).
_BOOTSTRAPS = 2e7
# Unique variance has about this many bands of features: of a model, its embeddings, and controls of so many columns.
_BANDS, _CONTROLS = 4, 320
# Operations in the time that held-out CKA takes for each number of a product of columns and each pair of folds.
_PER_NUMBER = 50.0
# Rows per group of a made-up recording: about a story.
_GROUP_ROWS = 330


@dataclass(frozen=True)
class Experiment:
    """What the cost of one experiment of a recording depends on.

    Attributes:
        groups: (row,) the group of each row.
        texts: (row,) label in common to rows in which the same text is presented, as in `folds.make`.
        splits: its folds.
        present: for each pattern of missing rows a (row,) mask and the number of neuroids.
        subjects: complete neuroids of each subject, without the group.
    """

    groups: tuple[str, ...]
    texts: tuple[str, ...]
    splits: tuple[Fold, ...]
    present: tuple[tuple[NDArray[np.bool_], int], ...]
    subjects: dict[str, int]

    @property
    def n_neuroids(self) -> int:
        """Number of neuroids."""
        return sum(n for _, n in self.present)


class ScoringCost(NamedTuple):
    """Forecast of one score.

    Attributes:
        fits: of all layers, and for unique variance, in pieces; its memory is that of one fit.
        rest: predictions, by fold; its memory is that of a process that does not divide them, and of similarity.
        similarity: operations of RSA and CKA, which are never divided.
        n_layers: number of layers.
        n_bytes: memory if nothing is divided.
    """

    fits: Cost
    rest: Cost
    similarity: float
    n_layers: int

    @property
    def operations(self) -> float:
        """All operations."""
        return self.fits.operations + self.rest.operations + self.similarity

    @property
    def n_bytes(self) -> float:
        """Memory of the process that scores, with one fit in it."""
        return self.rest.n_bytes + self.fits.n_bytes


def of_recording(responses: Responses, protocol: Protocol) -> list[Experiment]:
    """The sizes of a recording's experiments; errors as in `folds.make`."""
    experiments = []
    for part in responses.parts:
        own, _ = responses.of_part(part)
        complete = np.flatnonzero(np.isfinite(own.values).all(axis=0))
        counted = Counter(own.subjects[neuroid] for neuroid in complete)
        present = tuple((pattern.present, len(pattern.neuroids)) for pattern in patterns(own.values))
        subjects = {name: n for name, n in sorted(counted.items()) if name != GROUP}
        splits = tuple(folds.of_responses(protocol.folds, own))
        experiments.append(Experiment(own.row_groups, own.row_texts, splits, present, subjects))
    return experiments


def made_up(n_subjects: int, n_rows: int, n_neuroids: int, protocol: Protocol, n_groups: int = 0) -> list[Experiment]:
    """The sizes of a recording of which only the numbers are known, complete, with all texts different.

    Args:
        n_subjects: number of subjects with neuroids of their own.
        n_rows: rows (sentences or scans).
        n_neuroids: neuroids of each subject.
        protocol: its folds.
        n_groups: passages or stories, of equal length; 0: one in 330 rows, at least 10.
    """
    if min(n_subjects, n_rows, n_neuroids) < 1 or not 0 <= n_groups <= n_rows:
        raise ValueError(
            f"a recording of {n_subjects} subjects, {n_rows} rows, {n_neuroids} neuroids and {n_groups} groups: give "
            "numbers of at least 1, and no more groups than rows."
        )
    n_groups = n_groups or min(n_rows, max(10, n_rows // _GROUP_ROWS))
    groups = tuple(f"{block:06d}" for block in folds.equal_blocks(n_rows, n_groups))
    splits = tuple(folds.make(protocol.folds, groups))
    present = ((np.ones(n_rows, dtype=bool), n_subjects * n_neuroids),)
    subjects = {f"{subject:04d}": n_neuroids for subject in range(n_subjects)}
    return [Experiment(groups, ("",) * n_rows, splits, present, subjects)]


def of_score(
    experiments: Sequence[Experiment], protocol: Protocol, n_layers: int, width: int, *, has_controls: bool
) -> ScoringCost:  # fmt: skip
    """Forecast one score.

    Args:
        experiments: of the recording.
        protocol: as it is scored.
        n_layers: number of layers.
        width: columns of a layer before delays.
        has_controls: whether unique variance over controls is computed.
    """
    n_columns = _columns(protocol, width)
    layer = costs.together([fit for experiment in experiments for fit in _layer(experiment, protocol, n_columns)])
    operations = layer.operations + sum(_components(experiment, protocol, width) for experiment in experiments)
    predicted = layer.operations if permutation.applies(protocol.folds) else 0.0
    alike = costs.together([_similarity(experiment, protocol, n_layers, n_columns) for experiment in experiments])
    unique = Cost(0.0, 0.0)
    if has_controls and not protocol.components and protocol.metric == "pearson_r":
        unique = costs.together([_unique_variance(experiment, protocol, n_columns) for experiment in experiments])
    largest = max(alike.n_bytes - layer.n_bytes, unique.n_bytes - layer.n_bytes, 0.0)
    rest = Cost(predicted, _held(experiments, n_layers, n_columns) + largest)
    fits = layer._replace(operations=n_layers * operations + unique.operations)
    return ScoringCost(fits, rest, alike.operations, n_layers)


def of_ceiling(experiments: Sequence[Experiment], protocol: Protocol) -> Cost:
    """Forecast the ceilings of a recording, of neuroids predicted from those of other subjects."""
    computed = [_ceiling(experiment, protocol) for experiment in experiments]
    total = costs.together([cost for cost in computed if cost.operations] or [Cost(0.0, 0.0)])
    responses = sum(8.0 * len(experiment.groups) * experiment.n_neuroids for experiment in experiments)
    return total._replace(n_bytes=total.n_bytes + _PROCESS + responses)


def n_pools(experiments: Sequence[Experiment]) -> int:
    """Largest number of pools of subjects that predict the others, which can be computed beside each other."""
    return max((len(_pools(experiment)) for experiment in experiments), default=0) or 1


def _pools(experiment: Experiment) -> list[tuple[str, ...]]:
    return extrapolation.draw_pools(list(experiment.subjects), 10, seed=0)


def sizes_of(experiment: Experiment, protocol: Protocol, p: int, n_neuroids: int) -> Sizes:
    """The sizes of a fit of p features to some neuroids without missing rows, by the fold with most training rows."""
    split = max(experiment.splits, key=lambda fold: len(fold.train))
    inner = fitting.inner_of(protocol, experiment.groups, split.train, experiment.texts)
    regression, blocks = protocol.regression, costs.blocks_of(Split(*split, *inner))
    n_alphas, n_folds, is_mixed = (
        max(len(regression.alphas), 1),
        len(experiment.splits),
        regression.precision == "mixed",
    )
    rows = len(split.train), len(split.test)
    return Sizes(*rows, p, n_neuroids, n_alphas, n_folds, blocks, is_mixed, per_neuroid=regression.per_neuroid)


def _columns(protocol: Protocol, width: int) -> int:
    """Columns of the features of a row."""
    n_delays = len(protocol.sampling.delays) if protocol.sampling else 1
    return (min(protocol.components, width) if protocol.components else width) * n_delays


def _layer(experiment: Experiment, protocol: Protocol, p: int) -> Iterator[Cost]:
    """The fits of one layer, one for each pattern of missing rows."""
    sizes, n_rows = sizes_of(experiment, protocol, p, experiment.n_neuroids), len(experiment.groups)
    for present, n_neuroids in experiment.present:
        yield costs.of_fit(_with_rows(sizes, float(present.sum()) / n_rows)._replace(n_neuroids=n_neuroids))


def _with_rows(sizes: Sizes, fraction: float) -> Sizes:
    """The sizes with a fraction of the rows."""
    if fraction == 1.0:
        return sizes
    blocks = sizes.blocks and tuple(
        (max(1, round(own * fraction)), max(1, round(out * fraction))) for own, out in sizes.blocks
    )
    n_train, n_test = (max(2, round(n * fraction)) for n in (sizes.n_train, sizes.n_test))
    return sizes._replace(n_train=n_train, n_test=n_test, blocks=blocks)


def _components(experiment: Experiment, protocol: Protocol, width: int) -> float:
    """Operations of the principal components of one layer in all folds, by a few passes over the features."""
    if not protocol.components or width <= protocol.components:
        return 0.0
    return 40.0 * len(experiment.splits) * len(experiment.groups) * width * protocol.components


def _unique_variance(experiment: Experiment, protocol: Protocol, p: int) -> Cost:
    """Banded ridge of one layer beside the model's embeddings and the controls."""
    fits = list(_layer(experiment, unique_variance.ridge_of(protocol), 2 * p + _CONTROLS))
    extra = 8.0 * (_BANDS - 1) * len(experiment.groups) ** 2 if fits[0].way == "dual" else 0.0
    total = costs.together(fits)
    return Cost(len(unique_variance.TRIED) * total.operations, total.n_bytes + extra)


def _similarity(experiment: Experiment, protocol: Protocol, n_layers: int, p: int) -> Cost:
    """RSA and CKA of all layers; over 2,000 rows CKA alone, from products of columns."""
    n, v = len(experiment.groups), experiment.n_neuroids
    if n <= similarity.MOST_ROWS:
        return Cost(4.0 * n * n * (n_layers * p + v), 40.0 * n * n)
    of_subjects = [m for m in experiment.subjects.values() if m <= similarity.MOST_NEUROIDS]
    if not of_subjects:
        return Cost(0.0, 0.0)
    compared = sum(of_subjects)
    if protocol.layer_choice == "nested":
        per_number = 2.0 * n + _PER_NUMBER * len(experiment.splits) ** 2
    else:  # all subjects together as well; the rows that a draw leaves out are products of their own
        of_subjects += [compared] if compared <= similarity.MOST_NEUROIDS else []
        per_number = 2.0 * n * (1.0 + similarity.N_DRAWS * (1.0 - similarity.DRAWN))
    numbers = sum(m * m for m in of_subjects) + n_layers * p * (p + compared)
    return Cost(per_number * numbers, 16.0 * n * (compared + p))


def _held(experiments: Sequence[Experiment], n_layers: int, p: int) -> float:
    """Bytes of the process that scores: responses, one layer, predictions, scores of all layers and rows of tables."""
    n_bytes = _PROCESS
    for experiment in experiments:
        n, v, n_folds = len(experiment.groups), experiment.n_neuroids, len(experiment.splits)
        n_bytes += 4.0 * n * (3 * v + p) + v * (n_layers * (_PER_LAYER + 32.0 * n_folds) + _PER_FOLD * n_folds)
    return n_bytes


def _ceiling(experiment: Experiment, protocol: Protocol) -> Cost:
    """Every pool of subjects predicts the subjects outside it."""
    n, subjects = len(experiment.groups), experiment.subjects
    pools = _pools(experiment)
    regression, total = protocol.regression, sum(subjects.values())
    base, fits = sizes_of(experiment, protocol, 1, 1), [Cost(0.0, 0.0)]
    n_scaled = 1 if regression.scale == "center" and not regression.relative else len(experiment.splits)
    for pool in pools:
        p = sum(subjects[name] for name in pool)
        is_banded = 2 * p >= n
        # Their Gram matrices are counted below, since pools share them.
        of_pool = base._replace(p=min(total if is_banded and total < n else p, n), is_banded=is_banded)
        n_fits = 1 if regression.per_neuroid else len(subjects) - len(pool)
        fit = costs.of_fit(of_pool._replace(n_neuroids=max((total - p) // n_fits, 1)))
        fits.append(fit._replace(operations=n_fits * fit.operations))
    is_dual = any(fit.way == "dual" for fit in fits)
    grams = Cost(float(n_scaled) * n * n * total, 0.0) if is_dual and 2 * total >= n else Cost(0.0, 0.0)
    held = 8.0 * n_scaled * len(subjects) * n * n if grams.operations else 0.0
    bootstraps = Cost(_BOOTSTRAPS * total, 0.0) if len(subjects) > 1 else Cost(0.0, 0.0)
    fitted = costs.together([*fits, grams, bootstraps])
    scores = 8.0 * len(pools) * len(experiment.splits) * total + 20.0 * 100 * total
    return fitted._replace(n_bytes=fitted.n_bytes + held + scores if pools else 0.0)
