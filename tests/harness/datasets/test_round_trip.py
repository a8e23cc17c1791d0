"""Properties of every data set of the table: human data used as features score near 1, noise scores near 0.

A new data set is covered once it is in the table: its published files are read if they are available, else files of the
published format written by a writer. For Pereira2018 and Blank2014 there are also small files in the original format
with synthetic numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from harness import datasets
from harness.datasets import DATASETS, blank2014, fedorenko2016, pereira2018, synthetic, tuckute2024
from harness.protocol import Protocol
from harness.records import Dataset, Features, Layer, Responses, Surprisals
from harness.scoring import aggregate, folds, reading_times
from harness.scoring.brain_scores import score_layers
from tests.harness.datasets import lebel_files, published, wehbe_files, wehbe_mat_files

FORMS: dict[str, Callable[[Path], Dataset]] = {"pereira2018": pereira2018.read, "blank2014": blank2014.read}
N_AS_FEATURES = 3  # neuroids used as features: far fewer than the rows of the smallest training fold
N_SCORED = 50  # neuroids scored with noise features, out of possibly thousands
# Noise is drawn until rows x draws reach this number. The mean of its scores then has a standard deviation of at most
# 1000^-0.5 = 0.03, even if all neuroids are identical; the tolerance is three standard deviations.
N_NOISE_ROWS, NOISE_TOLERANCE = 1000, 0.1
NOISE_SEED = 2018  # differs from the seeds of the writers


# --- where the data come from -----------------------------------------------------------------------------------------


def write_pereira(root: Path) -> None:
    # Four passages per topic, so that each fold of STRICT, which is one topic, has the required ten rows.
    published.pereira(root / pereira2018.ENTRY.files[0].path, published.SMALL.with_passages(4))


def write_blank(root: Path) -> None:
    published.blank(root / blank2014.ENTRY.files[0].path)


def write_fedorenko(root: Path) -> None:
    published.fedorenko(root / fedorenko2016.ENTRY.files[0].path)


def write_tuckute(root: Path) -> None:
    published.tuckute_archive(root / tuckute2024.PARTICIPANTS.files[0].path)
    published.tuckute_assembly(root / tuckute2024.BRAINSCORE.files[0].path)


def write_lebel(root: Path) -> None:
    lebel_files.write(root)


def write_petit_prince(language: str) -> Callable[[Path], object]:
    def write(root: Path) -> None:
        pytest.importorskip("nibabel")
        from tests.harness.datasets import lpp_files

        lpp_files.write(root, language)

    return write


def write_narratives(root: Path) -> None:
    """Two subjects who heard the same stories, so that there are neuroids with values in all rows."""
    pytest.importorskip("nibabel")
    from tests.harness.datasets import narratives_files

    heard = ("tunnel", "slumlordreach", "milkyway original")
    narratives_files.write(root, {"sub-001": heard, "sub-002": heard})


def write_synthetic(root: Path) -> None:
    """The recordings of the quickstart, planted in random features and surprisals instead of those of a model."""
    rng, sentences = np.random.default_rng(0), synthetic.stimuli()
    words = synthetic.words(sentences)
    states = Features({synthetic.PLANTED_LAYER: rng.standard_normal((len(sentences), 8))}, sentences.ids)
    others = (np.zeros(len(words)),) * 4
    surprisals = Surprisals(words.ids, rng.exponential(8.0, len(words)), np.ones(len(words), dtype=int), *others)
    responses = synthetic.plant_responses(states, sentences, seed=0)
    synthetic.write(root, responses, synthetic.plant_reading_times(surprisals, words, seed=0), sentences, {})


WRITERS: dict[str, Callable[[Path], object]] = {
    "pereira2018": write_pereira,
    "blank2014": write_blank,
    "fedorenko2016": write_fedorenko,
    "lebel2023": write_lebel,
    "lepetitprince-en": write_petit_prince("EN"),
    "lepetitprince-fr": write_petit_prince("FR"),
    "lepetitprince-zh": write_petit_prince("CN"),
    "narratives": write_narratives,
    "tuckute2024-participants": write_tuckute,
    "tuckute2024-brainscore": write_tuckute,
    "wehbe2014": wehbe_files.write,
    "wehbe2014-authors": wehbe_mat_files.write,
    "synthetic": write_synthetic,
    "synthetic-reading": write_synthetic,
}


HUMAN = [name for name, entry in DATASETS.items() if entry.kind != "text"]


class Case(NamedTuple):
    """A data set of the table, and a function that loads it."""

    name: str
    load: Callable[[], Dataset]


@pytest.fixture(scope="module", params=[*HUMAN, *(f"{name}, original format" for name in FORMS)])
def case(request, shared, tmp_path_factory) -> Case:
    name, _, form = request.param.partition(", ")
    if form:
        path = shared / "data" / "forms" / Path(DATASETS[name].files[0].path).name
        return Case(name, lambda: FORMS[name](path))
    if DATASETS[name].files and not datasets.missing(name, shared / "data"):
        return Case(name, lambda: datasets.load(name, shared / "data"))
    if name not in WRITERS:
        pytest.fail(f"{name}: its files are not available; add a writer of their format to WRITERS.")
    root = tmp_path_factory.mktemp(name)
    WRITERS[name](root)
    return Case(name, lambda: datasets.load(name, root, pinned=False))


@pytest.fixture(scope="module")
def dataset(case) -> Dataset:
    return case.load()


# --- what is loaded ---------------------------------------------------------------------------------------------------


def measured(dataset: Dataset) -> np.ndarray:
    """The human data."""
    return dataset.responses.values if dataset.responses else dataset.reading.mean_ms


def test_loading_twice_gives_equal_values_and_the_same_version(case, dataset):
    again = case.load()
    assert again.name == dataset.name == case.name
    assert again.version == dataset.version
    assert again.stimuli.ids == dataset.stimuli.ids
    assert again.stimuli.texts == dataset.stimuli.texts
    np.testing.assert_array_equal(measured(again), measured(dataset))


def test_ids_are_unique_and_passages_are_contiguous(dataset):
    shown, responses = dataset.stimuli, dataset.responses
    columns = [shown.ids, *((responses.row_ids, responses.neuroid_ids) if responses else ())]
    for ids in columns:
        assert len(ids) == len(set(ids)) > 0
        assert all(ids)
    for blocks in (shown.passages, *((responses.row_blocks,) if responses else ())):
        assert len([block for block, _ in groupby(blocks)]) == len(set(blocks))
    assert all(text.strip() for text in shown.texts)


def test_every_row_has_a_group_and_no_block_of_time_is_in_two_experiments(dataset):
    shown, responses = dataset.stimuli, dataset.responses
    if responses is None:
        assert dataset.reading.word_ids == shown.ids
        return
    if responses.times_s is None:  # rows are stimuli and have their groups
        group = dict(zip(shown.ids, shown.groups, strict=True))
        assert [group[row] for row in responses.row_ids] == list(responses.row_groups)
    assert all(responses.row_groups)
    blocks = zip(responses.row_blocks, responses.row_parts, strict=True)
    assert len(set(blocks)) == len(set(responses.row_blocks))


# --- what is scored ---------------------------------------------------------------------------------------------------


def protocols_for(dataset: Dataset, responses: Responses) -> dict[str, Protocol]:
    """Protocols of the data set; if a subset is too small for the folds of one, its groups are split in two halves.

    This concerns STRICT on the original-format file of Pereira2018, whose topics have fewer than ten rows each.
    """
    protocols = {}
    for name, protocol in datasets.protocols(dataset.name).items():
        try:
            folds.make(protocol.folds, responses.row_groups)
        except ValueError:
            protocol = replace(protocol, folds=replace(protocol.folds, kind="grouped", n=2))
        protocols[name] = protocol
    return protocols


def by_experiment(dataset: Dataset, n: int) -> list[Responses]:
    """For each experiment, at most the first n neuroids measured in all its rows."""
    by_part = []
    for part in dataset.responses.parts if dataset.responses else ():
        within, _ = dataset.responses.of_part(part)
        complete = np.flatnonzero(np.isfinite(within.values).all(axis=0))
        assert len(complete)
        by_part.append(within.of(np.arange(len(within.row_ids)), complete[:n]))
    return by_part


def test_responses_as_features_score_near_1_under_every_protocol(dataset):
    """Only the shrinkage of ridge keeps r below 1."""
    for responses in by_experiment(dataset, N_AS_FEATURES):
        features = Features({Layer("human", 0): responses.values}, responses.row_ids)
        for name, protocol in protocols_for(dataset, responses).items():
            (fit,) = score_layers(features, responses, protocol).values()
            assert np.isfinite(fit.r).all(), name
            assert fit.r.min() > 0.99, name


def test_noise_as_features_scores_near_0_under_every_protocol(dataset):
    rng = np.random.default_rng(NOISE_SEED)
    for scored in by_experiment(dataset, N_SCORED):
        shape = (len(scored.row_ids), 5)
        draws = {Layer("noise", k): rng.standard_normal(shape) for k in range(-(-N_NOISE_ROWS // shape[0]))}
        for name, protocol in protocols_for(dataset, scored).items():
            fits = score_layers(Features(draws, scored.row_ids), scored, protocol)
            target = aggregate.targets(scored)["all"]
            scores = [aggregate.layer_score(fit, target) for fit in fits.values()]
            assert np.isfinite(scores).all(), name
            assert abs(np.mean(scores)) < NOISE_TOLERANCE, name


def test_reading_times_as_predictor_score_1_and_random_ones_near_0_under_every_protocol(dataset):
    if dataset.reading is None:
        return
    noise = np.random.default_rng(NOISE_SEED).standard_normal(len(dataset.reading.mean_ms))
    for name, protocol in datasets.protocols(dataset.name).items():
        splits = folds.make(protocol.folds, dataset.stimuli.groups)
        human, random = (
            reading_times.score(predictor, dataset, protocol, splits) for predictor in (dataset.reading.mean_ms, noise)
        )
        assert human.r == pytest.approx(1), name
        assert (human.n_missing, random.n_missing) == (0, 0)
        assert abs(random.r) < 4 * random.n_words**-0.5, name  # four standard deviations of r under noise
        if protocol.reading == "regression":
            assert human.partial_r == pytest.approx(1)
            assert human.delta_ll_low > 1  # nats per word: limited only by rounding
            assert abs(random.partial_r) < 4 * random.n_regression**-0.5
            assert random.delta_ll < 0.001  # length alone gives a few tenths
