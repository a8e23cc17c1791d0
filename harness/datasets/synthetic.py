"""A recording whose answer is known: the embedded default.

300 short sentences in 60 passages on 20 topics, made by a grammar. Responses of 5 subjects x 12 voxels are a noisy
linear map of one layer of one model, plus a drift that is slow over the sentences of a passage and says nothing about
them. Reading times of the same sentences follow the surprisal of one model plus word length. So a right protocol must
find the planted model and layer, and a wrong one shows by how much it flatters a control that knows only the time.

Licence: made here, public domain. Units: z-scores; milliseconds.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.datasets.entry import Entry, version_of
from harness.protocol import BRAINSCORE_RIDGE, WIDE_RIDGE, FoldRule, Protocol, Regression, equal_dimension
from harness.records import Dataset, Features, Floats, Layer, ReadingTimes, Responses, Stimuli, Surprisals, indices_of

if TYPE_CHECKING:
    import pandas as pd

PLANTED_LAYER = Layer("decoder", 3)
SUBJECTS, VOXELS = 5, 12
# Shares of a voxel's variance. What knows the language alone can reach the root of the first.
SIGNAL, DRIFT, NOISE = 0.30, 0.50, 0.20
PERSISTENCE = 0.9  # of the drift from one sentence of a passage to the next: a first-order autoregression
READING_MS = {"mean": 330.0, "per bit": 2.5, "per character": 9.0, "noise": 30.0}

PAPER = Protocol(
    "paper", context="passage", folds=FoldRule("shuffled", n=10, test_fraction=0.1, seed=1),
    regression=Regression("ols"), layer_choice="max",
    notes=("as Pereira2018 in the paper: least squares, random 90/10 splits, best layer on the same scores",),
)  # fmt: skip
STRICT = Protocol(
    "strict", context="passage", folds=FoldRule("grouped", n=10, seed=1234, min_test_rows=10), regression=WIDE_RIDGE,
    layer_choice="nested",
    notes=("folds leave whole topics out; alpha and layer are chosen on training rows, alpha by leaving topics out",),
)  # fmt: skip
BRAINSCORE2026 = Protocol(
    "brainscore2026", context="passage", folds=FoldRule("grouped", n=10, seed=1234), regression=BRAINSCORE_RIDGE,
    layer_choice="max", metric="brainscore_r",
    notes=("as Brain-Score language's Pereira2018-ridge of August 2026: whole topics, one alpha for all voxels",),
)  # fmt: skip
READING_PAPER = Protocol(
    "paper", context="corpus", folds=FoldRule("grouped", n=10, seed=1234), regression=Regression("ols"),
    layer_choice="max", reading="correlation", decoder_reads="text",
    notes=("as Futrell2018 in the paper: one growing context, plain r",),
)  # fmt: skip
READING_STRICT = Protocol(
    "strict", context="passage", folds=FoldRule("grouped", n=10, seed=1234, min_test_rows=10),
    regression=Regression("ols"), layer_choice="max", reading="regression", decoder_reads="text",
    notes=("context starts afresh at each passage; gain in log-likelihood over length, frequency and spill-over",),
)  # fmt: skip

_TOPICS = {
    "bees": "bee hive honey meadow keeper swarm", "ships": "sailor harbour mast storm anchor deck",
    "bread": "baker oven loaf flour kitchen crust", "trains": "driver station whistle track tunnel signal",
    "stars": "comet telescope planet night moon observer", "music": "violin singer concert drum melody stage",
    "forest": "oak fox path moss hunter owl", "school": "pupil teacher lesson blackboard bell classroom",
    "market": "merchant stall coin apple basket crowd", "winter": "snow sledge glove frost chimney icicle",
    "castle": "king tower knight gate dragon feast", "garden": "rose gardener spade fountain hedge beetle",
    "river": "fisherman bridge trout boat current otter", "clinic": "doctor nurse patient bandage ward fever",
    "theatre": "actor curtain mask balcony audience script", "mountain": "climber rope glacier summit eagle valley",
    "letters": "postman stamp envelope parcel doorstep address",
    "sport": "runner goalkeeper hurdle stadium medal coach",
    "painting": "painter brush canvas portrait studio colour", "farm": "farmer tractor barn goose orchard fence",
}  # fmt: skip
_ADJECTIVES = ("old", "quiet", "small", "bright", "heavy", "strange", "gentle", "famous", "broken", "golden", "hungry")
_VERBS = ("watched", "carried", "forgot", "found", "painted", "followed", "moved", "praised", "hid", "wanted")
_TEMPLATES = (
    "The {a} {x} {v} the {y}.", "Every {x} near the {y} {v} a {a} {z}.", "In the evening the {x} {v} the {a} {y}.",
    "Nobody {v} the {x} because the {y} was {a}.", "A {a} {x} and a {y} {v} the {z}.",
    "When the {x} left, the {a} {y} {v} another {z}.",
)  # fmt: skip


def stimuli(seed: int = 0) -> Stimuli:
    """300 sentences; passages are contiguous, groups are the topics."""
    rng = np.random.default_rng(seed)
    ids, texts, passages, groups = [], [], [], []
    for passage in range(3):
        for topic, nouns in _TOPICS.items():
            for sentence in range(5):
                x, y, z = rng.permutation(nouns.split())[:3]
                a, v = rng.choice(_ADJECTIVES), rng.choice(_VERBS)
                ids.append(f"{topic}.{passage}.{sentence}")
                texts.append(str(rng.choice(_TEMPLATES)).format(x=x, y=y, z=z, a=a, v=v))
                passages.append(f"{topic}.{passage}")
                groups.append(topic)
    return Stimuli(tuple(ids), tuple(texts), tuple(passages), tuple(groups))


def words(sentences: Stimuli) -> Stimuli:
    """The words of the sentences, in order; the passages stay, a word's group is its topic."""
    rows = [
        (f"{sentence}.{k}", word, passage, group)
        for sentence, text, passage, group in zip(
            sentences.ids, sentences.texts, sentences.passages, sentences.groups, strict=True
        )
        for k, word in enumerate(text.split())
    ]
    ids, texts, passages, groups = zip(*rows, strict=True)
    return Stimuli(ids, texts, passages, groups)


