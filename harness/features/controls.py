"""Controls: features without a language model, such as length, word rate, position and time.

Controls are scored like models and appear in the same tables. Under shuffled splits OASM, which encodes time only,
beats every language model; sentence length, position and word rate account for most of GPT2-XL's explained variance;
on reading times word length alone beats the surprisal of every LLaMA model. OASM and position restart in every passage;
a drift over the session, which rows of other passages share, is the control "drift".

Static word vectors and n-gram surprisal need a file from the user. Untrained controls and shuffled word order are
extracted elsewhere, since they need a model.

Method: harness/scoring/README.md#controls. Source: Feghhi, Hadidi et al. (Nat Commun 2026, arXiv 2406.01538).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from harness import plugins
from harness.features import ngram, word_vectors
from harness.names import unknown
from harness.records import Dataset, Features, Floats, Layer, LazyMapping, Responses, Stimuli
from harness.text.frequencies import has_frequencies, zipf_frequencies

OASM_WIDTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
# OASM needs matrices of rows by rows: with this many rows 1.7 GB and 3e13 operations, by count.
MOST_OASM_ROWS = 4_000
# Numbers of cosines of the control "drift"; the fastest has a period of 2 / 16 of the recording.
DRIFT_TERMS = (2, 4, 8, 16)
N_RANDOM = 64
_POSITION_TERMS = 3


@dataclass(frozen=True)
class Control:
    """One control.

    Attributes:
        name: as on the command line and in the tables.
        title: description for users.
        kinds: kinds of data it applies to: "sentences" and "scans" (brain), "words" (reading times).
        pool: how words are pooled into scans, "sum" or "mean"; None uses the protocol's rule. For "scans" only.
        row_level: whether its rows are already those of the responses, so that `hemodynamics` is skipped.
        one_unit: whether its columns share a unit, so that they keep one common scale, as the features of a model do.
            A row-level control in one unit is never z-scored: a column of OASM that is almost 0 in the training rows
            would become huge in its own row.
        needs: the field of EvaluationSpec with its file; "" if it needs none.
        compute: of a control from outside: function from the recording to (row, feature) numbers, with one row per row
            of the responses or per stimulus; for reading times one number per word.
        version: of a control from outside: what distinguishes it from an earlier one of the same name.
    """

    name: str
    title: str
    kinds: tuple[str, ...]
    pool: Literal["sum", "mean"] | None = None
    row_level: bool = False
    one_unit: bool = False
    needs: Literal["", "vectors", "corpus"] = ""
    compute: Callable[[Dataset], Any] | None = None
    version: str = ""

    @property
    def described(self) -> dict[str, str]:
        """Description for listings."""
        needs = f"--{self.needs} FILE" if self.needs else ""
        return {"name": self.name, "about": self.title, "applies_to": ", ".join(self.kinds), "needs": needs}


CONTROLS: dict[str, Control] = {
    control.name: control
    for control in (
        Control("length", "characters of a word; characters and words of a sentence", ("sentences", "scans", "words")),
        Control("word-rate", "number of words in a scan or sentence", ("sentences", "scans"), pool="sum"),
        Control("position", "position in the passage or story", ("sentences", "scans", "words"), row_level=True),
        Control("oasm", "identity of the block, smoothed over time", ("sentences", "scans"), row_level=True,
                one_unit=True),
        Control("drift", "slow time over the whole recording: cosines over the order of presentation",
                ("sentences", "scans"), row_level=True, one_unit=True),
        Control("random", "random normal vectors", ("sentences", "scans", "words"), one_unit=True),
        Control("frequency", "Zipf frequency of the word; mean and sum of a sentence, sum of a scan",
                ("sentences", "scans", "words"), pool="sum"),
        Control("static-vectors", "mean word vector, from FILE", ("sentences", "scans"), one_unit=True,
                needs="vectors"),
        Control(
            "ngram", "surprisal in bits from trigrams of the text FILE; sum and mean over a sentence",
            ("sentences", "scans", "words"), needs="corpus",
        ),
    )
}  # fmt: skip


# The model's own input embeddings, among the controls of its unique variance (harness/units/score_units.py).
EMBEDDINGS = "input-embeddings"
_ALL_KINDS = "sentences, scans, words"
# Controls that need a model (made by harness/units/feature_units.py), described for listings.
OF_A_MODEL: tuple[dict[str, str], ...] = (
    {"name": "MODEL:untrained", "about": "the model with random initial weights",
     "applies_to": _ALL_KINDS, "needs": ""},
    {"name": "MODEL's input embeddings", "about": "mean over the tokens of a stimulus; for unique variance only",
     "applies_to": "sentences, scans", "needs": ""},
    {"name": "MODEL:shuffled", "about": "the model on the stimuli with their words in another order",
     "applies_to": _ALL_KINDS, "needs": "--shuffled"},
    {"name": "MODEL:random-units-N", "about": "N units of the model that are not localised, drawn from all its layers",
     "applies_to": "sentences, scans", "needs": "--localise N"},
    {"name": "MODEL:untrained-localised-N", "about": "the N localised units of the model with random initial weights",
     "applies_to": "sentences, scans", "needs": "--localise N"},
)  # fmt: skip


GROUP: plugins.Group = "harness.controls"
_KINDS = ("sentences", "scans", "words")


def find(name: str) -> Control:
    """The control with this name, built in or from outside (`harness/plugins.py`).

    Raises:
        ValueError: if the name is unknown (lists the nearest names), or an entry point names neither a `Control` with
            `compute` nor a function of a recording.
    """
    plugin = plugins.find(GROUP, name, CONTROLS)
    if plugin is None:
        raise unknown("control", name, plugins.known(GROUP, CONTROLS))
    control = plugin.value
    if not plugin.version:
        return control  # type: ignore[no-any-return]
    if isinstance(control, Control):
        if control.compute is not None:
            return replace(control, name=name, version=plugin.version)
    elif callable(control):
        about = (control.__doc__ or "").strip().partition("\n")[0] or plugin.version
        return Control(name, about, _KINDS, compute=control, version=plugin.version)
    raise ValueError(
        f"control {name!r} ({plugin.version}) is a {type(control).__name__}; give a function of a Dataset."
    )


def every() -> list[Control]:
    """All controls, those of installed distributions included."""
    return [find(name) for name in plugins.known(GROUP, CONTROLS)]


def kind_of(dataset: Dataset) -> Literal["sentences", "scans", "words", "text"]:
    """What a row of the recording is: a sentence, a brain scan or a word read; "text" without human responses."""
    if dataset.responses is None:
        return "words" if dataset.reading else "text"
    return "sentences" if dataset.responses.times_s is None else "scans"


def applies(name: str, dataset: Dataset) -> bool:
    """Whether the control applies to the data set.

    "position" needs a passage of more than one row, "drift" rows in order of presentation, and "frequency" of brain
    recordings word frequencies of the language (reading times report the missing list as an error).

    Raises:
        ValueError: if the name is unknown.
    """
    if kind_of(dataset) not in find(name).kinds:
        return False
    if dataset.responses is None:
        return True
    if name == "position":
        return len(set(dataset.responses.row_blocks)) < len(dataset.responses.row_blocks)
    if name == "frequency":
        return has_frequencies(dataset.language)
    return name != "drift" or dataset.rows_in_order


def features(name: str, dataset: Dataset, seed: int, file: str = "") -> Features:
    """Compute a control as features for a brain data set.

    Args:
        name: a name in `CONTROLS` that applies to the data set.
        dataset: with responses.
        seed: for the control "random" only.
        file: word vectors or corpus, for the controls that need one.

    Returns:
        Features whose rows are stimuli, or the rows of the responses for a row-level control; (row, column) float32
        under Layer(name, 0). "oasm" has one Layer("width", i) for each of OASM_WIDTHS, "drift" one Layer("cosines", i)
        for each of DRIFT_TERMS.

    Raises:
        ValueError: if the name is unknown, the control does not apply, or its file is missing or damaged.
    """
    _require(name, dataset, file)
    responses = dataset.responses
    if responses is None:
        raise ValueError(f"{dataset.name} has no responses; use reading_predictor for reading times.")
    if (control := find(name)).compute:
        values, rows = _computed(control, dataset, responses.row_ids)
        return Features({Layer(name, 0): values.astype(np.float32)}, rows)
    if name == "oasm":
        return oasm(responses)
    if name == "drift":
        return drift(responses)
    if name == "position":
        return Features({Layer(name, 0): position_terms(responses.row_blocks)}, responses.row_ids)
    stimuli = dataset.stimuli
    if name == "random":
        values = _random(stimuli, seed)
    elif name == "static-vectors":
        values = word_vectors.embed(stimuli.texts, file)
    elif name == "frequency":
        values = _frequencies(dataset)
    elif name == "ngram":
        values = ngram.bits_of(stimuli, file)[:, : 1 if kind_of(dataset) == "scans" else 2]
    else:
        values = _counts(name, stimuli, kind_of(dataset))
    return Features({Layer(name, 0): values.astype(np.float32)}, stimuli.ids)


def reading_predictor(name: str, dataset: Dataset, seed: int, file: str = "") -> Floats:
    """Compute a control as one number per word, used in place of surprisal.

    Returns:
        (word,) float64. "position" counts words of the passage from 0, "random" is the first column of the random
        vectors, "ngram" is in bits.

    Raises:
        ValueError: as `features`.
    """
    _require(name, dataset, file)
    stimuli = dataset.stimuli
    if (control := find(name)).compute:
        values, _ = _computed(control, dataset, stimuli.ids)
        if values.shape[1] != 1:
            raise ValueError(f"control {name!r} has {values.shape[1]} columns; for reading times give one.")
        return values[:, 0]
    if name == "length":
        return characters(stimuli.texts)
    if name == "frequency":
        return zipf_frequencies(stimuli.texts, dataset.language)
    if name == "position":
        return stimuli.positions().astype(np.float64)
    if name == "ngram":
        return ngram.bits_of(stimuli, file)[:, 0]
    return _random(stimuli, seed)[:, 0]


def characters(texts: Sequence[str]) -> Floats:
    """(text,) float64 number of characters, with punctuation, without surrounding spaces."""
    return np.array([len(text.strip()) for text in texts], dtype=np.float64)


def position_terms(blocks: Sequence[str]) -> Floats:
    """(row, 3) float32: t, t^2, t^3, with t from -1 to 1 over the rows of each block; 0 for a block of one row.

    A polynomial captures slow drift and habituation within a passage.
    """
    place = np.arange(len(blocks), dtype=np.float64)
    time = np.zeros(len(blocks))
    labels = np.array(blocks)
    for block in dict.fromkeys(blocks):
        rows = labels == block
        first, last = place[rows].min(), place[rows].max()
        time[rows] = 2 * (place[rows] - first) / max(last - first, 1) - (last > first)
    return np.stack([time**power for power in range(1, _POSITION_TERMS + 1)], axis=1).astype(np.float32)


def oasm(responses: Responses) -> Features:
    """Orthogonal autocorrelated sequences: the identity of each row, smoothed over the rows of its block.

    Returns:
        Layers ("width", k) with (row, row) float32, computed on access: exp(-(i - j)^2 / 2 s^2) for rows i, j of the
        same block, else 0; s = OASM_WIDTHS[k] rows. If every block is one row this is the identity matrix, which
        predicts nothing.

    Source: Feghhi, Hadidi et al. (arXiv 2406.01538), who search the width; here each width is a layer.
    """
    n = len(responses.row_ids)
    place, blocks = np.arange(n), np.unique(responses.row_blocks, return_inverse=True)[1]

    def make(layer: Layer) -> Floats:
        smoothed = np.zeros((n, n), dtype=np.float32)
        for block in range(blocks.max() + 1):
            rows = np.flatnonzero(blocks == block)
            squared = np.square(place[rows, None] - place[None, rows], dtype=np.float64)
            smoothed[np.ix_(rows, rows)] = np.exp(-squared / (2 * OASM_WIDTHS[layer.index] ** 2))
        return smoothed

    return Features(LazyMapping({Layer("width", k): (n, n) for k in range(len(OASM_WIDTHS))}, make), responses.row_ids)


def unfitted_oasm(responses: Responses) -> Features:
    """In place of OASM where it is not fitted: one constant column per width, of rank 0, so that its score is NaN.

    That is where no test row has training rows in its block, so that OASM is the same for all test rows, and where the
    recording has more than `MOST_OASM_ROWS` rows.
    """
    n = len(responses.row_ids)
    shapes = {Layer("width", k): (n, n) for k in range(len(OASM_WIDTHS))}
    return Features(LazyMapping(shapes, lambda _: np.zeros((n, 1), dtype=np.float32)), responses.row_ids)


def drift(responses: Responses) -> Features:
    """Slow time over each experiment, across its passages, as in the drift model of an fMRI analysis.

    Returns:
        Layers ("cosines", i) with (row, DRIFT_TERMS[i]) float32: cos(pi k (j + 1/2) / n) for row j of the n rows of its
        experiment, in order of presentation, and k = 1, 2, ...; 0 for k >= n.

    Source: the discrete cosine set of SPM's high-pass filter (Friston et al. 2000); the numbers of terms are ours.
    """
    cosines, parts = np.zeros((len(responses.row_ids), max(DRIFT_TERMS))), np.array(responses.row_parts)
    for part in responses.parts:
        rows = np.flatnonzero(parts == part)
        k = np.arange(1, min(max(DRIFT_TERMS), len(rows) - 1) + 1)
        cosines[rows[:, None], k - 1] = np.cos(np.pi * k * (np.arange(len(rows))[:, None] + 0.5) / len(rows))
    values = {Layer("cosines", i): cosines[:, :n].astype(np.float32) for i, n in enumerate(DRIFT_TERMS)}
    return Features(values, responses.row_ids)


def _computed(control: Control, dataset: Dataset, row_ids: tuple[str, ...]) -> tuple[Floats, tuple[str, ...]]:
    """(row, feature) float64 numbers of a control from outside, and the ids of their rows.

    Raises:
        ValueError: if there are neither as many rows as `row_ids` nor as stimuli, or a value is not finite.
    """
    assert control.compute is not None  # noqa: S101 - checked by the callers
    values = np.asarray(control.compute(dataset), dtype=np.float64)
    values = values[:, None] if values.ndim == 1 else values
    rows = next((ids for ids in (row_ids, dataset.stimuli.ids) if len(values) == len(ids)), None)
    if values.ndim != 2 or rows is None or not values.shape[1]:
        raise ValueError(
            f"control {control.name!r} has shape {values.shape} for {dataset.name}; wanted {len(row_ids)} rows (those "
            f"of the recording) or {len(dataset.stimuli)} (its stimuli), and at least one column."
        )
    if not np.isfinite(values).all():
        raise ValueError(f"control {control.name!r} has values that are not finite for {dataset.name}; give numbers.")
    return values, rows


def _frequencies(dataset: Dataset) -> Floats:
    """(stimulus, 2) mean and sum of the Zipf frequencies of its words, 0 without words; for scans (word, 1)."""
    words = [text.split() for text in dataset.stimuli.texts]
    zipf = [zipf_frequencies(text, dataset.language) for text in words]
    sums = np.array([values.sum() for values in zipf])[:, None]
    if kind_of(dataset) == "scans":
        return sums
    return np.hstack([sums / np.array([max(len(text), 1) for text in words])[:, None], sums])


def _counts(name: str, stimuli: Stimuli, kind: str) -> Floats:
    """(stimulus, 1 or 2) "length" or "word-rate"; for scans each word counts 1, to be summed over the scan."""
    words = np.array([len(text.split()) for text in stimuli.texts], dtype=np.float64)
    if name == "word-rate":
        return np.ones((len(stimuli), 1)) if kind == "scans" else words[:, None]
    length = characters(stimuli.texts)
    return length[:, None] if kind == "scans" else np.stack([length, words], axis=1)


def _random(stimuli: Stimuli, seed: int) -> Floats:
    """(stimulus, 64) random normal vectors, determined by the seed and the number of stimuli."""
    return np.random.default_rng(seed).standard_normal((len(stimuli), N_RANDOM))


def _require(name: str, dataset: Dataset, file: str) -> None:
    if not applies(name, dataset):
        applicable = [known for known in plugins.known(GROUP, CONTROLS) if applies(known, dataset)]
        raise ValueError(
            f"control {name!r} does not apply to {dataset.name}; controls that do: {', '.join(applicable)}."
        )
    if (needs := find(name).needs) and not file:
        raise ValueError(f"control {name!r} needs a file; set `{needs}` in the spec.")
