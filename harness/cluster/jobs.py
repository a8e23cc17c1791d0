"""Runs as jobs of a Ray cluster: submitted under the run's own name, followed, listed, ended.

A name that a cluster has seen is not run again: Ray refuses a used submission id, which makes it the key by which a
command given twice does its work once. The token of the cluster is found by Ray itself (RAY_AUTH_TOKEN,
RAY_AUTH_TOKEN_PATH, or ~/.ray/auth_token); it is never an argument, and stands in no log.
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
# A job that is cancelled drains (stopping.py) and writes its tables; Ray's own 3 s would kill it meanwhile.
STOP_WAIT_S = 60
_LOOK_S = 0.5
_LOST_S = 60.0  # a head that does not answer for so long is lost
_SECRET = ("TOKEN", "SECRET", "PASSWORD", "KEY", "CREDENTIAL")


def address_of(given: str | None) -> str:
    """The dashboard's address: what was given, or RAY_API_SERVER_ADDRESS, or this machine's.

    Raises:
        ValueError: if it is no address of a dashboard.
    """
    found = given or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS
    found = found if "://" in found else f"http://{found}"
    parts = urlsplit(found)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(
            f"--address {given!r} is no dashboard of a Ray cluster; give such as {ADDRESS}, which `ray dashboard "
            "cluster.yaml` forwards to a cluster's head."
        )
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        logger.warning("%s is not encrypted: token and code can be read on the way; forward the port by ssh", found)
    return found


def _is_loopback(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def command_of(module: str, arguments: list[str]) -> str:
    """A job's command line: this interpreter where the head has it, else its own `python`."""
    return f"$(command -v {shlex.quote(sys.executable)} || echo python) -m {module} {shlex.join(arguments)}"


def require_no_secrets(env: Iterable[str]) -> None:
    """Raise ValueError where the name of a job's variable looks like a secret's."""
    secret = [name for name in env if any(word in name.upper() for word in _SECRET)]
    if secret:
        raise ValueError(f"{', '.join(secret)}: a job's variables are shown by the dashboard; set it on the nodes.")


