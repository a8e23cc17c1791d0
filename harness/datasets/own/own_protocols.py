"""Chooses the protocols for a user's own recording from its structure.

PAPER is the paper's protocol for Pereira2018 (sentences), Blank2014 (scans) or Futrell2018 (reading times). STRICT
holds out related rows together: whole groups if there are several, blocks of time with gaps if there is one story,
random rows if no rows are related. No test fold has fewer than ten rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil, floor
from typing import Any

import numpy as np

from harness.datasets import brennan2016, futrell2018, synthetic, tuckute2024
from harness.protocol import FoldRule, Protocol, Sampling, equal_dimension
from harness.records import Dataset, Responses, Stimuli

_MIN_TEST_ROWS = 10
_FIRST_DELAY_S, _LAST_DELAY_S, _GAP_S = 2.0, 8.0, 10.0
_GAP_WORDS = 5
_LEAST_LEFT = 0.1


def choose(
    dataset: Dataset, context: Any, folds: FoldRule | None, response: Mapping[str, Any] | None = None,
    epoch_s: float = 0.0,
) -> tuple[Protocol, ...]:  # fmt: skip
    """Choose PAPER, STRICT, EQUAL and, for brain recordings with more than one group, BRAINSCORE2026.

    Args:
        dataset: the recording.
        context: "none", "passage" or "corpus" for all protocols; None chooses it from the data.
        folds: folds of STRICT; None chooses them from the data.
        response: fields of `Sampling` that STRICT has for scans; others are chosen from the TR.
        epoch_s: length of epochs in seconds, if rows are epochs of words; neighbours of a test block within it are
            dropped.

    Returns:
        The protocols; for reading times only PAPER and STRICT.

    Raises:
        ValueError: if no folds are given and the rows cannot be divided into test folds of ten rows, or a response
            model is given and rows are not scans.
    """
    if response and (dataset.responses is None or dataset.responses.times_s is None):
        raise ValueError(
            'dataset.json: "response" is the response model of scans, but rows are not scans; leave it out.'
        )
    if dataset.responses is None:
        protocols = _for_reading(dataset, folds)
    elif dataset.responses.times_s is None:
        protocols = _for_sentences(dataset, dataset.responses, folds, _gap_of_epochs(dataset, epoch_s))
    else:
        protocols = _for_scans(dataset.responses, folds, response or {})
    return tuple(replace(protocol, context=context or protocol.context) for protocol in protocols)


def _gap_of_epochs(dataset: Dataset, epoch_s: float) -> int:
    """Rows on both sides of a test block whose epochs may overlap it, at least five; 1 if rows are no epochs."""
    onsets = dataset.stimuli.onsets_s
    if not epoch_s or onsets is None or len(onsets) < 2:
        return 1
    return max(_GAP_WORDS, ceil(epoch_s / float(np.median(np.abs(np.diff(onsets))))))


def _for_sentences(dataset: Dataset, responses: Responses, folds: FoldRule | None, gap: int) -> tuple[Protocol, ...]:
    """Protocols for responses to sentences."""
    repeats = dataset.repetitions
    treated = "averaged" if repeats and repeats.are_averaged else "kept as rows"
    presented = (f"Texts presented more than once: {repeats.in_words}, {treated}.",) if repeats else ()
    context: Any = context_of(dataset.stimuli)
    rule, reason = _strict_folds(folds, responses.row_groups, responses.row_texts, gap)
    if folds is None and rule.kind == "contiguous" and not _leaves_enough(rule, responses.row_texts):
        rule = FoldRule("kfold", n=10, seed=rule.seed, min_test_rows=_MIN_TEST_ROWS)
        reason = (
            "Repeated texts join all groups, and without those of a test block too few rows would be left for "
            "training, so folds leave out whole texts at random; neighbours in time are not kept apart."
        )
    notes = ("As Aw et al. (2023) for Pereira2018.", *presented, *_random_split_notes(responses.row_texts))
    paper = replace(synthetic.PAPER, context=context, notes=notes)
    strict = replace(synthetic.STRICT, context=context, folds=rule, notes=(reason, *presented))
    n_groups = len(set(responses.row_groups))
    if n_groups == 1:
        return paper, strict, equal_dimension(strict)
    alike = tuckute2024 if n_groups == len(responses.row_ids) else synthetic
    note = (
        "As Brain-Score language's ridge of August 2026: Tuckute2024's for unrelated sentences, else Pereira2018's. "
        "Contexts and windows are those of PAPER."
    )
    folds_there = alike.BRAINSCORE2026.folds
    brainscore = replace(synthetic.BRAINSCORE2026, context=context, folds=folds_there, notes=(note,))
    return paper, strict, equal_dimension(strict), brainscore


def _leaves_enough(rule: FoldRule, texts: Sequence[str]) -> bool:
    """Whether a tenth of the rows are left for training without a test block, rows with its texts, and the gaps."""
    labels = np.array(texts, dtype=object)
    for block in np.array_split(np.arange(len(labels)), rule.n):
        is_left_out = np.isin(labels, sorted(set(labels[block]) - {""}))
        is_left_out[block] = True
        near = np.convolve(is_left_out, np.ones(2 * rule.gap + 1), mode="same") > 0.5
        if np.mean(~near) < _LEAST_LEFT:
            return False
    return True


def context_of(stimuli: Stimuli) -> str:
    """Context of sentences if dataset.json gives none: "none" if each is its own passage, else "passage"."""
    return "none" if len(set(stimuli.passages)) == len(stimuli) else "passage"


def _random_split_notes(texts: Sequence[str]) -> tuple[str, ...]:
    """A warning if a text is presented in several rows, for protocols with random splits."""
    n_texts = len(set(texts) - {""})
    warning = f"{n_texts} texts are in more than one row: random splits train and test on the same texts."
    return (warning,) if n_texts else ()


def _for_scans(responses: Responses, folds: FoldRule | None, response: Mapping[str, Any]) -> tuple[Protocol, ...]:
    """Protocols for scans; `response`: fields of STRICT's `Sampling`."""
    tr = _tr_s(responses)
    delays = tuple(range(max(ceil(_FIRST_DELAY_S / tr), 1), max(floor(_LAST_DELAY_S / tr), 1) + 1)) or (1,)
    one_story = len(set(responses.row_blocks)) == 1
    groups = responses.row_blocks if one_story else responses.row_groups
    rule, reason = _strict_folds(folds, groups, responses.row_texts, gap=ceil(_GAP_S / tr))
    sampling = Sampling(**{"delays": delays, **response})
    delays = sampling.delays
    delay_note = f"The words of a scan are delayed by {min(delays) * tr:g} to {max(delays) * tr:g} s."
    if sampling.pool == "hrf":
        delay_note = "Each word has the canonical hemodynamic response."
    delay_note += " As given in dataset.json." if response else ""
    strict = replace(brennan2016.STRICT, folds=rule, sampling=sampling, notes=(reason, delay_note))
    paper_notes = ("As Aw et al. (2023) for Blank2014.", *_random_split_notes(responses.row_texts))
    paper = replace(brennan2016.PAPER, notes=paper_notes)
    if len(set(responses.row_groups)) == 1:
        return paper, strict, equal_dimension(strict)
    held_out = "Whole minutes" if one_story else "Whole groups"
    notes = (f"As Brain-Score language's Blank2014-ridge of August 2026. {held_out} are held out.",)
    return paper, strict, equal_dimension(strict), replace(brennan2016.BRAINSCORE2026, notes=notes)


