"""The store: finished results as units addressed by content, on a local disk or any filesystem that fsspec supports.

A unit is a folder OUT/units/KIND/KEY with its files and a manifest that lists them with sizes and checksums. The
manifest is written last, so a unit with a manifest is complete. The key is a hash of everything that determines the
content (never batch size or machine). A second run therefore finds the units of the first, wherever that was killed.

On a local disk a unit appears by one rename, after its bytes are synced to disk. Remotes have no such operation: files
are written one by one and the manifest last. Two writers of the same unit (claims prevent this) may mix their files
there; checksums detect it, and the unit is computed again.

Checking that a unit exists reads no content: the size and the date or version of each file are compared with the
manifest. Where a date differs, as in a copied store, checksums are compared once. Opening a unit always compares them.
"""

from __future__ import annotations

import errno
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
from harness.storage.manifest import MANIFEST, CorruptUnit, StoredUnit, compare, describe, encode, find_unit

__all__ = ["CorruptUnit", "Store"]

logger = logging.getLogger(__name__)

# A staging folder older than this belongs to a killed run.
STALE_S = 24 * 3600
LOOK_S = 0.2  # polling interval while another driver writes tables
# Files this process has compared already: filesystem, path, stamp and checksum.
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
        """Location of a unit, stored or not."""
        return f"{self.root}/{kind}/{key}"

    # --- reading ------------------------------------------------------------------------------------------------------

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """Manifest of a finished unit; None if it is absent or unreadable, or a file has another size than stated."""
        unit = find_unit(self.fs, self.folder(kind, key), kind, key)
        return unit.manifest if unit and not unit.fault else None

    def has_any(self, kind: str) -> bool:
        """Whether a unit of a kind is there, finished or not."""
        return bool(transfer.exists(self.fs, f"{self.root}/{kind}"))

    def has(self, kind: str, key: str, *, every_byte: bool = False) -> bool:
        """Whether a unit is finished and intact; a damaged one is logged and removed.

        Compares sizes and dates; with `every_byte` also checksums, as required for units that go into a table.
        """
        unit = find_unit(self.fs, self.folder(kind, key), kind, key)
        if unit is None:
            return False
        try:
            if unit.fault:
                self._discard(unit, unit.fault)
            if every_byte or not unit.is_untouched:
                self._compare(unit, every_byte=every_byte)
            if not unit.is_untouched:
                self._record_stamps(unit)
        except FileNotFoundError:  # removed by another driver that found the same fault
            return False
        except CorruptUnit as error:
            logger.warning("%s It is computed again.", error)
            return False
        return True

    def verify(self, kind: str, key: str) -> None:
        """Compare all checksums of a finished unit, except files this process has compared before.

        Raises:
            FileNotFoundError: if the unit does not exist.
            CorruptUnit: if a size or checksum differs from the manifest. The unit is removed, so `has` becomes False.
        """
        self._compare(self._finished(kind, key))

    @contextmanager
    def open(self, kind: str, key: str) -> Iterator[Path]:
        """Context manager: a local folder with the files of a finished unit, checksums verified.

        Raises:
            FileNotFoundError: if the unit does not exist.
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
        unit = find_unit(self.fs, self.folder(kind, key), kind, key)
        if unit is None:
            raise FileNotFoundError(
                f"no finished unit {self.folder(kind, key)}; run the same command again to compute it."
            )
        if unit.fault:
            self._discard(unit, unit.fault)
        return unit

    def _compare(self, unit: StoredUnit, copies: Path | None = None, *, every_byte: bool = False) -> None:
        """Compare checksums of new files, or of all files if they are copied or `every_byte`; discard damaged units."""
        entries = {
            name: (hash(self.fs), f"{unit.folder}/{name}", unit.stamps[name], facts["sha256"])
            for name, facts in unit.files.items()
        }
        names = [name for name in entries if copies or every_byte or entries[name] not in _compared]
        fault = compare(self.fs, unit, names, copies)
        if fault:
            self._discard(unit, fault)
        _compared.update(entry for name, entry in entries.items() if unit.stamps[name])

    def _discard(self, unit: StoredUnit, fault: CorruptUnit) -> None:
        """Remove a damaged unit if permissions allow it, and raise its fault."""
        try:
            self.remove(unit.kind, unit.key)
        except PermissionError as error:
            logger.warning("%s cannot be removed: %s", unit.folder, error)
        raise fault

    def remove(self, kind: str, key: str) -> None:
        """Remove a unit. It counts as absent at once, before its files are deleted."""
        folder = self.folder(kind, key)
        if not self.is_local:
            transfer.remove(self.fs, f"{folder}/{MANIFEST}")
            transfer.remove(self.fs, folder, recursive=True)
            return
        staging = Path(self.root) / f".aside-{uuid.uuid4().hex}"
        with suppress(FileNotFoundError):
            Path(folder).rename(staging)
            shutil.rmtree(staging, ignore_errors=True)

    def _record_stamps(self, unit: StoredUnit) -> None:
        """Record current stamps after checksums were compared, so that the next run can skip this; ignore failures."""
        files = {name: {**facts, "stamp": unit.stamps[name]} for name, facts in unit.files.items()}
        content = encode({**unit.manifest, "files": files})
        with suppress(OSError):
            if not self.is_local:
                self.fs.pipe_file(f"{unit.folder}/{MANIFEST}", content)
                return
            temporary = Path(unit.folder) / f".{uuid.uuid4().hex}"
            temporary.write_bytes(content)
            temporary.replace(Path(unit.folder) / MANIFEST)

    # --- writing ------------------------------------------------------------------------------------------------------

    def put(self, kind: str, key: str, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
        """Store a unit: `write` fills a staging folder, which then moves into place.

        Args:
            kind: "features", "ceilings", "scores", "corpora" or "surprisals".
            key: hash of everything that defines the unit.
            write: called with an empty local folder.
            facts: JSON-serialisable, kept in the manifest.

        Raises:
            OSError: if a disk is full (ENOSPC; the message names it) or the filesystem fails for half a minute. Nothing
                is left behind.
        """
        staging = Path(self.root) / f".aside-{uuid.uuid4().hex}" if self.is_local else Path(tempfile.mkdtemp())
        unit_name = f"{kind} unit {key}"
        try:
            with transfer.space_for(unit_name, str(staging.parent)):
                staging.mkdir(parents=True, exist_ok=True)
                write(staging)
                files = describe(sorted(staging.iterdir()))
            created = datetime.now(UTC).isoformat(timespec="seconds")
            manifest = {"kind": kind, "key": key, "created": created, "files": files, **facts}
            if self.manifest(kind, key) is None:  # otherwise another driver stored the same content first
                with transfer.space_for(unit_name, self.out):
                    (self._install if self.is_local else self._send)(staging, self.folder(kind, key), manifest)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _install(self, staging: Path, folder: str, manifest: dict[str, Any]) -> None:
        """Sync every byte to disk, then move the folder into place by one rename."""
        for name, facts in manifest["files"].items():
            transfer.backdate(staging / name)
            facts["stamp"] = transfer.stamp(self.fs.info(str(staging / name)))
            transfer.sync(staging / name)
        (staging / MANIFEST).write_bytes(encode(manifest))
        transfer.sync(staging / MANIFEST)
        transfer.sync(staging)
        final = Path(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        while self.manifest(manifest["kind"], manifest["key"]) is None:  # otherwise another driver was first
            try:
                staging.rename(final)
                break
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                    raise
                self.remove(manifest["kind"], manifest["key"])  # damaged: no manifest, or truncated files
        transfer.sync(final.parent)

    def _send(self, staging: Path, folder: str, manifest: dict[str, Any]) -> None:
        """Upload file by file, the manifest last; if one upload fails, remove the others."""
        try:
            for name, facts in manifest["files"].items():
                transfer.retry(self.fs.put_file, str(staging / name), f"{folder}/{name}")
                self.fs.invalidate_cache(folder)
                facts["stamp"] = transfer.stamp(transfer.retry(self.fs.info, f"{folder}/{name}"))
            transfer.retry(self.fs.pipe_file, f"{folder}/{MANIFEST}", encode(manifest))
        except Exception:
            with suppress(Exception):
                for name in manifest["files"]:
                    transfer.remove(self.fs, f"{folder}/{name}")
            raise

    # --- claims -------------------------------------------------------------------------------------------------------

    def take(self, kind: str, key: str, ttl_s: float = TTL_S) -> Claim | None:
        """Claim a unit for computation, until `release`.

        Returns None if the unit is finished (`has`) or another driver is computing it (`claimed`); do other work then,
        and try again. If the holder is killed, its claim is free at once on the same machine, and elsewhere after
        `ttl_s` without renewal.
        """
        if self.manifest(kind, key) is not None:
            return None
        claim = self.claims.take(kind, key, ttl_s)
        if claim and self.manifest(kind, key) is not None:  # finished between the check and the claim
            claim.release()
            return None
        return claim

    @contextmanager
    def claim(self, kind: str, key: str, ttl_s: float = TTL_S) -> Iterator[bool]:
        """Context manager: whether this process may compute a unit; see `take`."""
        claim = self.take(kind, key, ttl_s)
        try:
            yield claim is not None
        finally:
            if claim:
                claim.release()

    @contextmanager
    def lock_tables(self, run: str) -> Iterator[None]:
        """Context manager: exclusive access to the tables of a run; other drivers wait."""
        while (claim := self.table_claims.take("run", run)) is None:
            time.sleep(LOOK_S)
        try:
            yield
        finally:
            claim.release()

    @contextmanager
    def register_run(self) -> Iterator[None]:
        """Context manager: register this process as running, so that the units it stores are not removed as unused."""
        for path in self.claims.paths("runs"):
            if self.claims.is_dead(path):  # left by a killed run
                transfer.remove(self.fs, path)
        claim = self.claims.take("runs", uuid.uuid4().hex)
        try:
            yield
        finally:
            if claim:
                claim.release()

    def workers(self) -> list[str]:
        """Descriptions of the processes running on this store."""
        live_paths = [path for path in self.claims.paths("runs") if not self.claims.is_dead(path)]
        holders = (self.claimed("runs", path.rpartition("/")[2].rpartition(".")[0]) for path in live_paths)
        return sorted(filter(None, holders))

    def claimed(self, kind: str, key: str) -> str:
        """Description of the process computing a unit; "" if there is none."""
        holder = self.claims.holder(kind, key)
        return str(holder) if holder else ""

    def wait(self, kind: str, key: str, timeout_s: float) -> bool:
        """Wait while another process computes a unit; return whether it is finished."""
        deadline, pause_s = time.monotonic() + timeout_s, 0.05
        while self.manifest(kind, key) is None:
            if time.monotonic() >= deadline or not self.claimed(kind, key):
                return self.manifest(kind, key) is not None
            time.sleep(min(pause_s, max(0.0, deadline - time.monotonic())))
            pause_s = min(2.0, 1.5 * pause_s)
        return True

    def require_writable(self) -> None:
        """Raise OSError naming OUT if nothing can be written there; called before any work is done."""
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
        """Remove what killed runs left: staging folders once they are a day old, and claims on finished units."""
        if self.is_local:
            for claim in Path(self.claims.folder).glob("*/*"):  # nobody else claims a unit that is finished
                if self.claims.is_dead(str(claim)) and self.manifest(claim.parent.name, claim.stem) is not None:
                    transfer.remove(self.fs, str(claim))
            out = Path(self.root).parent
            for staging in (*out.glob(".aside-*"), *out.glob("*/.aside-*")):
                with suppress(FileNotFoundError):  # another driver's, which has just finished
                    if time.time() - staging.stat().st_mtime > STALE_S:
                        shutil.rmtree(staging, ignore_errors=True)
