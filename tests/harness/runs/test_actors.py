"""Fits distributed over a cluster with made-up GPUs on several nodes (arrays on the CPU), and joining a cluster."""

from __future__ import annotations

import os
import time
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import ray
from ray.cluster_utils import Cluster

from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Features, Layer, Responses
from harness.runs import actors, ray_session
from harness.scoring import brain_scores, extrapolation, fitting, folds, held_out
from harness.scoring.unique_variance import over_controls
from harness.storage.store import Store

pytestmark = [pytest.mark.ray, pytest.mark.cluster]

N_ROWS, N_NEUROIDS, LAYERS = 90, 5000, (Layer("decoder", 0), Layer("decoder", 1), Layer("decoder", 2))
ALPHAS = tuple(np.logspace(-2, 7, 10))


@pytest.fixture(scope="module")
def cluster():
    """A head and two workers with two made-up GPUs each."""
    ray.shutdown()
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": 2**27})
    for _ in range(2):
        made.add_node(num_cpus=1, num_gpus=2, object_store_memory=2**27)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def problem():
    rng = np.random.default_rng(0)
    ids = tuple(f"s{i}" for i in range(N_ROWS))
    values = {layer: rng.standard_normal((N_ROWS, 40 + 60 * layer.index)).astype(np.float32) for layer in LAYERS}
    Y = values[LAYERS[1]] @ rng.standard_normal((100, N_NEUROIDS)) / 10 + 2 * rng.standard_normal((N_ROWS, N_NEUROIDS))
    Y[:20, :700] = np.nan  # neuroids that missed a session; the block boundaries cut through them
    groups = tuple(f"g{i // 6}" for i in range(N_ROWS))
    neuroids = tuple(f"n{i}" for i in range(N_NEUROIDS))
    subjects = ("a",) * N_NEUROIDS
    return Features(values, ids), Responses(
        Y.astype(np.float32), ids, groups, groups, neuroids, subjects, subjects, "z"
    )


REGRESSIONS = {
    "own alphas, groups, mixed": Regression("ridge", ALPHAS, inner="groups", scale="zscore", precision="mixed"),
    "own alphas, rows": Regression("ridge", ALPHAS),
    "one alpha for all": Regression("ridge", ALPHAS, per_neuroid=False),
    "least squares": Regression("ols"),
}


