"""Downloads one file over HTTP, resuming interrupted downloads; the file is moved into place only when complete.

Partial data are stored next to the target as NAME.part, with the server's ETag in NAME.part.etag, until the checksum is
verified, so that a file that exists is complete. Range and If-Range follow RFC 9110, sections 13 and 14. Only https is
allowed, except for connections to this machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import requests
from urllib3.exceptions import MaxRetryError

from harness.datasets.entry import checksum_of

ProgressListener = Callable[[int, int], None]  # bytes received, total bytes (0 if not known)

_TRIES = 4  # consecutive attempts without progress
_BACKOFF_S, _LONGEST_WAIT_S = 0.5, 30.0
_CONNECT_S, _READ_S = 10.0, 60.0
_CHUNK_BYTES = 1 << 16
_RETRIED_STATUS = {429, 500, 502, 503, 504}
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class DownloadError(OSError):
    """A file cannot be downloaded. The message gives the reason but not the address, which may contain a signature."""


class UnreachableError(DownloadError):
    """The server cannot be reached, so its other files need not be tried."""


class Session(requests.Session):
    """Keeps connections open for the next file; rejects addresses that are not https, also after redirects."""

    def get_adapter(self, url: str) -> requests.adapters.BaseAdapter:
        """Return the adapter of an address; requests calls this for every redirect."""
        address = urlsplit(url)
        if address.scheme != "https" and address.hostname not in _LOOPBACK:
            raise DownloadError(f"{address.hostname} was requested over {address.scheme}; only https is allowed")
        return super().get_adapter(url)


@dataclass(frozen=True)
class _Partial:
    """A download in progress."""

    url: str
    part: Path
    checksum: str
    n_bytes: int

    @property
    def etag(self) -> Path:
        """File with the ETag of the partial data."""
        return self.part.with_name(f"{self.part.name}.etag")

    @property
    def n_received(self) -> int:
        """Bytes received so far."""
        return self.part.stat().st_size if self.part.exists() else 0

    def discard(self) -> None:
        """Delete the partial data."""
        self.part.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)


class _RetryableError(Exception):
    """An attempt failed; another may succeed."""

    def __init__(self, reason: str, *, wait_s: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.unreachable = unreachable


def download(
    url: str, target: Path, checksum: str = "", n_bytes: int = 0, *, session: Session | None = None,
    on_progress: ProgressListener = lambda _received, _total: None,
) -> str:  # fmt: skip
    """Download one file.

    Args:
        url: https address.
        target: path to write to; parent folders are created. An existing file is replaced once the new one is verified.
        checksum: "sha256:...", "sha1:..." or "md5:..."; "" if none is known.
        n_bytes: size in bytes; 0 if not known.
        session: session whose connections are reused.
        on_progress: called with the numbers of bytes received and in total.

    Returns:
        Checksum of the downloaded file; sha256 if none was given.

    Raises:
        DownloadError: if the download fails (`UnreachableError` if there is no connection), or the file does not have
            the checksum, in which case it is deleted. Partial data of an interrupted download are kept.
        OSError: if the file cannot be written.
    """
    partial = _Partial(url, _part_of(target), checksum, n_bytes)
    if not (checksum or partial.etag.exists()) or (n_bytes and partial.n_received > n_bytes):
        partial.discard()  # without checksum and ETag, partial data of another file would go unnoticed
    is_resumed = partial.n_received > 0
    if not (is_resumed and checksum == checksum_of(partial.part, checksum)):
        _transfer_with_retries(partial, session or Session(), on_progress)
    received = checksum_of(partial.part, checksum)
    if checksum and received != checksum:
        size = partial.n_received
        partial.discard()
        if is_resumed:  # the partial data may have been those of another file
            return download(url, target, checksum, n_bytes, session=session, on_progress=on_progress)
        raise DownloadError(f"wanted {checksum}, received {received} ({size:,} bytes); the file was not kept")
    partial.part.replace(target)
    partial.discard()
    return received


def n_kept(target: Path) -> int:
    """Bytes of partial data that an interrupted download of a file has left."""
    part = _part_of(target)
    return part.stat().st_size if part.exists() else 0


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _transfer_with_retries(partial: _Partial, session: Session, on_progress: ProgressListener) -> None:
    """Retry until the file is complete; the count of attempts restarts after progress."""
    n_failures, most_received = 0, partial.n_received
    while True:
        try:
            return _transfer(partial, session, on_progress)
        except _RetryableError as error:
            n_failures = 1 if partial.n_received >= most_received + _CHUNK_BYTES else n_failures + 1
            most_received = max(most_received, partial.n_received)
            if n_failures == _TRIES:
                kind = UnreachableError if error.unreachable else DownloadError
                raise kind(f"{error} ({_TRIES} attempts)") from error
            time.sleep(min(error.wait_s or _BACKOFF_S * 2 ** (n_failures - 1), _LONGEST_WAIT_S))


def _transfer(partial: _Partial, session: Session, on_progress: ProgressListener) -> None:
    """One connection: append the missing bytes, or start from the beginning if the server cannot resume."""
    with _request(partial, session) as response:
        if response.status_code == 416:
            return _require_complete(partial, response)
        partial.part.parent.mkdir(parents=True, exist_ok=True)
        start = _start(partial, response)
        length = int(response.headers.get("Content-Length", 0)) if "Content-Encoding" not in response.headers else 0
        total = start + length if length else partial.n_bytes
        with partial.part.open("ab") as stream:
            received = start
            on_progress(received, total)
            for chunk in _body(response):
                received += stream.write(chunk)
                on_progress(received, total)
                if partial.checksum and partial.n_bytes and received > partial.n_bytes:
                    break  # too long to have the checksum; the body may be endless
    if received < total:
        raise _RetryableError(f"the connection was lost after {received:,} of {total:,} bytes")
    return None


def _request(partial: _Partial, session: Session) -> requests.Response:
    """Request the file from the end of the partial data.

    Raises:
        _RetryableError: if another attempt may succeed.
        DownloadError: if the server cannot or will not send the file.
    """
    headers = {"Accept-Encoding": "identity"}
    if partial.n_received:
        headers["Range"] = f"bytes={partial.n_received}-"
        if partial.etag.exists():
            headers["If-Range"] = partial.etag.read_text()
    try:
        response = session.get(partial.url, headers=headers, stream=True, timeout=(_CONNECT_S, _READ_S))
    except requests.exceptions.SSLError as error:
        raise UnreachableError(f"no secure connection: {_reason(error)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        not_connected = isinstance(error.args[0] if error.args else None, MaxRetryError)
        raise _RetryableError(f"no connection: {_reason(error)}", unreachable=not_connected) from error
    except requests.RequestException as error:
        raise DownloadError(f"the request failed: {type(error).__name__}") from error
    if response.ok or (response.status_code == 416 and partial.n_received):
        return response
    response.close()
    message = f"the server answers {response.status_code} {response.reason}".rstrip()
    if response.status_code not in _RETRIED_STATUS:
        raise DownloadError(message)
    retry_after = response.headers.get("Retry-After", "")
    raise _RetryableError(message, wait_s=float(retry_after) if retry_after.isdigit() else 0.0)


def _start(partial: _Partial, response: requests.Response) -> int:
    """Position of the first byte of a response; its ETag is stored. _RetryableError if it is not the requested one."""
    if response.status_code == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {partial.n_received}-"):
            partial.discard()
            raise _RetryableError("the server sends another range than requested")
        return partial.n_received
    partial.discard()
    etag = response.headers.get("ETag", "")
    if etag.startswith('"'):  # a weak ETag, W/"...", does not guarantee equal bytes
        partial.etag.write_text(etag)
    return 0


def _require_complete(partial: _Partial, response: requests.Response) -> None:
    """Handle status 416: the partial data are complete, or too long and must be downloaded again."""
    if response.headers.get("Content-Range") != f"bytes */{partial.n_received}":
        partial.discard()
        raise _RetryableError("the file on the server is shorter than the partial data")


def _body(response: requests.Response) -> Iterator[bytes]:
    """Yield the bytes of a response; _RetryableError if the connection is lost."""
    try:
        yield from response.iter_content(_CHUNK_BYTES)
    except requests.RequestException as error:
        raise _RetryableError(f"the connection was lost: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The operating system's message if there is one, else the kind of error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no response in time" if isinstance(error, requests.Timeout) else type(error).__name__
