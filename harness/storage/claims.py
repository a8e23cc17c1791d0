"""Who is computing which unit, so that drivers on one store do each unit once.

A claim is a small file that its holder writes anew every few seconds. Taking one is an exclusive create, so that of two
who try at once one is refused. A holder is dead when its process is gone (known at once on its own machine), or when
its file has stayed the same for the time that the file states, by the clock of whoever looks: no two clocks are
compared. A dead holder is followed by a file of the next generation, never by a change to its own file, so that of many
who find it dead one follows.

A local disk, S3 and Google's storage create exclusively. Of others that is not known, so a claim on a remote filesystem
is read back after a moment and kept if it is still one's own. Two whose writes lie further apart may then both keep it,
and do a unit twice: lost time and no harm, since a unit is named by its content and is put in place whole.
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

from harness.storage.transfer import exists, remove, retry

logger = logging.getLogger(__name__)

# A killed driver on another machine holds others up for so long.
TTL_S = 60.0
_BEATS = 4  # renewals within that time
_SETTLE_S = 0.2  # before a claim on a remote filesystem is read back
# What this process holds, by filesystem and path: its threads need not ask the filesystem.
_held: set[tuple[int, str]] = set()
_lock = threading.Lock()


@dataclass(frozen=True)
class Holder:
    """What a claim's file says.

    Attributes:
        owner: a random word, another for each claim.
        machine, process: where it is held; a process is a number and the moment of its start.
        ttl_s: after so many seconds without a change the holder counts as dead.
        beat: how often it was renewed.
    """

    owner: str
    machine: str
    process: str
    ttl_s: float
    beat: int = 0

    @property
    def is_gone(self) -> bool:
        """Whether it is known to have ended: only of processes of this machine."""
        return self.machine == _machine() and not _lives(self.process)

    def __str__(self) -> str:
        return f"process {self.process.partition('@')[0]} on {self.machine.partition('/')[0]}"


class Claim:
    """A claim that is held, and renewed by a thread until it is released."""

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
                self.fs.pipe_file(self.path, _written(Holder(**{**asdict(self.holder), "beat": beat})))
            except FileNotFoundError:
                logger.warning("%s was taken over; its unit may be computed twice.", self.path)
                self.is_lost = True
                return
            except Exception as error:  # noqa: BLE001 - the filesystem may be back at the next beat
                logger.warning("%s could not be renewed: %s", self.path, error)

    def release(self) -> None:
        """Give it up; a second call does nothing."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()  # else a beat under way would write the file again
        if not self.is_lost:
            remove(self.fs, self.path)
        with _lock:
            _held.discard((hash(self.fs), _unit_of(self.path)))