def plant_responses(features: Features, sentences: Stimuli, seed: int) -> Floats:
    """Responses that follow the features of one layer.

    Args:
        features: with PLANTED_LAYER, rows are the sentences.
        sentences: in order of presentation.
        seed: of the map, the drift and the noise.

    Returns:
        (sentence, subject x voxel) float32; each column has unit variance in expectation: SIGNAL of it is linear in
        the features, DRIFT is slow within passages and begins afresh in each, NOISE is white.
    """
    rng = np.random.default_rng(seed)
    X = features.values[PLANTED_LAYER][indices_of(sentences.ids, features.row_ids, "planted features")]
    X = _standardise(X.astype(np.float64))
    n, v = len(X), SUBJECTS * VOXELS
    signal = _standardise(X @ rng.standard_normal((X.shape[1], v)))
    drift, noise = rng.standard_normal((n, v)), rng.standard_normal((n, v))
    for row in range(1, n):
        if sentences.passages[row] == sentences.passages[row - 1]:
            drift[row] = PERSISTENCE * drift[row - 1] + np.sqrt(1 - PERSISTENCE**2) * drift[row]
    responses: Floats = np.sqrt(SIGNAL) * signal + np.sqrt(DRIFT) * drift + np.sqrt(NOISE) * noise
    return responses.astype(np.float32)


def plant_reading_times(surprisals: Surprisals, read: Stimuli, seed: int) -> Floats:
    """(word,) milliseconds that grow with surprisal in bits and with the number of characters, plus white noise."""
    rng = np.random.default_rng(seed)
    bits = surprisals.bits[indices_of(read.ids, surprisals.word_ids, "planted surprisals")]
    length = np.array([len(word) for word in read.texts], dtype=np.float64)
    noise: Floats = READING_MS["noise"] * rng.standard_normal(len(bits))
    slow = READING_MS["per bit"] * (bits - bits.mean()) + READING_MS["per character"] * (length - length.mean())
    times: Floats = READING_MS["mean"] + slow + noise
    return times


