"""KubeRay manifests (RayCluster, RayJob, RayCronJob) for Kubernetes, from the node types of cluster.yaml.

Each worker type becomes a group that scales from zero; spot and on-demand groups select nodes by label. The token is a
Secret that is created once and appears in no manifest. Passes of a checkpoint watcher may overlap: units are claimed,
and a checkpoint evaluated by another pass is found in the tables.

Sources: KubeRay's definitions of ray.io/v1, 1.6 to 1.7 (RayCronJob is alpha, and behind the operator's feature gate).
"""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from harness.cluster.machines import GPU_MEMORY, LARGEST, reading_cluster_file

NAME = "brain-alignment"
SECRET = "ray-auth-token"  # noqa: S105 - the name of the Secret
REDIS_SECRET = "ray-redis-password"  # noqa: S105 - the name of the Secret
# Node label that marks spot machines, with values as used by Karpenter. change: your provider's label.
SPOT = "karpenter.sh/capacity-type"


def manifests(
    file: str, image: str, evaluate: list[str], watch: list[str], schedule: str, storage: str = "", redis: str = ""
) -> list[dict[str, Any]]:
    """A RayCluster for submitting jobs, a RayJob for one run, a RayCronJob for a watcher; each has its own workers.

    Args:
        file: cluster.yaml of Ray's launcher.
        image: image of head and workers, with this project installed.
        evaluate: arguments of `jobs/evaluate.py`.
        watch: arguments of `jobs/watch.py`.
        schedule: cron expression for the watcher.
        storage: name of a PersistentVolumeClaim with recordings and weights, mounted at /mnt/shared; "" for none.
        redis: HOST:PORT of a Redis server that keeps the state of the RayCluster when its head is lost; "" for none.
            The two others end with their only job, which is repeated on a new cluster.

    Raises:
        FileNotFoundError: if the file does not exist.
        ValueError: if it is not a cluster file, the schedule does not have five fields, or redis is not HOST:PORT.
    """
    if len(schedule.split()) != 5:
        raise ValueError(f'--schedule {schedule!r} does not have five fields; use "0 * * * *" for every hour.')
    spec = _cluster(_node_types(file), image, storage)
    jobs = {name: _job(name, arguments, spec) for name, arguments in (("evaluate", evaluate), ("watch", watch))}
    cron = {"schedule": schedule, "jobTemplate": jobs["watch"]}
    return [
        _document("RayCluster", NAME, spec | (_fault_tolerance(redis) if redis else {})),
        _document("RayJob", f"{NAME}-evaluate", jobs["evaluate"]),
        _document("RayCronJob", f"{NAME}-watch", cron),
    ]


def as_text(documents: list[dict[str, Any]]) -> str:
    """YAML for `kubectl apply -f -`, preceded by comments on prerequisites."""
    comments = f"# kubectl create secret generic {SECRET} --from-file=auth_token=$HOME/.ray/auth_token\n"
    if any("gcsFaultToleranceOptions" in document["spec"] for document in documents):
        comments += f"# kubectl create secret generic {REDIS_SECRET} --from-file=password=FILE  # without a newline\n"
    comments += "# KubeRay 1.6 or later; RayCronJob needs the operator's --feature-gates=RayCronJob=true\n"
    return comments + str(yaml.safe_dump_all(documents, sort_keys=False, width=120))


