"""The splits of a recorded case, made anew from the arguments of its cross-validation.

Source: Brain-Score language of August 2026: ShuffleSplit and KFold of scikit-learn and their stratified kinds, over
rows; its group k-fold is that of harness/scoring/folds.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.conformance.vectors import DamagedError, NotRunError, Vectors
from harness.protocol import FoldRule
from harness.records import Fold
from harness.scoring import folds

_KNOWN = {
    "splits", "train_size", "test_size", "split_coord", "stratification_coord", "kfold", "random_state",
    "unique_split_values",
}  # fmt: skip
_N_SPLITS, _TRAIN_SIZE, _SEED = 10, 0.9, 1  # where the arguments do not say


def agree(vectors: Vectors) -> tuple[bool | None, list[str]]:
    """Whether our folds are the recorded ones, as sets of rows; None where that cannot be known, and why.

    Raises:
        NotRunError: if the cross-validation is none that we know.
        DamagedError: if the splits are by group and the groups are missing.
    """
    arguments = vectors.meta.get("crossvalidation_kwargs") or {}
    rule, coordinate = rule_of(arguments), _coordinate(arguments)
    labels = _labels(vectors, coordinate) if coordinate else [""] * len(vectors["X"])
    if labels is None and rule.kind == "grouped":
        raise DamagedError(f"the splits are by {coordinate!r}, but `group` is missing. Record the case again.")
    if labels is None:
        return None, [f"splits: not checkable (no labels of {coordinate!r} in the file)"]
    try:
        made = folds.make(rule, labels)
    except ValueError as error:
        return False, [str(error)]
    return _same(made, vectors.splits), []


def rule_of(arguments: dict[str, Any]) -> FoldRule:
    """Arguments of Brain-Score's cross-validation -> our rule; NotRunError where it is none that we know."""
    unknown = sorted(set(arguments) - _KNOWN)
    kfold, seed = arguments.get("kfold", False), arguments.get("random_state", _SEED)
    if unknown or arguments.get("unique_split_values") or kfold not in (False, None, True, "group"):
        raise NotRunError(f"unknown cross-validation {arguments}; known are {', '.join(sorted(_KNOWN))}")
    if kfold != "group" and arguments.get("split_coord") not in (None, "stimulus_id"):
        raise NotRunError(
            f"unknown cross-validation: splits by {arguments['split_coord']!r} that are not k-fold groups"
        )
    if not isinstance(seed, int):
        raise NotRunError(f"unknown cross-validation: random_state {seed!r} gives other splits each time")
    n = arguments.get("splits") or _N_SPLITS
    if kfold == "group":
        return FoldRule("grouped", n=n, seed=seed)
    stratified = "stratified " if arguments.get("stratification_coord") else ""
    if kfold:
        return FoldRule(f"{stratified}kfold", n=n, seed=seed)  # type: ignore[arg-type]
    train, test = arguments.get("train_size"), arguments.get("test_size")
    train = _TRAIN_SIZE if train is None and test is None else train
    return FoldRule(f"{stratified}shuffled", n=n, test_fraction=test, train_fraction=train, seed=seed)  # type: ignore[arg-type]


def _coordinate(arguments: dict[str, Any]) -> str:
    """The coordinate whose labels decide the splits; "" where only the rows do."""
    by = arguments.get("split_coord") or "group" if arguments.get("kfold") == "group" else None
    return str(by or arguments.get("stratification_coord") or "")


def _labels(vectors: Vectors, coordinate: str) -> Sequence[str] | None:
    """(row,) labels under the coordinate's own name or, for groups, `group`."""
    names = (coordinate, "group") if vectors.meta["crossvalidation_kwargs"].get("kfold") == "group" else (coordinate,)
    found = next((vectors[name] for name in names if name in vectors.arrays), None)
    return None if found is None else found.tolist()


def _same(made: Sequence[Fold], recorded: Sequence[Fold]) -> bool:
    """Whether all splits have the same rows on both sides; in which order rows stand changes no fit."""
    return len(made) == len(recorded) and all(
        np.array_equal(np.sort(ours), np.sort(theirs))
        for pair in zip(made, recorded, strict=True)
        for ours, theirs in zip(*pair, strict=True)
    )
