"""Regeneration of the splits of a recorded case from the arguments of its cross-validation.

Source: Brain-Score language of August 2026: ShuffleSplit and KFold of scikit-learn and their stratified variants, over
rows; its group k-fold is the one in harness/scoring/folds.py.
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
# Names under which the labels of stratified splits are looked for besides that of their coordinate.
_STRATIFIED_BY = ("stratification", "stratification_coord", "strata", "stratum", "labels", "label", "category", "group")
_N_SPLITS, _TRAIN_SIZE, _SEED = 10, 0.9, 1  # defaults


def agree(vectors: Vectors) -> tuple[bool | None, list[str]]:
    """Check whether our folds equal the recorded ones, as sets of rows.

    Returns:
        True or False, or None if the file lacks the labels to check; and notes that explain False or None.

    Raises:
        NotRunError: if the kind of cross-validation is unknown.
        DamagedError: if the splits are by group and the groups are missing.
    """
    arguments = vectors.meta.get("crossvalidation_kwargs") or {}
    rule, coordinate = rule_of(arguments), coordinate_of(arguments)
    n_rows = len(vectors["Y"])
    labels_by_name = labels_of(vectors, n_rows) if coordinate else {"": [""] * n_rows}
    if not labels_by_name and rule.kind == "grouped":
        raise DamagedError(f"the splits are grouped by {coordinate!r}, but `group` is missing. Record the case again.")
    if not labels_by_name:
        return None, [f"splits: not checkable (no labels of {coordinate!r} in the file)"]
    errors = []
    for labels in labels_by_name.values():
        try:
            if same(folds.make(rule, labels), vectors.splits):
                return True, []
        except ValueError as error:
            errors.append(str(error))
    if rule.kind.startswith("stratified") and coordinate not in labels_by_name:
        names = ", ".join(labels_by_name)
        return None, [f"splits: not checkable (no labels of {coordinate!r} in the file; not stratified by {names})"]
    return False, errors[:1]


def labels_of(vectors: Vectors, n_rows: int) -> dict[str, list[str]]:
    """Name -> (row,) labels that can determine the splits: those of the coordinate alone if the file has them.

    Otherwise the array `group` for grouped splits, and the arrays with common names for stratified ones.
    """
    arguments = vectors.meta.get("crossvalidation_kwargs") or {}
    coordinate = coordinate_of(arguments)
    others = ("group",) if arguments.get("kfold") == "group" else _STRATIFIED_BY
    found: dict[str, list[str]] = {}
    for name in (coordinate, f"stimulus_{coordinate}", *others):
        values = vectors.arrays.get(name, vectors.meta.get(name))
        if values is not None and np.shape(values) == (n_rows,):
            labels = np.asarray(values).tolist()
            if name in (coordinate, f"stimulus_{coordinate}"):
                return {coordinate: labels}
            found[name] = labels
    return found


def rule_of(arguments: dict[str, Any]) -> FoldRule:
    """Arguments of Brain-Score's cross-validation -> our rule; NotRunError if the kind is unknown."""
    unknown = sorted(set(arguments) - _KNOWN)
    kfold, seed = arguments.get("kfold", False), arguments.get("random_state", _SEED)
    if unknown or arguments.get("unique_split_values") or kfold not in (False, None, True, "group"):
        raise NotRunError(f"unknown cross-validation {arguments}; known arguments: {', '.join(sorted(_KNOWN))}")
    if kfold != "group" and arguments.get("split_coord") not in (None, "stimulus_id"):
        raise NotRunError(f"unknown cross-validation: splits by {arguments['split_coord']!r} without group k-fold")
    if not isinstance(seed, int):
        raise NotRunError(f"unknown cross-validation: random_state {seed!r} gives different splits each time")
    n = arguments.get("splits") or _N_SPLITS
    if kfold == "group":
        return FoldRule("grouped", n=n, seed=seed)
    stratified = "stratified " if arguments.get("stratification_coord") else ""
    if kfold:
        return FoldRule(f"{stratified}kfold", n=n, seed=seed)  # type: ignore[arg-type]
    train, test = arguments.get("train_size"), arguments.get("test_size")
    train = _TRAIN_SIZE if train is None and test is None else train
    return FoldRule(f"{stratified}shuffled", n=n, test_fraction=test, train_fraction=train, seed=seed)  # type: ignore[arg-type]


def coordinate_of(arguments: dict[str, Any]) -> str:
    """The coordinate whose labels determine the splits; "" if only the row order does."""
    grouping = arguments.get("split_coord") or "group" if arguments.get("kfold") == "group" else None
    return str(grouping or arguments.get("stratification_coord") or "")


def same(regenerated: Sequence[Fold], recorded: Sequence[Fold]) -> bool:
    """Whether all splits have the same train and test rows; the order of rows does not change a fit."""
    return len(regenerated) == len(recorded) > 0 and all(
        np.array_equal(np.sort(ours), np.sort(theirs))
        for pair in zip(regenerated, recorded, strict=True)
        for ours, theirs in zip(*pair, strict=True)
    )
