"""How a run is asked to end before it is done: SIGTERM lets what runs finish, Ctrl-C does not; a second one ends all.

A signal only leaves word. The run looks for it where nothing is half done, so that claims are given back and what is
stored is whole.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# A cluster that takes a node away gives half a minute (Kubernetes) or two (spot machines); tables want some of it.
GRACE_S = 15.0


@dataclass
class Stop:
    """Whether a run was asked to end. until: when what runs is no longer waited for, by time.monotonic; None: go on."""

    until: float | None = None

    @property
    def is_asked(self) -> bool:
        """Whether nothing more may be begun."""
        return self.until is not None

    @property
    def is_over(self) -> bool:
        """Whether what runs is no longer waited for."""
        return self.until is not None and time.monotonic() >= self.until

    def ask(self, grace_s: float = 0.0) -> None:
        """Ask for the end, now or after a while."""
        self.until = time.monotonic() + grace_s


@contextlib.contextmanager
def handlers_kept() -> Iterator[None]:
    """Whatever the body makes of SIGTERM, who listened to it before does so after."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    if callable(before) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def signals(grace_s: float = GRACE_S, *, ctrl_c: bool = True) -> Iterator[Stop]:
    """While open, SIGTERM and Ctrl-C leave word in what is given; in a thread, where none can be heard, nothing does.

    Args:
        grace_s: how long what runs is waited for after SIGTERM.
        ctrl_c: whether Ctrl-C only sets the flag; else it raises KeyboardInterrupt at once, for work that cannot poll.

    Raises:
        KeyboardInterrupt: in the body, at the second signal, wherever that is.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def heard(number: int, _: Any) -> None:
        if stop.is_asked:
            raise KeyboardInterrupt
        stop.ask(grace_s if number == signal.SIGTERM else 0.0)

    heard_of = (signal.SIGTERM, signal.SIGINT) if ctrl_c else (signal.SIGTERM,)
    before = {number: signal.signal(number, heard) for number in heard_of}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
