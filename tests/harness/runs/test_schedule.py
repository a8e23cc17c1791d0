"""A score waits for everything that a model has to extract for it: features, and the localiser of its units."""

from collections import defaultdict, deque
from types import SimpleNamespace

import pytest

from harness.runs.model_worker import ExtractionResult
from harness.runs.schedule import Schedule
from harness.runs.workload import ProgressListener
from harness.units.feature_units import FeatureUnit
from harness.units.localiser_units import LocaliserUnit

pytestmark = pytest.mark.ray


class Need:
    """Stands for a unit to extract; it passes for one of the two classes."""

    def __init__(self, kind, stored_as):
        self.__class__ = type("Stand", (Need, kind), {"key": stored_as, "stored_as": stored_as, "__init__": None})
        self.__dict__["source"] = SimpleNamespace(name="m")


@pytest.fixture
def schedule():
    stored, queued = set(), []
    made = Schedule.__new__(Schedule)
    made.store = SimpleNamespace(
        has=lambda kind, key: key in stored, manifest=lambda kind, key: {"n_tokens": 3}, stored=stored
    )
    made.queue = SimpleNamespace(add=queued.append, queued=queued)
    made.waiting, made.ready, made.extracted, made.workload = (
        defaultdict(list), deque(), set(), SimpleNamespace(failures=[]),
    )  # fmt: skip
    made.listener, made.metrics = ProgressListener(), SimpleNamespace(read=lambda *_: None)
    return made


def score_of(*needs):
    return SimpleNamespace(
        needs=needs, localiser=needs[1] if len(needs) > 1 else None, dataset="d", source=SimpleNamespace(name="m"),
        protocol=SimpleNamespace(name="strict"),
    )  # fmt: skip


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_score_of_chosen_units_waits_for_features_and_localiser(schedule, order):
    needs = Need(FeatureUnit, "features"), Need(LocaliserUnit, "localisers")
    whole, chosen, others = score_of(needs[0]), score_of(*needs), score_of(*needs)
    for score in (whole, chosen, others):
        schedule._wait_or_score(score)
    assert schedule.queue.queued == list(needs)  # each once, both at once, so that the model is loaded once
    first, second = (needs[index] for index in order)
    schedule.store.stored.add(first.key)
    schedule._extracted([ExtractionResult(first)])
    assert list(schedule.ready) == ([whole] if first is needs[0] else [])
    schedule.store.stored.add(second.key)
    schedule._extracted([ExtractionResult(second)])
    assert list(schedule.ready) == [whole, chosen, others]
    assert len(schedule.queue.queued) == 2
    assert not schedule.workload.failures


def test_a_score_fails_with_its_localiser(schedule):
    needs = Need(FeatureUnit, "features"), Need(LocaliserUnit, "localisers")
    whole, chosen = score_of(needs[0]), score_of(*needs)
    for score in (whole, chosen):
        schedule._wait_or_score(score)
    schedule.store.stored.add("features")
    schedule._extracted([ExtractionResult(needs[0])])
    schedule._extracted([ExtractionResult(needs[1], error=ValueError("no text"))])
    assert list(schedule.ready) == [whole]
    (failure,) = schedule.workload.failures
    assert failure.message == "no text"
