"""Tuckute2024: sentences and neuroids as published."""

from __future__ import annotations

import numpy as np
import pytest

from harness import datasets
from harness.scoring import aggregate


@pytest.fixture(scope="module")
def tuckute(shared):
    return datasets.load("tuckute2024", shared / "data")


def test_there_are_a_thousand_single_sentences_of_six_words(tuckute):
    assert len(tuckute.stimuli) == 1_000
    assert tuckute.stimuli.ids[0] == "B.1"
    assert tuckute.stimuli.texts[12] == "It was all ridiculous, crazy, insane."
    # A dash between spaces is not a word.
    assert {len([piece for piece in text.split() if piece.strip("-")]) for text in tuckute.stimuli.texts} == {6}
    assert tuckute.stimuli.passages == tuckute.stimuli.groups == tuckute.stimuli.ids


def test_there_are_five_regions_and_their_network(tuckute):
    responses = tuckute.responses
    assert responses.values.shape == (1_000, 6)
    assert responses.values.dtype == np.float32
    assert responses.row_ids == responses.row_groups == responses.row_blocks == tuckute.stimuli.ids
    assert set(responses.subjects) == {"group"}
    assert responses.rois[-1] == "LH network"
    assert responses.values[0] == pytest.approx(
        [0.31203292, 0.503357738, 0.171333328, 0.496015242, 0.479702804, 0.421033246]
    )


def test_the_network_correlates_with_the_mean_of_its_regions(tuckute):
    regions, network = tuckute.responses.values[:, :5], tuckute.responses.values[:, 5]
    assert np.corrcoef(regions.mean(axis=1), network)[0, 1] > 0.95


def test_strict_leaves_out_one_sentence_within_the_training_rows():
    strict = datasets.protocols("tuckute2024")["strict"]
    assert (strict.folds.kind, strict.folds.n, strict.folds.seed, strict.folds.min_test_rows) == ("kfold", 10, 0, 10)
    assert strict.regression.relative
    assert strict.regression.inner == "groups"
    assert len(strict.regression.alphas) == 16
    assert strict.layer_choice == "nested"


def test_the_network_is_a_target_of_its_own_and_not_a_region_of_all(tuckute):
    targets = aggregate.targets(tuckute.responses, "by subject")
    assert targets["all"].neuroids.tolist() == [0, 1, 2, 3, 4]
    assert targets["LH network"].neuroids.tolist() == [5]
