"""Runs as jobs of a Ray cluster: submit, follow, list and cancel.

A job is submitted under the name of its run. Ray refuses a submission id that is in use, so a command given twice runs
once. Ray itself finds the cluster's token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token); the token is
never an argument and appears in no log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.cluster import packing

logger = logging.getLogger(__name__)

ADDRESS = "http://127.0.0.1:8265"
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
# A cancelled job drains (runs/stopping.py) and writes its tables; Ray's default of 3 s would kill it meanwhile.
STOP_WAIT_S = 60
_LOOK_S = 0.5
_LOST_S = 60.0  # a head that does not answer for this long counts as lost
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL")


def address_of(given: str | None) -> str:
    """Address of the dashboard: the given one, or RAY_API_SERVER_ADDRESS, or port 8265 of this machine.

    Raises:
        ValueError: if it is not an HTTP address.
    """
    address = given or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
    address = address if "://" in address else f"http://{address}"
    url = urlsplit(address)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(
            f"--address {given!r} is not the dashboard of a Ray cluster; give an address like {ADDRESS}, which `ray "
            "dashboard cluster.yaml` forwards to a cluster's head."
        )
    if url.scheme == "http" and not _is_loopback(url.hostname):
        logger.warning("%s is not encrypted: token and code can be intercepted; forward the port by ssh", address)
    return address


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def command_of(module: str, arguments: list[str]) -> str:
    """Command line of a job, with this interpreter if it exists on the head, otherwise the head's `python`."""
    return f"$(command -v {shlex.quote(sys.executable)} || echo python) -m {module} {shlex.join(arguments)}"


def require_no_secrets(env: Iterable[str]) -> None:
    """Raise ValueError if the name of an environment variable of a job looks like a secret."""
    secrets = [name for name in env if any(word in name.upper() for word in _SECRET)]
    if secrets:
        raise ValueError(
            f"{', '.join(secrets)}: the dashboard shows the environment variables of jobs; set it on the nodes."
        )


