"""Stop a run early: SIGTERM waits for the units in progress, Ctrl-C does not; a second signal exits at once.

The handler only sets a flag. The run checks it between units, so that claims are released and stored units are
complete.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# The notice before a node is taken away is 30 seconds (Kubernetes) or two minutes (spot machines); part of it is needed
# to write the tables.
GRACE_S = 15.0


@dataclass
class Stop:
    """Flag that stops a run.

    until: when to stop waiting for the units in progress, by time.monotonic; None while no stop was requested.
    """

    until: float | None = None

    @property
    def is_asked(self) -> bool:
        """Whether a stop was requested: no new unit may start."""
        return self.until is not None

    @property
    def is_over(self) -> bool:
        """Whether the grace period is over: units in progress are no longer waited for."""
        return self.until is not None and time.monotonic() >= self.until

    def ask(self, grace_s: float = 0.0) -> None:
        """Request a stop; units in progress are waited for up to `grace_s` seconds."""
        self.until = time.monotonic() + grace_s


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM after the body, which may replace it."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def signals(grace_s: float = GRACE_S) -> Iterator[Stop]:
    """Set a flag on SIGTERM and Ctrl-C while the context is open. Outside the main thread it is never set.

    Args:
        grace_s: seconds to wait for the units in progress after SIGTERM.

    Yields:
        The flag.

    Raises:
        KeyboardInterrupt: in the body, at the second signal.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, _: Any) -> None:
        if stop.is_asked:
            raise KeyboardInterrupt
        stop.ask(grace_s if number == signal.SIGTERM else 0.0)

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
