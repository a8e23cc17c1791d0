"""Every record that travels between stations.

Records are frozen and checked where they are made, so that a station can trust what it is given. Rows are known by
their ids, never by their place: a join that loses or doubles an id is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from harness.recordings import GROUP, Dataset, Floats, Integers, ReadingTimes, Responses, Stimuli, require_unique

__all__ = [
    "GROUP", "Ceiling", "Context", "Dataset", "Extraction", "Features", "Floats", "Fold", "Integers", "Layer",
    "LayerFit", "LazyMapping", "Predictions", "ReadingTimes", "Responses", "Stimuli", "Surprisals", "Tokens",
    "indices_of", "require_unique",
]  # fmt: skip


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
class Context:
    """A text that a model reads in one pass, and where the stimuli lie in it.

    text: the whole passage, story or corpus, or a stimulus with what is read before it. stimulus_ids, spans: the
    stimuli in it, in order; (stimulus, 2) first character of each and one past its last.
    """

    text: str
    stimulus_ids: tuple[str, ...]
    spans: Integers


@dataclass(frozen=True)
class Retokenised:
    """A stimulus whose text so far, tokenised by itself, is not the tokens so far: some token reaches past its end.

    n_kept: the leading tokens of the context that are those of the text so far too. ids: (token,)
    what follows them there. n_own: how many of the last are the stimulus's own.
    """

    n_kept: int
    ids: Integers
    n_own: int


@dataclass(frozen=True)
class Tokens:
    """A context as token ids.

    Attributes:
        ids: (token,) without special tokens.
        owners: (token,) index into `stimulus_ids` of the stimulus that holds the token's last character; -1 for none.
        last, stimulus_ids: (stimulus,) index of the last token of each stimulus, -1 where it has none; its id.
        apart: by their index, the stimuli that a causal model, too, reads by themselves.
    """

    ids: Integers
    owners: Integers
    last: Integers
    stimulus_ids: tuple[str, ...]
    apart: Mapping[int, Retokenised] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LazyMapping(Mapping[Layer, Floats]):
    """Matrices that are made when they are asked for and not kept: all layers of a large model do not fit in memory.

    Attributes:
        shapes: layer -> (row, hidden), known beforehand.
        make: gives the matrix of a layer, to several threads at once.
    """

    shapes: Mapping[Layer, tuple[int, ...]]
    make: Callable[[Layer], Floats]

    def __getitem__(self, layer: Layer) -> Floats:
        if layer not in self.shapes:
            raise KeyError(layer)
        return self.make(layer)

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


@dataclass(frozen=True)
class Features:
    """One vector per layer and row.

    Attributes:
        values: layer -> (row, hidden) float32; the hidden size may differ between stacks.
        row_ids: stimuli, or scans once they passed `hemodynamics`.
    """

    values: Mapping[Layer, Floats]
    row_ids: tuple[str, ...]

    def __post_init__(self) -> None:
        require_unique(self.row_ids, "features")
        for layer, shape in self.shapes.items():
            if len(shape) != 2 or shape[0] != len(self.row_ids):
                raise ValueError(f"features of layer {layer}: shape {shape} for {len(self.row_ids)} row ids.")

    @property
    def shapes(self) -> Mapping[Layer, tuple[int, ...]]:
        """Layer -> (row, hidden), without making a matrix."""
        if isinstance(self.values, LazyMapping):
            return self.values.shapes
        return {layer: matrix.shape for layer, matrix in self.values.items()}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in the order in which they were stored."""
        return tuple(self.values)


@dataclass(frozen=True)
class Predictions:
    """What a model expects along a text, in nats; NaN where it is not known.

    Attributes:
        log_probabilities, ranks: (token,) of each token given those before it; its place among all tokens, from 1.
        entropies, breaks: (token + 1,) of what is expected before each token and after the last: its entropy; the
            log-probability that a space, or the end, comes next.
        apart: of the stimuli that were read by themselves, by their index: the same along their own tokens
            (`Apart.ids`; where T5 has the context in its encoder, every stimulus).
    """

    log_probabilities: Floats
    ranks: Floats
    entropies: Floats
    breaks: Floats
    apart: dict[int, Predictions] = field(default_factory=dict)

    @classmethod
    def unknown(cls, n_tokens: int) -> Predictions:
        """Nothing known yet of so many tokens."""
        logs, ranks = np.full((2, n_tokens), np.nan)
        entropies, breaks = np.full((2, n_tokens + 1), np.nan)
        return cls(logs, ranks, entropies, breaks)


@dataclass(frozen=True)
class Extraction:
    """What one pass of a model over contexts gives.

    Attributes:
        features: one vector per layer and stimulus; None where not asked for.
        predictions: per context what was expected of its tokens; None where not asked for.
        facts: how it was read, JSON-able, for the unit's manifest: n_windows, n_reencoded, batch_tokens, ...
    """

    features: Features | None
    predictions: tuple[Predictions, ...] | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def log_probabilities(self) -> tuple[Floats, ...] | None:
        """Per context (token,) float64 nats."""
        return tuple(each.log_probabilities for each in self.predictions) if self.predictions is not None else None


@dataclass(frozen=True)
class Surprisals:
    """-log2 p of each word given what came before, and what was expected before it.

    Attributes:
        word_ids, n_tokens: (word,) stimulus ids; number of tokens of each word.
        bits: (word,) float64; NaN where a word has no token.
        space_bits: (word,) to be added for the leading-space correction.
        entropy_bits: (word,) of the next token, before the word.
        ranks: (word,) of its first token among all, from 1.
        n_first: (word,) how many of its tokens were the most probable; NaN where ranks are not known.
    """

    word_ids: tuple[str, ...]
    bits: Floats
    n_tokens: Integers
    space_bits: Floats
    entropy_bits: Floats
    ranks: Floats
    n_first: Floats


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
        parts: (fold,) the experiment of each fold.
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
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Ceiling:
    """How well the best possible model could do.

    parts: the experiments. values: (part, neuroid) r, NaN where not known. kinds: (neuroid,) how it was computed.
    """

    parts: tuple[str, ...]
    values: Floats
    kinds: tuple[str, ...]


def indices_of(wanted: Sequence[str], present: Sequence[str], what: str) -> Integers:
    """(len(wanted),) places of the wanted ids in `present`; ValueError names the first that is missing."""
    place = {key: i for i, key in enumerate(present)}
    missing = [key for key in wanted if key not in place]
    if missing:
        raise ValueError(
            f"{what}: {len(missing)} of {len(wanted)} ids are missing; the first is {missing[0]!r}. "
            "Delete what was stored for this data set and compute it again."
        )
    return np.array([place[key] for key in wanted], dtype=np.int64)
