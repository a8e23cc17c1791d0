"""What people read or heard, and what was recorded from them: the records that every data set is loaded into.

Frozen and checked where they are made, so that a station can trust what it is given. Rows are known by their ids, never
by their place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
GROUP = "group"  # the subject of neuroids that are means over subjects


@dataclass(frozen=True)
class Stimuli:
    """What the participants read or heard, in order of presentation.

    Attributes:
        ids, texts: one per stimulus; ids are unique, a text is a sentence or a word.
        passages: the passage or story of each stimulus; a passage is contiguous and is one context.
        groups: what must not be divided over train and test (a topic, a story); defaults to the passages.
        sentences: the sentence of each word, where stimuli are words and that is known; contiguous within a passage.
        onsets_s, ends_s: (stimulus,) seconds at which a word began and ended, where words are aligned to scans.
        separator: what stands between stimuli in a context; "" where the texts bring their own spaces.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    passages: tuple[str, ...]
    groups: tuple[str, ...] = ()
    onsets_s: Floats | None = None
    ends_s: Floats | None = None
    separator: str = " "
    sentences: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", self.passages)
        for name in ("texts", "passages", "groups", "onsets_s", "ends_s", "sentences"):
            column = getattr(self, name)
            absent = column is None or (name == "sentences" and not column)
            if not absent and len(column) != len(self.ids):
                raise ValueError(f"stimuli: {len(self.ids)} ids but {len(column)} {name}; give one per stimulus.")
        require_unique(self.ids, "stimuli")
        seen: set[str] = set()
        for before, passage in zip((None, *self.passages), self.passages, strict=False):
            if passage != before and passage in seen:
                raise ValueError(f"stimuli: passage {passage!r} is not contiguous; sort the stimuli by passage.")
            seen.add(passage)

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self) -> Integers:
        """(stimulus,) place of each stimulus in its passage, from 0."""
        count: Counter[str] = Counter()
        places = np.empty(len(self), dtype=np.int64)
        for i, passage in enumerate(self.passages):
            places[i] = count[passage]
            count[passage] += 1
        return places


