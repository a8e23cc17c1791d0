"""Plans of made-up fleets on made-up clusters: what no plan may do, and how near it comes to what none can beat."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cluster import forecast, forecast_view, placement, simulate
from harness.cluster.machines import Cluster, Node
from harness.cluster.placement import RESERVED, Demand, need_of, place
from harness.models import precision

GB = 10**9


def fleet(sizes, backend="transformers"):
    return [
        Demand(
            f"m{k}",
            "llama",
            "decoder",
            size,
            32 if size < 1e11 else 126,
            int((9 * size) ** (1 / 3)),
            50_000,
            32,
            backend,
        )
        for k, size in enumerate(sizes)
    ]


def planned(demands, cluster):
    dtypes = {demand.model: precision.dtype_of("llama", "decoder", demand.n_parameters) for demand in demands}
    return place(demands, cluster, dtypes)


def ratio(placements, cluster):
    placed = [one for one in placements if not one.refused]
    bound = simulate.lower_bound([one.job(cluster.start_s) for one in placed], cluster)
    return max(one.end_s for one in placed) / bound


NODES = st.tuples(st.integers(0, 8), st.sampled_from([16, 24, 40, 80, 141])).map(
    lambda kind: Node("", 16, kind[0], kind[1] * GB, 500 * GB)
)
CLUSTERS = st.builds(
    lambda nodes, storage, flops: Cluster(
        tuple(replace(node, name=f"n{k}") for k, node in enumerate(nodes)), 10**storage, gpu_flops=10**flops
    ),
    st.lists(NODES, min_size=1, max_size=6), st.floats(8, 11), st.floats(13, 15),
)  # fmt: skip
SIZES = st.lists(st.floats(math.log(6e7), math.log(5e11)).map(math.exp), min_size=1, max_size=40)


@settings(max_examples=150, deadline=None)
@given(SIZES, CLUSTERS)
def test_whatever_the_fleet_and_the_cluster_the_plan_can_be_run(sizes, cluster):
    demands = fleet(sizes)
    found = planned(demands, cluster)
    assert sorted(one.model for one in found) == sorted(demand.model for demand in demands)  # each once
    placed = [one for one in found if not one.refused]
    assert [one.order for one in placed] == list(range(len(placed)))
    by_size = [demand.model for demand in sorted(demands, key=lambda each: (-each.n_parameters, each.model))]
    assert [one.model for one in placed] == [name for name in by_size if name in {one.model for one in placed}]
    nodes = {node.name: node for node in cluster.nodes}
    events = defaultdict(list)
    for one in placed:
        node = nodes[one.node]
        assert len(set(one.gpus)) == one.n_gpus <= node.n_gpus
        assert set(one.gpus) <= set(range(node.n_gpus))
        assert one.end_s >= one.start_s + one.run_s
        if one.n_gpus:
            per_gpu = (one.need.weights / one.n_gpus + one.need.activations) / (node.gpu_bytes * (1 - RESERVED))
            assert per_gpu <= one.gpu_share + 1e-6
        for gpu in one.gpus or (-1,):
            events[one.node, gpu] += [(one.start_s, 1, one.gpu_share), (one.end_s, 0, -one.gpu_share)]
    for changes in events.values():
        used = 0.0
        for _, _, change in sorted(changes):  # at one moment those that leave come first
            used += change
            assert used <= 1 + 1e-6
    for one in found:
        if one.refused:
            need = need_of(next(each for each in demands if each.model == one.model), one.dtype)
            if cluster.n_gpus:
                most = max(node.n_gpus * node.gpu_bytes for node in cluster.nodes)
                assert need.weights + need.activations > most * (1 - RESERVED) * 0.5
            assert "do not fit" in one.refused
    if placed:
        assert ratio(found, cluster) >= 1 - 1e-9


@pytest.mark.parametrize("n_nodes", [1, 2, 4, 8])
def test_where_loading_dominates_no_plan_is_much_better(n_nodes):
    """The rates of `harness plan`, 100 models of 60 million to 70 billion parameters on nodes of 8 x 80 GB."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        sizes = np.exp(rng.uniform(math.log(6e7), math.log(7e10), 100))
        cluster = Cluster.made_up(n_nodes, 8, 80)
        assert ratio(planned(fleet(sizes), cluster), cluster) < 1.15