def _standardise(matrix: Floats) -> Floats:
    centred = matrix - matrix.mean(axis=0)
    deviation = centred.std(axis=0)
    scaled: Floats = centred / np.where(deviation > 0, deviation, 1.0)
    return scaled


def write(root: Path, responses: Floats, reading_ms: Floats, sentences: Stimuli, planted: dict[str, Any]) -> None:
    """Write the recording as Parquet files under root/synthetic, with what was planted beside it."""
    import pandas as pd

    folder = root / "synthetic"
    folder.mkdir(parents=True, exist_ok=True)
    read = words(sentences)
    neuroids = pd.DataFrame(
        [(f"s{s + 1}.v{v + 1:02d}", f"s{s + 1}", "language") for s in range(SUBJECTS) for v in range(VOXELS)],
        columns=["neuroid_id", "subject", "roi"],
    )
    _frame(sentences).to_parquet(folder / "stimuli.parquet")
    pd.DataFrame(responses, columns=neuroids.neuroid_id, index=pd.Index(sentences.ids, name="stimulus_id")).to_parquet(
        folder / "responses.parquet"
    )
    neuroids.to_parquet(folder / "neuroids.parquet")
    _frame(read).assign(reading_ms=reading_ms).to_parquet(folder / "words.parquet")
    (folder / "planted.json").write_text(json.dumps(planted, indent=1))


def _frame(shown: Stimuli) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {"stimulus_id": shown.ids, "text": shown.texts, "passage": shown.passages, "group": shown.groups}
    )


def _stimuli(frame: pd.DataFrame) -> Stimuli:
    return Stimuli(tuple(frame["stimulus_id"]), tuple(frame["text"]), tuple(frame["passage"]), tuple(frame["group"]))


def load(root: Path) -> Dataset:
    """The brain recording: 300 sentences x 60 voxels, z-scores."""
    import pandas as pd

    folder = Path(root) / "synthetic"
    sentences = _stimuli(pd.read_parquet(folder / "stimuli.parquet"))
    neuroids = pd.read_parquet(folder / "neuroids.parquet")
    table = pd.read_parquet(folder / "responses.parquet").loc[list(sentences.ids), list(neuroids.neuroid_id)]
    responses = Responses(
        values=table.to_numpy(np.float32),
        row_ids=sentences.ids,
        row_groups=sentences.groups,
        row_blocks=sentences.passages,
        neuroid_ids=tuple(neuroids.neuroid_id),
        subjects=tuple(neuroids.subject),
        rois=tuple(neuroids.roi),
        unit="z",
    )
    return Dataset(
        "synthetic",
        version_of(sentences, responses),
        sentences,
        responses=responses,
        published_ceiling=SIGNAL**0.5,
        ceiling_source="planted: what language alone can reach",
        is_planted=True,
    )


def load_reading(root: Path) -> Dataset:
    """The reading times: one per word; the first word of a sentence is not scored, as in Futrell2018."""
    import pandas as pd

    frame = pd.read_parquet(Path(root) / "synthetic" / "words.parquet")
    read = _stimuli(frame)
    read = replace(read, sentences=tuple(word.rsplit(".", 1)[0] for word in read.ids))
    first = np.array([word.endswith(".0") for word in read.ids])
    times = frame.reading_ms.to_numpy(np.float64)
    reading = ReadingTimes(read.ids, times, ~first, release="synthetic")
    return Dataset("synthetic-reading", version_of(read, reading), read, reading=reading)


ENTRIES = (
    Entry(
        name="synthetic",
        title="Made-up responses whose answer is known, for the quickstart and tests",
        kind="brain",
        licence="none needed: made by this program",
        load=load,
        protocols=(PAPER, STRICT, equal_dimension(STRICT), BRAINSCORE2026),
    ),
    Entry(
        name="synthetic-reading",
        title="Made-up reading times whose answer is known, for the quickstart and tests",
        kind="reading",
        licence="none needed: made by this program",
        load=load_reading,
        protocols=(READING_PAPER, READING_STRICT),
    ),
)
