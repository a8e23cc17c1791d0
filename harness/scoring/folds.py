"""Which rows train and which test.

Random splits give a model test rows whose neighbours in time it has seen, and noise that neighbours share then reads as
alignment (null r = +.55 under shuffled folds, -.004 under grouped ones). So STRICT rules keep groups or blocks of time
whole; shuffled rules are here because the paper used them.

Source: scikit-learn's splitters; Brain-Score language 2026 for groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from harness.protocol import FoldRule
from harness.records import Dataset, Fold, Integers

# With fewer groups among the training rows than this, whole groups cannot tell alphas apart.
_MIN_INNER_GROUPS = 3
_CONTIGUOUS_INNER_BLOCKS = 5


def make(rule: FoldRule, groups: Sequence[str]) -> list[Fold]:
    """Divide rows into training and test rows.

    Args:
        rule: kind "shuffled": rule.n independent draws of rule.test_fraction of the rows, as ShuffleSplit; "kfold":
            KFold, shuffled; "stratified shuffled" and "stratified kfold": the same, so that every fold has its share of
            each class; "grouped": GroupKFold, shuffled: whole groups dealt out at random into rule.n parts, or fewer
            where there are fewer groups, or parts would test on fewer than rule.min_test_rows; "leave one group out":
            LeaveOneGroupOut, in the order of the names, rule.n is not read; "contiguous": rule.n equal blocks of time.
            rule.gap rows on both sides of a test block are in neither side, under "grouped" and "leave one group out"
            too. "trimmed": rule.n blocks of floor(rows / n), the last with what is left over; rule.gap rows are dropped
            at both ends of a middle test block, at the first and the last from the training rows beside it (Toneva &
            Wehbe 2019).
        groups: (row,) the group of each row, in order of time; for the stratified kinds its class.

    Raises:
        ValueError: if the rows cannot be divided so, or a test fold has fewer rows than rule.min_test_rows.
    """
    if rule.kind != "leave one group out" and rule.n < (least := 1 if rule.kind.endswith("shuffled") else 2):
        raise ValueError(f"folds: {rule.n} {rule.kind} folds asked for; give at least {least}.")
    try:
        folds = list(_KINDS[rule.kind](rule, groups))
    except ValueError as error:
        raise ValueError(f"folds: {len(groups)} rows cannot be divided by {rule.kind}: {error}") from error
    for k, fold in enumerate(folds):
        if len(fold.test) < rule.min_test_rows or not len(fold.test) or not len(fold.train):
            raise ValueError(
                f"folds: fold {k} of {len(folds)} ({rule.kind}) has {len(fold.test)} test rows and {len(fold.train)} "
                f"training rows; wanted at least {max(rule.min_test_rows, 1)} and 1. Use fewer folds or a smaller gap."
            )
    return folds


def of_recording(rule: FoldRule, dataset: Dataset) -> list[tuple[str, Fold]]:
    """All folds of a recording with the experiment of each, as indices into the rows of the whole; errors as in `make`.

    The rows are those of the responses, or the words of reading times.
    """
    responses = dataset.responses
    if responses is None:
        return [("", fold) for fold in make(rule, dataset.stimuli.groups)]
    found = []
    for part in responses.parts:
        rows = np.flatnonzero(np.array(responses.row_parts) == part)
        made = make(rule, [responses.row_groups[row] for row in rows])
        found += [(part, Fold(rows[fold.train], rows[fold.test])) for fold in made]
    return found


def inner_labels(groups: Sequence[str], train: Integers) -> Integers:
    """(train,) the block of each training row that is left out as one when alpha is chosen.

    Blocks are the groups. Where the training rows hold fewer than three groups (one long story, cut into blocks of
    time) they are five contiguous blocks of the training rows instead.
    """
    labels = np.unique(np.asarray(groups)[train], return_inverse=True)[1].astype(np.int64)
    if labels.max() + 1 < _MIN_INNER_GROUPS:
        for block, rows in enumerate(np.array_split(np.argsort(train), _CONTIGUOUS_INNER_BLOCKS)):
            labels[rows] = block
    return labels


def equal_blocks(n_rows: int, n_blocks: int) -> Integers:
    """(row,) the block of each row when rows are cut, in order, into blocks of equal size (KFold without shuffling)."""
    return np.repeat(np.arange(n_blocks), [len(part) for part in np.array_split(np.arange(n_rows), n_blocks)])


def _shuffled(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Independent random draws."""
    from sklearn.model_selection import ShuffleSplit

    sizes = {"test_size": rule.test_fraction, "train_size": rule.train_fraction}
    return _folds_of(ShuffleSplit(rule.n, **sizes, random_state=rule.seed), groups)


