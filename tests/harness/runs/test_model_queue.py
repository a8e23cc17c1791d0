"""The model queue on a made-up cluster of 3 nodes and 16 GPUs: placement, and recovery of lost actors."""

from __future__ import annotations

import os
import time
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import ray
from ray.cluster_utils import Cluster

from harness.checkpoints.checkpoints import Checkpoint
from harness.cluster.machines import Cluster as Nodes
from harness.cluster.machines import Node
from harness.cluster.placement import Need, Placement
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Stimuli
from harness.runs import actors, model_queue, reservations
from harness.runs.model_queue import ModelQueue, WorkerRules
from harness.runs.occupancy import PATIENCE_S, Occupancy
from harness.runs.workload import ProgressListener
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]

SIZES = [70e9, 65e9, 33e9, 30e9, 13e9, 13e9, 12e9, 8e9, 7e9, 7e9, 3e9, 1e9, 4e8, 7e7]
PROTOCOL = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ols"), "max")


@ray.remote(max_restarts=0)
class Recorder:
    """Replaces ModelActor: records its node, GPUs and times; the text of a unit says what happens to the actor."""

    def __init__(self, checkpoint, out, device, placement, allow_pickle):
        self.checkpoint, self.store = checkpoint, Store(out)

    def where(self):
        return ray.get_runtime_context().get_node_id(), tuple(int(gpu) for gpu in ray.get_gpu_ids())

    def become(self, checkpoint, placement):
        self.checkpoint = checkpoint

    def extract(self, unit):
        started, (word,) = time.time(), unit.stimuli.texts
        if word == "kills" or (word == "kills once" and self.store.manifest("features", "first") is None):
            self.store.put("features", "first", lambda folder: (folder / "f").write_text(""), {})
            os._exit(1)
        if word == "stored, then kills":
            self._put(unit, started)
            os._exit(1)
        if word == "wrong":
            raise ValueError("a text that cannot be processed")
        time.sleep(0.15)
        self._put(unit, started)
        return 0.15

    def _put(self, unit, started):
        facts = {
            "started": started,
            "ended": time.time(),
            "gpus": ray.get_gpu_ids(),
            "node": self.where()[0],
            "pid": os.getpid(),
        }
        self.store.put("features", unit.key, lambda folder: (folder / "f").write_text(""), facts)


@pytest.fixture(scope="module")
def cluster():
    ray.shutdown()
    memory = {"object_store_memory": 2**27}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    for n_gpus in (8, 4, 4):
        made.add_node(num_cpus=2, num_gpus=n_gpus, labels={reservations.LABEL: "80"}, **memory)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setattr(actors, "ModelActor", Recorder)
    return Store(str(tmp_path))


def unit_of(name, n_parameters, word="normal"):
    """A feature unit of a model of the given size."""
    checkpoint = Checkpoint(
        name, "", f"revision of {name}", "llama", int(n_parameters), 32, 4096, 32000, 2048, False, ""
    )
    stimuli = Stimuli(("s0",), (word,), ("p",), ("p",), None)
    return FeatureUnit(
        FeatureSource(name, "model", checkpoint.revision, 0, checkpoint), stimuli, PROTOCOL, True, False, "bfloat16"
    )


def finish(queue, seconds=60):
    """Run a queue until it is empty; return all results."""
    results, until = [], time.monotonic() + seconds
    while True:
        results += queue.admit()
        if not (queue.running or queue.is_waiting):
            return results
        assert time.monotonic() < until
        ended, _ = ray.wait(list(queue.running), timeout=0.2) if queue.running else ([], [])
        for reference in ended:
            results += queue.take(reference)
        results += queue.look_around()


def test_actors_run_where_they_are_placed_largest_first_and_no_gpu_is_overcommitted(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener())
    units = [unit_of(f"m{k}", size) for k, size in enumerate(SIZES)]
    for unit in units:
        queue.add(unit)
    results = finish(queue)
    assert sorted(result.unit.source.name for result in results if not result.error) == sorted(
        f"m{k}" for k in range(14)
    )
    placements = {checkpoint.name: placement for checkpoint, placement in queue.placements.items()}
    for name, (node, gpus) in queue.landed.items():
        assert (node, len(gpus)) == (placements[name].node, placements[name].n_gpus), name
    assert placements["m0"].n_gpus in {2, 3, 4}
    facts = {unit.source.name: store.manifest("features", unit.key) for unit in units}
    _assert_no_gpu_is_overcommitted(facts, placements)
    first = sorted(facts, key=lambda name: placements[name].order)[:2]
    assert first == ["m0", "m1"]


