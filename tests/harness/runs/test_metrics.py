"""Ray's metrics endpoint exports the progress of a run in Prometheus format."""

from __future__ import annotations

import re
import threading
import time
from dataclasses import replace

import pytest
import ray
import requests

from harness.runs import pipeline, ray_session
from harness.spec import quickstart

pytestmark = [pytest.mark.ray, pytest.mark.slow]


class Scraper(threading.Thread):
    """Scrapes the endpoint every second, also during the run: Ray drops a gauge that is not set again for 20 s."""

    def __init__(self):
        super().__init__(daemon=True)
        (node,) = ray.nodes()
        self.url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        self.totals, self.runs, self.ended = {}, set(), threading.Event()

    def run(self):
        while not self.ended.wait(1):
            try:
                text = requests.get(self.url, timeout=10).text
            except requests.RequestException:  # not up yet
                continue
            totals = {}
            for name, labels, value in re.findall(r"^ray_harness_(\w+?)(?:_total)?\{(.*)\} (\S+)$", text, re.MULTILINE):
                totals[name] = totals.get(name, 0) + float(value)
                self.runs |= set(re.findall(r'run="([^"]*)"', labels))
            self.totals |= totals

    def wait_for(self, least: dict[str, float], seconds: float = 60) -> None:
        """Wait until all are exported: Ray's agent takes one after the other, and a scrape may come between two."""
        until = time.monotonic() + seconds
        while any(self.totals.get(name, -1) < value for name, value in least.items()) and time.monotonic() < until:
            time.sleep(1)


def test_units_tokens_gpus_held_and_queue_are_exported(tmp_path):
    ray.shutdown()
    spec = replace(
        quickstart(), models=("tiny-gpt2",), datasets=("synthetic-reading",), protocols=("strict",), variants=()
    )
    ray_session.start(None)
    try:
        scraper = Scraper()
        scraper.start()
        outcome = pipeline.run(spec, str(tmp_path))
        assert not outcome.failures
        n_units = outcome.n_units + 1  # its scores, and one feature unit
        scraper.wait_for({"units_done": n_units, "tokens_read": 1, "gpu_share": 0, "queue": 0})
    finally:
        scraper.ended.set()
        scraper.join()
        ray.shutdown()
    assert scraper.runs == {outcome.run}
    assert scraper.totals["units_done"] == n_units
    assert scraper.totals["tokens_read"] > 1000
    assert scraper.totals["gpu_share"] == 0
    assert scraper.totals["queue"] >= 0
