"""What must hold for every data set of the table, whatever it is: human data given back are found, noise is not.

A new data set is covered by its line in the table: its published files are read where the tests have them, else files
of the published form that a writer makes. Of Pereira2018 and Blank2014 there are also genuine files with made-up
numbers, which are small.
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
from harness.datasets import DATASETS, blank2014, pereira2018, synthetic
from harness.protocol import Protocol
from harness.records import Dataset, Features, Layer, Responses, Surprisals
from harness.scoring import aggregate, folds, reading_times
from harness.scoring.brain_scores import score_layers
from tests.harness.datasets import published, wehbe_files

FORMS: dict[str, Callable[[Path], Dataset]] = {"pereira2018": pereira2018.read, "blank2014": blank2014.read}
N_GIVEN_BACK = 3  # neuroids that stand as features: far fewer than the rows of the smallest training fold
N_SCORED = 50  # neuroids that are scored against noise, of what may be thousands
# Noise is drawn so often that rows x draws are as many: the mean of its scores then has a standard deviation of at most
# 1000^-.5 = .03, also where all neuroids are as one; the tolerance is three of these.
N_NOISE_ROWS, NOISE_TOLERANCE = 1000, 0.1
NOISE_SEED = 2018  # none of the writers', whose data begin with the numbers of their seed


# --- where the data come from -----------------------------------------------------------------------------------------


def write_pereira(root: Path) -> None:
    # Four passages of a topic, so that each of STRICT's folds, which is one topic, has the ten rows it asks for.
    published.pereira(root / pereira2018.ENTRY.files[0].path, published.SMALL.with_passages(4))


def write_blank(root: Path) -> None:
    published.blank(root / blank2014.ENTRY.files[0].path)


def write_synthetic(root: Path) -> None:
    """The quickstart's recordings, planted in made-up features and surprisals instead of a model's."""
    rng, sentences = np.random.default_rng(0), synthetic.stimuli()
    read = synthetic.words(sentences)
    states = Features({synthetic.PLANTED_LAYER: rng.standard_normal((len(sentences), 8))}, sentences.ids)
    others = (np.zeros(len(read)),) * 4
    bits = Surprisals(read.ids, rng.exponential(8.0, len(read)), np.ones(len(read), dtype=int), *others)
    responses = synthetic.plant_responses(states, sentences, seed=0)
    synthetic.write(root, responses, synthetic.plant_reading_times(bits, read, seed=0), sentences, {})


WRITERS: dict[str, Callable[[Path], object]] = {
    "pereira2018": write_pereira,
    "blank2014": write_blank,
    "wehbe2014": wehbe_files.write,
    "synthetic": write_synthetic,
    "synthetic-reading": write_synthetic,
}


PEOPLE = [name for name, entry in DATASETS.items() if entry.kind != "text"]


class Case(NamedTuple):
    """A data set of the table, and how it is loaded anew each time."""

    name: str
    load: Callable[[], Dataset]


@pytest.fixture(scope="module", params=[*PEOPLE, *(f"{name}, genuine form" for name in FORMS)])
def case(request, shared, tmp_path_factory) -> Case:
    name, _, form = request.param.partition(", ")
    if form:
        path = shared / "data" / "forms" / Path(DATASETS[name].files[0].path).name
        return Case(name, lambda: FORMS[name](path))
    if DATASETS[name].files and not datasets.missing(name, shared / "data"):
        return Case(name, lambda: datasets.load(name, shared / "data"))
    if name not in WRITERS:
        pytest.fail(f"{name}: its files are not among the real data; add what writes their form to WRITERS.")
    root = tmp_path_factory.mktemp(name)
    WRITERS[name](root)
    return Case(name, lambda: datasets.load(name, root, pinned=False))


@pytest.fixture(scope="module")
def dataset(case) -> Dataset:
    return case.load()


# --- what is loaded ---------------------------------------------------------------------------------------------------


def measured(dataset: Dataset) -> np.ndarray:
    """The people's data."""
    return dataset.responses.values if dataset.responses else dataset.reading.mean_ms


