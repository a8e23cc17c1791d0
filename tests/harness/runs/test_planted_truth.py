"""Simulated recordings with a known answer, under the real protocols of Pereira2018 and Blank2014.

Three cases are simulated on top of a drift that is slow within a passage or story and independent of the text: no
signal, a signal linear in one layer of a model, and a signal that follows text length alone. The tests check that PAPER
is misled by the drift and that STRICT is not.

The texts come from the grammar of the synthetic data set. As in the real recordings, some subjects took no part in an
experiment or a story, and are NaN there. Many recordings are simulated at once, each as a separate region, so that one
fit gives a row of the table for each.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from harness import datasets
from harness.checkpoints import checkpoints
from harness.datasets import synthetic
from harness.datasets.entry import version_of
from harness.datasets.synthetic import DRIFT, NOISE, SIGNAL
from harness.extraction import backends
from harness.features import controls
from harness.features.controls import characters
from harness.models import tiny
from harness.records import Ceiling, Dataset, Features, Layer, Responses, Stimuli
from harness.scoring.brain_scores import score_layers
from harness.scoring.rows import BrainRows
from harness.scoring.unique_variance import over_controls
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features
from harness.units.score_units import ScoreUnit
from tests.harness.datasets.published import STORIES

NAMES = ("pereira2018", "blank2014")
PLANTED = Layer("decoder", 3)
BESIDE = ("length", "word-rate", "position", "oasm")
SUBJECTS, VOXELS = 4, 3
N_RECORDINGS = 20
PERSISTENCE = 0.9  # coefficient of the drift, a first-order autoregression over rows
# Standard deviation of the untrained weights: that of GPT-2 before training (0.02 at width 768), scaled to this width.
# Attention is then nearly uniform, so that hidden states follow the mean of the prefix, which changes slowly. The tiny
# models' default is larger, so that their blocks differ.
UNTRAINED_RANGE = 0.02 * (768 / tiny.WIDTH) ** 0.5


# --- texts and models -------------------------------------------------------------------------------------------------


def sentences_in_two_experiments() -> tuple[Stimuli, tuple[str, ...]]:
    """Like Pereira2018: 300 sentences in each of two experiments, five per passage, three passages per topic."""
    drawn = {name: synthetic.stimuli(seed) for seed, name in enumerate(("243sentences", "384sentences"))}

    def column(field: str) -> tuple[str, ...]:
        return tuple(f"{name}.{entry}" for name, shown in drawn.items() for entry in getattr(shown, field))

    texts = tuple(text for shown in drawn.values() for text in shown.texts)
    parts = tuple(name for name, shown in drawn.items() for _ in shown.ids)
    return Stimuli(column("ids"), texts, column("passages"), column("groups")), parts


def scans_of_eight_stories(n_scans: int = 45) -> tuple[Stimuli, tuple[str, ...]]:
    """Like Blank2014: two to eight words per scan, with the space after them; a story is one context."""
    rng = np.random.default_rng(0)
    words = iter(" ".join(text for seed in range(4) for text in synthetic.stimuli(seed).texts).split())
    rows = [(story, scan, "".join(f"{next(words)} " for _ in range(rng.integers(2, 9))))
            for story in STORIES for scan in range(n_scans)]  # fmt: skip
    stories = tuple(story for story, *_ in rows)
    ids = tuple(f"{story}.{scan}" for story, scan, _ in rows)
    return Stimuli(ids, tuple(text for *_, text in rows), stories, separator=""), ("",) * len(rows)


SHOWN = dict(zip(NAMES, (sentences_in_two_experiments(), scans_of_eight_stories()), strict=True))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return Store(str(tmp_path_factory.mktemp("out")))


@pytest.fixture(scope="module")
def units(store, tmp_path_factory) -> dict[tuple[str, str], FeatureUnit]:
    """(kind, data set) -> features of the texts by a tiny Llama ("model") or its untrained control ("untrained")."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.build("llama", folder, [text for shown, _ in SHOWN.values() for text in shown.texts], seed=7)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"initializer_range": UNTRAINED_RANGE}))
    checkpoint, extracted = checkpoints.resolve(str(folder)), {}
    for kind, seed in (("model", None), ("untrained", 0)):
        model = backends.load("transformers", checkpoint, "cpu", untrained_seed=seed)
        source = FeatureSource(f"{checkpoint.name}:{kind}", kind, checkpoint.revision, 0, checkpoint)
        for name, (shown, _) in SHOWN.items():
            unit = FeatureUnit(source, shown, datasets.protocols(name)["strict"], states=True, surprisals=False)
            unit.run(model, store)
            extracted[kind, name] = unit
    return extracted


def states(unit: FeatureUnit, store: Store) -> Features:
    features, _ = stored_features(unit, store)
    assert features is not None
    return features


