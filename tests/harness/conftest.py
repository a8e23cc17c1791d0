"""A server on this machine that can misbehave, for the tests of downloads."""

from __future__ import annotations

import contextlib
import http.server
import threading
from dataclasses import dataclass, field

import pytest

from harness.datasets.fetching import download


@dataclass
class Server:
    """What the server does, and what it was asked for."""

    content: bytes = bytes(range(256)) * 2_000  # 512,000 bytes, so that a cut falls within
    etag: str = '"one"'
    ranges: bool = True
    range_shift: int = 0  # how far the ranges it sends are from those asked for
    retry_after: str = ""
    sends_length: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes of the coming answers, after which it hangs up
    statuses: list[int] = field(default_factory=list)  # of the coming answers
    hold_after: int = 0  # bytes of every answer, after which it says nothing more
    redirect: str = ""
    slow_s: float = 0.0
    gate: threading.Event | None = None  # answers wait for it
    absent: set[str] = field(default_factory=set)  # paths
    asked: list[dict[str, str]] = field(default_factory=list)
    url: str = ""


def handler_of(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            """Say nothing."""

        def do_GET(self):
            server.asked.append({name.lower(): value for name, value in self.headers.items()})
            threading.Event().wait(server.slow_s)
            if server.gate:
                server.gate.wait(30)
            if server.statuses:
                return self.empty(server.statuses.pop(0), Retry_After=server.retry_after)
            if self.path in server.absent:
                return self.empty(404)
            if server.redirect and self.path != "/moved":
                return self.empty(302, Location=server.redirect)
            return self.send()

        def empty(self, status, **headers):
            self.send_response(status)
            for name, value in {**headers, "Content-Length": "0"}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()

        def send(self):
            asked, size = server.asked[-1], len(server.content)
            start = int(asked.get("range", "bytes=0-")[6:-1])
            if not server.ranges or asked.get("if-range", server.etag) != server.etag:
                start = 0
            if start and start >= size:
                return self.empty(416, Content_Range=f"bytes */{size}")
            return self.send_from(start and start + server.range_shift, size)

        def send_from(self, start, size):
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if server.etag:
                self.send_header("ETag", server.etag)
            if server.sends_length:
                self.send_header("Content-Length", str(size - start))
            self.end_headers()
            self.close_connection = True
            body = server.content[start:]
            if server.hold_after:
                self.wfile.write(body[: server.hold_after])
                threading.Event().wait(5)
                return
            with contextlib.suppress(OSError):  # the client may hang up first
                self.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)

    return Handler


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_BACKOFF_S", 0.001)
    behaviour = Server()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(behaviour))
    httpd.daemon_threads = True
    threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
    behaviour.url = f"http://127.0.0.1:{httpd.server_address[1]}/file"
    yield behaviour
    httpd.shutdown()
    httpd.server_close()