def _assert_no_gpu_is_overcommitted(facts, placements):
    events = defaultdict(list)
    for name, fact in facts.items():
        for gpu in fact["gpus"]:
            events[fact["node"], gpu] += [
                (fact["started"], placements[name].gpu_share),
                (fact["ended"], -placements[name].gpu_share),
            ]
    for changes in events.values():
        used = 0
        for _, change in sorted(changes):
            used += change
            assert used <= 1 + 1e-6


def test_small_models_share_a_process_one_after_the_other_and_large_ones_do_not(cluster, store):
    queue = ModelQueue(store, "cpu", ProgressListener())
    small = [unit_of(f"small{k}", 1e6, "wrong" if k == 2 else "normal") for k in range(12)]
    large = [unit_of(f"large{k}", 8e8) for k in range(6)]
    queue.add(*small, *large)
    results = {result.unit.source.name: result for result in finish(queue)}
    assert [name for name, result in results.items() if result.error] == ["small2"]
    pids = {name: store.manifest("features", result.unit.key)["pid"] for name, result in results.items()
            if not result.error}  # fmt: skip
    assert len({pid for name, pid in pids.items() if name.startswith("small")}) < 9
    assert len({pid for name, pid in pids.items() if name.startswith("large")}) == 6
    assert not queue.workers and not queue.finished


def test_a_model_that_fits_nowhere_is_refused_with_a_reason_before_anything_runs(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener())
    queue.add(unit_of("far-too-large", 1e12))
    (result,) = finish(queue)
    assert type(result.error).__name__ == "InsufficientMemoryError"
    assert "far-too-large" in str(result.error)
    assert not queue.landed


def shards_of(name, size, n, words=None):
    """Units of one model, as the shards of a corpus are."""
    unit = unit_of(name, size)
    texts = words or ["normal"] * n
    return [replace(unit, stimuli=Stimuli((f"s{k}",), (texts[k],), ("p",), ("p",), None)) for k in range(n)]


def test_a_model_gets_further_workers_on_gpus_that_no_other_model_waits_for(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener(), rules=WorkerRules(n_claimed=1))
    units = [*shards_of("a", 70e9, 12), *shards_of("b", 7e9, 12)]  # 2 GPUs; a third of one
    for unit in units:
        queue.add(unit)
    assert list(queue.admit()) == []
    n_workers = Counter(worker.checkpoint.name for worker in queue.workers)
    assert min(n_workers.values()) >= 2
    spots = [
        (worker.placement.node, gpu)
        for worker in queue.workers if worker.placement.gpu_share == 1
        for gpu in worker.placement.gpus
    ]  # fmt: skip
    assert len(spots) == len(set(spots)) > 2
    results = finish(queue)
    assert Counter(result.unit.key for result in results) == Counter(unit.key for unit in units)
    assert not any(result.error for result in results)
    assert not queue.workers
    assert not any(store.claimed("features", unit.key) for unit in units)


def test_one_of_a_models_workers_is_lost_and_no_unit_with_it(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener(), rules=WorkerRules(n_claimed=1))
    units = shards_of("a", 7e9, 9, ["normal"] * 4 + ["kills once"] + ["normal"] * 4)
    for unit in units:
        queue.add(unit)
    results = finish(queue)
    assert Counter(result.unit.key for result in results) == Counter(unit.key for unit in units)
    assert not any(result.error for result in results)
    assert queue.recoveries == Counter({units[4].key: 1})


def test_dropped_units_are_not_started(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener(), rules=WorkerRules(n_claimed=1))
    units = [*shards_of("a", 7e9, 30), *shards_of("b", 7e9, 2)]
    queue.add(*units)
    queue.drop(units[3:])
    results = finish(queue)
    assert {result.unit.key for result in results} == {unit.key for unit in units[:3]}
    assert not any(result.error for result in results)


def test_workers_on_the_cpu_stay_within_the_memory(cluster, store):
    queue = ModelQueue(
        store, "cpu", ProgressListener(), rules=WorkerRules(n_claimed=1, cores=1.0, memory_bytes=2 * 1.2e9 + 9e8)
    )
    for unit in [*shards_of("a", 1e8, 6), *shards_of("too large", 2e9, 2)]:
        queue.add(unit)
    results = list(queue.admit())
    assert {str(result.error).partition(":")[0] for result in results} == {"too large"}
    assert all("a worker needs about 5.2 GB, but only 3.3 GB are available" in str(r.error) for r in results)
    assert len(queue.workers) == 2
    assert not any(result.error for result in finish(queue))


