"""Divide rows into training and test rows.

Under random splits the neighbours in time of a test row are training rows, and noise shared by neighbours then looks
like alignment (with noise shared within passages, null r = +0.55 under shuffled folds and -0.004 under grouped folds).
STRICT therefore keeps groups or blocks of time whole; the shuffled rules exist because the paper used them.

Method: harness/scoring/README.md#folds. Source: scikit-learn's splitters; Brain-Score language 2026 for groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.kernels.split import Split
from harness.protocol import FoldRule
from harness.records import Dataset, Fold, Integers, Responses

Mask = NDArray[np.bool_]
# With fewer training groups than this, leaving out groups cannot discriminate between alphas.
_MIN_INNER_GROUPS = 3
_CONTIGUOUS_INNER_BLOCKS = 5
# A gap between inner blocks leaves at least this fraction of the training rows; in short recordings it is smaller.
_LEAST_LEFT = 1 / 3
_NAMED = 3  # groups of a fold that are named at most


def make(rule: FoldRule, groups: Sequence[str], texts: Sequence[str] = ()) -> list[Fold]:
    """Divide rows into training and test rows.

    No text is in the training and the test rows of a fold, except under the shuffled kinds, which are random by
    definition. Groups that share a text were merged by `Dataset`. With repeated texts, "kfold" deals whole texts into
    the folds, and under all other kinds training rows whose text is in the test rows are dropped, with the gap.

    Args:
        rule: the kind of folds:
            "shuffled": ShuffleSplit, rule.n independent draws of rule.test_fraction of the rows.
            "kfold": KFold, shuffled.
            "stratified shuffled", "stratified kfold": the same, with classes in equal proportions in every fold.
            "grouped": shuffled GroupKFold; whole groups are dealt at random into rule.n folds, or fewer if there are
                fewer groups or a fold would test on fewer than rule.min_test_rows rows.
            "leave one group out": LeaveOneGroupOut, in order of the group names; rule.n is not used.
            "contiguous": rule.n equal blocks of time.
            "trimmed": rule.n blocks of floor(rows / n) rows, the last with the remainder (Toneva & Wehbe 2019).
            Under "grouped", "leave one group out" and "contiguous", rule.gap rows on both sides of a test block are in
            neither set. Under "trimmed" they are dropped from both ends of a middle test block, and at the first and
            last block from the adjacent training rows.
        groups: (row,) the group of each row, in order of time; for the stratified kinds its class.
        texts: (row,) label in common to rows in which the same text is presented; "" for a text presented once, and ()
            if no text is repeated.

    Raises:
        ValueError: if the rows cannot be divided this way, or a test fold has fewer than rule.min_test_rows rows.
    """
    if rule.kind != "leave one group out" and rule.n < (least := 1 if rule.kind.endswith("shuffled") else 2):
        raise ValueError(f"folds: {rule.n} {rule.kind} folds requested; request at least {least}.")
    is_repeated = any(texts)
    try:
        if rule.kind == "kfold" and is_repeated:
            folds = list(_grouped(replace(rule, gap=0), _texts_as_groups(texts)))
        else:
            folds = list(_KINDS[rule.kind](rule, groups))
    except ValueError as error:
        raise ValueError(f"folds: {len(groups)} rows cannot be divided by {rule.kind}: {error}") from error
    if is_repeated and not rule.kind.endswith("shuffled"):
        folds = [_without_texts_of_test(fold, texts, rule.gap) for fold in folds]
    for k, fold in enumerate(folds):
        if len(fold.test) < rule.min_test_rows or not len(fold.test) or not len(fold.train):
            raise ValueError(
                f"folds: fold {k} of {len(folds)} ({rule.kind}) has {len(fold.test)} test rows and {len(fold.train)} "
                f"training rows; wanted at least {max(rule.min_test_rows, 1)} and 1. Use fewer folds or a smaller gap."
            )
    return folds


def of_responses(rule: FoldRule, responses: Responses) -> list[Fold]:
    """Divide the rows of responses, as `make`; random kinds draw over the rows in the order of the published file.

    A seed then gives the rows that Brain-Score draws, whatever the order that the loader sorts the rows into.
    """
    if responses.file_rows is None or rule.kind not in _RANDOM:
        return make(rule, responses.row_groups, responses.row_texts)
    rows = np.argsort(responses.file_rows, kind="stable")
    groups, texts = ([column[row] for row in rows] for column in (responses.row_groups, responses.row_texts))
    drawn = make(rule, groups, texts)
    return [Fold(rows[fold.train], rows[fold.test]) for fold in drawn]


def of_recording(rule: FoldRule, dataset: Dataset) -> list[tuple[str, Fold]]:
    """All folds of a recording as (experiment, fold), with indices into all rows of the recording; errors as in `make`.

    Rows are those of the responses, or the words of reading times.
    """
    responses = dataset.responses
    if responses is None:
        return [("", fold) for fold in make(rule, dataset.stimuli.groups, dataset.stimuli.repeated())]
    folds = []
    for part in responses.parts:
        rows = np.flatnonzero(np.array(responses.row_parts) == part)
        part_folds = of_responses(rule, responses.of(rows, np.arange(0)))
        folds += [(part, Fold(rows[fold.train], rows[fold.test])) for fold in part_folds]
    return folds


def share_blocks(rule: FoldRule, dataset: Dataset) -> bool:
    """Whether a test row of any fold has training rows in its block (passage, run); else OASM predicts nothing."""
    assert dataset.responses is not None  # noqa: S101 - reading times have no such control
    blocks = np.unique(dataset.responses.row_blocks, return_inverse=True)[1]
    return any(bool(np.isin(blocks[fold.test], blocks[fold.train]).any()) for _, fold in of_recording(rule, dataset))


def inner_blocks(
    rule: FoldRule, groups: Sequence[str], train: Integers, texts: Sequence[str] = ()
) -> tuple[Integers, int]:
    """The inner blocks of the training rows, in the form of the outer folds, and the gap between them.

    An inner fold must be as hard as an outer one. If blocks of a minute are left out of training rows without a gap,
    their neighbours in time predict them, so that a control that only interpolates (position, OASM) seems to predict
    the distant test block.

    Args:
        rule: the outer folds. Under "contiguous" the inner blocks are the other outer blocks (or five blocks of the
            training rows, if there are fewer than three); otherwise they are the groups, see `inner_labels`.
        groups: (row,) the group of each row.
        train: training rows.
        texts: as in `make`.

    Returns:
        (train,) inner block of each training row, and the number of rows on both sides of a left-out block that are
        left out with it: the rule's gap, or less if that would leave under a third of the training rows.
    """
    labels = inner_labels(groups, train, texts)
    if rule.kind == "contiguous":
        labels = equal_blocks(len(groups), rule.n)[train]
        is_enough = len(set(labels.tolist())) >= _MIN_INNER_GROUPS
        labels = _texts_together(labels, train, texts) if is_enough else _in_time(train, texts)
    gap = rule.gap if rule.kind in _HAVE_GAPS else 0
    while gap and min(_n_left(train, labels, block, gap) for block in np.unique(labels)) < _LEAST_LEFT * len(train):
        gap -= 1
    return labels, gap


def _n_left(train: Integers, labels: Integers, block: int, gap: int) -> int:
    """Number of training rows that remain if a block and the gap around it are left out."""
    left_out = np.isin(np.arange(train.max() + 1), train[labels == block])
    return int(np.isin(_held_out(left_out, gap).train, train).sum())


def _in_time(train: Integers, texts: Sequence[str]) -> Integers:
    """(train,) five contiguous blocks of the training rows."""
    labels = np.empty(len(train), dtype=np.int64)
    for block, rows in enumerate(np.array_split(np.argsort(train), _CONTIGUOUS_INNER_BLOCKS)):
        labels[rows] = block
    return _texts_together(labels, train, texts)


def _texts_together(labels: Integers, train: Integers, texts: Sequence[str]) -> Integers:
    """Put all training rows with one text into the block of its first presentation."""
    first: dict[str, int] = {}
    for row in np.argsort(train) if any(texts) else ():
        if text := texts[train[row]]:
            labels[row] = first.setdefault(text, int(labels[row]))
    return labels


def inner_labels(groups: Sequence[str], train: Integers, texts: Sequence[str] = ()) -> Integers:
    """(train,) inner block of each training row; a block is left out together when alpha is chosen.

    Blocks are the groups. If the training rows have fewer than three groups (for instance one long story divided into
    blocks of time), five contiguous blocks of the training rows are used instead, and a row whose text was presented
    before is in the block of the first presentation; `texts` as in `make`.
    """
    labels = np.unique(np.asarray(groups)[train], return_inverse=True)[1].astype(np.int64)
    return labels if labels.max() + 1 >= _MIN_INNER_GROUPS else _in_time(train, texts)


def correlation(splits: Sequence[Fold | Split]) -> float:
    """Correlation of the scores of two folds if there is no effect, from the rows that they share.

    Without an effect, a fold's covariance of predictions and responses is a sum over its pairs of a test and a training
    row, and pairs of different rows are uncorrelated. So the correlation of two folds is the fraction of pairs that
    they share, whichever row is tested: 1 / (k - 1) for k disjoint folds that cover all rows, 2 p (1 - p) for random
    splits with the fraction p of test rows. Mean over pairs of folds; 0 for a single fold.
    """
    n_rows = 1 + max(int(np.max(rows)) for split in splits for rows in (split.train, split.test))
    tested, trained = np.zeros((2, len(splits), n_rows))
    for k, split in enumerate(splits):
        tested[k, split.test] = trained[k, split.train] = 1.0
    crossed = tested @ trained.T
    shared = (tested @ tested.T) * (trained @ trained.T) + crossed * crossed.T
    fractions = shared / np.diag(shared)[:, None]
    return float(fractions[~np.eye(len(splits), dtype=bool)].mean()) if len(splits) > 1 else 0.0


def held_out_groups(rule: FoldRule, responses: Responses) -> list[str]:
    """The groups that each fold tests, joined by commas, for the folds of all experiments; "" if more than three."""
    names = []
    for part in responses.parts:
        own = responses.of_part(part)[0]
        splits = of_responses(rule, own)
        of_folds = [list(dict.fromkeys(own.row_groups[row] for row in fold.test)) for fold in splits]
        names += [", ".join(groups) if len(groups) <= _NAMED else "" for groups in of_folds]
    return names


def equal_blocks(n_rows: int, n_blocks: int) -> Integers:
    """(row,) block of each row, for contiguous blocks of equal size (KFold without shuffling)."""
    return np.repeat(np.arange(n_blocks), [len(part) for part in np.array_split(np.arange(n_rows), n_blocks)])


def _texts_as_groups(texts: Sequence[str]) -> list[str]:
    """(row,) groups of rows with the same text; a text presented once is its own group."""
    return [f"text {text}" if text else f"row {row}" for row, text in enumerate(texts)]


def _without_texts_of_test(fold: Fold, texts: Sequence[str], gap: int) -> Fold:
    """Drop training rows whose text is in the test rows, and those within the gap of such a row."""
    tested = {texts[row] for row in fold.test} - {""}
    in_test = np.array([text in tested for text in texts])
    in_test[fold.test] = False
    return Fold(fold.train[~_dilated(in_test, gap)[fold.train]], fold.test)


def _at_random(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Independent random draws, or folds that test every row once; "stratified": with classes in equal proportions."""
    from sklearn.model_selection import KFold, ShuffleSplit, StratifiedKFold, StratifiedShuffleSplit

    stratified = rule.kind.startswith("stratified")
    if rule.kind.endswith("kfold"):
        kfold = StratifiedKFold if stratified else KFold
        return _folds_of(kfold(rule.n, shuffle=True, random_state=rule.seed), groups)
    sizes = {"test_size": rule.test_fraction, "train_size": rule.train_fraction}
    draws = StratifiedShuffleSplit if stratified else ShuffleSplit
    return _folds_of(draws(rule.n, **sizes, random_state=rule.seed), groups)


