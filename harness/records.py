"""Every record that travels between stations.

Records are frozen and checked where they are made, so that a station can trust what it is given. Rows are known by
their ids, never by their place: a join that loses or doubles an id is an error that names it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]
GROUP = "group"  # the subject of neuroids that are means over subjects


@dataclass(frozen=True, order=True)
class Layer:
    """One place in a model where features are read.

    Of a language model, `stack` is "decoder" or "encoder", index 0 the embeddings, k the output of block k before the
    final norm. Of a control, `stack` is its own word (for OASM "width") and index counts its variants.
    """

    stack: str
    index: int

    def __str__(self) -> str:
        return f"{self.stack}.{self.index}"


@dataclass(frozen=True)
class Stimuli:
    """What the participants read or heard, in order of presentation.

    Attributes:
        ids, texts: one per stimulus; ids are unique, a text is a sentence or a word.
        passages: the passage or story of each stimulus; a passage is contiguous and is one context.
        groups: what must not be divided over train and test (a topic, a story); defaults to the passages.
        onsets_s, ends_s: (stimulus,) seconds at which a word began and ended, where words are aligned to scans.
    """

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    passages: tuple[str, ...]
    groups: tuple[str, ...] = ()
    onsets_s: Floats | None = None
    ends_s: Floats | None = None

    def __post_init__(self) -> None:
        if not self.groups:
            object.__setattr__(self, "groups", self.passages)
        for name in ("texts", "passages", "groups", "onsets_s", "ends_s"):
            column = getattr(self, name)
            if column is not None and len(column) != len(self.ids):
                raise ValueError(f"stimuli: {len(self.ids)} ids but {len(column)} {name}; give one per stimulus.")
        require_unique(self.ids, "stimuli")
        runs = Counter(passage for passage, _ in groupby(self.passages))
        if broken := [passage for passage, n_runs in runs.items() if n_runs > 1]:
            raise ValueError(f"stimuli: passage {broken[0]!r} is not contiguous; sort the stimuli by passage.")

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self) -> Integers:
        """(stimulus,) place of each stimulus in its passage, from 0."""
        return np.concatenate([np.arange(0), *(np.arange(n) for n in Counter(self.passages).values())])


@dataclass(frozen=True)
class Responses:
    """Brain responses: one row per stimulus or per scan (TR), one column per neuroid (voxel or region).

    Attributes:
        values: (row, neuroid) float32, NaN where a neuroid was not measured.
        row_ids, row_groups: (row,) stimulus or scan; what must not be divided over train and test.
        row_blocks: (row,) the run of rows over which time passes without a break (a passage, a story).
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

    def __post_init__(self) -> None:
        n_rows, n_neuroids = self.values.shape
        for name, wanted in (
            ("row_ids", n_rows), ("row_groups", n_rows), ("row_blocks", n_rows), ("times_s", n_rows),
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


@dataclass(frozen=True)
class ReadingTimes:
    """Mean self-paced reading time of each word, in order of presentation.

    Attributes:
        word_ids, sentences: (word,) stimulus id of each word, and its sentence.
        mean_ms: (word,) float64 milliseconds, NaN where no reader is left.
        scored: (word,) bool; False where the protocol leaves a word out (the first of a sentence).
        release: which release of the corpus the means come from.
        subjects, by_subject_ms, alignment: the readers, where they are at hand; (word, subject) float32, NaN where not
            read; how their times were put on the words.
    """

    word_ids: tuple[str, ...]
    mean_ms: Floats
    sentences: tuple[str, ...]
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
    """Stimuli with the responses or the reading times of people.

    Attributes:
        name, version: in the table of data sets; sha256 over the content that was loaded, 16 hex digits.
        published_ceiling, ceiling_source: a known ceiling where none can be computed here, and where it is from.
    """

    name: str
    version: str
    stimuli: Stimuli
    responses: Responses | None = None
    reading: ReadingTimes | None = None
    published_ceiling: float | None = None
    ceiling_source: str = ""

    def __post_init__(self) -> None:
        if self.reading is not None and self.reading.word_ids != self.stimuli.ids:
            raise ValueError(f"{self.name}: the words of the reading times are not the stimuli, in their order.")


@dataclass(frozen=True)
class Context:
    """A text that a model reads in one pass, and where the stimuli lie in it.

    text: the whole passage, story or corpus. stimulus_ids, spans: the stimuli in it, in order; (stimulus, 2) first
    character of each and one past its last.
    """

    text: str
    stimulus_ids: tuple[str, ...]
    spans: Integers


@dataclass(frozen=True)
class Tokens:
    """A context as token ids.

    Attributes:
        ids: (token,) without special tokens.
        owners: (token,) index into `stimulus_ids` of the stimulus that holds the token's last character; -1 for none.
        last, stimulus_ids: (stimulus,) index of the last token of each stimulus, -1 where it has none; its id.
    """

    ids: Integers
    owners: Integers
    last: Integers
    stimulus_ids: tuple[str, ...]


@dataclass(frozen=True)
class Features:
    """One vector per layer and row.

    Attributes:
        values: layer -> (row, hidden) float32; the hidden size may differ between stacks.
        row_ids: stimuli, or scans once they passed `hemodynamics`.
    """

    values: dict[Layer, Floats]
    row_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        require_unique(self.row_ids, "features")
        for layer, matrix in self.values.items():
            if matrix.ndim != 2 or len(matrix) != len(self.row_ids):
                raise ValueError(f"features of layer {layer}: shape {matrix.shape} for {len(self.row_ids)} row ids.")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they were stored."""
        return tuple(self.values)


@dataclass(frozen=True)
class Extraction:
    """What one pass of a model over contexts gives.

    Attributes:
        features: one vector per layer and stimulus; None where not asked for.
        log_probabilities: per context (token,) float64 nats of each token given those before it, NaN where nothing
            precedes it; None where not asked for.
    """

    features: Features | None
    log_probabilities: tuple[Floats, ...] | None


@dataclass(frozen=True)
class Surprisals:
    """-log2 p of each word given what came before.

    word_ids, n_tokens: (word,) stimulus ids; number of tokens of each word.
    bits: (word,) float64; NaN where a word has no token.
    """

    word_ids: tuple[str, ...]
    bits: Floats
    n_tokens: Integers


class Fold(NamedTuple):
    """Row indices of one split; rows in neither were dropped at a gap."""

    train: Integers
    test: Integers


@dataclass(frozen=True)
class LayerFit:
    """Held-out scores of one layer.

    Attributes:
        r, alpha: (fold, neuroid) Pearson r on the test rows, NaN where not measurable; penalty, 0 for least squares.
        inner: (fold, neuroid) score of the chosen alpha inside the training rows (1 - error / variance): what a
            nested choice of layer may look at.
        at_low, at_high: share of the fits whose alpha is the smallest or the largest of the grid.
        rank: (fold,) rank of the training features; n_features: columns, n_rows: rows with a response.
        test_share: test rows for each training row, mean over folds.
    """

    r: Floats
    alpha: Floats
    inner: Floats
    at_low: float
    at_high: float
    rank: Integers
    n_features: int
    n_rows: int
    test_share: float


@dataclass(frozen=True)
class Ceiling:
    """How well the best possible model could do: (neuroid,) r, NaN where not known, and how it was computed."""

    values: Floats
    kinds: tuple[str, ...]


def require_unique(ids: Sequence[str], what: str) -> None:
    """Raise ValueError naming the first id that stands twice."""
    if doubled := [i for i, n in Counter(ids).items() if n > 1]:
        raise ValueError(f"{what}: id {doubled[0]!r} stands more than once; ids must be unique.")


def indices_of(wanted: Sequence[str], present: Sequence[str], what: str) -> Integers:
    """(len(wanted),) places of the wanted ids in `present`; ValueError names the first that is missing."""
    place = {key: i for i, key in enumerate(present)}
    if missing := [key for key in wanted if key not in place]:
        raise ValueError(
            f"{what}: {len(missing)} of {len(wanted)} ids are missing; the first is {missing[0]!r}. "
            "Delete what was stored for this data set and compute it again."
        )
    return np.array([place[key] for key in wanted], dtype=np.int64)
