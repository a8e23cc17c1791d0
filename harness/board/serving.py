"""Shows a site in the browser of this machine: plain files on the loopback address, for no other host."""

from __future__ import annotations

import io
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HOST = "127.0.0.1"


class _Handler(SimpleHTTPRequestHandler):
    """Files of one folder; no lists of folders, and no answers to names other than those of this machine."""

    def send_head(self) -> Any:
        name = self.headers.get("Host", "").rpartition(":")[0]
        if name not in (HOST, "localhost"):  # a page elsewhere whose name leads here (DNS rebinding)
            self.send_error(HTTPStatus.FORBIDDEN, "this board is for this machine only")
            return None
        return super().send_head()

    def list_directory(self, path: Any) -> io.BytesIO | None:  # noqa: ARG002
        self.send_error(HTTPStatus.NOT_FOUND, "no such page")
        return None

    def end_headers(self) -> None:
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing: requests come from this machine only."""


def server(folder: str, port: int = 0) -> ThreadingHTTPServer:
    """A server of a folder on 127.0.0.1; the caller runs `serve_forever` and closes it.

    Args:
        folder: what `site.write` wrote.
        port: 0 takes any free one; `server_port` has it.

    Raises:
        OSError: if the port is taken.
    """
    return ThreadingHTTPServer((HOST, port), partial(_Handler, directory=folder))
