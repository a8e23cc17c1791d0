"""Recordings whose answer is known, under the real protocols of Pereira2018 and Blank2014.

Three truths are planted beside a drift that is slow within a passage or story and says nothing of the text: no signal
at all, a signal that is linear in one layer of a model, and one that follows the length of what is shown and nothing
else. PAPER must be fooled and STRICT must not, or the harness does not measure what it says.

The texts are made by the grammar of the synthetic data set; as in the real recordings some subjects took no part in an
experiment or in a story, and are NaN there. Many recordings are made at once: each is a region of its own, so that one
fit gives a row of the table for every one of them.
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
PERSISTENCE = 0.9  # of the drift from one row to the next: a first-order autoregression
# Weights as wide, for the model's width, as those of GPT-2 before its training: a standard deviation of .02 x 768^.5
# over the root of the width. The attention of such a network is flat, so that its states follow the mean of the text so
# far, which is slow; tiny models are drawn wider, for the sake of blocks that differ.
UNTRAINED_RANGE = 0.02 * (768 / tiny.WIDTH) ** 0.5


# --- texts and models -------------------------------------------------------------------------------------------------


def sentences_in_two_experiments() -> tuple[Stimuli, tuple[str, ...]]:
    """As Pereira2018: 300 sentences in each of two experiments, five in a passage, three passages on a topic."""
    drawn = {name: synthetic.stimuli(seed) for seed, name in enumerate(("243sentences", "384sentences"))}

    def column(field: str) -> tuple[str, ...]:
        return tuple(f"{name}.{entry}" for name, shown in drawn.items() for entry in getattr(shown, field))

    texts = tuple(text for shown in drawn.values() for text in shown.texts)
    parts = tuple(name for name, shown in drawn.items() for _ in shown.ids)
    return Stimuli(column("ids"), texts, column("passages"), column("groups")), parts


def scans_of_eight_stories(n_scans: int = 45) -> tuple[Stimuli, tuple[str, ...]]:
    """As Blank2014: the words of a scan, two to eight, with the space after them; a story is one context."""
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
def read(store, tmp_path_factory) -> dict[tuple[str, str], FeatureUnit]:
    """(kind, data set) -> what a tiny Llama, or its untrained twin, gives for the texts in their contexts."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny.build("llama", folder, [text for shown, _ in SHOWN.values() for text in shown.texts], seed=7)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"initializer_range": UNTRAINED_RANGE}))
    checkpoint, found = checkpoints.resolve(str(folder)), {}
    for kind, seed in (("model", None), ("untrained", 0)):
        model = backends.load("transformers", checkpoint, "cpu", untrained_seed=seed)
        source = FeatureSource(f"{checkpoint.name}:{kind}", kind, checkpoint.revision, 0, checkpoint)
        for name, (shown, _) in SHOWN.items():
            unit = FeatureUnit(source, shown, datasets.protocols(name)["strict"], states=True, surprisals=False)
            unit.run(model, store)
            found[kind, name] = unit
    return found


def states(unit: FeatureUnit, store: Store) -> Features:
    features, _ = stored_features(unit, store)
    assert features is not None
    return features


# --- recordings -------------------------------------------------------------------------------------------------------


def drift(blocks: tuple[str, ...], n: int, rng: np.random.Generator) -> np.ndarray:
    """(row, n) of unit variance, slow within a block; it begins afresh in each."""
    courses = rng.standard_normal((len(blocks), n))
    for row in range(1, len(blocks)):
        if blocks[row] == blocks[row - 1]:
            courses[row] = PERSISTENCE * courses[row - 1] + (1 - PERSISTENCE**2) ** 0.5 * courses[row]
    return courses


def standardised(matrix: np.ndarray) -> np.ndarray:
    centred = matrix.astype(float) - matrix.mean(axis=0)
    deviation = centred.std(axis=0)
    return centred / np.where(deviation > 0, deviation, 1.0)


