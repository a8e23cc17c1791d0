"""Models on a made-up cluster of 3 nodes and 16 GPUs: where they land, and what happens when they are lost."""

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
from harness.runs.model_queue import ModelQueue
from harness.runs.occupancy import PATIENCE_S, Occupancy
from harness.runs.workload import ProgressListener
from harness.storage.store import Store
from harness.units.feature_units import FeatureSource, FeatureUnit

SIZES = [70e9, 65e9, 33e9, 30e9, 13e9, 13e9, 12e9, 8e9, 7e9, 7e9, 3e9, 1e9, 4e8, 7e7]
PROTOCOL = Protocol("strict", "none", FoldRule("grouped", n=5), Regression("ols"), "max")


@ray.remote(max_restarts=0)
class Recorder:
    """Stands for a model: keeps where it is, and when it read; what a text is called says what happens to it."""

    def __init__(self, checkpoint, out, device, placement, allow_pickle):
        self.checkpoint, self.store = checkpoint, Store(out)

    def where(self):
        return ray.get_runtime_context().get_node_id(), tuple(int(gpu) for gpu in ray.get_gpu_ids())

    def read(self, unit):
        began, (word,) = time.time(), unit.stimuli.texts
        if word == "kills" or (word == "kills once" and self.store.manifest("features", "first") is None):
            self.store.put("features", "first", lambda folder: (folder / "f").write_text(""), {})
            os._exit(1)
        if word == "stored, then kills":
            self._put(unit, began)
            os._exit(1)
        if word == "wrong":
            raise ValueError("a text that cannot be read")
        time.sleep(0.15)
        self._put(unit, began)
        return 0.15

    def _put(self, unit, began):
        facts = {"began": began, "ended": time.time(), "gpus": ray.get_gpu_ids(), "node": self.where()[0]}
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


def text_of(name, n_parameters, word="reads"):
    """A text that a model of a size has to read."""
    checkpoint = Checkpoint(
        name, "", f"revision of {name}", "llama", int(n_parameters), 32, 4096, 32000, 2048, False, ""
    )
    stimuli = Stimuli(("s0",), (word,), ("p",), ("p",), None)
    return FeatureUnit(
        FeatureSource(name, "model", checkpoint.revision, 0, checkpoint), stimuli, PROTOCOL, True, False, "bfloat16"
    )


def finish(found, seconds=60):
    """All that comes of the readings, until none is left."""
    reads, until = [], time.monotonic() + seconds
    while True:
        reads += found.admit()
        if not (found.running or found.is_waiting):
            return reads
        assert time.monotonic() < until
        ended, _ = ray.wait(list(found.running), timeout=0.2) if found.running else ([], [])
        for reference in ended:
            reads += found.take(reference)
        reads += found.look_around()


def test_actors_land_where_the_plan_says_largest_first_and_never_two_on_a_whole_gpu(cluster, store):
    found = ModelQueue(store, "cuda", ProgressListener())
    units = [text_of(f"m{k}", size) for k, size in enumerate(SIZES)]
    for unit in units:
        found.add(unit)
    reads = finish(found)
    assert sorted(read.unit.source.name for read in reads if not read.error) == sorted(f"m{k}" for k in range(14))
    plan = {checkpoint.name: placement for checkpoint, placement in found.plan.items()}
    for name, (node, gpus) in found.landed.items():
        assert (node, len(gpus)) == (plan[name].node, plan[name].n_gpus), name
    assert plan["m0"].n_gpus in {2, 3, 4}
    said = {unit.source.name: store.manifest("features", unit.key) for unit in units}
    _assert_no_gpu_is_over_full(said, plan)
    first = sorted(said, key=lambda name: plan[name].order)[:2]
    assert first == ["m0", "m1"]


def _assert_no_gpu_is_over_full(said, plan):
    events = defaultdict(list)
    for name, fact in said.items():
        for gpu in fact["gpus"]:
            events[fact["node"], gpu] += [(fact["began"], plan[name].gpu_share), (fact["ended"], -plan[name].gpu_share)]
    for changes in events.values():
        used = 0
        for _, change in sorted(changes):
            used += change
            assert used <= 1 + 1e-6