class Jobs:
    """The jobs of one cluster.

    Raises:
        OSError: if the cluster cannot be reached or refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", JobSubmissionClient.__module__):  # the second sets its own level
            logging.getLogger(name).setLevel(logging.WARNING)
        self.address = address_of(address)
        with self._explained():
            self.client = JobSubmissionClient(self.address)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        from ray.exceptions import AuthenticationError

        try:
            yield
        except AuthenticationError as error:
            raise PermissionError(
                f"the cluster at {self.address} refused the token ({str(error).splitlines()[0]}): set "
                "RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN_PATH "
                "to the file that holds it."
            ) from error  # fmt: skip
        except ConnectionError as error:
            raise ConnectionError(
                f"no Ray cluster answers at {self.address}; check that it is up and that its dashboard is forwarded "
                "(`ray dashboard cluster.yaml`)."
            ) from error

    def find(self, job: str) -> Any | None:
        """Ray's details of a job; None if the cluster does not know it."""
        with self._explained():
            return next(
                (entry for entry in self.client.list_jobs() if job in (entry.submission_id, entry.job_id)), None
            )

    def submit(
        self, job: str, command: str, folder: Path, env: dict[str, str], limit_bytes: int, also: Sequence[str] = ()
    ) -> str:  # fmt: skip
        """Send the necessary files of a folder (`packing.pack`) and run a command in it.

        Args:
            job: submission id, the name of the run.
            command: command line of the job.
            folder: working directory.
            env: environment variables of the job.
            limit_bytes: maximum size of the files sent.
            also: further files of `folder` to send.

        Returns:
            "submitted"; or "running" or "done" if a job with this name and command exists, and nothing was sent.

        Raises:
            ValueError: if the files are too large, a variable looks like a secret, or a job of this name runs another
                command.
            OSError: as `Jobs`.
        """
        require_no_secrets(env)
        previous = self.find(job)
        if previous is not None and previous.entrypoint == command and previous.status not in ("FAILED", "STOPPED"):
            return "done" if previous.status == "SUCCEEDED" else "running"
        if previous is not None and previous.status not in ENDED:
            raise ValueError(
                f"{job} is already running another command: {previous.entrypoint}. Cancel it with `harness cancel`."
            )
        with tempfile.TemporaryDirectory() as packed, self._explained():
            logger.info("job=%s sends %s of %s", job, packing.pack(folder, Path(packed), also, limit_bytes), folder)
            if previous is not None:  # it ended, and runs again
                self.client.delete_job(job)
            standard = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
            runtime = {"working_dir": packed, "env_vars": standard | env}
            try:
                self.client.submit_job(entrypoint=command, submission_id=job, runtime_env=runtime)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise ConnectionError(f"the cluster at {self.address} did not accept the job: {error}") from error
                return "running"  # submitted by another process meanwhile
        return "submitted"

    def follow(self, job: str, write: Callable[[str], Any]) -> int:
        """Write a job's log as it grows and return the job's exit status; reconnect if the connection breaks."""
        written, last_answer = 0, time.monotonic()
        while True:
            try:
                for text in self._log(job, written):
                    write(text)
                    written, last_answer = written + len(text), time.monotonic()
                details = self.find(job)
            except (OSError, RuntimeError) as error:
                if isinstance(error, PermissionError) or time.monotonic() - last_answer > _LOST_S:
                    raise
                logger.warning("job=%s: the head does not answer (%s); retrying", job, type(error).__name__)
                details = None
            if details is not None and details.status in ENDED:
                return exit_status(details)
            time.sleep(_LOOK_S)

    def _log(self, job: str, start: int) -> Iterator[str]:
        """A job's log from character `start` on, as it grows."""
        log = self.client.tail_job_logs(job)
        loop = asyncio.new_event_loop()
        try:
            while True:
                try:
                    text = loop.run_until_complete(anext(log))
                except StopAsyncIteration:
                    return
                yield text[start:]
                start = max(0, start - len(text))
        finally:
            loop.run_until_complete(log.aclose())
            loop.close()

    def cancel(self, job: str, wait_s: float = STOP_WAIT_S + 10.0) -> str:
        """Cancel a job, wait while it drains and writes its tables, and return its status.

        Raises:
            ValueError: if the cluster has no such job.
        """
        details = self.find(job)
        if details is None:
            raise ValueError(f"the cluster at {self.address} has no job {job!r}; `harness status` lists its jobs.")
        if details.status not in ENDED:
            with self._explained():
                self.client.stop_job(job)
            deadline = time.monotonic() + wait_s
            while (details := self.find(job)) and details.status not in ENDED and time.monotonic() < deadline:
                time.sleep(_LOOK_S)
        return str(details.status.value) if details else "FORGOTTEN"

    def rows(self, job: str | None = None) -> list[dict[str, Any]]:
        """One row per submitted job, newest first; or the row of one job.

        Raises:
            ValueError: if the cluster has no such job.
        """
        with self._explained():
            entries = [
                entry for entry in self.client.list_jobs()
                if entry.submission_id and job in (None, entry.submission_id)
            ]  # fmt: skip
        if job and not entries:
            raise ValueError(f"the cluster at {self.address} has no job {job!r}; `harness status` lists its jobs.")
        return [_row(entry) for entry in sorted(entries, key=lambda entry: -(entry.start_time or 0))]


def exit_status(job: Any) -> int:
    """Exit status of an ended job: that of its command, or 1 if it was stopped or lost."""
    if job.status == "SUCCEEDED":
        return 0
    return int(job.driver_exit_code or 1)


def _row(job: Any) -> dict[str, Any]:
    start_ms, end_ms = job.start_time, job.end_time
    until_ms = end_ms or time.time() * 1e3
    return {
        "job": job.submission_id, "status": job.status.value,
        "started": datetime.fromtimestamp(start_ms / 1e3, UTC).isoformat(timespec="seconds") if start_ms else None,
        "seconds": round((until_ms - start_ms) / 1e3, 1) if start_ms else None, "exit_status": job.driver_exit_code,
        "message": job.message, "command": job.entrypoint,
    }  # fmt: skip
