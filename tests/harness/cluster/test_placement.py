"""Placements of made-up models on made-up clusters: constraints, and makespan relative to the lower bound."""

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
from harness.models import model_table, precision

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


def placed_on(demands, cluster):
    dtypes = {demand.model: precision.dtype_of("llama", "decoder", demand.n_parameters) for demand in demands}
    return place(demands, cluster, dtypes)


def ratio(placements, cluster):
    placed = [placement for placement in placements if not placement.refused]
    bound = simulate.lower_bound([placement.job(cluster.start_s) for placement in placed], cluster)
    return max(placement.end_s for placement in placed) / bound


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
def test_placements_are_feasible_for_any_models_and_cluster(sizes, cluster):
    demands = fleet(sizes)
    placements = placed_on(demands, cluster)
    assert sorted(job.model for job in placements) == sorted(demand.model for demand in demands)  # each exactly once
    placed = [job for job in placements if not job.refused]
    assert [job.order for job in placed] == list(range(len(placed)))
    by_size = [demand.model for demand in sorted(demands, key=lambda demand: (-demand.n_parameters, demand.model))]
    assert [job.model for job in placed] == [name for name in by_size if name in {job.model for job in placed}]
    nodes = {node.name: node for node in cluster.nodes}
    events = defaultdict(list)
    for job in placed:
        node = nodes[job.node]
        assert len(set(job.gpus)) == job.n_gpus <= node.n_gpus
        assert set(job.gpus) <= set(range(node.n_gpus))
        assert job.end_s >= job.start_s + job.run_s
        if job.n_gpus:
            per_gpu = (job.need.weights / job.n_gpus + job.need.activations) / (node.gpu_bytes * (1 - RESERVED))
            assert per_gpu <= job.gpu_share + 1e-6
        for gpu in job.gpus or (-1,):
            events[job.node, gpu] += [(job.start_s, 1, job.gpu_share), (job.end_s, 0, -job.gpu_share)]
    for changes in events.values():
        used = 0.0
        for _, _, change in sorted(changes):  # at equal times, ends come before starts
            used += change
            assert used <= 1 + 1e-6
    for job in placements:
        if job.refused:
            need = need_of(next(demand for demand in demands if demand.model == job.model), job.dtype)
            if cluster.n_gpus:
                largest = max(node.n_gpus * node.gpu_bytes for node in cluster.nodes)
                assert need.weights + need.activations > largest * (1 - RESERVED) * 0.5
            assert "do not fit" in job.refused
    if placed:
        assert ratio(placements, cluster) >= 1 - 1e-9


@pytest.mark.parametrize("n_nodes", [1, 2, 4, 8])
def test_the_makespan_is_near_the_lower_bound_where_loading_dominates(n_nodes):
    """Default rates, 100 models of 60 million to 70 billion parameters on nodes of 8 x 80 GB."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        sizes = np.exp(rng.uniform(math.log(6e7), math.log(7e10), 100))
        cluster = Cluster.made_up(n_nodes, 8, 80)
        assert ratio(placed_on(fleet(sizes), cluster), cluster) < 1.15


def test_the_scale_spec_on_four_nodes_is_within_15_percent_of_the_bound_and_70b_takes_two_to_four_gpus():
    demands = forecast.demands_of(model_table.scale())
    assert len(demands) == 100
    assert min(demand.n_parameters for demand in demands) >= 6e7
    assert max(demand.n_parameters for demand in demands) == 7e10
    document = forecast_view.as_json(forecast.make_forecast(demands, Cluster.made_up(4, 8, 80)))
    assert (len(document["assignments"]), document["refused"]) == (100, [])
    assert 1 <= document["makespan_s"] / document["lower_bound_s"] == document["ratio"] < 1.15
    large = [row for row in document["assignments"] if row["model"].endswith("70b")]
    assert {row["n_gpus"] for row in large} <= {2, 3, 4}


def test_the_makespan_of_random_fleets_is_near_the_lower_bound():
    """In the median; with few models and equal loading and computing times, GPUs wait for the first loads."""
    rng, ratios = np.random.default_rng(1), []
    for _ in range(40):
        sizes = np.exp(rng.uniform(math.log(6e7), math.log(7e10), int(rng.integers(20, 120))))
        cluster = Cluster.made_up(
            int(rng.integers(1, 9)), int(rng.integers(4, 9)), 80, storage_bytes_s=10 ** rng.uniform(8.5, 11),
            gpu_flops=10 ** rng.uniform(13, 14.8),
        )  # fmt: skip
        ratios.append(ratio(placed_on(fleet(sizes), cluster), cluster))
    assert np.median(ratios) < 1.03
    assert np.quantile(ratios, 0.85) < 1.15


def test_a_405b_is_refused_with_advice_and_fits_on_larger_gpus():
    (refused,) = placed_on(fleet([405e9]), Cluster.made_up(4, 8, 80))
    assert "810 GB of weights in bfloat16" in refused.refused
    assert "8 GPUs of 80 GB" in refused.refused
    assert "--dtype int8" in refused.refused
    (in_8_bits,) = place(fleet([405e9]), Cluster.made_up(4, 8, 80), {"m0": "int8"})
    (on_larger,) = placed_on(fleet([405e9]), Cluster.made_up(1, 8, 141))
    assert (in_8_bits.refused, on_larger.refused) == ("", "")
    assert (in_8_bits.n_gpus, on_larger.n_gpus) == (7, 7)
    (too_large,) = placed_on(fleet([2e12]), Cluster.made_up(1, 8, 80))
    assert "It needs" in too_large.refused


def test_an_unknown_size_is_refused_with_advice():
    (refused,) = placed_on(fleet([0]), Cluster.made_up(1, 8, 80))
    assert "n_parameters" in refused.refused


def test_tensor_parallelism_divides_the_heads():
    demand = replace(fleet([70e9], "vllm")[0], n_heads=40)
    assert placement.gpus_needed(demand, need_of(demand, "bfloat16"), Node("", 8, 8, 80 * GB, 0)) in {2, 4, 8}
    odd = replace(demand, n_heads=9)
    assert placement.gpus_needed(odd, need_of(odd, "bfloat16"), Node("", 8, 8, 80 * GB, 0)) is None


def test_on_cores_a_model_larger_than_main_memory_is_refused():
    cluster = Cluster((Node("n", 8, 0, 0, 64 * GB),))
    small, large = place(fleet([1e9, 70e9]), cluster, {"m0": "float32", "m1": "bfloat16"})
    assert (small.n_gpus, small.gpus, small.gpu_share) == (0, (), 0.25)
    assert "main memory" in large.refused


def test_a_simulation_computed_by_hand():
    """Two models of 10 GB and 4 s on one GPU: the second is loaded while the first computes."""
    cluster = Cluster((Node("n", 8, 1, 80 * GB, 0),), storage_bytes_s=GB, start_s=1)
    jobs = [simulate.ModelJob(name, "n", (0,), 1.0, 10 * GB, 1.0, 4.0) for name in "ab"]
    times = simulate.replay(jobs, cluster)
    assert times.start_s == {"a": 0.0, "b": pytest.approx(14.0)}
    assert times.end_s == {"a": pytest.approx(14.0), "b": pytest.approx(24.0)}
    assert simulate.lower_bound(jobs, cluster) == pytest.approx(20.0)
