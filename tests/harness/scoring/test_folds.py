"""Folds: training and test rows."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    ShuffleSplit,
    StratifiedKFold,
    StratifiedShuffleSplit,
)

from harness import repetitions
from harness.protocol import FoldRule
from harness.records import Dataset, Fold, Responses, Stimuli
from harness.scoring import folds

TWINS = {
    "shuffled": lambda n, seed: ShuffleSplit(n, test_size=0.1, random_state=seed),
    "kfold": lambda n, seed: KFold(n, shuffle=True, random_state=seed),
    "stratified shuffled": lambda n, seed: StratifiedShuffleSplit(n, test_size=0.1, random_state=seed),
    "stratified kfold": lambda n, seed: StratifiedKFold(n, shuffle=True, random_state=seed),
    "contiguous": lambda n, seed: KFold(n),
}


@pytest.mark.parametrize("n_rows", [23, 384])
@pytest.mark.parametrize("seed", [1, 1234])
@pytest.mark.parametrize("kind", TWINS)
def test_folds_are_those_of_scikit_learn(kind, seed, n_rows):
    classes = [f"class {row % 3}" for row in range(n_rows)]
    ours = folds.make(FoldRule(kind, n=5, test_fraction=0.1, seed=seed), classes)
    theirs = list(TWINS[kind](5, seed).split(np.zeros(n_rows), classes))
    assert len(ours) == len(theirs) == 5
    for fold, (train, test) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(fold.train, train)
        np.testing.assert_array_equal(fold.test, test)


@pytest.mark.parametrize("case", ["ridge_blank_like", "ridge_group_n384_p768_v400", "lin_group_n243_p64_v120"])
def test_grouped_folds_are_those_of_brain_score(case, shared):
    recorded = np.load(shared / "oracle" / f"{case}.npz")
    made = folds.make(FoldRule("grouped", n=int(recorded["n_splits"]), seed=1234), recorded["group"].tolist())
    for k, fold in enumerate(made):
        np.testing.assert_array_equal(fold.train, recorded[f"train_{k}"])
        np.testing.assert_array_equal(fold.test, recorded[f"test_{k}"])


@pytest.mark.parametrize("n_rows", [23, 384])
def test_leave_one_group_out_equals_scikit_learn(n_rows):
    groups = [f"story {row % 8}" for row in range(n_rows)]
    ours = folds.make(FoldRule("leave one group out"), groups)
    theirs = list(LeaveOneGroupOut().split(np.zeros(n_rows), groups=groups))
    assert len(ours) == len(theirs) == 8
    for fold, (train, test) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(fold.train, train)
        np.testing.assert_array_equal(fold.test, test)


@pytest.mark.parametrize("kind", ["contiguous", "grouped", "leave one group out"])
@pytest.mark.parametrize("gap", [1, 4, 15])
def test_no_training_row_is_within_the_gap_of_a_test_row(kind, gap):
    groups = [f"block {row // 10}" for row in range(100)]
    for fold in folds.make(FoldRule(kind, n=5, gap=gap, seed=3), groups):
        distance = np.abs(fold.train[:, None] - fold.test).min(axis=1)
        assert distance.min() == gap + 1
        dropped = np.setdiff1d(np.arange(100), np.concatenate(fold))
        assert len(dropped)
        assert np.abs(dropped[:, None] - fold.test).min(axis=1).max() == gap


@pytest.mark.parametrize("n_rows", [63, 384])
@pytest.mark.parametrize("seed", [1, 1234])
def test_grouped_folds_are_those_of_scikit_learn(seed, n_rows):
    groups = [f"topic {row // 3}" for row in range(n_rows)]
    ours = folds.make(FoldRule("grouped", n=10, seed=seed), groups)
    theirs = list(GroupKFold(10, shuffle=True, random_state=seed).split(np.zeros(n_rows), groups=groups))
    for fold, (train, test) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(fold.train, train)
        np.testing.assert_array_equal(fold.test, test)


def test_train_fraction_is_independent_of_test_fraction():
    trains = folds.make(FoldRule("shuffled", n=1, test_fraction=None, train_fraction=0.7), ["one"] * 10)
    tests = folds.make(FoldRule("shuffled", n=1, test_fraction=1 - 0.7), ["one"] * 10)
    assert (len(trains[0].test), len(tests[0].test)) == (3, 4)  # 1 - .7 is a little more than .3


def test_no_group_is_divided_and_every_row_is_tested_once():
    groups = [f"story {i % 7}" for i in range(50)]
    made = folds.make(FoldRule("grouped", n=3), groups)
    assert len(made) == 3
    for fold in made:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.test}
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(50))


def test_small_groups_are_merged_so_that_no_test_fold_is_too_small():
    groups = [f"topic {row // 4}" for row in range(40)]
    made = folds.make(FoldRule("grouped", n=10, min_test_rows=10), groups)
    assert [len(fold.test) for fold in made] == [16, 12, 12]
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(40))
    for fold in made:
        assert not {groups[i] for i in fold.train} & {groups[i] for i in fold.test}


def test_fewer_groups_than_folds_leave_out_one_group_at_a_time():
    made = folds.make(FoldRule("grouped", n=10), list("aabbbcc"))
    assert sorted(len(fold.test) for fold in made) == [2, 2, 3]


def test_a_single_group_cannot_be_held_out():
    with pytest.raises(ValueError, match=r"all 4 rows are in group 'a'.*contiguous"):
        folds.make(FoldRule("grouped", n=2), list("aaaa"))


def test_rows_near_a_contiguous_test_block_are_dropped():
    first, middle, last = folds.make(FoldRule("contiguous", n=3, gap=2), ["one"] * 12)
    assert (first.test.tolist(), first.train.tolist()) == ([0, 1, 2, 3], [6, 7, 8, 9, 10, 11])
    assert (middle.test.tolist(), middle.train.tolist()) == ([4, 5, 6, 7], [0, 1, 10, 11])
    assert (last.test.tolist(), last.train.tolist()) == ([8, 9, 10, 11], [0, 1, 2, 3, 4, 5])


def test_trimmed_rows_come_from_middle_test_blocks_and_from_training_rows_at_the_ends():
    first, middle, last = folds.make(FoldRule("trimmed", n=3, gap=1), ["one"] * 11)
    assert (first.test.tolist(), first.train.tolist()) == ([0, 1, 2], [4, 5, 6, 7, 8, 9, 10])
    assert (middle.test.tolist(), middle.train.tolist()) == ([4], [0, 1, 2, 6, 7, 8, 9, 10])
    assert (last.test.tolist(), last.train.tolist()) == ([6, 7, 8, 9, 10], [0, 1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"fold 1 of 3 \(trimmed\) has 0 test rows"):
        folds.make(FoldRule("trimmed", n=3, gap=2), ["one"] * 11)


def test_a_small_test_fold_is_an_error_that_names_it():
    with pytest.raises(ValueError, match=r"fold 2 of 3 .* has 3 test rows"):
        folds.make(FoldRule("contiguous", n=3, min_test_rows=4), ["one"] * 11)


@pytest.mark.parametrize("rule", [FoldRule("contiguous", n=2, gap=9), FoldRule("kfold", n=9), FoldRule("kfold", n=1)])
def test_rows_that_cannot_be_divided_are_an_error(rule):
    with pytest.raises(ValueError, match="folds:"):
        folds.make(rule, ["one"] * 8)


def test_inner_blocks_are_the_groups_of_the_training_rows():
    labels = folds.inner_labels(list("aabbccdd"), np.array([7, 0, 1, 4, 5]))
    assert [labels.tolist().index(x) for x in labels] == [0, 1, 1, 3, 3]


def test_inner_blocks_of_one_long_story_are_five_blocks_of_time():
    train = np.array([12, 0, 1, 2, 3, 4, 5, 10, 11, 13])
    labels = folds.inner_labels(["a"] * 8 + ["b"] * 8, train)
    in_time = labels[np.argsort(train)]
    assert in_time.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_inner_blocks_of_contiguous_folds_are_the_other_folds_with_their_gap():
    rule = FoldRule("contiguous", n=5, gap=2)
    splits = folds.make(rule, ["story"] * 50)
    labels, gap = folds.inner_blocks(rule, ["story"] * 50, splits[2].train)
    assert gap == 2
    assert labels.tolist() == (splits[2].train // 10).tolist()


def test_inner_blocks_of_two_contiguous_folds_are_five_blocks_of_their_training_rows():
    rule = FoldRule("contiguous", n=2)
    labels, _ = folds.inner_blocks(rule, ["story"] * 20, folds.make(rule, ["story"] * 20)[0].train)
    assert np.bincount(labels).tolist() == [2, 2, 2, 2, 2]


def test_the_gap_between_inner_blocks_shrinks_in_a_short_recording():
    rule = FoldRule("contiguous", n=3, gap=4)
    train = folds.make(rule, ["story"] * 30)[0].train  # 16 rows: inner blocks of 3 or 4
    labels, gap = folds.inner_blocks(rule, ["story"] * 30, train)
    kept = [train[abs(train[:, None] - train[labels == k]).min(axis=1) > gap] for k in range(5)]
    assert gap == 3
    assert min(map(len, kept)) * 3 >= len(train)


def test_groups_drawn_at_random_have_no_gap():
    labels, gap = folds.inner_blocks(FoldRule("kfold", n=5, gap=3), list("aabbccdd"), np.arange(8))
    assert (labels.tolist(), gap) == ([0, 0, 1, 1, 2, 2, 3, 3], 0)


def test_a_fold_holds_indices_and_not_masks():
    fold = folds.make(FoldRule("kfold", n=2), ["one"] * 4)[0]
    assert isinstance(fold, Fold)
    assert fold.train.dtype.kind == fold.test.dtype.kind == "i"


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (FoldRule("contiguous", n=5), 1 / 4),
        (FoldRule("kfold", n=10), 1 / 9),
        (FoldRule("contiguous", n=4, gap=3), None),
        (FoldRule("shuffled", n=6, test_fraction=0.2), None),
    ],
)
def test_the_correlation_of_folds_is_that_of_their_scores_without_an_effect(rule, expected):
    """The covariance of predictions and responses in a fold, for one random feature, over 4,000 data sets."""
    splits, rng = folds.make(rule, ["a"] * 40), np.random.default_rng(0)
    products = rng.standard_normal((4000, 40)) * rng.standard_normal((4000, 40))
    scores = [products[:, fold.test].sum(axis=1) * products[:, fold.train].sum(axis=1) for fold in splits]
    found = np.corrcoef(scores)[~np.eye(len(splits), dtype=bool)].mean()
    assert folds.correlation(splits) == pytest.approx(found, abs=0.03)
    if expected:
        assert folds.correlation(splits) == pytest.approx(expected)


TEXTS = [f"text {row % 20}" if row % 3 else "" for row in range(60)]


@pytest.mark.parametrize("kind", ["kfold", "grouped", "leave one group out", "contiguous", "trimmed"])
@pytest.mark.parametrize("gap", [0, 1])
def test_no_text_is_trained_on_and_tested(kind, gap):
    groups = repetitions.merged([f"story {row // 4}" for row in range(60)], [""] * 60)
    for fold in folds.make(FoldRule(kind, n=5, gap=gap), groups, TEXTS):
        assert not {TEXTS[row] for row in fold.train} & ({TEXTS[row] for row in fold.test} - {""})
        assert len(fold.train) > 10
    plain = folds.make(FoldRule(kind, n=5, gap=gap), groups)
    assert any({TEXTS[row] for row in fold.train} & ({TEXTS[row] for row in fold.test} - {""}) for fold in plain)


def test_random_folds_of_repeated_texts_test_every_row_once():
    made = folds.make(FoldRule("kfold", n=5), [str(row) for row in range(60)], TEXTS)
    assert sorted(np.concatenate([fold.test for fold in made])) == list(range(60))
    assert all(len(fold.train) + len(fold.test) == 60 for fold in made)


def test_shuffled_splits_are_those_of_the_paper_even_if_texts_repeat():
    rule, groups = FoldRule("shuffled", n=3), [str(row) for row in range(60)]
    for plain, repeated in zip(folds.make(rule, groups), folds.make(rule, groups, TEXTS), strict=True):
        np.testing.assert_array_equal(plain.train, repeated.train)


def test_the_neighbours_of_a_repetition_of_a_test_row_are_dropped_with_the_gap():
    texts = [f"scan {row % 20}" for row in range(40)]  # a story told twice
    (first, *_) = folds.make(FoldRule("contiguous", n=4, gap=2), ["one"] * 40, texts)
    assert first.test.tolist() == list(range(10))
    assert first.train.tolist() == [*range(12, 18), *range(32, 40)]


def test_inner_blocks_of_time_keep_a_repeated_text_in_one_block():
    texts = [f"text {row % 25}" for row in range(50)]
    labels = folds.inner_labels(["one"] * 50, np.arange(50), texts)
    assert labels[:25].tolist() == labels[25:].tolist()
    assert len(set(labels)) > 1


def test_blocks_are_shared_only_where_folds_divide_them():
    ids = tuple(f"r{i}" for i in range(40))
    blocks = tuple(f"run {i // 10}" for i in range(40))
    responses = Responses(np.zeros((40, 1)), ids, blocks, blocks, ("v",), ("s",), ("roi",), "z")
    dataset = Dataset("runs", "0", Stimuli(ids, ids, blocks), responses)
    assert not folds.share_blocks(FoldRule("leave one group out", n=4), dataset)
    assert not folds.share_blocks(FoldRule("contiguous", n=4), dataset)
    assert folds.share_blocks(FoldRule("contiguous", n=3), dataset)
    assert folds.share_blocks(FoldRule("kfold", n=4), dataset)