class Claims:
    """The claims in one folder of a filesystem."""

    def __init__(self, fs: Any, folder: str) -> None:
        self.fs, self.folder = fs, folder
        self._seen: dict[str, tuple[bytes, float]] = {}  # what a file said, and since when by our clock

    def take(self, kind: str, key: str, ttl_s: float = TTL_S) -> Claim | None:
        """Claim a unit; None where somebody holds it."""
        ours = (hash(self.fs), f"{self.folder}/{kind}/{key}")
        with _lock:
            if ours in _held:
                return None
            _held.add(ours)
        claim = None
        try:
            claim = self._create(kind, key, ttl_s)
        finally:
            if claim is None:
                with _lock:
                    _held.discard(ours)
        return claim

    def holder(self, kind: str, key: str) -> Holder | None:
        """Who holds a unit, as far as is known; None where nobody does."""
        living = [path for path in self._files(kind, key) if not self.is_dead(path)]
        return self._read(living[-1])[1] if living else None

    def _create(self, kind: str, key: str, ttl_s: float) -> Claim | None:
        known = self._files(kind, key)
        if [path for path in known if not self.is_dead(path)]:
            return None
        generation = int(known[-1].rpartition(".")[2]) + 1 if known else 0
        path = f"{self.folder}/{kind}/{key}.{generation:06d}"
        holder = Holder(uuid.uuid4().hex, _machine(), _process(), ttl_s)
        try:
            return self._hold(kind, key, path, holder, known)
        except BaseException:  # a run that is stopped here leaves nothing behind
            found = self._read(path)[1]
            if found is not None and found.owner == holder.owner:
                remove(self.fs, path)
            raise

    def _hold(self, kind: str, key: str, path: str, holder: Holder, known: list[str]) -> Claim | None:
        """The claim, once its file is written and nobody else began; `known`: the files of the dead."""
        if not self._write_first(path, holder):
            return None
        others = set(self._files(kind, key)) - {path, *known}
        if others:  # somebody began at another generation, for what we knew was released in between
            remove(self.fs, path)
            return None
        for dead in known:
            logger.info("claim=%s was left by a dead holder", dead)
            remove(self.fs, dead)
        return Claim(self.fs, path, holder)

    def _write_first(self, path: str, holder: Holder) -> bool:
        """Write a file that must not be there yet; whether it is ours."""
        retry(self.fs.makedirs, path.rpartition("/")[0], exist_ok=True)
        if isinstance(self.fs, LocalFileSystem):
            try:
                with self.fs.open(path, "xb") as stream:
                    stream.write(_written(holder))
            except FileExistsError:
                return False
            except OSError:  # a full disk leaves an empty file, which nobody would hold
                remove(self.fs, path)
                raise
            return True
        with suppress(FileExistsError):  # of another; or ours, where only the answer was lost
            retry(self._write_remote, path, holder)
            time.sleep(_SETTLE_S)
        found = self._read(path)[1]
        return found is not None and found.owner == holder.owner

    def _write_remote(self, path: str, holder: Holder) -> None:
        """As exclusively as the filesystem can: some look before they write, some know no mode, some ignore it."""
        try:
            self.fs.pipe_file(path, _written(holder), mode="create")
        except (NotImplementedError, TypeError, ValueError):
            if exists(self.fs, path):
                raise FileExistsError(path) from None
            self.fs.pipe_file(path, _written(holder))

    def _files(self, kind: str, key: str) -> list[str]:
        """The files of a unit, oldest generation first."""
        return [path for path in self.paths(kind) if _unit_of(path).rpartition("/")[2] == key]

    def paths(self, kind: str) -> list[str]:
        """The files of all units of a kind, sorted."""
        folder = f"{self.folder}/{kind}"
        self.fs.invalidate_cache(folder)
        try:
            return sorted(f"{folder}/{path.rpartition('/')[2]}" for path in retry(self.fs.ls, folder, detail=False))
        except FileNotFoundError:
            return []

    def _read(self, path: str) -> tuple[bytes | None, Holder | None]:
        """What a file says, raw and understood; None where it is gone, or half written."""
        try:
            raw: bytes = retry(self.fs.cat_file, path)
        except FileNotFoundError:
            return None, None
        try:
            return raw, Holder(**json.loads(raw))
        except (ValueError, TypeError):
            return raw, None

    def is_dead(self, path: str) -> bool:
        """Whether the holder of a claim's file is known to have ended; of another machine's only after a while."""
        raw, holder = self._read(path)
        if raw is None or (holder and holder.is_gone):
            return True
        said, since = self._seen.get(path, (None, 0.0))
        if said != raw:
            self._seen[path] = raw, time.monotonic()
            return False
        return time.monotonic() - since > (holder.ttl_s if holder else TTL_S)


def _written(holder: Holder) -> bytes:
    return json.dumps(asdict(holder)).encode()


def _unit_of(path: str) -> str:
    return path.rpartition(".")[0]


@functools.cache
def _machine() -> str:
    """Host, boot and process namespace: only where all three agree does a process number mean the same process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # not Linux
        boot, namespace = "", ""
    return f"{socket.gethostname()}/{boot}/{namespace}"


def this_process() -> str:
    """Name this process in a word that `has_ended` understands later."""
    return f"{_machine()} {_process()}"


def has_ended(word: str) -> bool:
    """Whether a process that called itself so (`me`) is known to have ended: only one of this machine."""
    machine, _, process = word.rpartition(" ")
    return machine == _machine() and not _lives(process)


def _process() -> str:
    return f"{os.getpid()}@{_started(os.getpid())}"


def _started(pid: int) -> str:
    """When a process started, in ticks since boot; "" where that is not to be known, "ended" of one that has ended."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if state in "ZX" else rest[18]


def _lives(process: str) -> bool:
    """Whether a process of this machine is there and is not another one of the same number."""
    pid, _, started = process.partition("@")
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError):  # another user's
        return True
    now = _started(int(pid))
    return not (now and started) or now == started