def _folds_of(splitter: Any, groups: Sequence[str]) -> Iterator[Fold]:
    """The folds of a scikit-learn splitter, with rows in its order."""
    yield from (Fold(train, test) for train, test in splitter.split(np.zeros(len(groups)), np.asarray(groups)))


def _grouped(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every group is tested once."""
    names, sizes = np.unique(np.asarray(groups), return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"all {len(groups)} rows are in group {groups[0] if groups else None!r}, so no group can be held out; "
            "give the rows two or more groups, or use contiguous folds."
        )
    order = np.random.RandomState(rule.seed).permutation(len(names))
    candidates = (np.array_split(order, n) for n in range(min(rule.n, len(names)), 1, -1))
    large_enough = (parts for parts in candidates if min(sizes[part].sum() for part in parts) >= rule.min_test_rows)
    for part in next(large_enough, np.array_split(order, 2)):
        yield _held_out(np.isin(np.asarray(groups), names[part]), rule.gap)


def _leave_one_group_out(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every group is tested once, by itself."""
    from sklearn.model_selection import LeaveOneGroupOut

    for _, test in LeaveOneGroupOut().split(np.zeros(len(groups)), groups=np.asarray(groups)):
        yield _held_out(np.isin(np.arange(len(groups)), test), rule.gap)


def _contiguous(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every block of time is tested once, with a gap on both sides."""
    rows = np.arange(len(groups))
    for part in np.array_split(rows, rule.n):
        yield _held_out(np.isin(rows, part), rule.gap)


def _trimmed(rule: FoldRule, groups: Sequence[str]) -> Iterator[Fold]:
    """Every block of time is tested once; the gap is cut from the test block if it has training rows on both sides."""
    n, gap = len(groups), rule.gap
    rows, edges = np.arange(n), [*(n // rule.n * np.arange(rule.n)), n]
    for k, (start, stop) in enumerate(pairwise(edges)):
        if 0 < k < rule.n - 1:
            yield Fold(np.r_[rows[:start], rows[stop:]], rows[start + gap : max(stop - gap, start + gap)])
        else:
            yield Fold(np.r_[rows[: max(start - gap, 0)], rows[stop + gap :]], rows[start:stop])


def _held_out(is_test: Mask, gap: int) -> Fold:
    """Test on the marked rows, train on all rows more than `gap` rows away from any of them."""
    return Fold(np.flatnonzero(~_dilated(is_test, gap)), np.flatnonzero(is_test))


def _dilated(marked: Mask, gap: int) -> Mask:
    """(row,) whether a row is at most `gap` rows away from a marked one."""
    near: Mask = np.convolve(marked, np.ones(2 * gap + 1))[gap : gap + len(marked)] > 0.5
    return near


_RANDOM = ("shuffled", "kfold", "stratified shuffled", "stratified kfold")
# Kinds whose gap lies around every test block.
_HAVE_GAPS = ("grouped", "leave one group out", "contiguous")
_KINDS = {
    **dict.fromkeys(_RANDOM, _at_random),
    "grouped": _grouped,
    "leave one group out": _leave_one_group_out,
    "contiguous": _contiguous,
    "trimmed": _trimmed,
}