@pytest.mark.parametrize("name", REGRESSIONS)
@pytest.mark.parametrize("n_blocks", [1, 2, 5])
def test_scores_do_not_depend_on_the_blocks_and_on_where_they_are_fitted(cluster, problem, name, n_blocks, monkeypatch):
    features, responses = problem
    protocol = Protocol("strict", "none", FoldRule("grouped", n=5), REGRESSIONS[name], "max")
    whole = brain_scores.score_layers(features, responses, protocol)
    edges = np.linspace(0, N_NEUROIDS, n_blocks + 1).astype(int)
    cuts = [slice(int(a), int(b)) for a, b in pairwise(edges)]
    monkeypatch.setattr(fitting, "cut", lambda *_: cuts)
    spread = partial(actors.over_cluster, device="cuda", least_flops=0)
    pieces = brain_scores.score_layers(features, responses, protocol, spread)
    for layer in LAYERS:
        assert np.isfinite(whole[layer].r).mean() > 0.99
        np.testing.assert_array_equal(pieces[layer].alpha, whole[layer].alpha)
        np.testing.assert_allclose(pieces[layer].r, whole[layer].r, rtol=0, atol=1e-6)
        np.testing.assert_allclose(pieces[layer].inner, whole[layer].inner, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(pieces[layer].rank, whole[layer].rank)
        ends = [(fit.at_low, fit.at_high) for fit in (pieces[layer], whole[layer])]
        np.testing.assert_allclose(*ends)


@pytest.mark.parametrize(("n_parts", "n_blocks"), [(1, 1), (1, 3), (2, 1), (5, 2)])
def test_unique_variance_does_not_depend_on_how_folds_and_neuroids_are_divided(
    cluster, problem, n_parts, n_blocks, monkeypatch
):
    features, responses = problem
    protocol = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ridge", ALPHAS, inner="groups"), "max")
    control = features.values[LAYERS[0]][:, :3]
    controls = {"first columns": Features({Layer("control", 0): control}, features.row_ids)}
    whole = over_controls(features, LAYERS[1], controls, responses, protocol)
    divided = fitting._even(5, n_parts), fitting._even(N_NEUROIDS, n_blocks)
    monkeypatch.setattr(fitting, "cut_folds", lambda *_: divided)
    run = partial(actors.by_fold, device="cuda", least_flops=0)
    pieces = over_controls(features, LAYERS[1], controls, responses, protocol, run)
    assert np.isfinite(whole.unique).mean() > 0.99
    assert np.abs(whole.unique).max() > 0.1
    for column in ("joint", "controls", "unique"):
        np.testing.assert_allclose(getattr(pieces, column), getattr(whole, column), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("n_folds", "n_neuroids", "n_workers", "n_parts", "n_blocks"),
    [(10, 400, 2, 2, 1), (10, 30_000, 2, 2, 1), (10, 400, 64, 10, 1), (10, 30_000, 64, 10, 6), (5, 2_500, 64, 5, 2),
     (10, 30_000, 1, 1, 1)],
)  # fmt: skip
def test_folds_are_divided_first_and_neuroids_among_the_workers_that_are_left(
    n_folds, n_neuroids, n_workers, n_parts, n_blocks
):
    parts, blocks = fitting.cut_folds(n_folds, n_neuroids, n_workers)
    assert (len(parts), len(blocks)) == (n_parts, n_blocks)
    for slices, n in ((parts, n_folds), (blocks, n_neuroids)):
        assert [k for one in slices for k in range(n)[one]] == list(range(n))


@pytest.mark.parametrize("n", [1, 2, 9])
def test_ceilings_do_not_depend_on_where_pools_of_subjects_are_computed(cluster, problem, n):
    values = problem[1].values[:, 1000:1012]
    subjects = [f"s{k % 4}" for k in range(12)]
    groups, splits = problem[1].row_groups, folds.make(FoldRule("grouped", n=3), problem[1].row_groups)
    protocol = Protocol("strict", "none", FoldRule("grouped", n=3), Regression("ridge", ALPHAS), "max")
    here = extrapolation.collect(values, subjects, groups, splits, protocol, n_pools=n)
    run = partial(actors.over_cores, least_flops=0)
    there = extrapolation.collect(values, subjects, groups, splits, protocol, n_pools=n, run=run)
    assert here.pools == there.pools
    assert len(here.pools) >= 3
    np.testing.assert_allclose(there.scores, here.scores, rtol=0, atol=1e-10)


def test_predictions_do_not_depend_on_where_folds_are_predicted(cluster, problem):
    features, responses = problem
    protocol = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ridge", ALPHAS), "max")
    chosen = np.repeat([[0], [1], [2], [1], [1]], N_NEUROIDS, axis=1)
    here = held_out.predict(features, responses, protocol, chosen)
    there = held_out.predict(features, responses, protocol, chosen, partial(actors.over_cores, least_flops=0))
    assert len(here) == 5
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(other.rows, one.rows)
        np.testing.assert_allclose(other.predicted, one.predicted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(other.level, one.level, rtol=0, atol=1e-12)


def test_all_gpus_of_all_nodes_are_used(cluster, problem, monkeypatch):
    features, responses = problem
    seen = ray.remote(num_cpus=0)(_Seen).remote()

    def recording_fit(fitting, X, Y, **how):
        ray.get(seen.note.remote(ray.get_runtime_context().get_node_id(), tuple(ray.get_gpu_ids())))
        return original_fit(fitting, X, Y, **how)

    original_fit = fitting.Fitting.fit
    slow = ray.remote(max_retries=0)(lambda fitting, X, Y: recording_fit(fitting, X, Y))
    monkeypatch.setattr(actors, "_fit", slow)
    protocol = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ridge", ALPHAS), "max")
    brain_scores.score_layers(features, responses, protocol, partial(actors.over_cluster, device="cuda", least_flops=0))
    assert len(ray.get(seen.all.remote())) == 4


class _Seen:
    """Records on which node and GPUs fits ran."""

    def __init__(self):
        self.places = set()

    def note(self, node, gpus):
        self.places.add((node, gpus))

    def all(self):
        return self.places


def test_a_fault_in_a_layer_raises_an_error_with_its_name(cluster, problem):
    features, responses = problem
    bad = features.values[LAYERS[1]].copy()
    bad[3, 7] = np.inf
    broken = Features({**features.values, LAYERS[1]: bad}, features.row_ids)
    protocol = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ridge", ALPHAS), "max")
    with pytest.raises(ValueError, match=r"^layer decoder\.1: features: column 7 of 100"):
        brain_scores.score_layers(
            broken, responses, protocol, partial(actors.over_cluster, device="cuda", least_flops=0)
        )


def test_small_problems_are_fitted_in_this_process(problem):
    """They need no cluster."""
    features, responses = problem
    few = Responses(
        responses.values[:, 4000:4010], responses.row_ids, responses.row_groups, responses.row_blocks,
        responses.neuroid_ids[4000:4010], ("a",) * 10, ("a",) * 10, "z",
    )  # fmt: skip
    protocol = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ridge", ALPHAS), "max")
    fits = brain_scores.score_layers(features, few, protocol, partial(actors.over_cluster, device="nowhere"))
    assert np.isfinite(fits[LAYERS[0]].r).all()


@pytest.mark.parametrize(
    ("n_neuroids", "n_layers", "n_workers", "n_blocks"),
    [(25000, 33, 8, 1), (25000, 1, 8, 16), (25000, 5, 8, 4), (60, 1, 8, 1), (2500, 1, 8, 2)],
)
def test_neuroids_are_split_into_blocks_only_if_there_are_fewer_layers_than_workers(
    n_neuroids, n_layers, n_workers, n_blocks
):
    blocks = fitting.cut(n_neuroids, n_layers, n_workers)
    assert len(blocks) == n_blocks
    np.testing.assert_array_equal(np.concatenate([np.arange(n_neuroids)[b] for b in blocks]), np.arange(n_neuroids))


def test_without_an_address_a_local_ray_is_started_even_if_another_cluster_runs_on_the_machine(monkeypatch):
    options = {}
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **how: options.update(how))
    ray_session.start(None)
    assert options["address"] == "local"


@pytest.mark.slow
def test_a_node_that_does_not_see_the_folder_is_named(tmp_path, monkeypatch):
    ray.shutdown()
    ray_session.start(None)
    store = Store(str(tmp_path / "out"))
    store.require_writable()
    ray_session.require_shared(store)
    monkeypatch.setattr(ray_session, "_path_exists", ray.remote(num_cpus=0)(lambda path: False))
    with pytest.raises(ValueError, match=r"node 127\.0\.0\.1 does not see .*out, the folder given by --out"):
        ray_session.require_shared(store)
    assert not list(Path(store.root).glob(".aside-*"))
    ray.shutdown()


@pytest.mark.slow
def test_pieces_that_the_object_store_cannot_hold_are_computed_in_their_process():
    """The recording is an argument of the task that waits for them; it stays in the store, and they would never run."""
    ray.shutdown()
    ray.init(address="local", num_cpus=2, object_store_memory=100 * 2**20, logging_level="ERROR", log_to_driver=False)
    try:
        for n_bytes, is_divided in ((10 * 2**20, True), (60 * 2**20, False)):
            recording = np.ones(n_bytes, dtype=np.uint8)
            values, others = ray.get(_pieces.remote(recording), timeout=60)
            assert values == [n_bytes + k for k in range(5)]
            assert bool(others) == is_divided
            Y = np.ones((n_bytes // 20_000, 5_000), dtype=np.float32)
            done, others = ray.get(_blocks.remote(Y), timeout=60)
            assert (done == 1).all()
            assert bool(others) == is_divided
    finally:
        ray.shutdown()


@ray.remote
def _pieces(recording):
    """Results of pieces that need a copy of the recording, and the processes that computed them, beside this one."""
    found = list(actors.over_cores(_Piece(recording.copy()), 5, 1.0, least_flops=0))
    return [value for value, _ in found], {process for _, process in found} - {os.getpid()}


class _Piece:
    def __init__(self, recording):
        self.recording = recording

    def __call__(self, k):
        return int(self.recording.sum(dtype=np.int64)) + k, os.getpid()


@ray.remote
def _blocks(Y):
    """Likewise of folds."""
    processes = actors.by_fold(_Task(range(4)), Y, 1.0, "cpu", least_flops=0)
    assert processes.shape == (4, Y.shape[1])
    return np.ones_like(processes), set(processes.ravel().tolist()) - {os.getpid()}


class _Task:
    def __init__(self, folds, bytes_of_all=2**20):
        self.folds, self.n_folds, self.bytes_of_all = folds, len(folds), bytes_of_all

    def of_folds(self, which):
        return _Task(self.folds[which])

    def n_bytes(self, n_neuroids):
        return self.bytes_of_all

    def __call__(self, Y, *, on_gpu=False):
        return np.full((self.n_folds, Y.shape[1]), os.getpid())


@pytest.mark.parametrize(("gigabytes", "is_divided"), [(0.1, True), (0.7, False), (5, False)])
def test_folds_are_divided_only_if_there_is_memory_for_two_at_a_time(gigabytes, is_divided):
    """There are two cores, and one gigabyte for tasks."""
    if not ray.is_initialized() or ray.cluster_resources().get("memory") != 1e9:
        ray.shutdown()
        ray.init(address="local", num_cpus=2, _memory=10**9, logging_level="ERROR", log_to_driver=False)
    task, Y = _Task(range(4), gigabytes * 1e9), np.ones((3, 10), dtype=np.float32)
    processes = actors.by_fold(task, Y, 1.0, "cpu", least_flops=0)
    assert (set(processes.ravel().tolist()) != {os.getpid()}) == is_divided


def test_joining_a_cluster_that_does_not_exist_raises_a_clear_error():
    ray.shutdown()
    with pytest.raises(RuntimeError, match=r"could not join a Ray cluster at 127\.0\.0\.1:1 .*harness submit"):
        ray_session.start("127.0.0.1:1")


@pytest.fixture
def node_never_answers_at_first(monkeypatch):
    """Ray's processes start, but the first try does not find its node in the 30 s that Ray waits for it."""
    find, seconds, tries = ray._private.services.get_node, iter((0, 31)), []

    def get_node(*given, **options):
        if not tries:
            tries.append(set(psutil.Process().children()))
            raise RuntimeError("no such node yet")
        return find(*given, **options)

    clock = SimpleNamespace(**vars(time) | {"monotonic": lambda: next(seconds, 31)})
    monkeypatch.setattr(ray._private.services, "get_node", get_node)
    monkeypatch.setattr(ray._private.node, "time", clock)
    return tries


def test_a_local_ray_that_did_not_start_in_time_is_started_again_and_leaves_no_process(node_never_answers_at_first):
    ray.shutdown()
    before = set(psutil.Process().children())
    ray_session.start(None)
    try:
        assert len(of_first := node_never_answers_at_first[0] - before) >= 3
        assert not any(process.is_running() for process in of_first)
        assert ray.get(ray.remote(lambda: 1).remote()) == 1
    finally:
        ray_session.leave()
    assert set(psutil.Process().children()) <= before