def test_a_model_that_fits_nowhere_is_refused_with_a_reason_before_anything_runs(cluster, store):
    found = ModelQueue(store, "cuda", ProgressListener())
    found.add(text_of("far-too-large", 1e12))
    (read,) = finish(found)
    assert type(read.error).__name__ == "NoRoomError"
    assert "far-too-large" in str(read.error)
    assert not found.landed


def test_a_lost_actor_is_followed_by_another_and_what_was_stored_is_not_read_again(cluster, store):
    found = ModelQueue(store, "cuda", ProgressListener())
    once, stored = text_of("a", 7e9, "kills once"), text_of("b", 7e9, "stored, then kills")
    for unit in (once, stored):
        found.add(unit)
    reads = finish(found)
    assert {read.unit.source.name: read.error for read in reads} == {"a": None, "b": None}
    assert found.recoveries == Counter({once.key: 1, stored.key: 1})
    assert not any(store.claimed("features", unit.key) for unit in (once, stored))


def test_a_text_that_kills_every_actor_is_given_up_and_the_models_other_texts_are_read(cluster, store, monkeypatch):
    monkeypatch.setattr(model_queue, "RECOVERIES", 1)
    found = ModelQueue(store, "cuda", ProgressListener())
    bad = text_of("a", 7e9, "kills")
    good = replace(bad, stimuli=Stimuli(("s1",), ("reads",), ("p",), ("p",), None))
    for unit in (bad, good):
        found.add(unit)
    said = {read.unit.key: read.error for read in finish(found)}
    assert said[good.key] is None
    assert "2 actors were lost over one text" in str(said[bad.key])


def test_actors_that_are_lost_with_their_nodes_do_not_count_until_they_are_very_many(cluster, store, monkeypatch):
    monkeypatch.setattr(model_queue, "RECOVERIES", 0)
    monkeypatch.setattr(model_queue, "RECOVERIES_IN_ALL", 2)
    monkeypatch.setattr(reservations, "living", set)  # wherever it was, that node is dead
    found = ModelQueue(store, "cuda", ProgressListener())
    found.add(text_of("unlucky", 1e9, "kills"))
    (read,) = finish(found)
    assert "3 actors were lost over one text" in str(read.error)


def test_what_is_wrong_with_a_text_is_not_tried_again(cluster, store):
    found = ModelQueue(store, "cuda", ProgressListener())
    found.add(text_of("a", 7e9, "wrong"))
    (read,) = finish(found)
    assert "a text that cannot be read" in str(read.error)
    assert not found.recoveries


def test_what_another_driver_holds_is_waited_for_and_done_when_it_gives_up(cluster, store):
    unit = text_of("a", 7e9)
    claim = store.claims.take("features", unit.key)
    found = ModelQueue(Store(store.out), "cuda", ProgressListener())
    found.add(unit)
    assert list(found.admit()) == []
    assert list(found.elsewhere) == [unit.key]
    assert list(found.look_around()) == []
    claim.release()
    (read,) = finish(found)
    assert (read.error, read.is_ours) == (None, True)


def test_who_waits_too_long_for_a_place_is_told_what_is_missing(cluster, store):
    held = ray.util.placement_group([{"GPU": 8}], strategy="STRICT_PACK")
    assert held.wait(30)
    try:
        found = ModelQueue(store, "cuda", ProgressListener(), reserve_s=1.0)
        found.add(text_of("eight", 215e9))
        (read,) = finish(found)
        assert "eight got no place in 1 s: it wants 8 GPU on one node" in str(read.error)
        assert "16 on 3 nodes; 8 are free" in str(read.error)
    finally:
        ray.util.remove_placement_group(held)
    assert not found.residents
    assert not store.claimed("features", read.unit.key)


def test_nothing_is_kept_after_a_run(cluster):
    until = time.monotonic() + 20
    while ray.available_resources().get("GPU", 0) < 16 and time.monotonic() < until:
        time.sleep(0.2)
    assert ray.available_resources()["GPU"] == 16
    groups = ray.util.placement_group_table().values()
    assert all(group["state"] == "REMOVED" for group in groups)


