"""Ceilings of a recording: computed once, stored, and read again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Dataset, ReadingTimes, Responses, Stimuli
from harness.scoring import ceilings
from harness.storage.store import Store
from harness.units import ceiling_units

PROTOCOL = Protocol(
    "strict", "none", FoldRule("grouped", n=3), Regression("ridge", (10.0,), scale="zscore"), "nested",
    aggregate="by subject", ceiling_curve="reliability",
)  # fmt: skip


def recording() -> Dataset:
    """Two experiments of 30 rows; three subjects in the first, the first two of them in the second."""
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((60, 1)) + 0.5 * rng.standard_normal((60, 6))).astype(np.float32)
    values[30:, 4:] = np.nan
    rows, groups = tuple(f"r{k}" for k in range(60)), tuple(f"g{k // 5}" for k in range(60))
    parts = ("one",) * 30 + ("two",) * 30
    names, subjects = tuple(f"n{k}" for k in range(6)), ("a", "a", "b", "b", "c", "c")
    responses = Responses(values, rows, groups, groups, names, subjects, ("",) * 6, "z", row_parts=parts)
    published = {"one": 0.9, "two": 0.4}
    return Dataset("made", "1", Stimuli(rows, rows, rows), responses, None, published, "published (nowhere)")


def test_stored_ceilings_are_read_as_they_were_computed(tmp_path, monkeypatch):
    dataset, store = recording(), Store(str(tmp_path))
    first = ceiling_units.compute_ceiling(dataset, PROTOCOL, store)
    monkeypatch.setattr(ceilings, "of_responses", None)  # not computed again
    second = ceiling_units.compute_ceiling(dataset, PROTOCOL, store)
    for name in ("values", "low", "high", "n_subjects", "n_sizes"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
    for computed, stored in zip(first.growth, second.growth, strict=True):
        np.testing.assert_array_equal(computed.scores, stored.scores)
        assert computed.fold_correlation == stored.fold_correlation
    assert first.kinds == second.kinds


def test_each_experiment_has_the_ceilings_of_its_subjects(tmp_path):
    dataset = recording()
    found = ceiling_units.compute_ceiling(dataset, PROTOCOL, Store(str(tmp_path)))
    assert found.n_sizes.tolist() == [[2] * 6, [1] * 4 + [0] * 2]
    assert found.n_subjects.tolist() == [[3] * 6, [2] * 4 + [0] * 2]
    assert np.isnan(found.values[1, 4:]).all()
    assert np.isfinite(found.values[0]).all()
    assert set(found.kinds) == {ceilings.EXTRAPOLATED, ceilings.OTHER_SUBJECTS}
    for growth, part in zip(found.growth, ("one", "two"), strict=True):
        own = ceilings.of_responses(dataset.responses.of_part(part)[0], PROTOCOL).growth
        np.testing.assert_array_equal(growth.scores[:, :, : own.scores.shape[2]], own.scores)


def test_a_published_ceiling_is_used_where_none_can_be_computed(tmp_path):
    dataset = recording()
    alone = replace(dataset, responses=replace(dataset.responses, subjects=("a",) * 6))
    found = ceiling_units.compute_ceiling(alone, PROTOCOL, Store(str(tmp_path)))
    np.testing.assert_array_equal(found.values, [[0.9] * 6, [0.4] * 4 + [np.nan] * 2])
    assert set(found.kinds) == {"published (nowhere)"}
    assert np.isnan(found.low).all()


def test_reading_times_have_an_interval_and_their_number_of_readers(tmp_path):
    rng = np.random.default_rng(0)
    times = 300 + 20 * rng.standard_normal((100, 1)) + 40 * rng.standard_normal((100, 12))
    words = tuple(f"w{k}" for k in range(100))
    reading = ReadingTimes(
        words, times.mean(axis=1), np.ones(100, bool), "r", tuple("abcdefghijkl"), times.astype(np.float32)
    )
    dataset = Dataset("made", "1", Stimuli(words, words, ("p",) * 100, sentences=("s",) * 100), reading=reading)
    found = ceiling_units.compute_ceiling(dataset, PROTOCOL, Store(str(tmp_path)))
    assert 0 < found.low.item() < found.values.item() < found.high.item() < 1
    assert found.n_subjects.item() == 12
