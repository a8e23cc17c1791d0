"""Records of data sets: stimuli, brain responses, and reading times.

All records are frozen and validated when created. Rows are identified by their ids, never by position.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness import repetitions

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
GROUP = "group"  # subject of neuroids that are means over subjects


@dataclass(frozen=True)
class Stimuli:
    """Texts that the participants read or heard, in order of presentation.

    Attributes:
        ids, texts: one per stimulus; ids are unique, a text is a sentence or a word.
        passages: passage of each stimulus, such as a story; a passage is contiguous and forms one context.
        groups: groups that must not be divided between train and test (topics, stories); default: the passages.
        sentences: sentence of each word, if stimuli are words and it is known; contiguous within a passage.
        labels: published label of each stimulus, for the context rule "label"; default: the passages.
        file_rows: (stimulus,) row of each stimulus in the published file; None if the order is the same.
        onsets_s, ends_s: (stimulus,) onset and end of each word in seconds, if words are aligned to scans.
        separator: string between stimuli in a context; "" if the texts contain their own spaces.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    passages: tuple[str, ...]
    groups: tuple[str, ...] = ()
    onsets_s: Floats | None = None
    ends_s: Floats | None = None
    separator: str = " "
    sentences: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    file_rows: Integers | None = None

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", self.passages)
        if not self.labels:
            object.__setattr__(self, "labels", self.passages)
        for name in ("texts", "passages", "groups", "onsets_s", "ends_s", "sentences", "labels", "file_rows"):
            column = getattr(self, name)
            is_absent = column is None or (name == "sentences" and not column)
            if not is_absent and len(column) != len(self.ids):
                raise ValueError(f"stimuli: {len(self.ids)} ids but {len(column)} {name}; give one per stimulus.")
        require_unique(self.ids, "stimuli")
        seen: set[str] = set()
        for previous, passage in zip((None, *self.passages), self.passages, strict=False):
            if passage != previous and passage in seen:
                raise ValueError(f"stimuli: passage {passage!r} is not contiguous; sort the stimuli by passage.")
            seen.add(passage)

    def __len__(self) -> int:
        return len(self.ids)

    def repeated(self, *, by_passage: bool = True) -> tuple[str, ...]:
        """(stimulus,) label in common to stimuli with the same text; "" if the text occurs once.

        With `by_passage`, only whole passages count: a label is a passage and a position in it.
        """
        if not by_passage:
            return repetitions.of_stimuli(self.texts, self.passages, self.separator)
        same = repetitions.of_passages(self.texts, self.passages, self.separator)
        places = zip(self.passages, self.positions(), strict=True)
        return tuple(f"{same[passage]} {position}" if passage in same else "" for passage, position in places)

    def positions(self) -> Integers:
        """(stimulus,) position of each stimulus in its passage, from 0."""
        count: Counter[str] = Counter()
        positions = np.empty(len(self), dtype=np.int64)
        for i, passage in enumerate(self.passages):
            positions[i] = count[passage]
            count[passage] += 1
        return positions


# Labels of the rows and of the columns of responses.
_OF_ROWS = ("row_ids", "row_groups", "row_blocks", "row_parts", "row_texts")
_OF_NEUROIDS = ("neuroid_ids", "subjects", "rois")
_ARRAYS_OF_ROWS = ("times_s", "file_rows")


