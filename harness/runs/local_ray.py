"""A Ray of our own on this machine: on loopback alone, deaf to a signal that is the run's, gone without a trace.

Slurm, systemd and `timeout` send SIGTERM to all processes of a job. Ray's own must outlive it, since the run finishes
what is under way and writes its tables first; they end when the run ends. What Ray writes for itself (logs, sockets)
lies in a session folder, which is removed afterwards; those of runs that were killed are removed by the next run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray

from harness.runs import stopping
from harness.storage import claims

# In a session folder of ours: whose it is. Sessions that others started are never touched.
_MARK = "of-harness"
# By this Ray decides at which address a node listens: at its own in the network, or at 127.0.0.1.
_IN_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Of Ray's object store.
STORE_BYTES = 512 * 2**20
_sessions: list[Path] = []


def start() -> None:
    """Start a Ray on this machine and join it.

    Raises:
        RuntimeError: in a sentence, if it does not come up.
    """
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": STORE_BYTES}
    try:
        with stopping.handlers_kept(), _sigterm_blocked(), _on_loopback():  # Ray's own handler ends the process at once
            ray.init(address="local", logging_level="ERROR", log_to_driver=False, **options)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise RuntimeError(
            f"Ray did not start on this machine ({type(error).__name__}: {said}); look whether memory, disk space "
            "for temporary files and processes are left (`harness doctor`), and give the same command again."
        ) from error
    with contextlib.suppress(OSError, AttributeError, KeyError):  # of another version of Ray
        node: Any = ray._private.worker._global_node
        (raylet,) = node.all_processes["raylet"]
        node.kill_all_processes = partial(_kill, node.kill_all_processes, raylet.process.pid)
        _register_session(Path(node.get_session_dir_path()))


def end() -> None:
    """End the Ray of this process, and remove what it wrote for itself."""
    with contextlib.suppress(Exception):
        ray.shutdown()
    while _sessions:
        shutil.rmtree(_sessions.pop(), ignore_errors=True)


def _kill(kill: Callable[..., None], raylet: int, **how: Any) -> None:
    """Kill a node's processes at once: deaf to SIGTERM, each would be waited for; nor do all end with their raylet."""
    own = []
    with contextlib.suppress(psutil.Error):
        own = psutil.Process(raylet).children(recursive=True)
    kill(**{**how, "allow_graceful": False})
    for process in own:
        with contextlib.suppress(psutil.Error):
            process.kill()


def _register_session(session: Path) -> None:
    """Mark a session folder as ours, and remove those of processes that have ended."""
    for mark in session.parent.glob(f"session_*/{_MARK}"):
        with contextlib.suppress(OSError):
            if mark.stat().st_uid == os.getuid() and claims.has_ended(mark.read_text(encoding="utf-8")):
                shutil.rmtree(mark.parent, ignore_errors=True)
    (session / _MARK).write_text(claims.this_process(), encoding="utf-8")
    if not _sessions:
        atexit.register(end)  # before Ray's own, which was registered when it was imported
    _sessions.append(session)


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """What is started meanwhile never hears SIGTERM: a blocked signal stays blocked in a new program."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """A node that is started meanwhile listens at 127.0.0.1, as Ray does by itself on macOS and Windows."""
    from ray._private import ray_constants

    if _IN_NETWORK in os.environ:
        yield
        return
    before, os.environ[_IN_NETWORK] = ray_constants.ENABLE_RAY_CLUSTER, "0"
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        del os.environ[_IN_NETWORK]