def _for_reading(dataset: Dataset, folds: FoldRule | None) -> tuple[Protocol, ...]:
    """Protocols for reading times."""
    rule, reason = _strict_folds(folds, dataset.stimuli.groups, dataset.stimuli.repeated(), gap=_GAP_WORDS)
    strict = replace(futrell2018.STRICT, folds=rule, notes=("As for Futrell2018.", reason))
    return replace(futrell2018.PAPER, folds=rule), strict


def _strict_folds(
    given: FoldRule | None, groups: Sequence[str], texts: Sequence[str], gap: int
) -> tuple[FoldRule, str]:
    """The given folds, else folds in which no group is in both training and test rows; and the reason."""
    if given and given.kind == "shuffled" and any(texts):
        raise ValueError(
            "random splits were requested for STRICT, but texts are presented in several rows, which would be in "
            "training and test rows; request kfold or grouped folds in dataset.json."
        )
    if given:
        return given, "Folds as given in dataset.json."
    sizes = sorted(Counter(groups).values())
    n_rows, n_groups = len(groups), len(sizes)
    options = {"min_test_rows": _MIN_TEST_ROWS, "seed": 0}
    if n_rows < 2 * _MIN_TEST_ROWS:
        raise ValueError(f"{n_rows} rows cannot be divided into test folds of {_MIN_TEST_ROWS}; {_REMEDY}")
    if n_groups == n_rows:
        n = min(10, n_rows // _MIN_TEST_ROWS)
        return FoldRule("kfold", n=n, **options), "Every row is its own group, so folds are random."
    if n_groups == 1:
        n = min(5, n_rows // _MIN_TEST_ROWS)
        blocks = f"folds are {n} blocks of time, with {gap} rows dropped on both sides"
        reason = f"There is one story, so {blocks}."
        if any(texts):
            reason = f"Repeated texts join all groups, so {blocks}, and rows with a text of the test rows dropped too."
        return FoldRule("contiguous", n=n, gap=gap, **options), reason
    # Groups are assigned to folds at random, so even a fold of the smallest groups must have enough rows.
    for n in range(min(10, n_groups), 1, -1):
        if sum(sizes[: n_groups // n]) >= _MIN_TEST_ROWS:
            return FoldRule("grouped", n=n, **options), f"Folds leave out whole groups; there are {n_groups} groups."
    raise ValueError(
        f"too few rows in the groups: {n_groups} groups of {sizes[0]} to {sizes[-1]} rows cannot be divided so that "
        f"every test fold has {_MIN_TEST_ROWS}; merge groups, or {_REMEDY}"
    )


_REMEDY = 'give folds in dataset.json: {"strict": {"folds": {"kind": "kfold", "n": 5, "min_test_rows": 1}}}.'


def _tr_s(responses: Responses) -> float:
    """Median time between scans of a block, in seconds."""
    assert responses.times_s is not None  # noqa: S101 - rows are scans
    blocks = np.array(responses.row_blocks)
    steps = np.diff(responses.times_s)[blocks[1:] == blocks[:-1]]
    return float(np.median(steps))