def test_loading_twice_gives_equal_values_and_the_same_version(case, dataset):
    again = case.load()
    assert again.name == dataset.name == case.name
    assert again.version == dataset.version
    assert again.stimuli.ids == dataset.stimuli.ids
    assert again.stimuli.texts == dataset.stimuli.texts
    np.testing.assert_array_equal(measured(again), measured(dataset))


def test_stimuli_rows_and_neuroids_have_ids_of_their_own_and_passages_are_contiguous(dataset):
    shown, responses = dataset.stimuli, dataset.responses
    columns = [shown.ids, *((responses.row_ids, responses.neuroid_ids) if responses else ())]
    for ids in columns:
        assert len(ids) == len(set(ids)) > 0
        assert all(ids)
    for blocks in (shown.passages, *((responses.row_blocks,) if responses else ())):
        assert len([block for block, _ in groupby(blocks)]) == len(set(blocks))
    assert all(text.strip() for text in shown.texts)


def test_every_row_is_in_a_known_group_and_no_block_of_time_is_in_two_experiments(dataset):
    shown, responses = dataset.stimuli, dataset.responses
    if responses is None:
        assert dataset.reading.word_ids == shown.ids
        return
    if responses.times_s is None:  # rows are stimuli, and in their groups
        group = dict(zip(shown.ids, shown.groups, strict=True))
        assert [group[row] for row in responses.row_ids] == list(responses.row_groups)
    assert all(responses.row_groups)
    blocks = zip(responses.row_blocks, responses.row_parts, strict=True)
    assert len(set(blocks)) == len(set(responses.row_blocks))


# --- what is scored ---------------------------------------------------------------------------------------------------


def protocols_for(dataset: Dataset, responses: Responses) -> dict[str, Protocol]:
    """Those of the data set; a subset too small for the rule of a protocol is divided in two halves of its groups.

    So it is for STRICT on the genuine form of Pereira2018, whose topics are fewer than ten rows each.
    """
    found = {}
    for name, protocol in datasets.protocols(dataset.name).items():
        try:
            folds.make(protocol.folds, responses.row_groups)
        except ValueError:
            protocol = replace(protocol, folds=replace(protocol.folds, kind="grouped", n=2))
        found[name] = protocol
    return found


def by_experiment(dataset: Dataset, n: int) -> list[Responses]:
    """The first n neuroids, or all, of those measured in every row of an experiment; of each experiment."""
    found = []
    for part in dataset.responses.parts if dataset.responses else ():
        within, _ = dataset.responses.of_part(part)
        complete = np.flatnonzero(np.isfinite(within.values).all(axis=0))
        assert len(complete)
        found.append(within.of(np.arange(len(within.row_ids)), complete[:n]))
    return found


def test_responses_given_back_as_features_score_near_1_under_every_protocol(dataset):
    """Only the shrinkage of ridge keeps r from 1."""
    for given in by_experiment(dataset, N_GIVEN_BACK):
        features = Features({Layer("human", 0): given.values}, given.row_ids)
        for name, protocol in protocols_for(dataset, given).items():
            (fit,) = score_layers(features, given, protocol).values()
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
            found = [aggregate.layer_score(fit, target) for fit in fits.values()]
            assert np.isfinite(found).all(), name
            assert abs(np.mean(found)) < NOISE_TOLERANCE, name


def test_reading_times_given_back_score_1_and_random_ones_near_0_under_every_protocol(dataset):
    if dataset.reading is None:
        return
    noise = np.random.default_rng(NOISE_SEED).standard_normal(len(dataset.reading.mean_ms))
    for name, protocol in datasets.protocols(dataset.name).items():
        splits = folds.make(protocol.folds, dataset.stimuli.groups)
        human, random = (
            reading_times.score(given, dataset, protocol, splits) for given in (dataset.reading.mean_ms, noise)
        )
        assert human.r == pytest.approx(1), name
        assert (human.n_missing, random.n_missing) == (0, 0)
        assert abs(random.r) < 4 * random.n_words**-0.5, name  # four standard deviations of an r of noise
        if protocol.reading == "regression":
            assert human.partial_r == pytest.approx(1)
            assert human.delta_ll_low > 1  # nats a word: limited by rounding alone
            assert abs(random.partial_r) < 4 * random.n_regression**-0.5
            assert random.delta_ll < 0.001  # of a few tenths for length
