"""`harness plan`, as a user gives it."""

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
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_plan_of_scale_as_json(capsys):
    status, out, _ = run(capsys, "plan", "scale", *FOUR_NODES, "--json")
    said = json.loads(out)
    assert status == 0
    assert said["makespan_s"] <= 1.15 * said["lower_bound_s"]
    assert len(said["assignments"]) == len({one["model"] for one in said["assignments"]}) == 100
    wanted = {"model", "node", "gpus", "n_gpus", "gpu_share", "tensor_parallel", "dtype", "backend", "order", "start_s",
              "end_s", "weights_gb", "activations_gb", "buffers_gb", "usd"}  # fmt: skip
    assert wanted <= set(said["assignments"][0])
    assert run(capsys, "plan", "scale", *FOUR_NODES, "--json")[1] == out


def test_the_plan_in_words_names_the_bound_the_refused_and_the_price(capsys):
    status, out, _ = run(
        capsys, "plan", "scale", *FOUR_NODES, "--model", "llama-3.1-405b", "--model", "llama-2-70b",
        "--usd-per-gpu-hour", "2",
    )  # fmt: skip
    assert status == 1
    assert "refused llama-3.1-405b: 810 GB of weights in bfloat16" in out
    assert "no plan takes less than" in out
    assert "$" in out
    assert "llama-2-70b  bfloat16" in out


def test_the_repositorys_own_cluster_file_is_planned_for(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    _, out, _ = run(capsys, "plan", "scale", "--json")
    said = json.loads(out)
    assert [node["n_gpus"] for node in said["cluster"]] == [8] * 5 + [1] * 3
    assert said["ratio"] < 1.35  # the bound counts the links of small nodes, which can carry small models alone


def test_a_folder_is_planned_by_its_own_files_and_an_encoder_stays_with_transformers(capsys, tmp_path):
    folder = tiny.build("bert", tmp_path / "small", ["a text of some words"], 0)
    _, out, _ = run(
        capsys, "plan", "quickstart", "--model", str(folder), "--model", "llama-2-7b", "--backend", "vllm", "--json",
        *FOUR_NODES,
    )  # fmt: skip
    said = {one["model"]: one for one in json.loads(out)["assignments"]}
    assert said["small"]["weights_gb"] == pytest.approx(4e-9 * checkpoints.resolve(str(folder)).n_parameters)
    assert (said["small"]["backend"], said["llama-2-7b"]["backend"]) == ("transformers", "vllm")


@pytest.mark.parametrize(("arguments", "said"), [
    (["plan", "scael", *FOUR_NODES], "the nearest are scale"),
    (["plan", "paper", *FOUR_NODES], "names no models"),
    (["plan", "scale", "--nodes", "0", "--gpus-per-node", "8", "--gpu-memory-gb", "80"], "0 nodes"),
    (["plan", "scale", "--nodes", "2", "--gpus-per-node", "8"], "Give --gpu-memory-gb"),
    (["plan", "scale", "--cluster", "nowhere.yaml"], "nowhere.yaml is no file"),
    (["plan", "scale", "--cluster", "x.yaml", *FOUR_NODES], "not both"),
    (["plan", "scale", "--model", "lama-7b", *FOUR_NODES], "the nearest names are llama-7b"),
    (["plan", "scale", "--model", "flan-t5-xl", "--dtype", "float16", *FOUR_NODES], "not read in float16"),
])  # fmt: skip
def test_wrong_use_is_told_what_to_do(arguments, said, capsys):
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert said in err


def test_a_cluster_file_without_the_memory_of_its_gpus_says_how_to_give_it(tmp_path):
    file = tmp_path / "cluster.yaml"
    file.write_text(
        "head_node_type: head\nmax_workers: 3\navailable_node_types:\n  head: {resources: {CPU: 4}}\n"
        "  small: {resources: {CPU: 8, GPU: 1}, max_workers: 2, labels: {gpu-memory-gb: '24'}}\n"
        "  large: {resources: {CPU: 8, GPU: 8}, max_workers: 2}\n"
    )
    with pytest.raises(ValueError, match="node type large has GPUs whose memory is not known"):
        forecast.cluster_of(str(file))
    found = forecast.cluster_of(str(file), 80)
    assert [(node.name, node.n_gpus, node.gpu_bytes) for node in found.nodes] == [
        ("large-0", 8, 80 * 10**9), ("large-1", 8, 80 * 10**9), ("small-0", 1, 24 * 10**9),
    ]  # fmt: skip
    file.write_text("nodes: 3")
    with pytest.raises(ValueError, match="is no cluster file"):
        forecast.cluster_of(str(file))
