"""Protocols: every choice that determines a score, except the model and the recording.

Every row of the tables carries the hash of its protocol. What the protocols mean: harness/scoring/README.md#protocols.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

ProtocolName = Literal["paper", "strict", "equal", "brainscore2026", "surprisal"]
Variant = Literal["untrained", "shuffled", "chat"]
Kept = Literal["predictions", "weights"]
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
    """How rows are divided into training and test rows; see harness/scoring/README.md#folds.

    Attributes:
        kind: "shuffled" (random splits, scikit-learn's ShuffleSplit), "kfold" (shuffled k-fold), "stratified shuffled"
            and "stratified kfold" (the same, with the classes of the rows in equal proportions), "grouped" (whole
            groups, shuffled with the seed), "leave one group out" (LeaveOneGroupOut), "contiguous" (blocks of time), or
            "trimmed" (blocks of time, the last one taking the remainder).
        n: number of folds or splits.
        test_fraction, train_fraction: sizes of random splits, as in scikit-learn; None is the complement of the other.
        seed: of the random kinds.
        gap: rows dropped on both sides of a test block; unused where single rows are drawn at random. Under "trimmed"
            they are dropped from both ends of a middle test block; at the first and last block, from the adjacent
            training rows.
        min_test_rows: smallest test fold allowed.
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
    """How features are mapped to responses; see harness/scoring/README.md#ridge-and-the-choice-of-alpha.

    Attributes:
        kind: "ols" (minimum norm) or "ridge".
        alphas: the grid.
        relative: multiply the grid by tr(C)/n of the training rows' centred Gram matrix C.
        inner: how alpha is chosen within the training rows: "loo" (leave one row out), "groups" (leave one group of
            rows out, or one block of time under contiguous folds, with the gap of the outer folds; where each group is
            one row this is leave-one-out), or "kfold" (leave out each of `inner_folds` unshuffled blocks of the
            training rows).
        inner_folds: number of blocks for inner="kfold".
        scale: of the features: "center" or "zscore" with the training rows' mean and sd, or "zscore sides": training
            and test rows each by their own mean and sd.
        per_neuroid: one alpha per neuroid, or one for all neuroids.
        cutoff: "ols" drops directions whose squared singular value is under this fraction of the largest.
        tie: which of several equally good alphas to keep.
        precision: "float64", or "mixed": float32 where it is safe (kernels/ridge.py), with the same alphas, r to about
            1e-6, and twice the speed.
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


# STRICT: a grid from far below tr(C)/n to far above it; wide enough for every recording tried, and for a feature 1,000
# times larger than the rest. Features are centred and, since the grid is relative, on one common scale: scores do not
# depend on the basis of a model's hidden states.
WIDE_RIDGE = Regression(
    "ridge", alphas=tuple(10.0**k for k in range(-8, 8)), relative=True, inner="groups", scale="center"
)
# Brain-Score language, August 2026: features not scaled, one alpha for all neuroids, chosen by leave-one-out.
BRAINSCORE_RIDGE = Regression(
    "ridge", alphas=tuple(10.0**k for k in range(-3, 4)), inner="loo", scale="center", per_neuroid=False, tie="smaller"
)


Pool = Literal["mean", "sum", "last", "lanczos", "hrf"]


@dataclass(frozen=True)
class Sampling:
    """How features at word times become features at scan times.

    Attributes:
        pool: "mean", "sum" or "last" over the words of a TR; "lanczos" or "hrf": words outside it count too, by a
            Lanczos filter or the canonical hemodynamic response (harness/features/hemodynamics.py).
        shift_s: seconds added to the word times.
        delays: in TRs; the features are concatenated once per delay.
        clock: "end": a scan at t takes the words that ended in (t - TR, t]. "onset": the words whose onset lies in
            (t, t + TR], so that a word belongs to the last scan before its onset.
        zscore: "run" standardises every column within each run (block of rows), test rows included; "" does not.
        skip_words: number of initial stimuli that serve as context only and enter no scan.
    """

    pool: Pool = "mean"
    shift_s: float = 0.0
    delays: tuple[int, ...] = (0,)
    clock: Literal["end", "onset"] = "end"
    zscore: Literal["", "run"] = ""
    skip_words: int = 0

    def __post_init__(self) -> None:
        if self.pool == "hrf" and tuple(self.delays) != (0,):
            raise ValueError(
                f"the pool 'hrf' is a response of its own, but there are delays {list(self.delays)}; leave out the "
                "delays, or take another pool, from which the regression estimates the response."
            )

    @property
    def is_filter(self) -> bool:
        """Whether words outside the TR of a scan count too."""
        return self.pool in {"lanczos", "hrf"}


@dataclass(frozen=True)
class Protocol:
    """One way to score one kind of data.

    Attributes:
        name: "paper", "strict", ...
        context: text before a stimulus: "none", the "sentence" or "passage" so far, the stimuli with the same published
            "label" so far, the whole "corpus" so far, or a running "window" of `context_words` stimuli of the passage.
        folds, regression: see there.
        layer_choice: "max" (best held-out score) or "nested" (best inner score on each fold's training rows).
        sampling: for scans, else None.
        reading: for reading times: "correlation" alone, or "regression" too.
        context_words: length of the "window" context.
        pooling: hidden state of a stimulus: at its "last" token, or the "mean" or "sum" over its tokens.
        components: number of principal components to which features (of rows, or of the words of scans) are reduced,
            fitted on each fold's training rows; 0 keeps the features as they are.
        window: maximum number of tokens per forward pass, even if a model could take more, so that models are compared
            on the same context (2,048 is LLaMA-1's limit).
        overlap: fraction of a window that repeats the window before.
        encoding: of decoders. "shared": one forward pass over a context serves all its stimuli, in overlapping windows.
            "brainscore": the text up to each stimulus is joined, tokenised with the tokenizer's own special tokens,
            truncated from the left and encoded as Brain-Score language does (harness/text/brainscore_texts.py).
        decoder_reads: input of an encoder-decoder's decoder; the encoder reads the text so far. "stimulus": the decoder
            reads the stimulus and the encoder what came before it. "text": the decoder reads the whole text, with an
            empty source. "nothing": only encoder layers are used.
        bos: which windows of a decoder start with BOS: every "window", the first of a "text", or "none".
        aggregate: score of a fold: the median over all neuroids, "pooled" over subjects; or "by subject", the median
            over each subject's neuroids, then the mean over subjects, so that no subject counts more for having more
            neuroids. Choice of the layer, unique variance, intervals and ceilings are aggregated likewise.
        ceiling_curve: how scores predicted from more and more subjects are extrapolated: "exponential", as Brain-Score
            does for each neuroid; or "reliability", of the mean over subjects, fitted to the aggregated scores. The
            ceiling of a mean over subjects or readers is its split-half reliability under "exponential", as in
            Brain-Score, and the square root of it under "reliability".
        metric: score of a neuroid, a name of METRICS in kernels/metrics.py or of an entry point, such as "pearson_r"
            (NaN for a constant column) or "brainscore_r" (1e-8 added to the norms; a constant column scores 0 and
            counts).
        notes: sources, and what the sources do not state; not part of the hash.
    """

    name: ProtocolName
    context: Literal["none", "sentence", "passage", "label", "corpus", "window"]
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
    encoding: Literal["shared", "brainscore"] = "shared"
    decoder_reads: Literal["stimulus", "text", "nothing"] = "stimulus"
    bos: Literal["window", "text", "none"] = "window"
    aggregate: Literal["pooled", "by subject"] = "pooled"
    ceiling_curve: Literal["exponential", "reliability"] = "exponential"
    metric: str = "pearson_r"
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if (self.context == "window") != (self.context_words > 0):
            raise ValueError(
                f"context {self.context!r} with context_words={self.context_words}; wanted context_words > 0 "
                "for context 'window' and 0 for all others."
            )
        if self.encoding == "brainscore" and (self.pooling, self.bos) != ("last", "none"):
            raise ValueError(
                f"encoding 'brainscore' with pooling {self.pooling!r} and bos {self.bos!r}; wanted 'last' and 'none', "
                "since it reads the last token, and the special tokens are the tokenizer's own."
            )
        if self.metric != "pearson_r":
            from harness.metrics import find

            find(self.metric)

    @property
    def hash(self) -> str:
        """12 hex digits over all fields that determine a score, which excludes the notes."""
        return content_hash({k: v for k, v in asdict(self).items() if k != "notes"})[:12]


EQUAL_COMPONENTS = 50


def equal_dimension(strict: Protocol) -> Protocol:
    """STRICT with the same number of features for every model, so that wide models gain nothing from their width.

    Why: harness/scoring/README.md#protocols. The number of components is our choice; where a fold has fewer training
    rows, all sources get fewer (principal_components.feasible). A model with no more features than that keeps its own.
    """
    note = f"as STRICT, on {EQUAL_COMPONENTS} principal components of the training rows: width is no advantage."
    return replace(strict, name="equal", components=EQUAL_COMPONENTS, notes=(*strict.notes, note))


def protocol_of(fields: dict[str, Any]) -> Protocol:
    """Rebuild a protocol from its `asdict` form after JSON; TypeError if another version of the program wrote it."""
    parts: dict[str, Any] = {"folds": FoldRule, "regression": Regression, "sampling": Sampling}

    def rebuilt(key: str, value: Any) -> Any:
        if isinstance(value, dict):
            return parts[key](**{name: rebuilt(name, part) for name, part in value.items()})
        return tuple(value) if isinstance(value, list) else value

    return Protocol(**{key: rebuilt(key, value) for key, value in fields.items()})


def surprisal_alone(
    context: Literal["none", "sentence", "passage", "corpus"] = "passage",
    window: int = 2048,
    overlap: float = 0.5,
    bos: Literal["window", "text", "none"] = "window",
) -> Protocol:
    """The protocol for surprisal only: context and windows, without a score."""
    return Protocol(
        "surprisal", context, FoldRule("grouped"), Regression("ols"), "max", window=window, overlap=overlap, bos=bos,
        decoder_reads="text",
    )  # fmt: skip


def content_hash(content: Any) -> str:
    """sha256 of the canonical JSON of `content` (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()
