"""KubeRay manifests match cluster.yaml, and their entry points accept the given arguments."""

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
COMMAND = [
    "manifest", "kuberay", "paper", "--model", "llama-2-7b", "--model", "tuned 7b", "--protocol", "strict", "--image",
    "registry/harness@sha256:0", "--out", "s3://bucket/results", "--data-root", "/mnt/shared/data", "--cluster",
    str(CLUSTER), "--watch", "pythia-1b", "--storage", "weights",
]  # fmt: skip


def printed(capsys, *options):
    """The comments of the command, and its documents by kind."""
    assert main([*COMMAND, *options]) == 0
    text = capsys.readouterr().out
    comments = [line for line in text.splitlines() if line.startswith("#")]
    return comments, {document["kind"]: document for document in yaml.safe_load_all(text)}


@pytest.fixture
def documents(capsys):
    comments, documents = printed(capsys)
    assert "token" in comments[0]
    assert not any("redis" in comment for comment in comments)
    return documents


def test_there_is_one_document_of_each_kind(documents):
    assert set(documents) == {"RayCluster", "RayJob", "RayCronJob"}
    assert {document["apiVersion"] for document in documents.values()} == {"ray.io/v1"}
    clusters = [documents["RayCluster"]["spec"], documents["RayJob"]["spec"]["rayClusterSpec"],
                documents["RayCronJob"]["spec"]["jobTemplate"]["rayClusterSpec"]]  # fmt: skip
    assert clusters[0] == clusters[1] == clusters[2]


def test_workers_equal_the_nodes_of_the_forecast(documents):
    spec, cluster = documents["RayCluster"]["spec"], forecast.cluster_of(str(CLUSTER))
    assert spec["rayVersion"] == version("ray")
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    kinds = {node.name.rpartition("-")[0].replace("_", "-"): node for node in cluster.nodes}
    for name, node in kinds.items():
        (container,) = groups[name]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == node.n_gpus
        assert float(groups[name]["labels"]["gpu-memory-gb"]) * 1e9 == node.gpu_bytes
        assert (groups[name]["minReplicas"], groups[name]["replicas"]) == (0, 0)
    node_types = yaml.safe_load(CLUSTER.read_text())["available_node_types"]
    for name, kind in node_types.items():
        if name != "head":
            group = groups[name.replace("_", "-")]
            assert group["maxReplicas"] == kind["max_workers"]
            selected = group["template"]["spec"]["nodeSelector"][kuberay.SPOT]
            assert selected == ("spot" if name.startswith("spot") else "on-demand")


def test_a_token_is_required_and_the_head_runs_no_work(documents):
    spec = documents["RayCluster"]["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": kuberay.SECRET}
    start = spec["headGroupSpec"]["rayStartParams"]
    assert (start["num-cpus"], start["num-gpus"]) == ("0", "0")


def test_the_arguments_of_jobs_are_accepted_by_the_command(documents):
    entries = [documents["RayJob"]["spec"]["entrypoint"], documents["RayCronJob"]["spec"]["jobTemplate"]["entrypoint"]]
    for entry, module, command in zip(entries, ("evaluate", "watch"), ("run", "watch"), strict=True):
        python, _, name, *arguments = shlex.split(entry)
        assert (python, name) == ("python", f"harness.jobs.{module}")
        parsed = cli.parser().parse_args([command, *arguments, "--address", "auto"])
        assert (parsed.spec, parsed.out, parsed.data_root) == ("paper", "s3://bucket/results", "/mnt/shared/data")
        assert parsed.protocol == "strict"
        if command == "run":
            assert parsed.model == ["llama-2-7b", "tuned 7b"]
        else:
            assert (parsed.source, parsed.once, parsed.model) == ("pythia-1b", True, None)


def test_an_invalid_schedule_or_file_is_a_usage_error(capsys, tmp_path):
    assert main([*COMMAND, "--schedule", "hourly"]) == 2
    assert "five fields" in capsys.readouterr().err
    assert main([*COMMAND, "--cluster", str(tmp_path / "none.yaml")]) == 2
    (tmp_path / "other.yaml").write_text("a: 1")
    assert main([*COMMAND, "--cluster", str(tmp_path / "other.yaml")]) == 2


def test_the_state_of_the_cluster_for_jobs_is_kept_in_redis(capsys, documents):
    comments, with_redis = printed(capsys, "--redis", "redis.default:6379")
    options = with_redis["RayCluster"]["spec"].pop("gcsFaultToleranceOptions")
    assert with_redis == documents
    assert options["redisAddress"] == "redis.default:6379"
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    (create,) = (comment for comment in comments if "redis" in comment)
    assert f"create secret generic {secret['name']} --from-file={secret['key']}=" in create


@pytest.mark.parametrize("address", ["redis", "redis:", ":6379", "redis:port", "redis:65536", "user:password@redis:1",
                                     "redis://redis:6379"])  # fmt: skip
def test_an_address_of_redis_that_is_not_host_and_port_is_a_usage_error(address, capsys):
    assert main([*COMMAND, "--redis", address]) == 2
    captured = capsys.readouterr()
    assert "wanted HOST:PORT" in captured.err
    assert not captured.out


def strict(schema):
    """A schema of the operator that rejects unknown fields, like `kubectl --validate=strict`."""
    if not isinstance(schema, dict):
        return schema
    result = {key: strict(value) if key != "properties" else {n: strict(v) for n, v in value.items()}
              for key, value in schema.items()}  # fmt: skip
    if "properties" in result and not result.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if result.get("x-kubernetes-int-or-string"):
        result["type"] = ["integer", "string"]
    return result


def test_every_document_is_valid_under_the_operators_schema(documents, capsys, shared):
    _, with_redis = printed(capsys, "--redis", "redis.default:6379")
    for file in sorted((shared / "forms" / "kuberay").glob("*.yaml")):
        definition = yaml.safe_load(file.read_text())["spec"]
        (version_1,) = (entry for entry in definition["versions"] if entry["name"] == "v1")
        schema = strict(version_1["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        validator, kind = jsonschema.Draft202012Validator(schema), definition["names"]["kind"]
        errors = [error for given in (documents, with_redis) for error in validator.iter_errors(given[kind])]
        assert not errors, [(list(error.absolute_path), error.message) for error in errors]
