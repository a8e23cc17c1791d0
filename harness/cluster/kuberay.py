"""The same cluster on Kubernetes: node types of cluster.yaml -> manifests of KubeRay (RayCluster, RayJob, RayCronJob).

A worker of a node type becomes a group that scales from none; spot and on-demand differ by the label of the nodes that
they ask for. The token is a Secret that is made once and stands in no manifest. Passes of a watch may overlap: each
unit is claimed by whoever computes it, and a checkpoint that another pass evaluates is found in the tables.

Sources: KubeRay's definitions of ray.io/v1, 1.6 to 1.7 (RayCronJob is alpha, and behind the operator's feature gate).
"""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from harness.cluster.machines import GPU_MEMORY, LARGEST

NAME = "brain-alignment"
SECRET = "ray-auth-token"  # noqa: S105 - its name
# Where Kubernetes says that a node is a spot machine, and how it says it: Karpenter's words. change: your provider's.
SPOT = "karpenter.sh/capacity-type"


def manifests(
    file: str, image: str, evaluate: list[str], watch: list[str], schedule: str, storage: str = ""
) -> list[dict[str, Any]]:
    """A RayCluster to submit jobs to, a RayJob for one run, a RayCronJob for a watch; each with workers of its own.

    Args:
        file: cluster.yaml of Ray's launcher.
        image: of head and workers, with this project installed.
        evaluate: arguments of `jobs/evaluate.py`.
        watch: arguments of `jobs/watch.py`.
        schedule: of the watch, as cron writes it.
        storage: name of a PersistentVolumeClaim with recordings and weights, mounted at /mnt/shared; "" for none.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if it is no cluster file, or the schedule has not five fields.
    """
    if len(schedule.split()) != 5:
        raise ValueError(f'--schedule {schedule!r} is not of five fields; every hour is "0 * * * *".')
    spec = _cluster(_node_types(file), image, storage)
    jobs = {name: _job(name, arguments, spec) for name, arguments in (("evaluate", evaluate), ("watch", watch))}
    cron = {"schedule": schedule, "jobTemplate": jobs["watch"]}
    return [
        _document("RayCluster", NAME, spec),
        _document("RayJob", f"{NAME}-evaluate", jobs["evaluate"]),
        _document("RayCronJob", f"{NAME}-watch", cron),
    ]


def as_text(documents: list[dict[str, Any]]) -> str:
    """YAML for `kubectl apply -f -`, with what must be there before."""
    head = (
        f"# kubectl create secret generic {SECRET} --from-file=auth_token=$HOME/.ray/auth_token\n"
        "# KubeRay 1.6 or later; RayCronJob wants the operator's --feature-gates=RayCronJob=true\n"
    )
    return head + str(yaml.safe_dump_all(documents, sort_keys=False, width=120))


def _node_types(file: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Resources of the head, and the kinds of workers."""
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{file} is no file; give --cluster the cluster.yaml of Ray's launcher.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        kinds, head = dict(content["available_node_types"]), content["head_node_type"]
        return kinds.pop(head)["resources"], kinds
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is no cluster file of Ray's launcher ({type(error).__name__}: {error}).") from error


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "ray.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _cluster(types: tuple[dict[str, Any], dict[str, dict[str, Any]]], image: str, storage: str) -> dict[str, Any]:
    head, kinds = types
    pods = {"image": image, "storage": storage}
    return {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": 600},
        "authOptions": {"mode": "token", "secretName": SECRET},  # else the operator makes a token that nobody has
        "headGroupSpec": {
            # The operator submits to the dashboard from a pod of its own, which loopback would shut out: it listens in
            # the pods' network, and the token guards it. The head runs no work.
            "rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0", "num-gpus": "0"},  # noqa: S104
            "labels": {LARGEST: _largest(kinds)},
            "template": _pod(head, spot=None, **pods),
        },
        "workerGroupSpecs": [
            {
                "groupName": name.replace("_", "-"), "replicas": 0, "minReplicas": int(kind.get("min_workers", 0)),
                "maxReplicas": int(kind["max_workers"]), "labels": {GPU_MEMORY: str(kind["labels"][GPU_MEMORY])},
                "rayStartParams": {}, "template": _pod(kind["resources"], spot=_is_spot(kind), **pods),
            }
            for name, kind in kinds.items()
        ],
    }  # fmt: skip


def _largest(kinds: dict[str, dict[str, Any]]) -> str:
    """The largest node that may come, as the head's label says it."""
    sizes = [(int(kind["resources"]["GPU"]), int(kind["labels"][GPU_MEMORY])) for kind in kinds.values()]
    n_gpus, memory = max(sizes, key=lambda size: size[0] * size[1])
    return f"{n_gpus}x{memory}"


def _is_spot(kind: dict[str, Any]) -> bool:
    return "spot" in str(kind.get("node_config", {})).lower()


def _pod(resources: dict[str, Any], image: str, storage: str, spot: bool | None) -> dict[str, Any]:
    """One pod for one machine: it asks for a little less than the machine has, which Kubernetes needs itself."""
    n_cpus, n_gpus = int(resources["CPU"]), int(resources.get("GPU", 0))
    asked: dict[str, Any] = {"cpu": max(1, n_cpus - 2), "memory": f"{4 * n_cpus * 4 // 5}Gi"}
    asked |= {"nvidia.com/gpu": n_gpus} if n_gpus else {}
    container: dict[str, Any] = {
        "name": "ray", "image": image, "resources": {"requests": dict(asked), "limits": dict(asked)},
        "env": [{"name": "RAY_USAGE_STATS_ENABLED", "value": "0"}, {"name": "RAY_JOB_STOP_WAIT_TIME_S", "value": "60"}],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
    }  # fmt: skip
    if n_gpus:  # Kubernetes tells a pod that its node goes: Ray gives it no more work meanwhile
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
