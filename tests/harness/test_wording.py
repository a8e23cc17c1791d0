"""A protocol as a phrase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.datasets import DATASETS
from harness.datasets.wehbe2014 import PAPER, STRICT
from harness.wording import in_words


@pytest.mark.parametrize("said", [
    "the 20 words before each", "mean over the tokens", "10 principal components of the training words",
    "mean of the words in a scan by their onset, without the first 20", "delays of 1, 2, 3, 4 scans, z-scored by run",
    "one of 16 alphas chosen in training rows by 10 blocks", "z-scored separately in training and test rows",
    "4 contiguous folds, 5 rows cut between",
])  # fmt: skip
def test_everything_that_paper_does_with_wehbe2014_is_said(said):
    assert said in in_words(PAPER)


def test_strict_says_nothing_of_what_it_does_not_do():
    said = in_words(STRICT)
    assert "4 folds of whole groups" in said
    assert not any(word in said for word in ("components", "z-scored", "blocks", "without the first"))


@pytest.mark.parametrize("protocol", [p for entry in DATASETS.values() for p in entry.protocols], ids=lambda p: p.name)
def test_every_protocol_of_the_table_has_words(protocol):
    assert in_words(protocol).startswith("context: ")


def test_what_a_window_needs_is_asked_for():
    with pytest.raises(ValueError, match="a window needs some"):
        replace(PAPER, context_words=0)
