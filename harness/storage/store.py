"""Finished work: units named by what defines them, on a local disk or any filesystem that fsspec knows.

A unit is a folder OUT/units/KIND/KEY with its files and, written last, a manifest that lists them with sizes and
checksums: present means complete. The key is a hash of everything that decides the content (never of batch size or of
the machine), so that a second run finds the first one's work, whatever was killed in between.

On a local disk a unit takes its place by one rename, after its bytes are on the disk. A remote has no such step: its
files are written one by one and the manifest last. Two that write one unit at once (claims prevent it) may mix their
files there; checksums find it, and the unit is computed again.

To see that a unit is there nothing is read: the size of each file, and its date or version, are those of the manifest.
Where a date differs, as in a copied store, checksums are compared once. Whoever opens a unit compares them in any case.
"""

from __future__ import annotations

import errno
import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from harness.storage import transfer
from harness.storage.claims import TTL_S, Claim, Claims
from harness.storage.manifest import MANIFEST, CorruptUnit, StoredUnit, compare, describe, look

__all__ = ["CorruptUnit", "Store"]

logger = logging.getLogger(__name__)

# A folder aside that is older than this belongs to a run that was killed.
STALE_S = 24 * 3600
LOOK_S = 0.2  # between looks whether another driver has written its tables
# What this process has compared already: filesystem, path, stamp and checksum of a file.
_compared: set[tuple[int, str, str, str]] = set()


