"""Scores that do not fit into memory become failures before anything is computed; the others go on."""

from dataclasses import replace
from types import SimpleNamespace

import pytest

from harness.protocol import FoldRule
from harness.runs import scoring_forecast
from harness.runs.scoring_forecast import Machine
from harness.runs.workload import ProgressListener, make_workload
from harness.spec import EvaluationSpec
from harness.storage.store import Store
from harness.units import quickstart


class Recorder(ProgressListener):
    def __init__(self):
        self.demands, self.failures = [], []

    def forecast(self, scoring):
        self.demands += scoring

    def failed(self, failure):
        self.failures.append(failure)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    quickstart.build(str(quickstart.folder_of(str(out))), 0)
    spec = EvaluationSpec("x", (), ("synthetic",), protocols=("strict",), controls=("length", "position"))
    return make_workload(spec, str(out), None), Store(str(out))


def admitted(made, free_bytes):
    workload, store = made
    workload.failures.clear()
    listener = Recorder()
    units = scoring_forecast.admit(workload, workload.scores, store, Machine(free_bytes, 2), listener)
    return units, listener, workload


def test_all_scores_are_admitted_with_enough_memory_and_have_forecasts(made):
    units, listener, workload = admitted(made, 64e9)
    assert units == workload.scores
    assert {unit.key for unit in units} <= set(workload.forecasts)
    assert all(demand.n_bytes > 0 and demand.end_s >= demand.start_s for demand in listener.demands)
    assert not workload.failures


def test_scores_without_memory_are_failures_that_name_both_figures(made):
    units, listener, workload = admitted(made, 1e8)
    assert units == []
    assert len(workload.failures) == len(listener.failures) == len(workload.scores) > 0
    failure = workload.failures[0]
    assert failure.exception == "DoesNotFitError"
    assert "a node has 0.1 GB" in failure.message


def test_a_recording_without_folds_is_left_to_fail_when_it_is_scored(made):
    workload, store = made
    protocol = replace(workload.scores[0].protocol, folds=FoldRule("kfold", n=10_000))
    units = [replace(unit, protocol=protocol) for unit in workload.scores]
    assert scoring_forecast.admit(workload, units, store, Machine(64e9, 2), Recorder()) == units


def test_a_ceiling_that_does_not_fit_refuses_its_scores_alone():
    ceiling = SimpleNamespace(refused="its ceilings need more.")
    workload = SimpleNamespace(forecasts={"a strict": ceiling})
    units = [SimpleNamespace(dataset=name, protocol=SimpleNamespace(name="strict"), key=name) for name in "ab"]
    assert [scoring_forecast._refused(unit, workload) for unit in units] == ["a: its ceilings need more.", ""]


def test_the_rate_of_a_core_is_measured():
    assert 1e8 < scoring_forecast.core_flops() < 1e13
