"""cluster.yaml against Ray's own schema, offline, and what it promises."""

from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
CLUSTER = ROOT / "cluster.yaml"


@pytest.fixture(scope="module")
def config():
    return yaml.safe_load(CLUSTER.read_text())


def test_the_cluster_file_is_what_rays_launcher_takes(config):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(config))


def test_workers_come_from_none_spot_before_on_demand(config):
    kinds = config["available_node_types"]
    head = kinds[config["head_node_type"]]
    assert "GPU" not in head["resources"]
    workers = {name: kind for name, kind in kinds.items() if name != config["head_node_type"]}
    assert {kind["min_workers"] for kind in workers.values()} == {0}
    sizes = {(kind["resources"]["GPU"], kind["labels"]["gpu-memory-gb"], _is_spot(kind)) for kind in workers.values()}
    assert sizes == {(n, memory, spot) for n, memory in ((8, "80"), (1, "24")) for spot in (True, False)}
    for kind in workers.values():
        same = [other for other in workers.values() if other["resources"] == kind["resources"] and _is_spot(other)]
        assert kind in same or kind["priority"] < same[0]["priority"]


def test_the_head_says_which_node_is_the_largest_that_may_come(config):
    from harness.runs.reservations import LARGEST

    sizes = [(kind["resources"]["GPU"], int(kind["labels"]["gpu-memory-gb"]))
             for kind in config["available_node_types"].values() if "GPU" in kind["resources"]]  # fmt: skip
    n_gpus, memory = max(sizes, key=lambda size: size[0] * size[1])
    assert config["available_node_types"]["head"]["labels"] == {LARGEST: f"{n_gpus}x{memory}"}


def _is_spot(kind):
    return kind["node_config"].get("InstanceMarketOptions", {}).get("MarketType") == "spot"


def test_a_token_is_needed_and_the_dashboard_listens_on_loopback(config):
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert config["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_the_image_has_the_ray_of_the_lock(config):
    (pinned,) = [
        line for line in (ROOT / ".ci" / "constraints.txt").read_text().splitlines() if line.startswith("ray==")
    ]
    for kind in ("head_image", "worker_image"):
        assert config["docker"][kind].startswith(f"rayproject/ray:{pinned.removeprefix('ray==')}-py311-")
    installs = [line for line in config["setup_commands"] if "pip install" in line]
    assert all("--constraint /home/ray/brain-alignment-harness/.ci/constraints.txt" in line for line in installs)


def test_plans_are_made_from_it():
    from harness.cluster import forecast

    cluster = forecast.cluster_of(str(CLUSTER))
    assert len(cluster.nodes) == 8
    assert {(node.n_gpus, node.gpu_bytes) for node in cluster.nodes} == {(8, 80 * 10**9), (1, 24 * 10**9)}
