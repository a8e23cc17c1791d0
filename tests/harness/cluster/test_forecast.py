"""The command `harness plan`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.checkpoints import checkpoints
from harness.cli.commands import main
from harness.cluster import forecast
from harness.models import tiny

ROOT = Path(__file__).resolve().parents[3]
FOUR_NODES = ["--nodes", "4", "--gpus-per-node", "8", "--gpu-memory-gb", "80"]


def run(capsys, *arguments):
    status = main(list(arguments))
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_the_forecast_of_scale_as_json(capsys):
    status, out, _ = run(capsys, "plan", "scale", *FOUR_NODES, "--json")
    document = json.loads(out)
    assert status == 0
    assert document["makespan_s"] <= 1.15 * document["lower_bound_s"]
    assert len(document["assignments"]) == len({row["model"] for row in document["assignments"]}) == 100
    fields = {"model", "node", "gpus", "n_gpus", "gpu_share", "tensor_parallel", "dtype", "backend", "order", "start_s",
              "end_s", "weights_gb", "activations_gb", "buffers_gb", "usd"}  # fmt: skip
    assert fields <= set(document["assignments"][0])
    assert run(capsys, "plan", "scale", *FOUR_NODES, "--json")[1] == out


def test_the_printed_forecast_has_the_bound_refused_models_and_the_price(capsys):
    status, out, _ = run(
        capsys, "plan", "scale", *FOUR_NODES, "--model", "llama-3.1-405b", "--model", "llama-2-70b",
        "--usd-per-gpu-hour", "2",
    )  # fmt: skip
    assert status == 1
    assert "refused llama-3.1-405b: 810 GB of weights in bfloat16" in out
    assert "lower bound" in out
    assert "$" in out
    assert "llama-2-70b  bfloat16" in out


def test_a_forecast_for_the_cluster_file_of_the_repository(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, out, _ = run(capsys, "plan", "scale", "--json")
    document = json.loads(out)
    assert [node["n_gpus"] for node in document["cluster"]] == [8] * 5 + [1] * 3
    assert document["ratio"] < 1.35  # the bound includes the links of small nodes, which can only hold small models


def test_the_size_of_a_folder_is_counted_and_an_encoder_uses_transformers(capsys, tmp_path):
    folder = tiny.build("bert", tmp_path / "small", ["a text of some words"], 0)
    _, out, _ = run(
        capsys, "plan", "quickstart", "--model", str(folder), "--model", "llama-2-7b", "--backend", "vllm", "--json",
        *FOUR_NODES,
    )  # fmt: skip
    rows = {row["model"]: row for row in json.loads(out)["assignments"]}
    assert rows["small"]["weights_gb"] == pytest.approx(4e-9 * checkpoints.resolve(str(folder)).n_parameters)
    assert (rows["small"]["backend"], rows["llama-2-7b"]["backend"]) == ("transformers", "vllm")


@pytest.mark.parametrize(("arguments", "message"), [
    (["plan", "scael", *FOUR_NODES], "the nearest are scale"),
    (["plan", "paper", *FOUR_NODES], "names no models"),
    (["plan", "scale", "--nodes", "0", "--gpus-per-node", "8", "--gpu-memory-gb", "80"], "0 nodes"),
    (["plan", "scale", "--nodes", "2", "--gpus-per-node", "8"], "Give --gpu-memory-gb"),
    (["plan", "scale", "--cluster", "nowhere.yaml"], "nowhere.yaml is not a file"),
    (["plan", "scale", "--cluster", "x.yaml", *FOUR_NODES], "not both"),
    (["plan", "scale", "--model", "lama-7b", *FOUR_NODES], "the nearest names are llama-7b"),
    (["plan", "scale", "--model", "flan-t5-xl", "--dtype", "float16", *FOUR_NODES], "does not run in float16"),
])  # fmt: skip
def test_usage_errors_say_what_to_do(arguments, message, capsys):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err


def test_a_cluster_file_without_gpu_memory_is_refused_unless_it_is_given(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "head_node_type: head\nmax_workers: 3\navailable_node_types:\n  head: {resources: {CPU: 4}}\n"
        "  small: {resources: {CPU: 8, GPU: 1}, max_workers: 2, labels: {gpu-memory-gb: '24'}}\n"
        "  large: {resources: {CPU: 8, GPU: 8}, max_workers: 2}\n"
    )
    with pytest.raises(ValueError, match="the GPU memory of node type large is unknown"):
        forecast.cluster_of(str(file))
    cluster = forecast.cluster_of(str(file), 80)
    assert [(node.name, node.n_gpus, node.gpu_bytes) for node in cluster.nodes] == [
        ("large-0", 8, 80 * 10**9), ("large-1", 8, 80 * 10**9), ("small-0", 1, 24 * 10**9),
    ]  # fmt: skip
    file.write_text("nodes: 3")
    with pytest.raises(ValueError, match="is not a cluster file"):
        forecast.cluster_of(str(file))