class Jobs:
    """The jobs of one cluster.

    Raises:
        OSError: in words, if it cannot be reached, or refuses the token.
    """

    def __init__(self, address: str | None = None) -> None:
        from ray.job_submission import JobSubmissionClient

        for name in ("ray", JobSubmissionClient.__module__):  # the second has a level of its own
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
                "RAY_AUTH_MODE=token, and put the cluster's token into ~/.ray/auth_token, or its file's name into "
                "RAY_AUTH_TOKEN_PATH."
            ) from error  # fmt: skip
        except ConnectionError as error:
            raise ConnectionError(
                f"no Ray cluster answers at {self.address}: is it up, and is its dashboard forwarded (`ray dashboard "
                "cluster.yaml`)?"
            ) from error

    def find(self, job: str) -> Any | None:
        """What the cluster knows of a job; None where it has never heard of it."""
        with self._explained():
            return next((one for one in self.client.list_jobs() if job in (one.submission_id, one.job_id)), None)

    def submit(
        self, job: str, command: str, folder: Path, env: dict[str, str], limit_bytes: int, also: Sequence[str] = ()
    ) -> str:  # fmt: skip
        """Send what is needed of a folder (`packing.pack`) and have a command run in it.

        Returns:
            "submitted"; or, of a job of this name and command that is there, "running" or "done", and nothing was sent.

        Raises:
            ValueError: if the folder is too large, a variable looks like a secret, or a job of this name runs another
                command.
            OSError: as `Jobs`.
        """
        require_no_secrets(env)
        there = self.find(job)
        if there is not None and there.entrypoint == command and there.status != "FAILED" and there.status != "STOPPED":
            return "done" if there.status == "SUCCEEDED" else "running"
        if there is not None and there.status not in ENDED:
            raise ValueError(f"{job} runs already, with another command: {there.entrypoint}. `harness cancel` ends it.")
        with tempfile.TemporaryDirectory() as packed, self._explained():
            logger.info("job=%s sends %s of %s", job, packing.pack(folder, Path(packed), also, limit_bytes), folder)
            if there is not None:  # ended, and to be done again
                self.client.delete_job(job)
            standard = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S), "PYTHONUNBUFFERED": "1"}
            runtime = {"working_dir": packed, "env_vars": standard | env}
            try:
                self.client.submit_job(entrypoint=command, submission_id=job, runtime_env=runtime)
            except RuntimeError as error:
                if "already exists" not in str(error):
                    raise ConnectionError(f"the cluster at {self.address} took no job: {error}") from error
                return "running"  # another was faster by a moment
        return "submitted"

    def follow(self, job: str, write: Callable[[str], Any]) -> int:
        """Write a job's log as it comes, and give the job's exit status; a connection that breaks is taken up again."""
        written, heard = 0, time.monotonic()
        while True:
            try:
                for text in self._log(job, written):
                    write(text)
                    written, heard = written + len(text), time.monotonic()
                found = self.find(job)
            except (OSError, RuntimeError) as error:
                if isinstance(error, PermissionError) or time.monotonic() - heard > _LOST_S:
                    raise
                logger.warning("job=%s: the head does not answer (%s), and is asked again", job, type(error).__name__)
                found = None
            if found is not None and found.status in ENDED:
                return exit_status(found)
            time.sleep(_LOOK_S)

    def _log(self, job: str, start: int) -> Iterator[str]:
        """A log from a character on, as it grows."""
        coming = self.client.tail_job_logs(job)
        loop = asyncio.new_event_loop()
        try:
            while True:
                try:
                    text = loop.run_until_complete(anext(coming))
                except StopAsyncIteration:
                    return
                yield text[start:]
                start = max(0, start - len(text))
        finally:
            loop.run_until_complete(coming.aclose())
            loop.close()

    def cancel(self, job: str, wait_s: float = STOP_WAIT_S + 10.0) -> str:
        """End a job, which drains and writes first; its status then.

        Raises:
            ValueError: if the cluster has no such job.
        """
        found = self.find(job)
        if found is None:
            raise ValueError(f"{self.address} knows no job {job!r}; `harness status` lists them.")
        if found.status not in ENDED:
            with self._explained():
                self.client.stop_job(job)
            until = time.monotonic() + wait_s
            while (found := self.find(job)) and found.status not in ENDED and time.monotonic() < until:
                time.sleep(_LOOK_S)
        return str(found.status.value) if found else "FORGOTTEN"

    def rows(self, job: str | None = None) -> list[dict[str, Any]]:
        """All jobs that were submitted, the newest first, or one of them.

        Raises:
            ValueError: if the cluster has no such job.
        """
        with self._explained():
            found = [one for one in self.client.list_jobs() if one.submission_id and job in (None, one.submission_id)]
        if job and not found:
            raise ValueError(f"{self.address} knows no job {job!r}; `harness status` lists them.")
        return [_row(one) for one in sorted(found, key=lambda one: -(one.start_time or 0))]


def exit_status(job: Any) -> int:
    """Of a job that has ended: its command's own, or 1 where it was ended or lost."""
    if job.status == "SUCCEEDED":
        return 0
    return int(job.driver_exit_code or 1)


def _row(job: Any) -> dict[str, Any]:
    begun, ended = job.start_time, job.end_time
    until = ended or time.time() * 1e3
    return {
        "job": job.submission_id, "status": job.status.value,
        "started": datetime.fromtimestamp(begun / 1e3, UTC).isoformat(timespec="seconds") if begun else None,
        "seconds": round((until - begun) / 1e3, 1) if begun else None, "exit_status": job.driver_exit_code,
        "message": job.message, "command": job.entrypoint,
    }  # fmt: skip
