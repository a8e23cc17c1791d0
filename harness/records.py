"""Records passed between the steps of the pipeline.

All records are frozen and validated when created. Rows are identified by their ids, never by position: a join that
loses or duplicates an id is an error that names it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.recordings import (
    GROUP,
    Dataset,
    Floats,
    Integers,
    ReadingTimes,
    Repetitions,
    Responses,
    Stimuli,
    require_unique,
)

__all__ = [
    "GROUP", "Ceiling", "Context", "Dataset", "Extraction", "ExtractionSettings", "Features", "Floats", "Fold",
    "Growth", "Integers", "Layer", "LayerFit", "LazyMapping", "NeuroidCeilings", "Predictions", "ReadingTimes",
    "Repetitions", "Responses", "Stimuli", "Surprisals", "Tokens", "indices_of", "require_unique",
]  # fmt: skip


@dataclass(frozen=True, order=True)
class Layer:
    """One layer of a feature source.

    For a language model, `stack` is "decoder" or "encoder"; index 0 is the embeddings and k the output of block k
    before the final norm. For a control, `stack` is a name of its own ("width" for OASM) and `index` counts its
    variants.
    """

    stack: str
    index: int

    def __str__(self) -> str:
        return f"{self.stack}.{self.index}"


@dataclass(frozen=True)
class Context:
    """Text of one forward pass, and the positions of its stimuli.

    A stimulus ends with its last visible character, also where its text ends with a space: the space belongs to the
    word that follows it. The span of a stimulus without visible characters is empty and lies at the end of the one
    before. Spans are shortened accordingly when the record is made.

    Attributes:
        text: a passage or a corpus, or a stimulus with its preceding context.
        stimulus_ids: the stimuli in it, in order.
        spans: (stimulus, 2) first character of each stimulus, and one past its last visible one.
        n_prompt: number of characters at the beginning that are a prompt (`contexts.prompted`), part of no stimulus.
    """

    text: str
    stimulus_ids: tuple[str, ...]
    spans: Integers
    n_prompt: int = 0

    def __post_init__(self) -> None:
        spans = np.array(self.spans, dtype=np.int64).reshape(-1, 2)
        end = int(spans[0, 0]) if len(spans) else 0
        for k, (start, stop) in enumerate(spans.tolist()):
            visible = self.text[start:stop].rstrip()
            end = start + len(visible) if visible else min(end, stop)
            spans[k] = min(start, end), end
        object.__setattr__(self, "spans", spans)


@dataclass(frozen=True)
class Retokenised:
    """A stimulus whose prefix has other tokens than the context, because a token extends past the end of the stimulus.

    Attributes:
        n_kept: number of leading tokens that prefix and context share.
        ids: (token,) remaining tokens of the prefix.
        n_own: how many of the last tokens belong to the stimulus.
    """

    n_kept: int
    ids: Integers
    n_own: int


@dataclass(frozen=True)
class Tokens:
    """A context as token ids.

    Attributes:
        ids: (token,) without special tokens.
        owners: (token,) index into `stimulus_ids` of the stimulus that contains a token's last character; -1 for none.
        last: (stimulus,) index of the last token of each stimulus; -1 if it has none.
        stimulus_ids: (stimulus,) ids.
        retokenised: index of a stimulus -> its own tokens, if it is retokenised and needs a forward pass of its own.
        n_prompt: number of tokens at the beginning that are a prompt. Every window of the text begins with them.
        after: ids that an encoder reads after the text so far (the end of a prompt); () for none.
    """

    ids: Integers
    owners: Integers
    last: Integers
    stimulus_ids: tuple[str, ...]
    retokenised: Mapping[int, Retokenised] = field(default_factory=dict)
    n_prompt: int = 0
    after: tuple[int, ...] = ()


@dataclass(frozen=True)
class ExtractionSettings:
    """How contexts are read by a model: the fields of a `Protocol` that decide its hidden states and predictions.

    Attributes:
        window: maximum tokens per forward pass, or the model's own limit if that is less. A longer context is split
            into overlapping windows, each of which begins with the model's BOS or start token.
        pooling: "last" (the state at a stimulus's last token), "mean" or "sum" (over its tokens in the window that
            answers for its last one).
        overlap: fraction of a window that repeats the window before, in [0, 1).
        decoder_reads: input of T5's decoder, for its states and its predictions. "stimulus": the stimulus, while the
            encoder reads the text before it; predictions are then per stimulus (`Predictions.retokenised`). "text": the
            whole text, with an empty source, as in a decoder. "nothing": the start token, whose state is pooled, while
            the encoder reads the text including the stimulus, without predictions. The encoder's own states are
            those of the stimulus's prefix in all three.
        bos: which windows of a decoder begin with BOS: every "window", the first of a "text", or "none", in which case
            the first token has no prediction.

    Raises:
        ValueError: if pooling, decoder_reads or bos has another value.
    """

    window: int = 2048
    pooling: str = "last"
    overlap: float = 0.5
    decoder_reads: str = "stimulus"
    bos: str = "window"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("pooling", self.pooling, ("last", "mean", "sum")),
            ("decoder_reads", self.decoder_reads, ("stimulus", "text", "nothing")),
            ("bos", self.bos, ("window", "text", "none")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} {value!r} is unknown; use one of {', '.join(allowed)}.")


DEFAULT_EXTRACTION = ExtractionSettings()


@dataclass(frozen=True, eq=False)
class LazyMapping(Mapping[Layer, Floats]):
    """Matrices that are loaded on access and not cached, since all layers of a large model do not fit in memory.

    Attributes:
        shapes: layer -> (row, hidden), known without loading.
        make: loads the matrix of a layer; must be thread-safe.
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
        row_ids: stimuli, or scans after `hemodynamics`.
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
        """Layer -> (row, hidden), without loading a matrix."""
        if isinstance(self.values, LazyMapping):
            return self.values.shapes
        return {layer: matrix.shape for layer, matrix in self.values.items()}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, in storage order."""
        return tuple(self.values)


@dataclass(frozen=True)
class Predictions:
    """Next-token predictions along a text, in nats; NaN where unknown.

    Attributes:
        log_probabilities: (token,) log-probability of each token given the preceding ones.
        ranks: (token,) rank of each token among all tokens, from 1.
        entropies: (token + 1,) entropy of the next-token distribution before each token, and after the last.
        breaks: (token + 1,) log-probability that the next token begins with a space or ends the text.
        retokenised: index of a stimulus -> predictions along its own tokens (`Retokenised.ids`); every stimulus if T5
            has the context in its encoder.
    """

    log_probabilities: Floats
    ranks: Floats
    entropies: Floats
    breaks: Floats
    retokenised: dict[int, Predictions] = field(default_factory=dict)

    @classmethod
    def unknown(cls, n_tokens: int) -> Predictions:
        """Predictions for `n_tokens` tokens, all NaN."""
        logs, ranks = np.full((2, n_tokens), np.nan)
        entropies, breaks = np.full((2, n_tokens + 1), np.nan)
        return cls(logs, ranks, entropies, breaks)


@dataclass(frozen=True)
class Extraction:
    """Results of one pass of a model over contexts.

    Attributes:
        features: one vector per layer and stimulus; None if not requested.
        predictions: next-token predictions of each context; None if not requested.
        facts: JSON-serialisable details for the unit's manifest: n_windows, n_reencoded, batch_tokens, ...
    """

    features: Features | None
    predictions: tuple[Predictions, ...] | None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def log_probabilities(self) -> tuple[Floats, ...] | None:
        """(token,) float64 log-probabilities of each context, in nats."""
        if self.predictions is None:
            return None
        return tuple(prediction.log_probabilities for prediction in self.predictions)


@dataclass(frozen=True)
class Surprisals:
    """Surprisal of each word given the preceding text, and properties of the distribution before it.

    Attributes:
        word_ids: (word,) stimulus ids.
        bits: (word,) float64 surprisal, -log2 p; NaN if a word has no token.
        n_tokens: (word,) number of tokens.
        space_bits: (word,) term to add for the leading-space correction.
        entropy_bits: (word,) entropy of the next-token distribution before the word.
        ranks: (word,) rank of the word's first token, from 1.
        n_first: (word,) number of its tokens with rank 1; NaN if ranks are unknown.
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
        r: (fold, neuroid) Pearson r on the test rows; NaN where not measurable.
        alpha: (fold, neuroid) penalty; 0 for least squares.
        inner: (fold, neuroid) score of the chosen alpha within the training rows (1 - error / variance), used for
            nested layer selection.
        at_low, at_high: fraction of fits whose alpha is the smallest or the largest of the grid.
        rank: (fold,) rank of the training features.
        n_features, n_rows: columns; rows with a response.
        fold_correlation: correlation of the scores of two folds without any effect (`folds.correlation`).
        parts: (fold,) experiment of each fold.
    """

    r: Floats
    alpha: Floats
    inner: Floats
    at_low: float
    at_high: float
    rank: Integers
    n_features: int
    n_rows: int
    fold_correlation: float
    parts: tuple[str, ...]


class Growth(NamedTuple):
    """Scores of neuroids predicted from other subjects, by the number of predicting subjects (1, 2, ...).

    Attributes:
        scores: (size, fold, neuroid) mean over pools of that size; NaN where there is none.
        fold_correlation: as in `LayerFit`.
    """

    scores: Floats
    fold_correlation: float


class NeuroidCeilings(NamedTuple):
    """Noise ceilings of the neuroids of one experiment, in columns of (neuroid,).

    Attributes:
        values: r; NaN where unknown.
        low, high: ends of the 95 % interval; NaN where unknown.
        kinds: how it was computed; "" where unknown.
        n_subjects: subjects whose data it is computed from; 0 if unknown.
        n_sizes: sizes of the pools of subjects that predict the neuroid; 0 if it is not predicted from others.
        growth: of the neuroids that are predicted from others; None if none is.
    """

    values: Floats
    low: Floats
    high: Floats
    kinds: NDArray[np.object_]
    n_subjects: Integers
    n_sizes: Integers
    growth: Growth | None = None

    @classmethod
    def unknown(cls, n_neuroids: int, growth: Growth | None = None) -> NeuroidCeilings:
        """No ceilings, to be filled in."""
        values, low, high = np.full((3, n_neuroids), np.nan)
        n_subjects, n_sizes = np.zeros((2, n_neuroids), dtype=np.int64)
        return cls(values, low, high, np.full(n_neuroids, "", dtype=object), n_subjects, n_sizes, growth)


@dataclass(frozen=True)
class Ceiling:
    """Noise ceiling of a recording.

    Attributes:
        parts: the experiments.
        values: (part, neuroid) r; NaN where unknown.
        kinds: (neuroid,) how it was computed.
        low, high: (part, neuroid) ends of the 95 % interval; NaN where unknown.
        n_subjects, n_sizes: (part, neuroid) as in `NeuroidCeilings`; 0 where unknown.
        growth: (part,) of all neuroids of the recording, if they are predicted from other subjects.
    """

    parts: tuple[str, ...]
    values: Floats
    kinds: tuple[str, ...]
    low: Floats = None  # type: ignore[assignment]
    high: Floats = None  # type: ignore[assignment]
    n_subjects: Integers = None  # type: ignore[assignment]
    n_sizes: Integers = None  # type: ignore[assignment]
    growth: tuple[Growth | None, ...] = ()

    def __post_init__(self) -> None:
        unknown = {"low": np.nan, "high": np.nan, "n_subjects": 0, "n_sizes": 0}
        for name, value in unknown.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, np.full(self.values.shape, value))
        if not self.growth:
            object.__setattr__(self, "growth", (None,) * len(self.parts))


def indices_of(wanted: Sequence[str], present: Sequence[str], what: str) -> Integers:
    """(len(wanted),) indices of the wanted ids in `present`; ValueError names the first missing id."""
    index = {key: i for i, key in enumerate(present)}
    missing = [key for key in wanted if key not in index]
    if missing:
        raise ValueError(
            f"{what}: {len(missing)} of {len(wanted)} ids are missing; the first is {missing[0]!r}. "
            "Delete the stored units of this data set and run the command again."
        )
    return np.array([index[key] for key in wanted], dtype=np.int64)