def recording(name: str, cause: np.ndarray | None = None, n_recordings: int = 1, seed: int = 0) -> Dataset:
    """`n_recordings` recordings side by side, each a region with all subjects.

    SIGNAL of a voxel's variance is linear in the (row, feature) cause, DRIFT is slow, half of it common to the voxels
    of a subject, NOISE is white; without a cause the signal's share falls to the other two.
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


# --- scores, as they stand in model_scores ----------------------------------------------------------------------------


def no_ceiling(dataset: Dataset) -> Ceiling:
    responses = dataset.responses
    unknown = np.full((len(responses.parts), len(responses.neuroid_ids)), np.nan)
    return Ceiling(responses.parts, unknown, ("",) * len(responses.neuroid_ids))


def scores_of(dataset: Dataset, protocol: str, features: Features, *, beside: tuple[str, ...] = ()) -> pd.DataFrame:
    """Rows of model_scores by target, from the stations themselves."""
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
    """Rows of model_scores by target, as a run stores them: of a control, or of a model whose states are stored."""
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
    """The row of each of the recordings that were made at once."""
    found = rows[rows.index.str.startswith("recording ")]
    assert len(found) == N_RECORDINGS
    return found


def most_that_chance_allows(share: float = 0.05) -> int:
    """Of N_RECORDINGS intervals of 95 % more leave out the truth in less than one of a thousand such tests."""
    return int(stats.binom.ppf(0.999, N_RECORDINGS, share))


# --- 1. no signal: drift alone ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def drifting(request) -> Dataset:
    """Many recordings with no signal in them."""
    return recording(request.param, n_recordings=N_RECORDINGS, seed=1)


def test_under_paper_drift_alone_gives_time_and_an_untrained_model_high_scores(drifting, read, store):
    time = recordings_of(unit_scores(drifting, "paper", control("oasm"), store))
    twin = recordings_of(scores_of(drifting, "paper", states(read["untrained", drifting.name], store)))
    assert (time.r_low > 0.3).all()
    assert (twin.r_low > 0).all()
    assert twin.r.mean() > 0.25


def test_under_strict_drift_alone_gives_an_untrained_model_nothing_and_nothing_beyond_the_controls(
    drifting, read, store
):
    found = scores_of(drifting, "strict", states(read["untrained", drifting.name], store), beside=BESIDE)
    twin = recordings_of(found)
    # The mean over 20 recordings of a score whose standard deviation over them is .03 to .05 has one of about .01.
    assert abs(twin.r.mean()) < 0.03
    assert ((twin.r_low > 0) | (twin.r_high < 0)).sum() <= most_that_chance_allows()
    assert abs(twin.unique_r2.mean()) < 0.01
    assert ((twin.unique_low > 0) | (twin.unique_high < 0)).sum() <= most_that_chance_allows()
    assert found.loc["all"].r_low < 0 < found.loc["all"].r_high
    assert found.loc["all"].unique_low < 0 < found.loc["all"].unique_high


def test_under_strict_time_cannot_be_measured_since_it_predicts_one_number_for_all_rows_of_a_new_group(drifting, store):
    time = unit_scores(drifting, "strict", control("oasm"), store)
    assert time[["r", "r_low", "r_high"]].isna().all(axis=None)
    assert (time.n_nan == time.n_neuroids).all()


# --- 2. a signal that is linear in one layer --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=NAMES)
def speaking(request, read, store) -> Dataset:
    """A recording that follows one layer of the model."""
    return recording(request.param, states(read["model", request.param], store).values[PLANTED], seed=2)


def test_strict_finds_the_planted_layer_its_score_and_its_unique_variance(speaking, read, store):
    found = unit_scores(speaking, "strict", read["model", speaking.name], store, beside=BESIDE).loc["all"]
    n_folds = {"pereira2018": 20, "blank2014": 8}[speaking.name]
    assert (found.stack, found.layer, found.n_folds) == ("decoder", 3, n_folds)
    assert found.layer_folds >= 0.9 * n_folds
    # What knows the signal exactly reaches the root of its share; 48 weights from 270 rows cost some of it.
    assert found.r_low > 0.3
    assert 0.75 < found.r / SIGNAL**0.5 < 1.05
    # Shares are of the variance within test rows, of which drift leaves out the part between passages: so a little more
    # than the planted share would be reached by what knows the signal.
    assert found.unique_low > 0.1
    assert 0.6 < found.unique_r2 / SIGNAL < 1.1
    assert found.unique_over == ", ".join(BESIDE)
    twin = scores_of(speaking, "strict", states(read["untrained", speaking.name], store)).loc["all"]
    assert twin.r_high < found.r_low


def test_under_paper_time_looks_as_good_as_the_planted_model(speaking, read, store):
    model = scores_of(speaking, "paper", states(read["model", speaking.name], store)).loc["all"]
    time = unit_scores(speaking, "paper", control("oasm"), store).loc["all"]
    assert time.r > model.r - 0.05
    assert time.r_low > 0.3


# --- 3. a trivial signal: length --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_score_that_is_owed_to_length_leaves_no_unique_variance_and_the_controls_hold_it(name, read, store):
    """The model's states carry length in one direction among 48."""
    twin = states(read["untrained", name], store)
    length = standardised(characters(SHOWN[name][0].texts)[:, None])
    direction = np.random.default_rng(3).standard_normal((1, tiny.WIDTH))
    counting = standardised(twin.values[PLANTED]) + length @ direction
    dataset = recording(name, length, seed=4)
    found = scores_of(dataset, "strict", Features({PLANTED: counting}, twin.row_ids), beside=BESIDE).loc["all"]
    assert found.r_low > 0.3
    assert found.r / SIGNAL**0.5 > 0.8
    assert abs(found.unique_r2) < 0.01
    assert found.unique_low <= 0 <= found.unique_high
    assert found.controls_r2 > 0.1
    # The same signal is unique where length is not among the controls.
    alone = scores_of(dataset, "strict", Features({PLANTED: counting}, twin.row_ids), beside=("position",)).loc["all"]
    assert alone.unique_low > 0.1