def test_a_lost_actor_is_replaced_and_stored_units_are_not_repeated(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener())
    once, stored = unit_of("a", 7e9, "kills once"), unit_of("b", 7e9, "stored, then kills")
    for unit in (once, stored):
        queue.add(unit)
    results = finish(queue)
    assert {result.unit.source.name: result.error for result in results} == {"a": None, "b": None}
    assert queue.recoveries == Counter({once.key: 1, stored.key: 1})
    assert not any(store.claimed("features", unit.key) for unit in (once, stored))


def test_a_text_that_kills_every_actor_fails_and_the_models_other_texts_are_processed(cluster, store, monkeypatch):
    monkeypatch.setattr(model_queue, "RECOVERIES", 1)
    queue = ModelQueue(store, "cuda", ProgressListener())
    bad = unit_of("a", 7e9, "kills")
    good = replace(bad, stimuli=Stimuli(("s1",), ("normal",), ("p",), ("p",), None))
    for unit in (bad, good):
        queue.add(unit)
    errors = {result.unit.key: result.error for result in finish(queue)}
    assert errors[good.key] is None
    assert "2 actors died while processing one text" in str(errors[bad.key])


def test_actors_lost_with_their_nodes_count_only_towards_the_larger_limit(cluster, store, monkeypatch):
    monkeypatch.setattr(model_queue, "RECOVERIES", 0)
    monkeypatch.setattr(model_queue, "RECOVERIES_IN_ALL", 2)
    monkeypatch.setattr(reservations, "living", set)  # every node counts as dead
    queue = ModelQueue(store, "cuda", ProgressListener())
    queue.add(unit_of("unlucky", 1e9, "kills"))
    (result,) = finish(queue)
    assert "3 actors died while processing one text" in str(result.error)


def test_an_exception_of_a_text_is_not_retried(cluster, store):
    queue = ModelQueue(store, "cuda", ProgressListener())
    queue.add(unit_of("a", 7e9, "wrong"))
    (result,) = finish(queue)
    assert "a text that cannot be processed" in str(result.error)
    assert not queue.recoveries


def test_a_unit_claimed_by_another_driver_is_waited_for_and_computed_when_released(cluster, store):
    unit = unit_of("a", 7e9)
    claim = store.claims.take("features", unit.key)
    queue = ModelQueue(Store(store.out), "cuda", ProgressListener())
    queue.add(unit)
    assert list(queue.admit()) == []
    assert list(queue.elsewhere) == [unit.key]
    assert list(queue.look_around()) == []
    claim.release()
    (result,) = finish(queue)
    assert (result.error, result.is_ours) == (None, True)


def test_a_model_that_waits_too_long_fails_with_the_missing_resources(cluster, store):
    held = ray.util.placement_group([{"GPU": 8}], strategy="STRICT_PACK")
    assert held.wait(30)
    try:
        queue = ModelQueue(store, "cuda", ProgressListener(), reserve_s=1.0)
        queue.add(unit_of("eight", 215e9))
        (result,) = finish(queue)
        assert "eight got no resources in 1 s: it needs 8 GPU on one node" in str(result.error)
        assert "16 on 3 nodes; 8 are free" in str(result.error)
    finally:
        ray.util.remove_placement_group(held)
    assert not queue.workers
    assert not store.claimed("features", result.unit.key)


def test_all_resources_are_released_after_a_run(cluster):
    until = time.monotonic() + 20
    while ray.available_resources().get("GPU", 0) < 16 and time.monotonic() < until:
        time.sleep(0.2)
    assert ray.available_resources()["GPU"] == 16
    groups = ray.util.placement_group_table().values()
    assert all(group["state"] == "REMOVED" for group in groups)


