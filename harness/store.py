"""Finished work: units named by what defines them, on a local disk or any filesystem that fsspec knows.

A unit is a folder OUT/units/KIND/KEY with its files and, written last, a manifest that lists them with sizes and
checksums: present means complete. The key is a hash of everything that decides the content (never of batch size or of
the machine), so that a second run finds the first one's work, whatever was killed in between.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from harness.claims import TTL_S, Claim, Claims

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
# A folder aside that is older than this belongs to a run that was killed.
STALE_S = 24 * 3600
CHUNK_BYTES = 8 * 2**20


class Store:
    """Units under one URL or folder."""

    def __init__(self, out: str) -> None:
        self.out = out
        self.fs, root = fsspec.core.url_to_fs(out)
        self.root = f"{root.rstrip('/')}/units"
        self.is_local = isinstance(self.fs, LocalFileSystem)
        self.claims = Claims(self.fs, f"{self.root}/.claims")

    def folder(self, kind: str, key: str) -> str:
        """Where a unit lies or would lie."""
        return f"{self.root}/{kind}/{key}"

    def manifest(self, kind: str, key: str) -> dict[str, Any] | None:
        """The manifest of a finished unit; None where it is absent, unreadable or a file has not the size it states."""
        folder = self.folder(kind, key)
        try:
            found: dict[str, Any] = json.loads(self.fs.cat_file(f"{folder}/{MANIFEST}"))
            whole = all(self.fs.size(f"{folder}/{name}") == facts["bytes"] for name, facts in found["files"].items())
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None
        return found if whole else None

    def has(self, kind: str, key: str) -> bool:
        """Whether a unit is finished and every checksum is right; a damaged one is named in the log and removed."""
        if self.manifest(kind, key) is None:
            return False
        try:
            with self.open(kind, key):
                return True
        except ValueError as error:
            logger.warning("%s It is computed again.", error)
            self.fs.rm(self.folder(kind, key), recursive=True)
            return False

    def put(self, kind: str, key: str, write: Callable[[Path], None], facts: dict[str, Any]) -> None:
        """Make a unit: `write` fills a folder aside, which then takes its place in one step.

        Args:
            kind: "features", "ceilings" or "scores".
            key: hash of what defines the unit.
            write: called with an empty local folder.
            facts: JSON-able, kept in the manifest.
        """
        aside = Path(self.root) / f".aside-{uuid.uuid4().hex}" if self.is_local else Path(tempfile.mkdtemp())
        aside.mkdir(parents=True, exist_ok=True)
        try:
            write(aside)
            files = {
                file.name: {"bytes": file.stat().st_size, "sha256": _sha256(file)} for file in sorted(aside.iterdir())
            }
            manifest = {"kind": kind, "key": key, "files": files, **facts}
            (aside / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
            if self.manifest(kind, key) is None:  # else another driver was faster, with the same content
                self._install(aside, self.folder(kind, key))
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    def _install(self, aside: Path, folder: str) -> None:
        if not self.is_local:
            for file in sorted(aside.iterdir(), key=lambda file: file.name == MANIFEST):
                self.fs.put_file(str(file), f"{folder}/{file.name}")
            return
        final = Path(folder)
        final.parent.mkdir(parents=True, exist_ok=True)
        if final.exists():  # damaged: some file is missing or cut short
            shutil.rmtree(final, ignore_errors=True)
        try:
            aside.rename(final)
        except OSError:
            if not (final / MANIFEST).is_file():  # unless another driver came in between
                raise

    @contextmanager
    def open(self, kind: str, key: str) -> Iterator[Path]:
        """While open, a local folder with the files of a finished unit, checksums verified.

        Raises:
            FileNotFoundError: if the unit is not there.
            ValueError: if a file's checksum is not the one in the manifest.
        """
        manifest = self.manifest(kind, key)
        folder = self.folder(kind, key)
        if manifest is None:
            raise FileNotFoundError(f"no finished unit {folder}; run the same command again and it is computed.")
        with tempfile.TemporaryDirectory() as copies:
            local = Path(folder if self.is_local else copies)
            for name, facts in manifest["files"].items():
                if not self.is_local:
                    self._fetch(f"{folder}/{name}", local / name, facts["bytes"])
                if _sha256(local / name) != facts["sha256"]:
                    raise ValueError(f"{folder}/{name} is corrupt: its checksum changed.")
            yield local

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

    def _fetch(self, path: str, file: Path, size: int) -> None:
        """Copy by ranges: a filesystem in memory gives all who open a file the same place in it."""
        with file.open("wb") as stream:
            for start in range(0, size, CHUNK_BYTES):
                stream.write(self.fs.cat_file(path, start=start, end=min(start + CHUNK_BYTES, size)))

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


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