# --- recordings -------------------------------------------------------------------------------------------------------


def drift(blocks: tuple[str, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """Return (row, n) drifts of unit variance, slow within a block and independent between blocks."""
    drifts = rng.standard_normal((len(blocks), n))
    for row in range(1, len(blocks)):
        if blocks[row] == blocks[row - 1]:
            drifts[row] = PERSISTENCE * drifts[row - 1] + (1 - PERSISTENCE**2) ** 0.5 * drifts[row]
    return drifts


def standardised(matrix: np.ndarray) -> np.ndarray:
    centred = matrix.astype(float) - matrix.mean(axis=0)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def recording(name: str, cause: np.ndarray | None = None, n_recordings: int = 1, seed: int = 0) -> Dataset:
    """Simulate `n_recordings` recordings side by side, each a region with all subjects.

    Of a voxel's variance, the fraction SIGNAL is linear in the (row, feature) cause, DRIFT is slow drift, half of it
    shared by the voxels of a subject, and NOISE is white. Without a cause, drift and noise are scaled to unit variance.
    """
    (shown, parts), rng = SHOWN[name], np.random.default_rng(seed)
    subjects = np.tile(np.repeat([f"s{k}" for k in range(SUBJECTS)], VOXELS), n_recordings)
    regions = np.repeat([f"recording {k}" for k in range(n_recordings)], SUBJECTS * VOXELS)
    own, common = (drift(shown.passages, n, rng) for n in (len(subjects), len(subjects) // VOXELS))
    slow = (own + np.repeat(common, VOXELS, axis=1)) / 2**0.5
    values = DRIFT**0.5 * slow + NOISE**0.5 * rng.standard_normal(slow.shape)
    if cause is None:
        values /= (DRIFT + NOISE) ** 0.5
    else:
        weights = rng.standard_normal((cause.shape[1], len(subjects)))
        values += SIGNAL**0.5 * standardised(standardised(cause) @ weights)
    for absent, rows in (
        ("s2", np.isin(parts, "243sentences")), ("s3", np.isin(parts, "384sentences")),
        ("s3", np.isin(shown.passages, ("Aqua", "Tulips"))),
    ):  # fmt: skip
        values[np.ix_(rows, subjects == absent)] = np.nan
    responses = Responses(
        values.astype(np.float32), shown.ids, shown.groups, shown.passages,
        tuple(f"v{k}" for k in range(len(subjects))), tuple(subjects), tuple(regions), "z", row_parts=parts,
    )  # fmt: skip
    return Dataset(name, version_of(shown, responses), shown, responses)


# --- scores, as rows of model_scores ----------------------------------------------------------------------------------


def no_ceiling(dataset: Dataset) -> Ceiling:
    responses = dataset.responses
    unknown = np.full((len(responses.parts), len(responses.neuroid_ids)), np.nan)
    return Ceiling(responses.parts, unknown, ("",) * len(responses.neuroid_ids))


def scores_of(dataset: Dataset, protocol: str, features: Features, *, beside: tuple[str, ...] = ()) -> pd.DataFrame:
    """Compute rows of model_scores by target, without a store."""
    how = datasets.protocols(dataset.name)[protocol]
    fits = score_layers(features, dataset.responses, how)
    rows = BrainRows({}, dataset.responses, fits, no_ceiling(dataset), how, seed=0)
    if beside:
        known = {name: controls.features(name, dataset, 0) for name in beside}
        rows = replace(rows, unique=over_controls(features, rows.chosen("all").layer, known, dataset.responses, how))
    return pd.DataFrame(rows.models()).set_index("target")


def unit_scores(
    dataset: Dataset, protocol: str, source: FeatureSource | FeatureUnit, store: Store, *, beside: tuple[str, ...] = ()
) -> pd.DataFrame:
    """Compute rows of model_scores by target through a stored score unit, for a control or stored features."""
    features = source if isinstance(source, FeatureUnit) else None
    unit = ScoreUnit(
        features.source if features else source, dataset.name, dataset.version,
        datasets.protocols(dataset.name)[protocol], 0, features, tuple(control(name) for name in beside),
    )  # fmt: skip
    unit.run(dataset, no_ceiling(dataset), store)
    with store.open("scores", unit.key) as folder:
        return pd.read_parquet(Path(folder) / "model_scores.parquet").set_index("target")


def control(name: str) -> FeatureSource:
    return FeatureSource(name, "control", "", 0)


def recordings_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each of the recordings simulated at once."""
    selected = rows[rows.index.str.startswith("recording ")]
    assert len(selected) == N_RECORDINGS
    return selected


def max_misses(rate: float = 0.05) -> int:
    """Return the number of N_RECORDINGS 95 % intervals that miss the true value in 1 of 1000 tests (binomial)."""
    return int(stats.binom.ppf(0.999, N_RECORDINGS, rate))


# --- 1. no signal: drift alone ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def drifting(request) -> Dataset:
    """Many recordings without a signal."""
    return recording(request.param, n_recordings=N_RECORDINGS, seed=1)


def test_paper_gives_high_scores_to_time_and_an_untrained_model_on_drift_alone(drifting, units, store):
    time = recordings_of(unit_scores(drifting, "paper", control("oasm"), store))
    untrained = recordings_of(scores_of(drifting, "paper", states(units["untrained", drifting.name], store)))
    assert (time.r_low > 0.3).all()
    assert (untrained.r_low > 0).all()
    assert untrained.r.mean() > 0.25


def test_strict_gives_an_untrained_model_no_score_and_no_unique_variance_on_drift_alone(drifting, units, store):
    scores = scores_of(drifting, "strict", states(units["untrained", drifting.name], store), beside=BESIDE)
    untrained = recordings_of(scores)
    # The score's standard deviation over recordings is 0.03 to 0.05; that of the mean of 20 is about 0.01.
    assert abs(untrained.r.mean()) < 0.03
    assert ((untrained.r_low > 0) | (untrained.r_high < 0)).sum() <= max_misses()
    assert abs(untrained.unique_r2.mean()) < 0.01
    assert ((untrained.unique_low > 0) | (untrained.unique_high < 0)).sum() <= max_misses()
    assert scores.loc["all"].r_low < 0 < scores.loc["all"].r_high
    assert scores.loc["all"].unique_low <= 0 <= scores.loc["all"].unique_high  # both 0 if most neuroids predict nothing


def test_under_strict_time_is_nan_since_its_prediction_is_constant_within_a_new_group(drifting, store):
    time = unit_scores(drifting, "strict", control("oasm"), store)
    assert time[["r", "r_low", "r_high"]].isna().all(axis=None)
    assert (time.n_nan == time.n_neuroids).all()


# --- 2. a signal linear in one layer ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def speaking(request, units, store) -> Dataset:
    """A recording that follows one layer of the model."""
    return recording(request.param, states(units["model", request.param], store).values[PLANTED], seed=2)


def test_strict_finds_the_planted_layer_its_score_and_its_unique_variance(speaking, units, store):
    scores = unit_scores(speaking, "strict", units["model", speaking.name], store, beside=BESIDE).loc["all"]
    n_folds = {"pereira2018": 20, "blank2014": 8}[speaking.name]
    assert (scores.stack, scores.layer, scores.n_folds) == ("decoder", 3, n_folds)
    assert scores.layer_folds >= 0.9 * n_folds
    # A perfect model reaches the square root of the signal's fraction; estimating 48 weights from 270 rows costs some.
    assert scores.r_low > 0.3
    assert 0.75 < scores.r / SIGNAL**0.5 < 1.05
    # R2 is relative to the training mean, so that the drift between passages counts as variance.
    assert scores.unique_low > 0.08
    assert 0.5 < scores.unique_r2 / SIGNAL < 1
    # OASM says nothing about new passages.
    assert scores.unique_over == ", ".join([*(name for name in BESIDE if name != "oasm"), "input-embeddings"])
    untrained = scores_of(speaking, "strict", states(units["untrained", speaking.name], store)).loc["all"]
    assert untrained.r_high < scores.r_low


def test_under_paper_time_looks_as_good_as_the_planted_model(speaking, units, store):
    model = scores_of(speaking, "paper", states(units["model", speaking.name], store)).loc["all"]
    time = unit_scores(speaking, "paper", control("oasm"), store).loc["all"]
    assert time.r > model.r - 0.05
    assert time.r_low > 0.3


# --- 3. a trivial signal: length --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_score_due_to_length_has_no_unique_variance_and_the_controls_explain_it(name, units, store):
    """The model's hidden states encode length in one of 48 directions."""
    untrained = states(units["untrained", name], store)
    length = standardised(characters(SHOWN[name][0].texts)[:, None])
    direction = np.random.default_rng(3).standard_normal((1, tiny.WIDTH))
    counting = standardised(untrained.values[PLANTED]) + length @ direction
    dataset = recording(name, length, seed=4)
    scores = scores_of(dataset, "strict", Features({PLANTED: counting}, untrained.row_ids), beside=BESIDE).loc["all"]
    assert scores.r_low > 0.3
    assert scores.r / SIGNAL**0.5 > 0.8
    assert -0.03 < scores.unique_r2 < 0.01  # 48 weights cost the joint fit some of what length explains
    assert scores.unique_low <= 0 <= scores.unique_high
    assert scores.controls_r2 > 0.1
    # The same signal is unique where length is not among the controls.
    alone = scores_of(dataset, "strict", Features({PLANTED: counting}, untrained.row_ids), beside=("position",)).loc[
        "all"
    ]
    assert alone.unique_low > 0.1
