"""How a laboratory's own recording is scored, chosen from what it is.

PAPER has the paper's form: that of Pereira2018 for sentences, of Blank2014 for scans, of Futrell2018 for reading times.
STRICT keeps whole what hangs together: whole groups where there are several, blocks of time with gaps where there is
one story, single rows where nothing is related. No test fold has fewer than ten rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from math import ceil, floor
from typing import Any

import numpy as np

from harness.datasets import brennan2016, futrell2018, synthetic, tuckute2024
from harness.protocol import FoldRule, Protocol, Sampling, equal_dimension
from harness.records import Dataset, Responses

_LEAST_TEST_ROWS = 10
_FIRST_DELAY_S, _LAST_DELAY_S, _GAP_S = 2.0, 8.0, 10.0
_GAP_WORDS = 5


def choose(dataset: Dataset, context: str | None, folds: FoldRule | None) -> tuple[Protocol, ...]:
    """PAPER, STRICT and, for recordings of the brain that have more than one group, BRAINSCORE2026.

    Args:
        dataset: the recording.
        context: "none", "passage" or "corpus" for all protocols; None is what the data suggest.
        folds: of STRICT; None is what the data suggest.

    Raises:
        ValueError: if the rows cannot be divided into test folds of ten rows, and no folds were given.
    """
    if dataset.responses is None:
        chosen = _of_reading(dataset, folds)
    elif dataset.responses.times_s is None:
        chosen = _of_sentences(dataset, dataset.responses, folds)
    else:
        chosen = _of_scans(dataset.responses, folds)
    given: dict[str, Any] = {"context": context} if context else {}
    return tuple(replace(protocol, **given) for protocol in chosen)


def _of_sentences(dataset: Dataset, responses: Responses, folds: FoldRule | None) -> tuple[Protocol, ...]:
    alone = len(set(dataset.stimuli.passages)) == len(dataset.stimuli)
    context: Any = "none" if alone else "passage"
    rule, why = (folds, _GIVEN) if folds else _strict_folds(responses.row_groups, gap=1)
    paper = replace(synthetic.PAPER, context=context, notes=("The paper's way with Pereira2018 (METHODS section 2).",))
    strict = replace(synthetic.STRICT, context=context, folds=rule, notes=(why,))
    n_groups = len(set(responses.row_groups))
    if n_groups == 1:
        return paper, strict, equal_dimension(strict)
    board = tuckute2024.BRAINSCORE2026 if n_groups == len(responses.row_ids) else synthetic.BRAINSCORE2026
    notes = (
        "As Brain-Score language's ridge of August 2026: Tuckute2024's for unrelated sentences, else Pereira2018's.",
    )
    return paper, strict, equal_dimension(strict), replace(board, context=context, notes=notes)


def _of_scans(responses: Responses, folds: FoldRule | None) -> tuple[Protocol, ...]:
    tr = _tr_s(responses)
    delays = tuple(range(max(ceil(_FIRST_DELAY_S / tr), 1), max(floor(_LAST_DELAY_S / tr), 1) + 1)) or (1,)
    one_story = len(set(responses.row_blocks)) == 1
    groups = responses.row_blocks if one_story else responses.row_groups
    rule, why = (folds, _GIVEN) if folds else _strict_folds(groups, gap=ceil(_GAP_S / tr))
    delayed = f"Words are averaged over a scan and delayed by {delays[0] * tr:g} to {delays[-1] * tr:g} s."
    strict = replace(brennan2016.STRICT, folds=rule, sampling=Sampling("mean", delays=delays), notes=(why, delayed))
    paper = replace(brennan2016.PAPER, notes=("The paper's way with Blank2014 (METHODS section 2).",))
    if len(set(responses.row_groups)) == 1:
        return paper, strict, equal_dimension(strict)
    held_out = "Whole minutes" if one_story else "Whole groups"
    notes = (f"As Brain-Score language's Blank2014-ridge of August 2026. {held_out} are held out.",)
    return paper, strict, equal_dimension(strict), replace(brennan2016.BRAINSCORE2026, notes=notes)


def _of_reading(dataset: Dataset, folds: FoldRule | None) -> tuple[Protocol, ...]:
    rule, why = (folds, _GIVEN) if folds else _strict_folds(dataset.stimuli.groups, gap=_GAP_WORDS)
    return (
        replace(futrell2018.PAPER, folds=rule),
        replace(futrell2018.STRICT, folds=rule, notes=("As Futrell2018 (METHODS section 2).", why)),
    )


_GIVEN = "Folds as dataset.json says."


def _strict_folds(groups: Sequence[str], gap: int) -> tuple[FoldRule, str]:
    """Folds that share nothing between their sides, and the reason in words."""
    sizes = sorted(Counter(groups).values())
    n_rows, n_groups = len(groups), len(sizes)
    related = {"min_test_rows": _LEAST_TEST_ROWS, "seed": 0}
    if n_rows < 2 * _LEAST_TEST_ROWS:
        raise ValueError(f"{n_rows} rows cannot be divided into test folds of {_LEAST_TEST_ROWS}; {_SAY}")
    if n_groups == n_rows:
        n = min(10, n_rows // _LEAST_TEST_ROWS)
        return FoldRule("kfold", n=n, **related), "Every row is a group of its own, so folds are random."
    if n_groups == 1:
        n = min(5, n_rows // _LEAST_TEST_ROWS)
        why = f"All is one story, so folds are {n} blocks in time, with {gap} rows dropped at both sides."
        return FoldRule("contiguous", n=n, gap=gap, **related), why
    # Groups are dealt out at random: the smallest that a fold can get must suffice.
    for n in range(min(10, n_groups), 1, -1):
        if sum(sizes[: n_groups // n]) >= _LEAST_TEST_ROWS:
            return FoldRule("grouped", n=n, **related), f"Folds leave whole groups out, of which there are {n_groups}."
    raise ValueError(
        f"no group with enough rows: {n_groups} groups of {sizes[0]} to {sizes[-1]} rows cannot be dealt out so that "
        f"every test fold has {_LEAST_TEST_ROWS}; merge groups, or {_SAY}"
    )


_SAY = 'say in dataset.json what is wanted: {"strict": {"folds": {"kind": "kfold", "n": 5, "min_test_rows": 1}}}.'


def _tr_s(responses: Responses) -> float:
    """Median seconds from scan to scan within a block."""
    assert responses.times_s is not None  # noqa: S101 - rows are scans
    blocks = np.array(responses.row_blocks)
    steps = np.diff(responses.times_s)[blocks[1:] == blocks[:-1]]
    return float(np.median(steps))
