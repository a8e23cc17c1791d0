"""The forecast of scores and ceilings from counted sizes."""

import re
from dataclasses import replace

import numpy as np
import pytest

from harness.datasets import lebel2023, pereira2018
from harness.protocol import equal_dimension
from harness.records import Responses
from harness.scoring import costs, extrapolation, remedies, unique_variance

STRICT = pereira2018.STRICT


def recording(made):
    n, v = len(made.groups), made.n_neuroids
    subjects = tuple(name for name, n_own in made.subjects.items() for _ in range(n_own))
    ids = tuple(map(str, range(n)))
    values = np.random.default_rng(0).normal(size=(n, v)).astype(np.float32)
    return Responses(values, ids, made.groups, made.groups, tuple(map(str, range(v))), subjects, ("",) * v, "z")


def test_a_made_up_recording_costs_what_a_loaded_one_of_its_size_costs():
    made = costs.made_up(3, 400, 20, STRICT)
    loaded = costs.of_recording(recording(made[0]), STRICT)
    assert costs.of_score(loaded, STRICT, 4, 64, has_controls=True) == costs.of_score(
        made, STRICT, 4, 64, has_controls=True
    )
    assert costs.of_ceiling(loaded, STRICT) == costs.of_ceiling(made, STRICT)


def test_the_sizes_of_a_fit_are_those_of_its_largest_fold():
    (made,) = costs.made_up(1, 400, 20, STRICT, n_groups=20)
    sizes = costs.sizes_of(made, STRICT, 64, 20)
    assert sizes.n_train == max(len(fold.train) for fold in made.splits)
    assert sizes.n_folds == len(made.splits)
    assert sum(own for own, _ in sizes.blocks) == sizes.n_train
    assert sizes.n_alphas == len(STRICT.regression.alphas)


def test_neuroids_with_other_rows_are_fits_of_their_own():
    (made,) = costs.made_up(2, 400, 20, STRICT)
    half = np.arange(400) < 200
    apart = replace(made, present=((made.present[0][0], 20), (half, 20)))
    whole, divided = (costs.of_score([one], STRICT, 1, 64, has_controls=False) for one in (made, apart))
    assert divided.fits.operations != whole.fits.operations
    assert divided.fits.operations < 2 * whole.fits.operations


def test_delays_widen_the_features_and_components_narrow_them():
    strict = lebel2023.STRICT
    made = costs.made_up(1, 2_000, 50, strict)
    score = costs.of_score(made, strict, 1, 300, has_controls=False)
    one_delay = replace(strict, sampling=replace(strict.sampling, delays=(0,)))
    assert score.fits.operations > costs.of_score(made, one_delay, 1, 300, has_controls=False).fits.operations
    wide, wider = (costs.of_score(made, equal_dimension(strict), 1, p, has_controls=False).n_bytes for p in (300, 9000))
    assert wider == pytest.approx(wide)


def test_unique_variance_is_over_controls_and_the_embeddings_of_the_model():
    """Which are as wide as a layer: their joint fit takes more than that of twice the layer's columns."""
    ridge = pereira2018.STRICT
    made = costs.made_up(1, 6_000, 20, ridge)
    alone, with_controls = (costs.of_score(made, ridge, 1, 500, has_controls=has) for has in (False, True))
    twice = costs.of_score(made, ridge, 1, 1_000, has_controls=False)
    unique = with_controls.fits.operations - alone.fits.operations
    assert unique > len(unique_variance.TRIED) * twice.fits.operations


def test_similarity_of_a_long_recording_is_of_products_of_columns_unless_there_are_too_many():
    def operations(protocol, n_neuroids, n_rows=3_000):
        made = costs.made_up(2, n_rows, n_neuroids, protocol)
        return costs.of_score(made, protocol, 4, 64, has_controls=False).similarity

    paper = pereira2018.PAPER  # draws leave out rows, and all subjects are compared together as well
    assert operations(paper, 50) > operations(STRICT, 50) > 0
    assert operations(paper, 50, 6_000) == pytest.approx(2 * operations(paper, 50))
    assert operations(STRICT, 30_000) == 0
    assert operations(paper, 15_000) < 4 * operations(paper, 10_000)  # 30,000 together are left out


def test_a_single_subject_has_no_ceiling_to_compute():
    assert costs.of_ceiling(costs.made_up(1, 400, 20, STRICT), STRICT).operations == 0


def test_progress_of_ceilings_counts_their_pools():
    (made,) = costs.made_up(3, 60, 4, STRICT)
    seen = []
    extrapolation.collect(
        recording(made).values, recording(made).subjects, made.groups, made.splits, STRICT,
        progress=lambda n_done, n_pools: seen.append((n_done, n_pools)),
    )  # fmt: skip
    assert seen == [(k, 6) for k in range(6)]  # three subjects alone, and three pairs


@pytest.mark.parametrize("numbers", [(0, 100, 5, 0), (1, 0, 5, 0), (1, 100, 5, 200)])
def test_impossible_sizes_are_refused(numbers):
    n_subjects, n_rows, n_neuroids, n_groups = numbers
    with pytest.raises(ValueError, match="give numbers of at least 1"):
        costs.made_up(n_subjects, n_rows, n_neuroids, STRICT, n_groups)


def test_advice_names_only_what_fits():
    made = costs.made_up(2, 2_000, 40_000, STRICT)

    def n_bytes(experiments, protocol):
        return costs.of_score(experiments, protocol, 30, 20_000, has_controls=True).n_bytes

    needed, available = n_bytes(made, STRICT), 0.3 * n_bytes(made, STRICT)
    text = remedies.advice(made, STRICT, n_bytes, available)
    n_fit = int(text.split("at most ")[1].split(" of")[0].replace(",", ""))
    assert n_bytes(remedies.fewer(made, 80_000 // n_fit), STRICT) <= available
    assert ("--protocol equal" in text) == (n_bytes(made, equal_dimension(STRICT)) <= available)
    assert float(re.search(r"a node with (\d+) GB", text)[1]) * 0.9 > needed / 1e9
