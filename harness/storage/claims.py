"""Claims on units: several drivers may share one store, and each unit is computed once.

A claim is a small file that its holder rewrites every few seconds. It is taken by an exclusive create, so of two
simultaneous attempts one fails. A holder counts as dead when its process has ended (visible at once on the same
machine), or when its file has not changed for the time-to-live stated in the file. That time is measured by the
observer's clock, so no two clocks are compared. A successor never modifies a dead holder's file: it creates a file of
the next generation, so that only one of several candidates succeeds.

Local disks, S3 and Google Cloud Storage support exclusive creates. Other filesystems may not, so a claim on a remote
filesystem is read back after a short pause and kept only if it still names the same owner. If two writes lie further
apart than the pause, both drivers may keep the claim and compute the unit twice. This wastes time but does no harm: a
unit is named by its content and appears in one step.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from harness.storage.transfer import exists, names_in, remove, retry

logger = logging.getLogger(__name__)

# How long a driver killed on another machine blocks its units.
TTL_S = 60.0
_BEATS = 4  # renewals within that time
_SETTLE_S = 0.2  # pause before a claim on a remote filesystem is read back
# Claims of this process, by filesystem and path, so that its threads need not ask the filesystem.
_held: set[tuple[int, str]] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Holder:
    """Content of a claim file.

    Attributes:
        owner: a random identifier, new for each claim.
        machine, process: the holding process: host, and process id with start time.
        ttl_s: seconds without a change after which the holder counts as dead.
        beat: number of renewals.
    """

    owner: str
    machine: str
    process: str
    ttl_s: float
    beat: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended; always False for other machines."""
        return self.machine == _machine() and not _is_alive(self.process)

    def __str__(self) -> str:
        return f"process {self.process.partition('@')[0]} on {self.machine.partition('/')[0]}"