def test_the_scale_spec_on_four_nodes_is_within_15_percent_of_the_bound_and_70b_takes_two_to_four_gpus():
    demands = forecast.demands_of(forecast.models.scale())
    assert len(demands) == 100
    assert min(demand.n_parameters for demand in demands) >= 6e7
    assert max(demand.n_parameters for demand in demands) == 7e10
    found = forecast_view.as_json(forecast.plan(demands, Cluster.made_up(4, 8, 80)))
    assert (len(found["assignments"]), found["refused"]) == (100, [])
    assert 1 <= found["makespan_s"] / found["lower_bound_s"] == found["ratio"] < 1.15
    large = [one for one in found["assignments"] if one["model"].endswith("70b")]
    assert {one["n_gpus"] for one in large} <= {2, 3, 4}


def test_random_fleets_come_near_the_bound():
    """The median; where loads and computing are of one size, and models few, the first loads keep GPUs waiting."""
    rng, found = np.random.default_rng(1), []
    for _ in range(40):
        sizes = np.exp(rng.uniform(math.log(6e7), math.log(7e10), int(rng.integers(20, 120))))
        cluster = Cluster.made_up(
            int(rng.integers(1, 9)), int(rng.integers(4, 9)), 80, storage_bytes_s=10 ** rng.uniform(8.5, 11),
            gpu_flops=10 ** rng.uniform(13, 14.8),
        )  # fmt: skip
        found.append(ratio(planned(fleet(sizes), cluster), cluster))
    assert np.median(found) < 1.03
    assert np.quantile(found, 0.85) < 1.15


def test_a_405b_is_refused_with_what_would_help_and_fits_where_gpus_are_larger():
    (one,) = planned(fleet([405e9]), Cluster.made_up(4, 8, 80))
    assert "810 GB of weights in bfloat16" in one.refused
    assert "8 GPUs of 80 GB" in one.refused
    assert "--dtype int8" in one.refused
    (in_8_bits,) = place(fleet([405e9]), Cluster.made_up(4, 8, 80), {"m0": "int8"})
    (on_larger,) = planned(fleet([405e9]), Cluster.made_up(1, 8, 141))
    assert (in_8_bits.refused, on_larger.refused) == ("", "")
    assert (in_8_bits.n_gpus, on_larger.n_gpus) == (7, 7)
    (too_large,) = planned(fleet([2e12]), Cluster.made_up(1, 8, 80))
    assert "It takes" in too_large.refused


def test_an_unknown_size_is_refused_and_says_how_to_give_it():
    (one,) = planned(fleet([0]), Cluster.made_up(1, 8, 80))
    assert "n_parameters" in one.refused


def test_tensor_parallelism_divides_the_heads():
    demand = replace(fleet([70e9], "vllm")[0], n_heads=40)
    assert placement.gpus_needed(demand, need_of(demand, "bfloat16"), Node("", 8, 8, 80 * GB, 0)) in {2, 4, 8}
    odd = replace(demand, n_heads=9)
    assert placement.gpus_needed(odd, need_of(odd, "bfloat16"), Node("", 8, 8, 80 * GB, 0)) is None


def test_on_cores_a_model_that_main_memory_does_not_hold_is_refused():
    cluster = Cluster((Node("n", 8, 0, 0, 64 * GB),))
    small, large = place(fleet([1e9, 70e9]), cluster, {"m0": "float32", "m1": "bfloat16"})
    assert (small.n_gpus, small.gpus, small.gpu_share) == (0, (), 0.25)
    assert "main memory" in large.refused


def test_a_node_that_dies_has_its_models_begun_again_elsewhere():
    demands, cluster = fleet([13e9] * 12), Cluster.made_up(2, 4, 80)
    placed = planned(demands, cluster)
    jobs = [one.job(cluster.start_s) for one in placed]
    whole = simulate.replay(jobs, cluster)
    broken = simulate.replay(jobs, cluster, [(whole.makespan_s / 2, "node-1")])
    assert set(broken.end_s) == {demand.model for demand in demands}
    assert broken.begun_again
    assert broken.makespan_s > whole.makespan_s
    untouched = [model for model, end in whole.end_s.items() if end < whole.makespan_s / 2]
    assert all(broken.end_s[model] == whole.end_s[model] for model in untouched)


def test_a_replay_by_hand():
    """Two models of 10 GB and 4 s on one GPU: the second is loaded while the first computes."""
    cluster = Cluster((Node("n", 8, 1, 80 * GB, 0),), storage_bytes_s=GB, start_s=1)
    jobs = [simulate.ModelJob(name, "n", (0,), 1.0, 10 * GB, 1.0, 4.0) for name in "ab"]
    found = simulate.replay(jobs, cluster)
    assert found.start_s == {"a": 0.0, "b": pytest.approx(14.0)}
    assert found.end_s == {"a": pytest.approx(14.0), "b": pytest.approx(24.0)}
    assert simulate.lower_bound(jobs, cluster) == pytest.approx(20.0)