def _stratified_shuffled(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Independent random draws with every class in its share."""
    from sklearn.model_selection import StratifiedShuffleSplit

    sizes = {"test_size": rule.test_fraction, "train_size": rule.train_fraction}
    return _folds_of(StratifiedShuffleSplit(rule.n, **sizes, random_state=rule.seed), groups)


def _kfold(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every row tests once, in an order drawn at random."""
    from sklearn.model_selection import KFold

    return _folds_of(KFold(rule.n, shuffle=True, random_state=rule.seed), groups)


def _stratified_kfold(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every row tests once, every class in its share."""
    from sklearn.model_selection import StratifiedKFold

    return _folds_of(StratifiedKFold(rule.n, shuffle=True, random_state=rule.seed), groups)


def _folds_of(splitter: Any, groups: Sequence[str]) -> Iterator[Fold]:
    """What one of scikit-learn's splitters gives, rows in its order."""
    yield from (Fold(train, test) for train, test in splitter.split(np.zeros(len(groups)), np.asarray(groups)))


def _grouped(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every group tests once."""
    names, sizes = np.unique(np.asarray(groups), return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"all {len(groups)} rows are in group {groups[0] if groups else None!r}, so none can be held out; "
            "give the rows two groups or more, or use contiguous folds."
        )
    order = np.random.RandomState(rule.seed).permutation(len(names))
    counts = (np.array_split(order, n) for n in range(min(rule.n, len(names)), 1, -1))
    fits = (parts for parts in counts if min(sizes[part].sum() for part in parts) >= rule.min_test_rows)
    for part in next(fits, np.array_split(order, 2)):
        yield _held_out(np.isin(np.asarray(groups), names[part]), rule.gap)


def _leave_one_group_out(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every group tests once, alone."""
    from sklearn.model_selection import LeaveOneGroupOut

    for _, test in LeaveOneGroupOut().split(np.zeros(len(groups)), groups=np.asarray(groups)):
        yield _held_out(np.isin(np.arange(len(groups)), test), rule.gap)


def _contiguous(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every block of time tests once, with a gap around it."""
    rows = np.arange(len(groups))
    for part in np.array_split(rows, rule.n):
        yield _held_out(np.isin(rows, part), rule.gap)


def _trimmed(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every block of time tests once, rows between the sides cut from the test block where it has both neighbours."""
    n, gap = len(groups), rule.gap
    rows, edges = np.arange(n), [*(n // rule.n * np.arange(rule.n)), n]
    for k, (start, stop) in enumerate(pairwise(edges)):
        if 0 < k < rule.n - 1:
            yield Fold(np.r_[rows[:start], rows[stop:]], rows[start + gap : max(stop - gap, start + gap)])
        else:
            yield Fold(np.r_[rows[: max(start - gap, 0)], rows[stop + gap :]], rows[start:stop])


def _held_out(is_test: np.ndarray[tuple[int], np.dtype[np.bool_]], gap: int = 0) -> Fold:
    """The rows marked, and all others that are more than `gap` rows from each of them."""
    near = np.convolve(is_test, np.ones(2 * gap + 1))[gap : gap + len(is_test)] > 0.5
    return Fold(np.flatnonzero(~near), np.flatnonzero(is_test))


_KINDS = {
    "shuffled": _shuffled,
    "kfold": _kfold,
    "stratified shuffled": _stratified_shuffled,
    "stratified kfold": _stratified_kfold,
    "grouped": _grouped,
    "leave one group out": _leave_one_group_out,
    "contiguous": _contiguous,
    "trimmed": _trimmed,
}
