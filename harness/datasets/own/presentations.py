"""Averages or keeps repeated presentations of a sentence in a user's recording.

Presentations of a sentence are rows with the same text (`harness/repetitions.py`) after the same context. Laboratories
give them in three forms: as stimuli with ids of their own; the same with a column `repetition` that numbers them; or as
several rows of responses with one row_id and a column `repetition`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness import repetitions
from harness.datasets.own.files import Table, joined
from harness.protocol import content_hash
from harness.records import Floats, Integers, Repetitions, Responses, Stimuli

Setting = Literal["average", "keep"]
NUMBER = "repetition"  # name of the column


@dataclass(frozen=True)
class Presented:
    """Stimuli and responses in which presentations were averaged or kept, the single responses, and a note on them."""

    stimuli: Stimuli
    responses: Responses
    repetitions: Repetitions | None = None
    note: str = ""


def combine(
    stimuli: Stimuli, responses: Responses, context: str, setting: Setting, numbers: Sequence[str] = ()
) -> Presented:
    """Find presentations of the same text after the same context; average them, or keep them as rows of one group.

    Args:
        stimuli: sentences, in order of presentation.
        responses: rows are stimuli.
        context: context of the protocols: "none", "passage" or "corpus".
        setting: "average" or "keep".
        numbers: (stimulus,) number or name of the repetition to which each stimulus belongs; by default presentations
            are numbered in order.

    Raises:
        ValueError: if all rows have the same text, or a text occurs twice in one repetition.
    """
    _require_different_texts(stimuli, responses)
    index = {stimulus_id: k for k, stimulus_id in enumerate(stimuli.ids)}
    stimulus_of_row = np.array([index[row_id] for row_id in responses.row_ids])
    keys = np.array(_presented(stimuli, context), dtype=object)[stimulus_of_row]
    number_of_row = [numbers[k] for k in stimulus_of_row] if numbers else []
    rows_of: dict[Hashable, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows_of[key or row].append(row)
    if not (repeated := [rows for rows in rows_of.values() if len(rows) > 1]):
        return Presented(stimuli, responses)
    single = _single_responses(responses, repeated, number_of_row)
    if setting == "keep":
        kept = Repetitions(single, np.ones(len(keys), dtype=np.int64), are_averaged=False)
        note = "each is a row, and the ceilings are those of single presentations."
        return Presented(stimuli, responses, kept, _note(kept, note))
    groups = repetitions.merged(responses.row_groups, [str(key) for key in keys])
    averaged = _averaged(replace(responses, row_groups=groups), list(rows_of.values()))
    absorbed = np.zeros(len(stimuli), dtype=bool)
    absorbed[stimulus_of_row[[row for rows in repeated for row in rows[1:]]]] = True
    means = Repetitions(single, np.array([len(rows) for rows in rows_of.values()]), are_averaged=True)
    note = 'a row is the mean over the presentations of a text; "repetitions": "keep" in dataset.json keeps all rows.'
    return Presented(_without(stimuli, absorbed, context), averaged, means, _note(means, note))


def _note(repeats: Repetitions, rest: str) -> str:
    n_texts = repeats.values.shape[1]
    texts = "1 text was" if n_texts == 1 else f"{n_texts} texts were"
    return f"{texts} presented more than once ({repeats.in_words}): {rest}"


def _require_different_texts(stimuli: Stimuli, responses: Responses) -> None:
    """Raise if all rows have the same text, so that nothing can be predicted."""
    answered = set(responses.row_ids)
    texts = [text for stimulus_id, text in zip(stimuli.ids, stimuli.texts, strict=True) if stimulus_id in answered]
    if len(texts) > 1 and len({repetitions.words_of(text) for text in texts}) == 1:
        raise ValueError(
            f"all {len(texts)} sentences with a response have the same text, {texts[0]!r}; scores need texts that "
            "differ. Check the column text of the stimuli."
        )


def _presented(stimuli: Stimuli, context: str) -> list[str]:
    """(stimulus,) hash of the text and its context, "" for less than a phrase of a running text (`repetitions`)."""
    size, keys = Counter(stimuli.passages), []
    is_list = context == "none" and repetitions.is_list(stimuli.texts, stimuli.passages, stimuli.separator)
    preceding: dict[str, tuple[str, int]] = {}
    for stimulus_id, text, passage in zip(stimuli.ids, stimuli.texts, stimuli.passages, strict=True):
        unit = {"none": stimulus_id, "passage": passage}.get(context, "")
        before, n_words = preceding.get(unit, ("", 0))
        key = content_hash([before, repetitions.text_of(text)])
        n_words += repetitions.n_words(repetitions.words_of(text))
        preceding[unit] = key, n_words
        is_long = n_words >= repetitions.MIN_WORDS_IN_PASSAGE
        keys.append(key if size[passage] == 1 or is_list or is_long else "")
    return keys


def _single_responses(responses: Responses, repeated: list[list[int]], number_of_row: Sequence[str]) -> Floats:
    """(repetition, text, neuroid) responses to the presentations of each repeated text; NaN where there is none."""
    order = {number: k for k, number in enumerate(dict.fromkeys(number_of_row))}
    n_repetitions = len(order) or max(map(len, repeated))
    values = np.full((n_repetitions, len(repeated), responses.values.shape[1]), np.nan, dtype=np.float32)
    for text, rows in enumerate(repeated):
        places = [order[number_of_row[row]] for row in rows] if order else range(len(rows))
        if len(set(places)) < len(rows):
            ids = ", ".join(repr(responses.row_ids[row]) for row in rows)
            raise ValueError(f"stimuli {ids} have the same text, but their column {NUMBER!r} does not tell them apart.")
        values[list(places), text] = responses.values[rows]
    return values


def _averaged(responses: Responses, rows_of: list[list[int]]) -> Responses:
    """Mean over the rows of each list, per neuroid over the rows in which it was measured, in place of its first."""
    firsts: Integers = np.array([rows[0] for rows in rows_of])
    result = responses.of(firsts, np.arange(responses.values.shape[1]))
    values = result.values.copy()
    for place, rows in enumerate(rows_of):
        if len(rows) > 1:
            present = np.isfinite(responses.values[rows])
            total = np.where(present, responses.values[rows], 0.0).sum(axis=0, dtype=np.float64)
            values[place] = total / np.where(present.any(axis=0), present.sum(axis=0), np.nan)
    return replace(result, values=values)


def _without(stimuli: Stimuli, absorbed: NDArray[np.bool_], context: str) -> Stimuli:
    """Drop stimuli that no row is left for; within a context of several stimuli, only whole passages."""
    if context != "none":
        needed = {passage for passage, is_absorbed in zip(stimuli.passages, absorbed, strict=True) if not is_absorbed}
        absorbed = absorbed & np.array([passage not in needed for passage in stimuli.passages])
    kept = np.flatnonzero(~absorbed)
    columns: dict[str, Any] = {
        field.name: tuple(column[row] for row in kept)
        for field in fields(stimuli)
        if isinstance(column := getattr(stimuli, field.name), tuple) and column
    }
    return replace(stimuli, **columns)


def with_own_ids(stimuli: Table, responses: Table, notes: list[str]) -> tuple[Table, Table]:
    """Give every presentation an id of its own, if the responses number them in a column `repetition`.

    The k-th presentation of stimulus S, k > 1, becomes "S#k": a copy of the stimulus, and of the rest of its passage,
    after all other stimuli.

    Args:
        stimuli: table of the stimuli.
        responses: table of the responses; both are returned unchanged if it has no such column.
        notes: list to which a note on unusual ids is appended.

    Raises:
        ValueError: if a row_id is unknown, or occurs twice in one repetition.
    """
    import pandas as pd

    if NUMBER not in responses.columns:
        return stimuli, responses
    given, numbers = responses.content.texts("row_id"), responses.texts(NUMBER)
    if doubled := [pair for pair, n in Counter(zip(given, numbers, strict=True)).items() if n > 1]:
        raise ValueError(
            f"{responses.file}: row_id {doubled[0][0]!r} appears more than once in repetition {doubled[0][1]!r}; give "
            f"each presentation its own number in the column {NUMBER!r}."
        )
    same = joined(tuple(dict.fromkeys(given)), stimuli.ids(), "row_id", responses.file, stimuli.file, notes)
    count: Counter[str] = Counter()
    own_ids: list[str] = [""] * len(given)
    rank = {number: k for k, number in enumerate(dict.fromkeys(numbers))}
    for row in sorted(range(len(given)), key=lambda row: rank[numbers[row]]):
        stimulus_id = same[given[row]]
        count[stimulus_id] += 1
        own_ids[row] = _own_id(stimulus_id, count[stimulus_id])
    frame = stimuli.content.frame
    ids = np.array(stimuli.content.texts("stimulus_id"), dtype=object)
    passages = np.array(stimuli.content.texts("passage") if "passage" in stimuli.columns else ids, dtype=object)
    copies, lines = [frame], list(stimuli.content.lines)
    for k in range(2, max(count.values()) + 1):
        again = {passage for item, passage in zip(ids, passages, strict=True) if count[item] >= k}
        rows = np.flatnonzero([passage in again for passage in passages])
        copy = frame.iloc[rows].assign(stimulus_id=[_own_id(item, k) for item in ids[rows]])
        if "passage" in stimuli.columns:
            copy = copy.assign(passage=[_own_id(passage, k) for passage in passages[rows]])
        copies.append(copy)
        lines += [stimuli.content.lines[row] for row in rows]
    content = replace(stimuli.content, frame=pd.concat(copies, ignore_index=True), lines=lines)
    numbered = responses.content.frame.drop(columns=NUMBER).assign(row_id=own_ids)
    return replace(stimuli, content=content), replace(responses, content=replace(responses.content, frame=numbered))


def _own_id(stimulus_id: str, presentation: int) -> str:
    return stimulus_id if presentation == 1 else f"{stimulus_id}#{presentation}"