def test_models_wait_for_the_first_node_of_a_cluster_that_grows_and_not_for_ever(store, monkeypatch):
    ray.shutdown()
    asked = []
    monkeypatch.setattr(reservations, "ask_for_gpus", lambda bundles, gpu_bytes=0: asked.append(bundles))
    memory = {"object_store_memory": 2**27}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **memory})
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        found = ModelQueue(store, "cuda", ProgressListener(), reserve_s=0.5)
        found.add(text_of("a", 7e9))
        (read,) = finish(found)
        assert "no node with GPUs came in 0 s" in str(read.error) or "came in 1 s" in str(read.error)
        asked.clear()
        found = ModelQueue(store, "cuda", ProgressListener(), reserve_s=6)
        for name in ("a", "b"):  # the node of the first is gone again, long ago, when the second comes
            found.add(text_of(name, 7e9))
            assert list(found.admit()) == []
            assert asked == [[1]]
            node = made.add_node(num_cpus=1, num_gpus=1, labels={reservations.LABEL: "80"}, **memory)
            (read,) = finish(found)
            assert read.error is None
            assert found.landed[name][0] == node.node_id
            found.close()
            assert asked == [[1], []]  # nothing is asked for any more, and idle nodes may go
            made.remove_node(node)
            time.sleep(6)
            asked.clear()
    finally:
        ray.shutdown()
        made.shutdown()


def test_a_model_too_large_for_the_nodes_that_live_waits_for_a_larger_one_that_may_come(store, monkeypatch):
    ray.shutdown()
    asked = []
    monkeypatch.setattr(reservations, "ask_for_gpus", lambda bundles, gpu_bytes=0: asked.append((bundles, gpu_bytes)))
    memory = {"object_store_memory": 2**27}
    head = {"num_cpus": 1, "labels": {reservations.LARGEST: "2x80"}, **memory}
    made = Cluster(initialize_head=True, head_node_args=head)
    small = made.add_node(num_cpus=1, num_gpus=1, labels={reservations.LABEL: "24"}, **memory)
    ray.init(address=made.address, logging_level="ERROR", log_to_driver=False)
    try:
        found = ModelQueue(store, "cuda", ProgressListener(), reserve_s=1)
        for name, size in (("large", 30e9), ("small", 1e9), ("too large", 400e9)):
            found.add(text_of(name, size))
        reads = {read.unit.source.name: read.error for read in finish(found)}
        assert reads["small"] is None
        assert found.landed["small"][0] == small.node_id
        assert "too large" in str(reads["too large"])
        assert "large: " in str(reads["large"])  # nothing came in its time
        found.close()
        assert asked == [([1], 80 * 10**9), ([], 0)]
        asked.clear()
        found = ModelQueue(store, "cuda", ProgressListener())
        found.add(text_of("later", 30e9))
        assert list(found.admit()) == []
        assert found.is_waiting
        node = made.add_node(num_cpus=1, num_gpus=2, labels={reservations.LABEL: "80"}, **memory)
        (read,) = finish(found)
        assert read.error is None
        assert found.landed["later"][0] == node.node_id
        found.close()
        assert asked == [([1], 80 * 10**9), ([], 0)]
    finally:
        ray.shutdown()
        made.shutdown()


def test_an_idle_gpu_takes_over_only_after_a_while_and_only_what_it_can_hold():
    nodes = [Node("big", 8, 2, 80, 0), Node("small", 8, 2, 24, 0)]
    placement = Placement("m", "bfloat16", "transformers", 1, 1.0, "big", 0, 0, 1, Need(1, 1, 1), gpus=(0,))
    occupancy = Occupancy(Nodes(tuple(nodes)), [placement])
    assert not occupancy.fits(placement)
    now = occupancy.idle([placement], {})
    assert set(now) == {("big", 1), ("small", 0), ("small", 1)}
    assert occupancy.moved(placement, now) == placement
    long_ago = {spot: since - PATIENCE_S - 1 for spot, since in now.items()}
    assert occupancy.moved(placement, long_ago) == replace(placement, gpus=(1,))
    only_small = {spot: since for spot, since in long_ago.items() if spot[0] == "small"}
    assert occupancy.moved(placement, only_small) == placement