@dataclass(frozen=True)
class Responses:
    """Brain responses: one row per stimulus or per scan (TR), one column per neuroid (voxel or region).

    Attributes:
        values: (row, neuroid) float32, NaN where a neuroid was not measured.
        row_ids, row_groups: (row,) stimulus or scan; what must not be divided over train and test.
        row_blocks: (row,) the run of rows over which time passes without a break (a passage, a story).
        row_parts: (row,) the experiment of each row, where a recording holds several, each scored on its own.
        neuroid_ids, subjects, rois: (neuroid,); subject "group" marks a mean over subjects.
        unit: unit of `values`, as published.
        times_s: (row,) time of each scan in the clock of the stimuli's onsets; None when rows are stimuli.
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

    def __post_init__(self) -> None:
        if not self.row_parts:
            object.__setattr__(self, "row_parts", ("",) * len(self.row_ids))
        n_rows, n_neuroids = self.values.shape
        for name, wanted in (
            ("row_ids", n_rows), ("row_groups", n_rows), ("row_blocks", n_rows), ("times_s", n_rows),
            ("row_parts", n_rows),
            ("neuroid_ids", n_neuroids), ("subjects", n_neuroids), ("rois", n_neuroids),
        ):  # fmt: skip
            column = getattr(self, name)
            if column is not None and len(column) != wanted:
                raise ValueError(f"responses: values are {self.values.shape} but there are {len(column)} {name}.")
        require_unique(self.row_ids, "rows of the responses")
        require_unique(self.neuroid_ids, "neuroids")
        infinite, absent = np.isinf(self.values).any(axis=0), np.isnan(self.values).all(axis=0)
        for what, bad in (("infinite values; write NaN for what is absent", infinite), ("no value", absent)):
            if n_rows and bad.any():
                raise ValueError(f"responses: neuroid {self.neuroid_ids[int(bad.argmax())]!r} has {what}.")

    @property
    def parts(self) -> tuple[str, ...]:
        """The experiments, in order; ("",) where there is one."""
        return tuple(dict.fromkeys(self.row_parts))

    def of_part(self, part: str) -> tuple[Responses, Integers]:
        """The rows of one experiment with the neuroids measured in it, and the columns of these."""
        if self.parts == (part,):
            return self, np.arange(len(self.neuroid_ids))
        rows = np.flatnonzero(np.array(self.row_parts) == part)
        neuroids = np.flatnonzero(np.isfinite(self.values[rows]).any(axis=0))
        return self.of(rows, neuroids), neuroids

    def of(self, rows: Integers, neuroids: Integers) -> Responses:
        """Some rows and some neuroids."""

        def at(names: tuple[str, ...], places: Integers) -> tuple[str, ...]:
            return tuple(names[place] for place in places)

        return Responses(
            values=self.values[np.ix_(rows, neuroids)],
            row_ids=at(self.row_ids, rows),
            row_groups=at(self.row_groups, rows),
            row_blocks=at(self.row_blocks, rows),
            neuroid_ids=at(self.neuroid_ids, neuroids),
            subjects=at(self.subjects, neuroids),
            rois=at(self.rois, neuroids),
            unit=self.unit,
            times_s=None if self.times_s is None else self.times_s[rows],
            row_parts=at(self.row_parts, rows),
        )


@dataclass(frozen=True)
class ReadingTimes:
    """Mean self-paced reading time of each word, in order of presentation.

    Attributes:
        word_ids: (word,) stimulus id of each word.
        mean_ms: (word,) float64 milliseconds, NaN where no reader is left.
        scored: (word,) bool; False where the protocol leaves a word out (the first of a sentence).
        release: which release of the corpus the means come from.
        subjects, by_subject_ms: the readers, where they are at hand; (word, subject) float32 milliseconds, NaN where a
            word was not read or its time was left out.
        alignment: how the readers' times were put on the words, where that had to be found out.
    """

    word_ids: tuple[str, ...]
    mean_ms: Floats
    scored: NDArray[np.bool_]
    release: str
    subjects: tuple[str, ...] = ()
    by_subject_ms: Floats | None = None
    alignment: str = ""

    def __post_init__(self) -> None:
        wanted = (len(self.word_ids), len(self.subjects))
        if self.by_subject_ms is not None and self.by_subject_ms.shape != wanted:
            raise ValueError(f"reading times: by_subject_ms is {self.by_subject_ms.shape}, wanted {wanted}.")


@dataclass(frozen=True)
class Dataset:
    """Stimuli with the responses or the reading times of people, or with neither: a text to be predicted.

    Attributes:
        name, version: in the table of data sets; sha256 over the content that was loaded, 16 hex digits.
        published_ceiling, ceiling_source: a known ceiling, of each experiment where there are several, and where it is
            from. It stands where none can be computed from subjects, and before all where it `is_planted`.
        language: BCP 47, of the texts; "" where none is stated, which is read as English.
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

    def __post_init__(self) -> None:
        if self.reading is not None and self.reading.word_ids != self.stimuli.ids:
            raise ValueError(f"{self.name}: the words of the reading times are not the stimuli, in their order.")
        if self.reading is not None and not self.stimuli.sentences:
            raise ValueError(f"{self.name}: words that were read need the sentence of each.")

    def known_ceiling(self, part: str = "") -> float:
        """The published ceiling of an experiment; NaN where there is none."""
        known = self.published_ceiling
        found = known.get(part) if isinstance(known, Mapping) else known
        return float("nan") if found is None else float(found)


def require_unique(ids: Sequence[str], what: str) -> None:
    """Raise ValueError naming the first id that stands twice."""
    doubled = next((i for i, n in Counter(ids).items() if n > 1), None)
    if doubled is not None:
        raise ValueError(f"{what}: id {doubled!r} stands more than once; ids must be unique.")
