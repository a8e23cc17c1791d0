"""Ports on loopback for servers of tests."""

from __future__ import annotations

import random
import socket


def free_port() -> int:
    """A port that neither workers of Ray nor outgoing connections take before its server listens."""
    while True:
        port = random.randint(20_000, 32_000)  # noqa: S311
        with socket.socket() as bound:
            try:
                bound.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
