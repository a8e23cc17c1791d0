"""Protocols described in one phrase."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.datasets import DATASETS, pereira2018
from harness.datasets.wehbe2014 import PAPER, STRICT
from harness.kernels.metrics import METRICS
from harness.wording import in_words


@pytest.mark.parametrize("phrase", [
    "the 20 words before each", "mean over the tokens", "10 principal components of the training words",
    "mean of the words in a scan by their onset, without the first 20", "delays of 1, 2, 3, 4 scans, z-scored by run",
    "one of 16 alphas chosen in training rows by 10 blocks", "z-scored separately in training and test rows",
    "4 contiguous folds, 5 rows cut between",
])  # fmt: skip
def test_the_phrase_of_wehbe2014_paper_is_complete(phrase):
    assert phrase in in_words(PAPER)


def test_strict_omits_steps_it_does_not_have():
    phrase = in_words(STRICT)
    assert "4 folds of whole groups" in phrase
    assert not any(word in phrase for word in ("components", "z-scored", "blocks", "without the first"))


@pytest.mark.parametrize("protocol", [p for entry in DATASETS.values() for p in entry.protocols], ids=lambda p: p.name)
def test_every_protocol_has_a_phrase(protocol):
    assert in_words(protocol).startswith("context: ")


def test_the_encoding_of_brain_score_is_named():
    encoded = [p for entry in DATASETS.values() for p in entry.protocols if "encoded as by Brain-Score" in in_words(p)]
    assert {p.name for p in encoded} == {"brainscore2026"}
    assert pereira2018.BRAINSCORE2026 in encoded


@pytest.mark.parametrize("other", [{"bos": "window"}, {"pooling": "mean"}])
def test_the_encoding_of_brain_score_with_other_tokens_is_refused(other):
    with pytest.raises(ValueError, match="wanted 'last' and 'none'"):
        replace(pereira2018.BRAINSCORE2026, **other)


def test_a_window_without_context_words_is_refused():
    with pytest.raises(ValueError, match="wanted context_words > 0"):
        replace(PAPER, context_words=0)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_of_the_kernels_may_be_used_by_a_protocol(metric):
    phrase = in_words(replace(STRICT, metric=metric))
    assert (metric in phrase) == (metric not in ("pearson_r", "brainscore_r"))


def test_an_unknown_metric_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="metric 'explained_varience' is unknown; use one of pearson_r, r2"):
        replace(STRICT, metric="explained_varience")