class Store:
    """Units under one URL or folder."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.fs, root = fsspec.core.url_to_fs(out)
        self.root = f"{root.rstrip('/')}/units"
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.claims = Claims(self.fs, f"{self.root}/.claims")
        self.table_claims = Claims(self.fs, f"{root.rstrip('/')}/tables/.files/claims")

    def folder(self, kind: str, key: str) -> str:
        """Where a unit lies or would lie."""
        return f"{self.root}/{kind}/{key}"

    # --- what is there ------------------------------------------------------------------------------------------------

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """The manifest of a finished unit; None where it is absent, unreadable or a file has not the size it states."""
        unit = look(self.fs, self.folder(kind, key), kind, key)
        return unit.manifest if unit and not unit.fault else None

    def has(self, kind: str, key: str, *, every_byte: bool = False) -> bool:
        """Whether a unit is finished and as it was written; a damaged one is named in the log and removed.

        By sizes and dates, or `every_byte` by checksums, as for what goes into a table.
        """
        unit = look(self.fs, self.folder(kind, key), kind, key)
        if unit is None:
            return False
        try:
            if unit.fault:
                self._condemn(unit, unit.fault)
            if every_byte or not unit.is_untouched:
                self._compare(unit, every_byte=every_byte)
            if not unit.is_untouched:
                self._stamp(unit)
        except FileNotFoundError:  # removed by another driver, which found the same
            return False
        except CorruptUnit as error:
            logger.warning("%s It is computed again.", error)
            return False
        return True

    def verify(self, kind: str, key: str) -> None:
        """Compare every checksum of a finished unit, but those that this process has compared before.

        Raises:
            FileNotFoundError: if the unit is not there.
            CorruptUnit: if a size or checksum is not that in the manifest. The unit is then removed: `has` is False.
        """
        self._compare(self._finished(kind, key))

    @contextmanager
    def open(self, kind: str, key: str) -> Iterator[Path]:
        """While open, a local folder with the files of a finished unit, checksums verified.

        Raises:
            FileNotFoundError: if the unit is not there.
            CorruptUnit: as `verify`.
        """
        unit = self._finished(kind, key)
        if self.is_local:
            self._compare(unit)
            yield Path(unit.folder)
            return
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as copies:
            with transfer.space_for(f"a copy of {kind} unit {key}", copies):
                self._compare(unit, Path(copies))
            yield Path(copies)

    def _finished(self, kind: str, key: str) -> StoredUnit:
        unit = look(self.fs, self.folder(kind, key), kind, key)
        if unit is None:
            raise FileNotFoundError(
                f"no finished unit {self.folder(kind, key)}; run the same command again and it is computed."
            )
        if unit.fault:
            self._condemn(unit, unit.fault)
        return unit

    def _compare(self, unit: StoredUnit, copies: Path | None = None, *, every_byte: bool = False) -> None:
        """Compare what was not compared before, or all that is copied or asked for; what is damaged is removed."""
        known = {
            name: (hash(self.fs), f"{unit.folder}/{name}", unit.stamps[name], facts["sha256"])
            for name, facts in unit.files.items()
        }
        wanted = [name for name in known if copies or every_byte or known[name] not in _compared]
        fault = compare(self.fs, unit, wanted, copies)
        if fault:
            self._condemn(unit, fault)
        _compared.update(entry for name, entry in known.items() if unit.stamps[name])

    def _condemn(self, unit: StoredUnit, fault: CorruptUnit) -> None:
        """Remove a damaged unit, where that is allowed, and raise."""
        try:
            self.remove(unit.kind, unit.key)
        except PermissionError as error:
            logger.warning("%s cannot be removed: %s", unit.folder, error)
        raise fault

    def remove(self, kind: str, key: str) -> None:
        """Take a unit away: from then on it is absent, whatever happens while its files go."""
        folder = self.folder(kind, key)
        if not self.is_local:
            transfer.remove(self.fs, f"{folder}/{MANIFEST}")
            transfer.remove(self.fs, folder, recursive=True)
            return
        aside = Path(self.root) / f".aside-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            Path(folder).rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _stamp(self, unit: StoredUnit) -> None:
        """Note the dates of now, after checksums were compared, so that the next run need not; nor if it cannot."""
        files = {name: {**facts, "stamp": unit.stamps[name]} for name, facts in unit.files.items()}
        content = _written({**unit.manifest, "files": files})
        with suppress(OSError):
            if not self.is_local:
                self.fs.pipe_file(f"{unit.folder}/{MANIFEST}", content)
                return
            aside = Path(unit.folder) / f".{uuid.uuid4().hex}"
            aside.write_bytes(content)
            aside.replace(Path(unit.folder) / MANIFEST)

    # --- what is made -------------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
        """Make a unit: `write` fills a folder aside, which then takes its place.

        Args:
            kind: "features", "ceilings" or "scores".
            key: hash of what defines the unit.
            write: called with an empty local folder.
            facts: JSON-able, kept in the manifest.

        Raises:
            OSError: if a disk is full (ENOSPC, saying which) or the filesystem fails for half a minute; then nothing
                is left.
        """
        aside = Path(self.root) / f".aside-{uuid.uuid4().hex}" if self.is_local else Path(tempfile.mkdtemp())
        what = f"{kind} unit {key}"
        try:
            with transfer.space_for(what, str(aside.parent)):
                aside.mkdir(parents=True, exist_ok=True)
                write(aside)
                files = describe(sorted(aside.iterdir()))
            made = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = {"kind": kind, "key": key, "created": made, "files": files, **facts}
            if self.manifest(kind, key) is None:  # else another driver was faster, with the same content
                with transfer.space_for(what, self.out):
                    (self._install if self.is_local else self._send)(aside, self.folder(kind, key), manifest)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _install(self, aside: Path, folder: str, manifest: dict[str, Any]) -> None:
        """One rename, once every byte is on the disk."""
        for name, facts in manifest["files"].items():
            transfer.age(aside / name)
            facts["stamp"] = transfer.stamp(self.fs.info(str(aside / name)))
            transfer.sync(aside / name)
        (aside / MANIFEST).write_bytes(_written(manifest))
        transfer.sync(aside / MANIFEST)
        transfer.sync(aside)
        final = Path(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        while self.manifest(manifest["kind"], manifest["key"]) is None:  # else another driver came in between
            try:
                aside.rename(final)
                break
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                self.remove(manifest["kind"], manifest["key"])  # damaged: without a manifest, or cut short
        transfer.sync(final.parent)

    def _send(self, aside: Path, folder: str, manifest: dict[str, Any]) -> None:
        """File by file, the manifest last; where one fails, those that were sent are taken back."""
        try:
            for name, facts in manifest["files"].items():
                transfer.retry(self.fs.put_file, str(aside / name), f"{folder}/{name}")
                self.fs.invalidate_cache(folder)
                facts["stamp"] = transfer.stamp(transfer.retry(self.fs.info, f"{folder}/{name}"))
            transfer.retry(self.fs.pipe_file, f"{folder}/{MANIFEST}", _written(manifest))
        except Exception:
            with suppress(Exception):
                for name in manifest["files"]:
                    transfer.remove(self.fs, f"{folder}/{name}")
            raise

    # --- who makes it -------------------------------------------------------------------------------------------------

    def take(self, kind: str, key: str, ttl_s: float = TTL_S) -> Claim | None:
        """Claim a unit that is to be computed, until `release`.

        None where it is not ours to compute: it is finished (`has`), or somebody else computes it (`claimed`). Then do
        other work and look again. Where the holder was killed the claim is free at once on the same machine, and after
        `ttl_s` of its silence elsewhere.
        """
        if self.manifest(kind, key) is not None:
            return None
        claim = self.claims.take(kind, key, ttl_s)
        if claim and self.manifest(kind, key) is not None:  # finished between the look and the claim
            claim.release()
            return None
        return claim

    @contextmanager
    def claim(self, kind: str, key: str, ttl_s: float = TTL_S) -> Iterator[bool]:
        """While open, whether a unit is ours to compute; see `take`."""
        claim = self.take(kind, key, ttl_s)
        try:
            yield claim is not None
        finally:
            if claim:
                claim.release()

    @contextmanager
    def tables_of(self, run: str) -> Iterator[None]:
        """While open, no other driver writes or reports the tables of a run; whoever comes meanwhile waits."""
        while (claim := self.table_claims.take("run", run)) is None:
            time.sleep(LOOK_S)
        try:
            yield
        finally:
            claim.release()

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """While open, this process counts as one that works here: nothing that it has stored is removed as unused."""
        for path in self.claims.paths("runs"):
            if self.claims.is_dead(path):  # of a run that was killed
                transfer.remove(self.fs, path)
        claim = self.claims.take("runs", uuid.uuid4().hex)
        try:
            yield
        finally:
            if claim:
                claim.release()

    def workers(self) -> list[str]:
        """The processes that work here, in words."""
        living = [path for path in self.claims.paths("runs") if not self.claims.is_dead(path)]
        holders = (self.claimed("runs", path.rpartition("/")[2].rpartition(".")[0]) for path in living)
        return sorted(filter(None, holders))

    def claimed(self, kind: str, key: str) -> str:
        """Who computes a unit, in words; "" where nobody does."""
        holder = self.claims.holder(kind, key)
        return str(holder) if holder else ""

    def wait(self, kind: str, key: str, timeout_s: float) -> bool:
        """Wait while somebody else computes a unit; whether it is finished."""
        until, pause_s = time.monotonic() + timeout_s, 0.05
        while self.manifest(kind, key) is None:
            if time.monotonic() >= until or not self.claimed(kind, key):
                return self.manifest(kind, key) is not None
            time.sleep(min(pause_s, max(0.0, until - time.monotonic())))
            pause_s = min(2.0, 1.5 * pause_s)
        return True

    def require_writable(self) -> None:
        """Raise OSError that names OUT where nothing can be written, before any work is done."""
        probe = f"{self.root}/.aside-{uuid.uuid4().hex}"
        try:
            self.fs.makedirs(self.root, exist_ok=True)
            self.fs.pipe_file(probe, b"")
            self.fs.rm_file(probe)
        except OSError as error:
            raise OSError(
                f"cannot write to {self.out}: {error.strerror or error}; give --out another place."
            ) from error

    def sweep(self) -> None:
        """Remove what killed runs left aside, once it is a day old."""
        if self.is_local:
            out = Path(self.root).parent
            for aside in (*out.glob(".aside-*"), *out.glob("*/.aside-*")):
                if time.time() - aside.stat().st_mtime > STALE_S:
                    shutil.rmtree(aside, ignore_errors=True)


def _written(manifest: dict[str, Any]) -> bytes:
    return json.dumps(manifest, indent=1, sort_keys=True).encode()