def _node_types(file: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Resources of the head, and the worker node types by name."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is not a file; give --cluster the cluster.yaml of Ray's launcher.")
    with reading_cluster_file(file):
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds, head = dict(content["available_node_types"]), content["head_node_type"]
        return kinds.pop(head)["resources"], kinds


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _cluster(types: tuple[dict[str, Any], dict[str, dict[str, Any]]], image: str, storage: str) -> dict[str, Any]:
    head, kinds = types
    spot = {name: "spot" in str(kind.get("node_config", {})).lower() for name, kind in kinds.items()}
    pods = {"image": image, "storage": storage}
    return {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 600},
        "authOptions": {"mode": "token", "secretName": SECRET},  # otherwise the operator generates an unknown token
        "headGroupSpec": {
            # The operator submits jobs from a pod of its own, so the dashboard must listen in the pods' network instead
            # of on loopback; the token protects it. The head runs no work.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0"},  # noqa: S104
            "labels": {LARGEST: _largest(kinds)},
            "template": _pod(head, spot=None, **pods),
        },
        "workerGroupSpecs": [
            {
                "groupName": name.replace("_", "-"), "replicas": 0, "minReplicas": int(kind.get("min_workers", 0)),
                "maxReplicas": int(kind["max_workers"]), "labels": {GPU_MEMORY: str(kind["labels"][GPU_MEMORY])},
                "rayStartParams": {}, "template": _pod(kind["resources"], spot=spot[name], **pods),
            }
            for name, kind in kinds.items()
        ],
    }  # fmt: skip


def _fault_tolerance(redis: str) -> dict[str, Any]:
    """Options of a RayCluster by which a restarted head finds its worker nodes again; the operator names its keys.

    Source: "GCS fault tolerance in KubeRay", docs.ray.io.
    """
    host, colon, port = redis.rpartition(":")
    if not (colon and re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:]+\]", host) and port.isdecimal() and 0 < int(port) < 65536):
        raise ValueError(
            f"--redis {redis!r}: wanted HOST:PORT of a Redis server, such as redis.default:6379; the password is the "
            f"Secret {REDIS_SECRET}."
        )
    password = {"valueFrom": {"secretKeyRef": {"name": REDIS_SECRET, "key": "password"}}}
    return {"gcsFaultToleranceOptions": {"redisAddress": redis, "redisPassword": password}}


def _largest(kinds: dict[str, dict[str, Any]]) -> str:
    """The largest node that may be started, as the value of the head's label."""
    sizes = [(int(kind["resources"]["GPU"]), int(kind["labels"][GPU_MEMORY])) for kind in kinds.values()]
    n_gpus, memory = max(sizes, key=lambda size: size[0] * size[1])
    return f"{n_gpus}x{memory}"


def _pod(resources: dict[str, Any], image: str, storage: str, spot: bool | None) -> dict[str, Any]:
    """One pod per machine; it requests slightly less than the machine has, to leave resources for Kubernetes."""
    n_cpus, n_gpus = int(resources["CPU"]), int(resources.get("GPU", 0))
    requests: dict[str, Any] = {"cpu": max(1, n_cpus - 2), "memory": f"{4 * n_cpus * 4 // 5}Gi"}
    requests |= {"nvidia.com/gpu": n_gpus} if n_gpus else {}
    container: dict[str, Any] = {
        "name": "ray", "image": image, "resources": {"requests": dict(requests), "limits": dict(requests)},
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}, {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "60"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    if n_gpus:  # before Kubernetes evicts the pod, drain its Ray node, so that it gets no more work
        drain = (
            "ray drain-node --address=$FQ_RAY_IP:6379 --reason=DRAIN_NODE_REASON_PREEMPTION --reason-message=evicted"
        )
        container["lifecycle"] = {"preStop": {"exec": {"command": ["sh", "-c", f"{drain} || true; sleep 20"]}}}
    pod: dict[str, Any] = {"terminationGracePeriodSeconds": 60, "containers": [container]}
    if storage:
        container["volumeMounts"] = [{"name": "shared", "mountPath": "/mnt/shared"}]
        pod["volumes"] = [{"name": "shared", "persistentVolumeClaim": {"claimName": storage}}]
    if n_gpus:
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
        pod["nodeSelector"] = {SPOT: "spot" if spot else "on-demand"}
    return {"spec": pod}


def _job(name: str, arguments: list[str], cluster: dict[str, Any]) -> dict[str, Any]:
    return {
        "entrypoint": f"python -m harness.jobs.{name} {shlex.join(arguments)}", "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": 600, "backoffLimit": 2, "submissionMode": "K8sJobMode", "rayClusterSpec": cluster,
    }  # fmt: skip