@dataclass(frozen=True)
class Responses:
    """Brain responses: one row per stimulus or per scan (TR), one column per neuroid (voxel or region).

    Attributes:
        values: (row, neuroid) float32, NaN where a neuroid was not measured.
        row_ids: (row,) stimulus or scan.
        row_groups: (row,) groups that must not be divided between train and test.
        row_blocks: (row,) block of consecutive rows without a break in time (a passage, a story).
        row_parts: (row,) experiment of each row, for recordings with several experiments that are scored separately.
        neuroid_ids, subjects, rois: (neuroid,); subject "group" marks a mean over subjects.
        unit: unit of `values`, as published.
        times_s: (row,) time of each scan on the clock of the stimuli's onsets; None if rows are stimuli.
        file_rows: (row,) row in the published file, over whose order random folds are drawn; None if it is the same.
        row_texts: (row,) label in common to rows in which the same text is presented; "" for a text that is presented
            once. Filled in by `Dataset`; not part of the content of a recording.
    """

    values: Floats
    row_ids: tuple[str, ...]
    row_groups: tuple[str, ...]
    row_blocks: tuple[str, ...]
    neuroid_ids: tuple[str, ...]
    subjects: tuple[str, ...]
    rois: tuple[str, ...]
    unit: str
    times_s: Floats | None = None
    row_parts: tuple[str, ...] = ()
    file_rows: Integers | None = None
    row_texts: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        for name in ("row_parts", "row_texts"):
            if not getattr(self, name):
                object.__setattr__(self, name, ("",) * len(self.row_ids))
        n_rows, n_neuroids = self.values.shape
        for name in (*_OF_ROWS, *_ARRAYS_OF_ROWS, *_OF_NEUROIDS):
            column = getattr(self, name)
            if column is not None and len(column) != (n_neuroids if name in _OF_NEUROIDS else n_rows):
                raise ValueError(f"responses: values are {self.values.shape} but there are {len(column)} {name}.")
        require_unique(self.row_ids, "rows of the responses")
        require_unique(self.neuroid_ids, "neuroids")
        infinite, empty = np.isinf(self.values).any(axis=0), np.isnan(self.values).all(axis=0)
        for fault, is_faulty in (("infinite values; use NaN for missing values", infinite), ("no value", empty)):
            if n_rows and is_faulty.any():
                raise ValueError(f"responses: neuroid {self.neuroid_ids[int(is_faulty.argmax())]!r} has {fault}.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The experiments, in order; ("",) if there is only one."""
        return tuple(dict.fromkeys(self.row_parts))

    def of_part(self, part: str) -> tuple[Responses, Integers]:
        """Rows of one experiment with the neuroids measured in it, and the column indices of these neuroids."""
        if self.parts == (part,):
            return self, np.arange(len(self.neuroid_ids))
        rows = np.flatnonzero(np.array(self.row_parts) == part)
        neuroids = np.flatnonzero(np.isfinite(self.values[rows]).any(axis=0))
        return self.of(rows, neuroids), neuroids

    def of(self, rows: Integers, neuroids: Integers) -> Responses:
        """A subset of rows and neuroids, by index."""
        labels: dict[str, Any] = {
            name: tuple(map(getattr(self, name).__getitem__, indices))
            for names, indices in ((_OF_ROWS, rows), (_OF_NEUROIDS, neuroids)) for name in names
        }  # fmt: skip
        labels |= {name: None if (column := getattr(self, name)) is None else column[rows] for name in _ARRAYS_OF_ROWS}
        return replace(self, values=self.values[np.ix_(rows, neuroids)], **labels)


@dataclass(frozen=True)
class ReadingTimes:
    """Mean self-paced reading time of each word, in order of presentation.

    Attributes:
        word_ids: (word,) stimulus id of each word.
        mean_ms: (word,) float64 milliseconds, NaN if no reader remains after exclusions.
        scored: (word,) bool; False for words that the protocol excludes (the first of a sentence).
        release: release of the corpus that the means come from.
        subjects: the individual readers, if available.
        by_subject_ms: (word, subject) float32 milliseconds, NaN where a word was not read or its time was excluded.
        alignment: how the readers' times were aligned to the words, if this had to be inferred.
    """

    word_ids: tuple[str, ...]
    mean_ms: Floats
    scored: NDArray[np.bool_]
    release: str
    subjects: tuple[str, ...] = ()
    by_subject_ms: Floats | None = None
    alignment: str = ""

    def __post_init__(self) -> None:
        shape = (len(self.word_ids), len(self.subjects))
        if self.by_subject_ms is not None and self.by_subject_ms.shape != shape:
            raise ValueError(f"reading times: by_subject_ms has shape {self.by_subject_ms.shape}, must be {shape}.")


@dataclass(frozen=True)
class Repetitions:
    """Responses to texts that were presented more than once, in the same context.

    Attributes:
        values: (repetition, text, neuroid) float32, the responses to each presentation of these texts; NaN where a text
            was presented less often or a neuroid was not measured.
        n_of_row: (row,) how many presentations a row of the responses is the mean of.
        are_averaged: whether presentations are averaged; otherwise each is a row.
    """

    values: Floats
    n_of_row: Integers
    are_averaged: bool

    @property
    def in_words(self) -> str:
        """Such as "3 repetitions", or "2 to 3 repetitions of 30 of 90 texts" if numbers differ and not all repeat."""
        numbers = np.isfinite(self.values).any(axis=2).sum(axis=0)
        low, high = int(numbers.min()), int(numbers.max())
        n_rows = len(self.n_of_row) if self.are_averaged else len(self.n_of_row) - int(numbers.sum()) + len(numbers)
        words = f"{low} repetitions" if low == high else f"{low} to {high} repetitions"
        return words if n_rows == len(numbers) else f"{words} of {len(numbers)} of {n_rows} texts"


@dataclass(frozen=True)
class Dataset:
    """Stimuli with brain responses, with reading times, or with neither (text only, for next-token prediction).

    Groups of rows in which the same text is presented are merged when the record is made (`harness/repetitions.py`).
    Where rows are sentences, the unit is the sentence; where they are words, scans or fragments of a text, it is the
    passage.

    Attributes:
        name: name in the table of data sets.
        version: SHA-256 over the loaded content, 16 hex digits.
        stimuli, responses, reading: the data.
        published_ceiling, ceiling_source: a published noise ceiling, by experiment or by neuroid if there are several,
            and its source. It is used if none can be computed from subjects, and always if it `is_planted`.
        is_planted: whether the ceiling is known exactly, because the data are synthetic.
        language: BCP 47 code of the texts; "" is not stated, and treated as English.
        repetitions: responses to single presentations of repeated texts, if there are any.
        rows_in_order: whether the rows of the responses are in order of presentation over the whole recording, so that
            a drift can be a function of the row; False if passages were shown in another or an unknown order.
    """

    name: str
    version: str
    stimuli: Stimuli
    responses: Responses | None = None
    reading: ReadingTimes | None = None
    published_ceiling: float | Mapping[str, float] | None = None
    ceiling_source: str = ""
    is_planted: bool = False
    language: str = ""
    repetitions: Repetitions | None = None
    rows_in_order: bool = True

    def __post_init__(self) -> None:
        if self.reading is not None and self.reading.word_ids != self.stimuli.ids:
            raise ValueError(
                f"{self.name}: the words of the reading times differ from the stimuli; give the same ids in order."
            )
        if self.reading is not None and not self.stimuli.sentences:
            raise ValueError(f"{self.name}: reading times need the sentence of each word; give `sentences`.")
        if self.responses is not None:
            object.__setattr__(self, "responses", _with_merged_groups(self.stimuli, self.responses))
        if self.reading is not None:
            groups = repetitions.merged(self.stimuli.groups, self.stimuli.repeated())
            object.__setattr__(self, "stimuli", replace(self.stimuli, groups=groups))

    def known_ceilings(self, part: str = "") -> Floats:
        """(neuroid,) published ceilings in an experiment, (1,) without responses; NaN where there is none."""
        neuroids, published = self.responses.neuroid_ids if self.responses else ("",), self.published_ceiling
        if isinstance(published, Mapping):
            return np.array([published.get(neuroid, published.get(part)) for neuroid in neuroids], dtype=float)
        return np.array([published] * len(neuroids), dtype=float)


def require_unique(ids: Sequence[str], what: str) -> None:
    """Raise ValueError naming the first duplicate id."""
    duplicate = next((i for i, n in Counter(ids).items() if n > 1), None)
    if duplicate is not None:
        raise ValueError(f"{what}: id {duplicate!r} occurs more than once; ids must be unique.")


def _with_merged_groups(stimuli: Stimuli, responses: Responses) -> Responses:
    """Label the rows in which the same text is presented, and merge their groups; each experiment by itself."""
    if responses.times_s is None:
        fragments = repetitions.are_fragments(stimuli.texts, stimuli.separator)
        label_of = dict(zip(stimuli.ids, stimuli.repeated(by_passage=fragments), strict=True))
        labels = [label_of.get(row_id, "") for row_id in responses.row_ids]
    else:
        labels = _of_scans(stimuli, responses, responses.times_s)
    if not any(labels):
        return responses
    several = len(responses.parts) > 1
    parts = zip(labels, responses.row_parts, strict=True)
    texts = tuple(f"{label} ({part})" if label and several else label for label, part in parts)
    return replace(responses, row_texts=texts, row_groups=repetitions.merged(responses.row_groups, texts))


def _of_scans(stimuli: Stimuli, responses: Responses, times_s: Floats) -> list[str]:
    """(row,) passage and number of TRs since its first word, for scans of passages that were presented repeatedly."""
    same = repetitions.of_passages(stimuli.texts, stimuli.passages, stimuli.separator)
    if not same or stimuli.onsets_s is None:
        return [""] * len(responses.row_ids)
    passages, blocks = np.array(stimuli.passages), np.array(responses.row_blocks)
    onset = {passage: float(stimuli.onsets_s[passages == passage].min()) for passage in dict.fromkeys(passages)}
    tr = float(np.median(np.diff(times_s)[blocks[1:] == blocks[:-1]]))
    labels = []
    for block, time in zip(responses.row_blocks, times_s, strict=True):
        # A block is a passage with a clock of its own, or all passages share one clock.
        begun = [block] if block in onset else [name for name in onset if onset[name] <= time]
        passage = max(begun, key=onset.__getitem__, default="")
        labels.append(f"{same[passage]} {round((time - onset[passage]) / tr)}" if passage in same else "")
    return labels
