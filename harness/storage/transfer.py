"""Files between this machine and any filesystem: hashed, read in pieces, and tried again where a remote fails.

What is definite (a file that is not there, a disk that is full) is not tried again.
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

PAUSES_S = (0.5, 2.0, 8.0, 20.0)  # before the second try and those after: half a minute in all
CHUNK_BYTES = 8 * 2**20
STREAMS = 4  # pieces of a remote file that are on their way, files that are hashed beside each other
_DEFINITE = (
    FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError, NotImplementedError,
    ValueError, TypeError,
)  # fmt: skip
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Rust libraries (safetensors) tell the number in words only.
_FULL_IN_WORDS = re.compile(rf"os error ({'|'.join(map(str, sorted(_FULL)))})\b|[Nn]o space left")
# What a filesystem says of a version of a file, the first that it has. A date of reading is none.
_STAMPS = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "last_modified", "created")

T = TypeVar("T")


def retry(call: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """The result of a call to a filesystem, tried five times with pauses."""
    for pause_s in PAUSES_S:
        try:
            return call(*arguments, **named)
        except _DEFINITE:
            raise
        except Exception as error:  # the library of a remote raises what it likes
            if is_full(error):
                raise
            logger.warning("tried again in %g s, since it failed: %s: %s", pause_s, type(error).__name__, error)
            time.sleep(pause_s)
    return call(*arguments, **named)


def absolute(place: str) -> str:
    """A folder by its whole path, which means the same elsewhere; a URL as it is."""
    return place if "://" in place else str(Path(place).absolute())


def exists(fs: Any, path: str) -> bool:
    """Whether there is a file or folder. A filesystem's own `exists` and `isdir` say no while it is silent."""
    try:
        retry(fs.info, path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no more space, or that a file may not grow further."""
    return getattr(error, "errno", None) in _FULL or bool(_FULL_IN_WORDS.search(str(error)))


@contextlib.contextmanager
def space_for(what: str, where: str) -> Iterator[None]:
    """Say which place was full, and for what."""
    try:
        yield
    except Exception as error:
        if not is_full(error):
            raise
        raise OSError(
            errno.ENOSPC,
            f"no space left in {where} for {what}; nothing of it was kept. Free some, and run the same command again",
        ) from error


def stamp(info: Mapping[str, Any]) -> str:
    """What changes when a file is written again, by its filesystem's own account; "" where that gives none."""
    return next((f"{name} {info[name]}" for name in _STAMPS if info.get(name)), "")


def sha256(file: Path) -> str:
    """Of a file on this machine."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def fetch(fs: Any, path: str, size: int, file: Path | None) -> str:
    """Read a remote file of so many bytes; its sha256 as it came. It is written to `file`, if one is given."""

    def piece(start: int) -> bytes:
        end = min(start + CHUNK_BYTES, size)
        found: bytes = fs.cat_file(path, start=start, end=end)
        if len(found) != end - start:
            raise OSError(f"{path}: {len(found)} bytes came of {end - start}")
        return found

    digest = hashlib.sha256()
    with ThreadPoolExecutor(STREAMS) as pool, file.open("wb") if file else contextlib.nullcontext() as stream:
        coming: deque[Any] = deque()
        for start in range(0, size, CHUNK_BYTES):
            coming.append(pool.submit(retry, piece, start))
            if len(coming) == STREAMS or start + CHUNK_BYTES >= size:
                _take(coming, 1 if start + CHUNK_BYTES < size else len(coming), digest, stream)
    return digest.hexdigest()


def _take(coming: deque[Any], n: int, digest: Any, stream: Any) -> None:
    """The next pieces, in order, into the digest and the file."""
    for _ in range(n):
        found = coming.popleft().result()
        digest.update(found)
        if stream is not None:
            stream.write(found)


def age(file: Path) -> None:
    """Date a file back, so that whatever is written later has another date, however coarse the filesystem's clock."""
    then = time.time_ns() - 4 * 10**9
    os.utime(file, ns=(then, then))


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk before anything that follows."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(fs: Any, path: str, *, recursive: bool = False) -> None:
    """Remove what is there; what is gone already is no harm."""
    with contextlib.suppress(FileNotFoundError):
        retry(fs.rm, path, recursive=recursive)
