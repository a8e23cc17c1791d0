"""File operations on any filesystem: checksums, reading in pieces, and retries when a remote fails.

Definite errors (a missing file, a full disk) are not retried.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import logging
import os
import re
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

PAUSES_S = (0.5, 2.0, 8.0, 20.0)  # pauses between five attempts: half a minute in total
CHUNK_BYTES = 8 * 2**20
STREAMS = 4  # concurrent requests for pieces of a remote file, and files hashed in parallel
_DEFINITE = (
    FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError,
    ValueError, TypeError,
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rust libraries (safetensors) give the number only in the message.
_FULL_IN_WORDS = re.compile(rf"os error ({'|'.join(map(str, sorted(_FULL)))})\b|[Nn]o space left")
# Fields by which filesystems identify a version of a file; the first present is used. Access times are not among them.
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")

T = TypeVar("T")


def retry(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Call a filesystem function, up to five times with pauses, and return its result."""
    for pause_s in PAUSES_S:
        try:
            return call(*arguments, **named)
        except _DEFINITE:
            raise
        except Exception as error:  # remote libraries raise exceptions of any type
            if is_full(error):
                raise
            logger.warning("retrying in %g s after %s: %s", pause_s, type(error).__name__, error)
            time.sleep(pause_s)
    return call(*arguments, **named)


def absolute(place: str) -> str:
    """A folder as an absolute path; a URL unchanged."""
    return place if "://" in place else str(Path(place).absolute())


def exists(fs: Any, path: str) -> bool:
    """Whether a file or folder exists. Unlike fsspec's `exists` and `isdir`, an unreachable filesystem is an error."""
    try:
        retry(fs.info, path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def names_in(fs: Any, folder: str) -> list[str]:
    """Names of the entries of a folder, sorted; none if there is no such folder."""
    fs.invalidate_cache(folder)
    try:
        return sorted(path.rpartition("/")[2] for path in retry(fs.ls, folder, detail=False))
    except FileNotFoundError:
        return []


def is_full(error: BaseException) -> bool:
    """Whether an error reports a full disk, an exceeded quota or a file size limit."""
    return getattr(error, "errno", None) in _FULL or bool(_FULL_IN_WORDS.search(str(error)))


@contextlib.contextmanager
def space_for(what: str, where: str) -> Iterator[None]:
    """Context manager: add the location and the object being written to disk-full errors."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"no space left in {where} for {what}; nothing of it was kept. Free some space and run the same command "
            "again",
        ) from error


def stamp(info: Mapping[str, Any]) -> str:
    """A string that changes when a file is rewritten, from its filesystem's metadata; "" if there is none."""
    return next((f"{name} {info[name]}" for name in _STAMPS if info.get(name)), "")


def sha256(file: Path) -> str:
    """SHA-256 of a local file, in hex."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(fs: Any, path: str, size: int, file: Path | None) -> str:
    """Read a remote file of `size` bytes, copy it to `file` if given, and return the SHA-256 of the bytes received."""

    def piece(start: int) -> bytes:
        end = min(start + CHUNK_BYTES, size)
        content: bytes = fs.cat_file(path, start=start, end=end)
        if len(content) != end - start:
            raise OSError(f"{path}: {len(content)} bytes came of {end - start}")
        return content

    digest = hashlib.sha256()
    with ThreadPoolExecutor(STREAMS) as pool, file.open("wb") if file else contextlib.nullcontext() as stream:
        pending: deque[Any] = deque()
        for start in range(0, size, CHUNK_BYTES):
            pending.append(pool.submit(retry, piece, start))
            is_last = start + CHUNK_BYTES >= size
            while len(pending) == STREAMS or (is_last and pending):
                content = pending.popleft().result()
                digest.update(content)
                if stream is not None:
                    stream.write(content)
    return digest.hexdigest()


def backdate(file: Path) -> None:
    """Set a file's date back by 4 s, so that any later write changes it even where the filesystem clock is coarse."""
    then = time.time_ns() - 4 * 10**9
    os.utime(file, ns=(then, then))


def sync(path: Path) -> None:
    """Flush a file, or a folder's entries, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(fs: Any, path: str, *, recursive: bool = False) -> None:
    """Remove a file or folder; it may be gone already."""
    with contextlib.suppress(FileNotFoundError):
        retry(fs.rm, path, recursive=recursive)
