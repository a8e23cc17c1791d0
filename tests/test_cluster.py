"""cluster.yaml against Ray's own schema, offline."""

from pathlib import Path

import yaml

CLUSTER = Path(__file__).resolve().parent.parent / "cluster.yaml"


def test_the_cluster_file_is_what_rays_launcher_takes():
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(CLUSTER.read_text())))


def test_the_cluster_starts_from_no_workers_with_a_token_and_a_dashboard_on_loopback():
    config = yaml.safe_load(CLUSTER.read_text())
    assert config["available_node_types"]["gpu_worker"]["min_workers"] == 0
    starts = [line for key in ("head", "worker") for line in config[f"{key}_start_ray_commands"] if "ray start" in line]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
