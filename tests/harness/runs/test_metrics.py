"""What a run does can be read from Ray's metrics, as Prometheus reads them."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import ray
import requests

from harness.runs import pipeline
from harness.spec import quickstart


def test_units_tokens_share_and_queue_are_metrics_of_ray(tmp_path):
    ray.shutdown()
    spec = replace(
        quickstart(), models=("tiny-gpt2",), datasets=("synthetic-reading",), protocols=("strict",), variants=()
    )
    outcome = pipeline.run(spec, str(tmp_path))
    assert not outcome.failures
    try:
        (node,) = ray.nodes()
        where = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        until, found = time.monotonic() + 60, {}
        while found.get("units_done", 0) < outcome.n_units + 1 and time.monotonic() < until:
            time.sleep(1)
            said = requests.get(where, timeout=10).text
            found = {}
            for name, labels, value in re.findall(r"^ray_harness_(\w+?)(?:_total)?\{(.*)\} (\S+)$", said, re.MULTILINE):
                assert f'run="{outcome.run}"' in labels
                found[name] = found.get(name, 0) + float(value)
    finally:
        ray.shutdown()
    assert found["units_done"] == outcome.n_units + 1  # its scores, and one text that was read
    assert found["tokens_read"] > 1000
    assert found["gpu_share"] == 0
    assert found["queue"] >= 0
