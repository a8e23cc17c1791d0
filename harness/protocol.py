"""The method as data: a protocol says everything that decides a score except the model and the recording.

Its hash stands in every row of the tables.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

ProtocolName = Literal["paper", "strict", "equal", "brainscore2026", "surprisal"]
Variant = Literal["untrained", "shuffled", "chat"]
Dtype = Literal["float32", "bfloat16", "float16", "int8"]
AskedDtype = Literal["auto", "float32", "bfloat16", "float16", "int8"]
Backend = Literal["transformers", "vllm"]
AskedBackend = Literal["auto", "transformers", "vllm"]
FoldKind = Literal[
    "shuffled", "kfold", "stratified shuffled", "stratified kfold", "grouped", "leave one group out", "contiguous",
    "trimmed",
]  # fmt: skip


@dataclass(frozen=True)
class FoldRule:
    """How rows are divided into train and test.

    kind: "shuffled" (random splits, scikit-learn's ShuffleSplit), "kfold" (shuffled k-fold), "stratified shuffled" and
    "stratified kfold" (the same with the classes of the rows in equal shares), "grouped" (whole groups, shuffled with
    the seed), "leave one group out" (LeaveOneGroupOut), "contiguous" (blocks in time). `gap` rows are dropped at both
    sides of what tests, unless single rows are drawn at random. "trimmed": blocks in time, the last with what is left
    over; `gap` rows dropped at both ends of a middle test block, at the first and the last from the training rows
    beside it.
    test_fraction, train_fraction: of random splits, as scikit-learn's sizes; None is what the other leaves.
    """

    kind: FoldKind
    n: int = 10
    test_fraction: float | None = 0.1
    train_fraction: float | None = None
    seed: int = 1
    gap: int = 0
    min_test_rows: int = 1


@dataclass(frozen=True)
class Regression:
    """How features are mapped to responses.

    kind: "ols" (minimum norm; directions with a squared singular value under `cutoff` times the largest are dropped)
    or "ridge". alphas: the grid; with `relative` they are multiplied by tr(C)/n of the training rows' centred Gram
    matrix. inner: how alpha is chosen within the training rows: "loo", "groups" (leave a group of rows out; where
    each group is one row this is leave-one-out), or "kfold" (leave out each of `inner_folds` blocks of the training
    rows, not shuffled). scale: of the features, "center" or "zscore" on training rows, or "zscore sides": training rows
    by their own mean and sd, test rows by theirs. per_neuroid: one alpha each, or one for all. tie: which alpha to keep
    of equals. precision: "float64", or "mixed": float32 where it is safe (kernels/ridge.py: the same alphas, r to about
    1e-6), for twice the speed.
    """

    kind: Literal["ols", "ridge"]
    alphas: tuple[float, ...] = ()
    relative: bool = False
    inner: Literal["loo", "groups", "kfold"] = "loo"
    inner_folds: int = 0
    scale: Literal["center", "zscore", "zscore sides"] = "center"
    per_neuroid: bool = True
    cutoff: float = 1e-12
    tie: Literal["larger", "smaller"] = "larger"
    precision: Literal["float64", "mixed"] = "float64"


# STRICT's: relative to tr(C)/n from far below to far above it, wide enough for every recording seen.
WIDE_RIDGE = Regression(
    "ridge", alphas=tuple(10.0**k for k in range(-5, 8)), relative=True, inner="groups", scale="zscore"
)
# Brain-Score language's of August 2026: not scaled, one alpha for all neuroids, by leave-one-out.
BRAINSCORE_RIDGE = Regression(
    "ridge", alphas=tuple(10.0**k for k in range(-3, 4)), inner="loo", scale="center", per_neuroid=False, tie="smaller"
)


@dataclass(frozen=True)
class Sampling:
    """How features at word times become features at scan times.

    pool: "mean", "sum" or "last" over the words of a TR. clock: the words of a scan at t are those that ended in
    (t - TR, t] ("end"), or those whose onset lies in (t, t + TR], so that a word belongs to the last scan before its
    onset ("onset"). shift_s: by which words are late. delays: TRs by which the features are delayed, one copy each.
    zscore: "run" standardises every column within each run (block of rows), test rows included; "" does not.
    skip_words: so many of the first stimuli are context alone, and in no scan.
    """

    pool: Literal["mean", "sum", "last"] = "mean"
    shift_s: float = 0.0
    delays: tuple[int, ...] = (0,)
    clock: Literal["end", "onset"] = "end"
    zscore: Literal["", "run"] = ""
    skip_words: int = 0


@dataclass(frozen=True)
class Protocol:
    """One way to score one kind of data. `notes` cite the source and say aloud what the source does not state.

    context: what is read before a stimulus: "none", the "sentence" or the "passage" so far, the whole "corpus", or
    a running "window" of `context_words` stimuli of its passage. pooling: the state of a stimulus is that at its
    "last" token, or the "mean" or "sum" over its tokens. components: principal components to which the features of
    rows (or of the words of scans) are reduced, fitted on each fold's training rows; 0 keeps the features as they are.
    window: tokens that are read at once at most, whatever more a model could take, so that models are compared on
    the same context (LLaMA-1's 2,048). overlap: share of a window that the one before has read already.
    decoder_reads: of an encoder-decoder, whose encoder always reads the text so far: "stimulus" (the decoder reads
    the stimulus while the encoder holds what came before), "text" (teacher-forced on the whole text, with an empty
    source), "nothing" (only the encoder's layers). bos: which windows of a decoder begin with its BOS: each, the
    first of a text, or none. metric: the score of a neuroid, a name of kernels/metrics.py: "pearson_r" (NaN for
    what is constant) or "brainscore_r" (1e-8 added to the norms, 0 for what is constant, and counted).
    """

    name: ProtocolName
    context: Literal["none", "sentence", "passage", "corpus", "window"]
    folds: FoldRule
    regression: Regression
    layer_choice: Literal["max", "nested"]
    sampling: Sampling | None = None
    reading: Literal["correlation", "regression"] | None = None
    context_words: int = 0
    pooling: Literal["last", "mean", "sum"] = "last"
    components: int = 0
    window: int = 2048
    overlap: float = 0.5
    decoder_reads: Literal["stimulus", "text", "nothing"] = "stimulus"
    bos: Literal["window", "text", "none"] = "window"
    metric: Literal["pearson_r", "brainscore_r"] = "pearson_r"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if (self.context == "window") != (self.context_words > 0):
            raise ValueError(f"context {self.context!r} with {self.context_words} context_words; a window needs some.")

    @property
    def hash(self) -> str:
        """12 hex digits over everything that decides a score (the notes do not)."""
        return content_hash({k: v for k, v in asdict(self).items() if k != "notes"})[:12]


EQUAL_COMPONENTS = 50


def equal_dimension(strict: Protocol) -> Protocol:
    """STRICT, but that every model has the same number of features, so that a wide one has no more to fit with.

    Source: METHODS.md, section 6.4 (equal feature counts beside raw). The number is ours: small enough for the rows of
    every recording; a model of no more features than that keeps its own.
    """
    note = f"as STRICT, on {EQUAL_COMPONENTS} principal components of the training rows: width is no advantage."
    return replace(strict, name="equal", components=EQUAL_COMPONENTS, notes=(*strict.notes, note))


def protocol_of(said: dict[str, Any]) -> Protocol:
    """A protocol from what `asdict` and JSON made of it; TypeError if another version of the program wrote it."""
    parts: dict[str, Any] = {"folds": FoldRule, "regression": Regression, "sampling": Sampling}

    def made(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return parts[key](**{name: made(name, part) for name, part in value.items()})
        return tuple(value) if isinstance(value, list) else value

    return Protocol(**{key: made(key, value) for key, value in said.items()})


def surprisal_alone(
    context: Literal["none", "sentence", "passage", "corpus"] = "passage",
    window: int = 2048,
    overlap: float = 0.5,
    bos: Literal["window", "text", "none"] = "window",
) -> Protocol:
    """How words are read for their surprisal, where nothing is scored."""
    return Protocol(
        "surprisal", context, FoldRule("grouped"), Regression("ols"), "max", window=window, overlap=overlap, bos=bos,
        decoder_reads="text",
    )  # fmt: skip


def content_hash(content: Any) -> str:
    """sha256 of the canonical JSON of `content` (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
