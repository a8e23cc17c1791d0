"""Preemption notices from the clouds' metadata services reach Ray, and no more models are placed on the node."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
import ray
from ray.cluster_utils import Cluster

from harness.cluster import preemption
from harness.runs import reservations

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.slow]


@pytest.fixture
def metadata(monkeypatch):
    """A metadata service; the test sets its answers: path -> (status, text)."""
    answers = {}

    class Service(BaseHTTPRequestHandler):
        def do_GET(self):
            status, text = answers.get(self.path, (404, ""))
            if "latest" in self.path and self.headers.get("X-aws-ec2-metadata-token") != "for a minute":
                status, text = 401, ""
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"for a minute")

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Service) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://{host}")
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        yield answers
        server.shutdown()


def test_without_a_notice_seconds_left_is_none(metadata):
    assert preemption.seconds_left() is None


def test_notices_of_amazon_have_a_time_and_those_of_google_do_not(metadata):
    deadline = datetime.now(UTC) + timedelta(seconds=100)
    notice = f'{{"action": "terminate", "time": "{deadline:%Y-%m-%dT%H:%M:%SZ}"}}'
    metadata["/latest/meta-data/spot/instance-action"] = (200, notice)
    assert preemption.seconds_left() == pytest.approx(100, abs=3)
    metadata.clear()
    metadata["/computeMetadata/v1/instance/preempted"] = (200, "FALSE\n")
    assert preemption.seconds_left() is None
    metadata["/computeMetadata/v1/instance/preempted"] = (200, "TRUE\n")
    assert preemption.seconds_left() == preemption.GOOGLE_S


def test_a_node_with_a_notice_gets_no_more_models(metadata, monkeypatch):
    monkeypatch.setattr(preemption, "LOOK_S", 0.1)
    ray.shutdown()
    memory = {"object_store_memory": 2**27}
    ray_cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **memory})
    remaining, preempted = (ray_cluster.add_node(num_cpus=1, **memory) for _ in range(2))
    ray.init(address=ray_cluster.address, logging_level="ERROR", log_to_driver=False)
    try:
        assert {node.name for node in reservations.cluster("cpu").nodes} == {remaining.node_id, preempted.node_id}
        thread = Thread(target=preemption.watch, args=(ray_cluster.address, preempted.node_id))
        thread.start()
        time.sleep(0.5)
        assert thread.is_alive()
        metadata["/computeMetadata/v1/instance/preempted"] = (200, "TRUE")
        thread.join(timeout=60)
        assert not thread.is_alive()
        assert {node.name for node in reservations.cluster("cpu").nodes} == {remaining.node_id}
    finally:
        ray.shutdown()
        ray_cluster.shutdown()
