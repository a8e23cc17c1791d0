"""Heads of made-up clusters: their ports, and their start."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable

TRIES = 3


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


def started(
    start: Callable[[], subprocess.Popen[str]], is_up: Callable[[], bool], seconds: float,
    printed: Callable[[subprocess.Popen[str]], str],
) -> subprocess.Popen[str]:  # fmt: skip
    """A head that is up; Ray gives it 30 s, which are too few beside busy processes, so it is tried three times.

    Args:
        start: starts it.
        is_up: whether it is up.
        seconds: limit for all tries together.
        printed: what a head that has ended printed, for the error.
    """
    deadline = time.monotonic() + seconds
    for _ in range(TRIES):
        head = start()
        while head.poll() is None:
            if is_up():
                return head
            assert time.monotonic() < deadline
            time.sleep(0.1)
    raise AssertionError(f"Ray did not start, {TRIES} times: {printed(head)}")
