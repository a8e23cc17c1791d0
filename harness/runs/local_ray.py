"""A local Ray for one run: it listens on loopback only, ignores SIGTERM, and leaves no files behind.

Slurm, systemd and `timeout` send SIGTERM to all processes of a job. Ray's processes must survive it, because the run
first finishes the units in progress and writes its tables; they end with the run. Ray's logs and sockets are in a
session folder, which is removed afterwards; the next run removes the session folders of killed runs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import ray

from harness.loading import memory
from harness.runs import stopping
from harness.storage import claims

# File in a session folder that names the process that owns it. Sessions without this file are never touched.
_MARK = "of-harness"
# Ray reads this variable to decide whether a node listens on its network address or on 127.0.0.1.
_IN_NETWORK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
# Size of Ray's object store: this part of the free memory, if shared memory has it (in Docker by default 64 MB), but at
# least so many bytes; Ray keeps what shared memory cannot hold in files. It takes memory only for what is in it.
_STORE_FRACTION, _LEAST_STORE_BYTES = 0.3, 512 * 2**20
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - where Ray keeps it
_PACKAGE = f"{Path(ray.__file__).parent}{os.sep}"  # programs in it are Ray's
_sessions: list[Path] = []


def start() -> None:
    """Start a local Ray and connect to it.

    Raises:
        RuntimeError: if Ray does not start.
    """
    # By default Ray's workers have the lowest priority: beside two busy processes a run on two cores takes ten times as
    # long. `nice harness run` gives way to others.
    os.environ.setdefault("RAY_worker_niceness", "0")
    options: dict[str, Any] = {"include_dashboard": False, "object_store_memory": _store_bytes()}
    if given := os.environ.get("SLURM_CPUS_ON_NODE"):  # Ray would count all cores of the node
        options["num_cpus"] = int(given)
    try:
        _init(options)
    except Exception as error:
        message = " ".join(str(error).split())[:300]
        raise RuntimeError(
            f"Ray did not start on this machine ({type(error).__name__}: {message}); check free memory, disk space for "
            "temporary files and the process limit (`harness doctor`), then run the same command again."
        ) from error
    with contextlib.suppress(OSError, AttributeError, psutil.Error):  # private API; may differ in another Ray version
        node: Any = ray._private.worker._global_node
        pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
        node.kill_all_processes = partial(_kill, node.kill_all_processes, [*map(psutil.Process, pids)])
        _register_session(Path(node.get_session_dir_path()))


def _init(options: dict[str, Any]) -> None:
    """Start Ray; once more if that fails, since Ray gives a node 30 s, which are too few beside many busy processes."""
    for is_last in (False, True):
        before = set(psutil.Process().children())
        try:
            with stopping.handlers_kept(), _sigterm_blocked(), _on_loopback():  # Ray's handler exits at once
                ray.init(address="local", logging_level="ERROR", log_to_driver=False, **options)
            return
        except Exception:
            with contextlib.suppress(Exception):
                ray.shutdown()
            _kill_ray(set(psutil.Process().children()) - before)
            if is_last:
                raise


def _kill_ray(processes: Iterable[psutil.Process]) -> None:
    """Kill those of the processes that are Ray's, with all that they started."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if any(part.startswith(_PACKAGE) for part in process.cmdline()):
                _kill_each([process, *process.children(recursive=True)])


def _kill_each(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
            process.wait(10)  # else it stays a zombie


def _store_bytes() -> int:
    """Size of the object store: responses of a long recording are in it several times."""
    room = _STORE_FRACTION * memory.free_bytes("cpu")
    if _SHARED_MEMORY.is_dir():
        room = min(room, 0.9 * shutil.disk_usage(_SHARED_MEMORY).free)
    return int(max(room, _LEAST_STORE_BYTES))


def end() -> None:
    """Shut down this process's Ray and remove its session folders."""
    with contextlib.suppress(Exception):
        ray.shutdown()
    while _sessions:
        shutil.rmtree(_sessions.pop(), ignore_errors=True)


def _kill(kill: Callable[..., None], processes: list[psutil.Process], **options: Any) -> None:
    """Kill a node's processes, and those that they started, at once.

    They ignore SIGTERM, so that a graceful shutdown would wait for each, and some outlive their raylet.
    """
    started = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            started += process.children(recursive=True)
    try:
        kill(**{**options, "allow_graceful": False})
    finally:
        _kill_each([*processes, *started])


def _register_session(session: Path) -> None:
    """Mark a session folder as owned by this process, and remove the folders of processes that have ended."""
    for mark in session.parent.glob(f"session_*/{_MARK}"):
        with contextlib.suppress(OSError):
            if mark.stat().st_uid == os.getuid() and claims.has_ended(mark.read_text(encoding="utf-8")):
                shutil.rmtree(mark.parent, ignore_errors=True)
    (session / _MARK).write_text(claims.this_process(), encoding="utf-8")
    if not _sessions:
        atexit.register(end)  # runs before Ray's own exit handler, registered at import
    _sessions.append(session)


@contextlib.contextmanager
def _sigterm_blocked() -> Iterator[None]:
    """Block SIGTERM; child processes started meanwhile inherit the blocked signal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Make nodes started meanwhile listen on 127.0.0.1, which is Ray's default on macOS and Windows."""
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
