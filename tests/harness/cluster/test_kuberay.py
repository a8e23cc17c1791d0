"""Manifests for KubeRay say what cluster.yaml says, and the entry points take the arguments that they are given."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path

import jsonschema
import pytest
import yaml

from harness.cli import commands as cli
from harness.cli.commands import main
from harness.cluster import forecast, kuberay

CLUSTER = Path(__file__).resolve().parents[3] / "cluster.yaml"
ASKED = [
    "manifest", "kuberay", "paper", "--model", "llama-2-7b", "--model", "tuned 7b", "--protocol", "strict", "--image",
    "registry/harness@sha256:0", "--out", "s3://bucket/results", "--data-root", "/mnt/shared/data", "--cluster",
    str(CLUSTER), "--watch", "pythia-1b", "--storage", "weights",
]  # fmt: skip


@pytest.fixture
def documents(capsys):
    assert main(ASKED) == 0
    printed = capsys.readouterr().out
    assert "token" in printed.splitlines()[0]
    return {one["kind"]: one for one in yaml.safe_load_all(printed)}


def test_there_is_one_of_each_kind(documents):
    assert set(documents) == {"RayCluster", "RayJob", "RayCronJob"}
    assert {one["apiVersion"] for one in documents.values()} == {"ray.io/v1"}
    clusters = [documents["RayCluster"]["spec"], documents["RayJob"]["spec"]["rayClusterSpec"],
                documents["RayCronJob"]["spec"]["jobTemplate"]["rayClusterSpec"]]  # fmt: skip
    assert clusters[0] == clusters[1] == clusters[2]


def test_workers_are_those_that_a_plan_is_made_for(documents):
    spec, planned = documents["RayCluster"]["spec"], forecast.cluster_of(str(CLUSTER))
    assert spec["rayVersion"] == version("ray")
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    kinds = {node.name.rpartition("-")[0].replace("_", "-"): node for node in planned.nodes}
    for name, node in kinds.items():
        (container,) = groups[name]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == node.n_gpus
        assert float(groups[name]["labels"]["gpu-memory-gb"]) * 1e9 == node.gpu_bytes
        assert (groups[name]["minReplicas"], groups[name]["replicas"]) == (0, 0)
    wanted = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
    for name, kind in wanted.items():
        if name != "head":
            group = groups[name.replace("_", "-")]
            assert group["maxReplicas"] == kind["max_workers"]
            selected = group["template"]["spec"]["nodeSelector"][kuberay.SPOT]
            assert selected == ("spot" if name.startswith("spot") else "on-demand")


def test_a_token_is_needed_and_the_head_has_no_work(documents):
    spec = documents["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": kuberay.SECRET}
    start = spec["headGroupSpec"]["rayStartParams"]
    assert (start["num-cpus"], start["num-gpus"]) == ("0", "0")


def test_what_jobs_are_given_is_taken_by_the_command(documents):
    entries = [documents["RayJob"]["spec"]["entrypoint"], documents["RayCronJob"]["spec"]["jobTemplate"]["entrypoint"]]
    for entry, module, command in zip(entries, ("evaluate", "watch"), ("run", "watch"), strict=True):
        python, _, name, *arguments = shlex.split(entry)
        assert (python, name) == ("python", f"harness.jobs.{module}")
        found = cli._parser().parse_args([command, *arguments, "--address", "auto"])
        assert (found.spec, found.out, found.data_root) == ("paper", "s3://bucket/results", "/mnt/shared/data")
        assert found.protocol == "strict"
        if command == "run":
            assert found.model == ["llama-2-7b", "tuned 7b"]
        else:
            assert (found.source, found.once, found.model) == ("pythia-1b", True, None)


def test_a_wrong_schedule_or_file_is_wrong_use(capsys, tmp_path):
    assert main([*ASKED, "--schedule", "hourly"]) == 2
    assert "five fields" in capsys.readouterr().err
    assert main([*ASKED, "--cluster", str(tmp_path / "none.yaml")]) == 2
    (tmp_path / "other.yaml").write_text("a: 1")
    assert main([*ASKED, "--cluster", str(tmp_path / "other.yaml")]) == 2


def strict(schema):
    """A definition of the operator that allows no field which it does not know, as `kubectl --validate=strict`."""
    if not isinstance(schema, dict):
        return schema
    made = {key: strict(value) if key != "properties" else {n: strict(v) for n, v in value.items()}
            for key, value in schema.items()}  # fmt: skip
    if "properties" in made and not made.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
    if made.get("x-kubernetes-int-or-string"):
        made["type"] = ["integer", "string"]
    return made


def test_every_document_is_what_the_operator_knows(documents, shared):
    for file in sorted((shared / "forms" / "kuberay").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())["spec"]
        (known,) = (one for one in definition["versions"] if one["name"] == "v1")
        schema = strict(known["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        found = list(jsonschema.Draft202012Validator(schema).iter_errors(documents[definition["names"]["kind"]]))
        assert not found, [(list(error.absolute_path), error.message) for error in found]