def test_models_wait_for_the_first_node_of_an_autoscaling_cluster_up_to_a_limit(store, monkeypatch):
    ray.shutdown()
    requests = []
    monkeypatch.setattr(reservations, "ask_for_gpus", lambda bundles, gpu_bytes=0: requests.append(bundles))
    memory = {"object_store_memory": 2**27}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        queue = ModelQueue(store, "cuda", ProgressListener(), reserve_s=0.5)
        queue.add(unit_of("a", 7e9))
        (result,) = finish(queue)
        assert "no node with GPUs joined the cluster in 0 s" in str(result.error)
        requests.clear()
        queue = ModelQueue(store, "cuda", ProgressListener(), reserve_s=6)
        for name in ("a", "b"):  # the first model's node has left the cluster before the second is added
            queue.add(unit_of(name, 7e9))
            assert list(queue.admit()) == []
            assert requests == [[1]]
            node = made.add_node(num_cpus=1, num_gpus=1, labels={reservations.LABEL: "80"}, **memory)
            (result,) = finish(queue)
            assert result.error is None
            assert queue.landed[name][0] == node.node_id
            queue.close()
            assert requests == [[1], []]  # the request is withdrawn, so that idle nodes may be removed
            made.remove_node(node)
            time.sleep(6)
            requests.clear()
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_model_too_large_for_the_live_nodes_waits_for_a_larger_one(store, monkeypatch):
    ray.shutdown()
    requests = []
    monkeypatch.setattr(
        reservations, "ask_for_gpus", lambda bundles, gpu_bytes=0: requests.append((bundles, gpu_bytes))
    )
    memory = {"object_store_memory": 2**27}
    head = {"num_cpus": 1, "labels": {reservations.LARGEST: "2x80"}, **memory}
    made = Cluster(initialize_head=True, head_node_args=head)
    small = made.add_node(num_cpus=1, num_gpus=1, labels={reservations.LABEL: "24"}, **memory)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        queue = ModelQueue(store, "cuda", ProgressListener(), reserve_s=1)
        for name, size in (("large", 30e9), ("small", 1e9), ("too large", 400e9)):
            queue.add(unit_of(name, size))
        results = {result.unit.source.name: result.error for result in finish(queue)}
        assert results["small"] is None
        assert queue.landed["small"][0] == small.node_id
        assert "too large" in str(results["too large"])
        assert "large: " in str(results["large"])  # no larger node came in time
        queue.close()
        assert requests == [([1], 80 * 10**9), ([], 0)]
        requests.clear()
        queue = ModelQueue(store, "cuda", ProgressListener())
        queue.add(unit_of("later", 30e9))
        assert list(queue.admit()) == []
        assert queue.is_waiting
        node = made.add_node(num_cpus=1, num_gpus=2, labels={reservations.LABEL: "80"}, **memory)
        (result,) = finish(queue)
        assert result.error is None
        assert queue.landed["later"][0] == node.node_id
        queue.close()
        assert requests == [([1], 80 * 10**9), ([], 0)]
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_further_worker_takes_free_gpus_or_cores_of_a_node_with_enough_memory():
    gpus = Nodes((Node("a", 8, 2, 80, 0), Node("small", 8, 2, 24, 0)))
    on_gpu = Placement("m", "bfloat16", "transformers", 1, 1.0, "a", 0, 0, 1, Need(1, 1, 1), gpus=(0,))
    occupancy = Occupancy(gpus, [on_gpu])
    second = occupancy.another(on_gpu)
    assert second == replace(on_gpu, gpus=(1,))
    occupancy.take(second)
    assert occupancy.another(on_gpu) is None  # the other node's GPUs are smaller
    cores = Nodes((Node("a", 4, 0, 0, int(4e9)), Node("b", 2, 0, 0, int(16e9)), Node("c", 2, 0, 0, 0)))
    on_cores = Placement("m", "float32", "transformers", 0, 0.5, "a", 0, 0, 1, Need(10**9, 1, 1))
    occupancy, places = Occupancy(cores, [on_cores], cores=1.0), []
    while placement := occupancy.another(on_cores):
        occupancy.take(placement)
        places.append(placement.node)
    assert places == ["b", "b", "c", "c"]  # 2.2 GB each: no second one on a; the memory of c is not known


def test_an_idle_gpu_takes_over_a_model_only_after_a_while_and_only_if_it_fits():
    nodes = [Node("big", 8, 2, 80, 0), Node("small", 8, 2, 24, 0)]
    placement = Placement("m", "bfloat16", "transformers", 1, 1.0, "big", 0, 0, 1, Need(1, 1, 1), gpus=(0,))
    occupancy = Occupancy(Nodes(tuple(nodes)), [placement])
    assert not occupancy.fits(placement)
    idle = occupancy.idle([placement], {})
    assert set(idle) == {("big", 1), ("small", 0), ("small", 1)}
    assert occupancy.moved(placement, idle) == placement
    long_ago = {spot: since - PATIENCE_S - 1 for spot, since in idle.items()}
    assert occupancy.moved(placement, long_ago) == replace(placement, gpus=(1,))
    only_small = {spot: since for spot, since in long_ago.items() if spot[0] == "small"}
    assert occupancy.moved(placement, only_small) == placement