class Claim:
    """A held claim, renewed by a thread until it is released."""

    def __init__(self, fs: Any, path: str, holder: Holder) -> None:
        self.fs, self.path, self.holder = fs, path, holder
        self.is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"claim {path}", daemon=True)
        self._thread.start()

    def _renew(self) -> None:
        beat = 0
        while not self._ended.wait(self.holder.ttl_s / _BEATS):
            beat += 1
            try:
                self.fs.info(self.path)
                self.fs.pipe_file(self.path, _encode(Holder(**{**asdict(self.holder), "beat": beat})))
            except FileNotFoundError:
                logger.warning("%s was taken over; its unit may be computed twice.", self.path)
                self.is_lost = True
                return
            except Exception as error:  # noqa: BLE001 - the filesystem may be back at the next renewal
                logger.warning("%s could not be renewed: %s", self.path, error)

    def release(self) -> None:
        """Release the claim; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()  # a renewal in progress would write the file again
        if not self.is_lost:
            remove(self.fs, self.path)
        with _lock:
            _held.discard((hash(self.fs), _unit_path(self.path)))


class Claims:
    """The claims in one folder of a filesystem."""

    def __init__(self, fs: Any, folder: str) -> None:
        self.fs, self.folder = fs, folder
        self._seen: dict[str, tuple[bytes, float]] = {}  # content of a file, and since when by our clock

    def take(self, kind: str, key: str, ttl_s: float = TTL_S) -> Claim | None:
        """Claim a unit; None if another holder has it."""
        entry = (hash(self.fs), f"{self.folder}/{kind}/{key}")
        with _lock:
            if entry in _held:
                return None
            _held.add(entry)
        claim = None
        try:
            claim = self._create(kind, key, ttl_s)
        finally:
            if claim is None:
                with _lock:
                    _held.discard(entry)
        return claim

    def holder(self, kind: str, key: str) -> Holder | None:
        """The live holder of a unit, or None."""
        live_paths = [path for path in self._files(kind, key) if not self.is_dead(path)]
        return self._read(live_paths[-1])[1] if live_paths else None

    def _create(self, kind: str, key: str, ttl_s: float) -> Claim | None:
        existing_paths = self._files(kind, key)
        if [path for path in existing_paths if not self.is_dead(path)]:
            return None
        generation = int(existing_paths[-1].rpartition(".")[2]) + 1 if existing_paths else 0
        path = f"{self.folder}/{kind}/{key}.{generation:06d}"
        holder = Holder(uuid.uuid4().hex, _machine(), _process(), ttl_s)
        try:
            return self._hold(kind, key, path, holder, existing_paths)
        except BaseException:  # an interrupted run leaves no claim behind
            current = self._read(path)[1]
            if current is not None and current.owner == holder.owner:
                remove(self.fs, path)
            raise

    def _hold(self, kind: str, key: str, path: str, holder: Holder, dead_paths: list[str]) -> Claim | None:
        """Write the claim file and return the claim, unless another driver claimed the unit meanwhile."""
        if not self._write_first(path, holder):
            return None
        rivals = set(self._files(kind, key)) - {path, *dead_paths}
        if rivals:  # another driver started at another generation, since the files we saw were released in between
            remove(self.fs, path)
            return None
        for dead_path in dead_paths:
            logger.info("claim=%s was left by a dead holder", dead_path)
            remove(self.fs, dead_path)
        return Claim(self.fs, path, holder)

    def _write_first(self, path: str, holder: Holder) -> bool:
        """Create a file that must not exist yet; return whether it is ours."""
        retry(self.fs.makedirs, path.rpartition("/")[0], exist_ok=True)
        if isinstance(self.fs, LocalFileSystem):
            try:
                with self.fs.open(path, "xb") as stream:
                    stream.write(_encode(holder))
            except FileExistsError:
                return False
            except OSError:  # a full disk would leave an empty claim without a holder
                remove(self.fs, path)
                raise
            return True
        with suppress(FileExistsError):  # another driver's; or ours, if only the reply was lost
            retry(self._write_remote, path, holder)
            time.sleep(_SETTLE_S)
        current = self._read(path)[1]
        return current is not None and current.owner == holder.owner

    def _write_remote(self, path: str, holder: Holder) -> None:
        """Create a file as exclusively as the filesystem can: some check first, some lack the mode, some ignore it."""
        try:
            self.fs.pipe_file(path, _encode(holder), mode="create")
        except (NotImplementedError, TypeError, ValueError):
            if exists(self.fs, path):
                raise FileExistsError(path) from None
            self.fs.pipe_file(path, _encode(holder))

    def _files(self, kind: str, key: str) -> list[str]:
        """Claim files of a unit, oldest generation first."""
        return [path for path in self.paths(kind) if _unit_path(path).rpartition("/")[2] == key]

    def paths(self, kind: str) -> list[str]:
        """Claim files of all units of a kind, sorted."""
        folder = f"{self.folder}/{kind}"
        return [f"{folder}/{name}" for name in names_in(self.fs, folder)]

    def _read(self, path: str) -> tuple[bytes | None, Holder | None]:
        """Raw and parsed content of a claim file; None if it is gone, or only half written."""
        try:
            raw: bytes = retry(self.fs.cat_file, path)
        except FileNotFoundError:
            return None, None
        try:
            return raw, Holder(**json.loads(raw))
        except (ValueError, TypeError):
            return raw, None

    def is_dead(self, path: str) -> bool:
        """Whether the holder of a claim file has ended; for another machine known only after its time-to-live."""
        raw, holder = self._read(path)
        if raw is None or (holder and holder.is_gone):
            return True
        previous, since = self._seen.get(path, (None, 0.0))
        if previous != raw:
            self._seen[path] = raw, time.monotonic()
            return False
        return time.monotonic() - since > (holder.ttl_s if holder else TTL_S)


def _encode(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _unit_path(path: str) -> str:
    """The path of a claim file without its generation."""
    return path.rpartition(".")[0]


@functools.cache
def _machine() -> str:
    """Host, boot and process namespace: a process id identifies a process only where all three agree."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        boot, namespace = "", ""
    return f"{socket.gethostname()}/{boot}/{namespace}"


def this_process() -> str:
    """Identify this process by a word that `has_ended` understands later."""
    return f"{_machine()} {_process()}"


def has_ended(word: str) -> bool:
    """Whether a process identified by `this_process` is known to have ended; False for other machines."""
    machine, _, process = word.rpartition(" ")
    return machine == _machine() and not _is_alive(process)


def _process() -> str:
    return f"{os.getpid()}@{_start_time(os.getpid())}"


def _start_time(pid: int) -> str:
    """Start time of a process in clock ticks since boot; "" if unknown, "ended" if the process has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else fields[18]


def _is_alive(process: str) -> bool:
    """Whether a process of this machine is running, and is not another one with the same id."""
    pid, _, started = process.partition("@")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):  # another user's process
        return True
    current_start = _start_time(int(pid))
    return not (current_start and started) or current_start == started
