"""One file over HTTP: a broken download goes on where it ended, and the file takes its place only when it is whole.

What has come so far lies beside the target as NAME.part, with the server's ETag in NAME.part.etag, until its checksum
is right; so a file that is present is complete. Range and If-Range are those of RFC 9110, sections 13 and 14. Only
https is spoken, except with this machine itself.
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

Watch = Callable[[int, int], None]  # bytes that have come, bytes in all (0 where not known)

_TRIES = 4  # in a row without progress
_BACKOFF_S, _LONGEST_WAIT_S = 0.5, 30.0
_CONNECT_S, _READ_S = 10.0, 60.0
_CHUNK = 1 << 16
_BUSY = {429, 500, 502, 503, 504}  # worth another try
_LOOPBACK = {"127.0.0.1", "::1", "localhost"}


class DownloadError(OSError):
    """A file could not be had. The message tells why, and never the address, which can hold a signature."""


class UnreachableError(DownloadError):
    """No connection to the server came about, so that its other files need not be tried."""


class Session(requests.Session):
    """Connections that are kept for the next file, and refuse whatever is not https, redirects too."""

    def get_adapter(self, url: str) -> requests.adapters.BaseAdapter:
        """The adapter of an address; requests asks for it at every hop."""
        address = urlsplit(url)
        if address.scheme != "https" and address.hostname not in _LOOPBACK:
            raise DownloadError(f"{address.hostname} is asked for over {address.scheme}; only https is allowed")
        return super().get_adapter(url)


@dataclass(frozen=True)
class _Wanted:
    url: str
    part: Path
    checksum: str
    n_bytes: int

    @property
    def tag(self) -> Path:
        """Where the ETag of what has come is kept."""
        return self.part.with_name(f"{self.part.name}.etag")

    @property
    def n_here(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def forget(self) -> None:
        """Remove what has come."""
        self.part.unlink(missing_ok=True)
        self.tag.unlink(missing_ok=True)


class _BrokenError(Exception):
    """A try that failed and may be repeated."""

    def __init__(self, why: str, *, wait_s: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(why)
        self.wait_s = wait_s
        self.unreachable = unreachable


def download(
    url: str, target: Path, checksum: str = "", n_bytes: int = 0, *, session: Session | None = None,
    watch: Watch = lambda _came, _total: None,
) -> str:  # fmt: skip
    """Download one file to its place.

    Args:
        url: its address, https.
        target: its place; folders are made, a file that is there is replaced when the new one is right.
        checksum: "sha256:..." or "sha1:...", "" where nobody pins it.
        n_bytes: its size, 0 where not known.
        session: connections to use again.
        watch: is told how many bytes have come.

    Returns:
        The checksum of what came, sha256 where none was given.

    Raises:
        DownloadError: if it cannot be had (`UnreachableError` where there is no connection), or is not the file wanted;
            then nothing is left of it. What a broken connection has brought is kept.
        OSError: if it cannot be written.
    """
    wanted = _Wanted(url, _part_of(target), checksum, n_bytes)
    if not (checksum or wanted.tag.exists()) or (n_bytes and wanted.n_here > n_bytes):
        wanted.forget()  # what would be appended could belong to another file, and nobody would notice
    goes_on = wanted.n_here > 0
    if not (goes_on and checksum == checksum_of(wanted.part, checksum)):
        _bring(wanted, session or Session(), watch)
    found = checksum_of(wanted.part, checksum)
    if checksum and found != checksum:
        size = wanted.n_here
        wanted.forget()
        if goes_on:  # the start may have been that of another file
            return download(url, target, checksum, n_bytes, session=session, watch=watch)
        raise DownloadError(f"wanted {checksum}, came {found} ({size:,} bytes); it was not kept")
    wanted.part.replace(target)
    wanted.forget()
    return found


def n_kept(target: Path) -> int:
    """Bytes that a broken download of a file has left."""
    part = _part_of(target)
    return part.stat().st_size if part.exists() else 0


def _part_of(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _bring(wanted: _Wanted, session: Session, watch: Watch) -> None:
    """Try until the part is whole; tries are counted anew whenever a connection brought something."""
    failures, most = 0, wanted.n_here
    while True:
        try:
            return _transfer(wanted, session, watch)
        except _BrokenError as broken:
            failures = 1 if wanted.n_here >= most + _CHUNK else failures + 1
            most = max(most, wanted.n_here)
            if failures == _TRIES:
                kind = UnreachableError if broken.unreachable else DownloadError
                raise kind(f"{broken} ({_TRIES} tries)") from broken
            time.sleep(min(broken.wait_s or _BACKOFF_S * 2 ** (failures - 1), _LONGEST_WAIT_S))


def _transfer(wanted: _Wanted, session: Session, watch: Watch) -> None:
    """One connection: append what is missing, or all of it where the server does not go on."""
    with _ask(wanted, session) as response:
        if response.status_code == 416:
            return _end_of_range(wanted, response)
        wanted.part.parent.mkdir(parents=True, exist_ok=True)
        start = _start(wanted, response)
        length = int(response.headers.get("Content-Length", 0)) if "Content-Encoding" not in response.headers else 0
        total = start + length if length else wanted.n_bytes
        with wanted.part.open("ab") as stream:
            came = start
            watch(came, total)
            for chunk in _body(response):
                came += stream.write(chunk)
                watch(came, total)
                if wanted.checksum and wanted.n_bytes and came > wanted.n_bytes:
                    break  # it cannot be right any more, and may never end
    if came < total:
        raise _BrokenError(f"the connection broke off after {came:,} of {total:,} bytes")
    return None


def _ask(wanted: _Wanted, session: Session) -> requests.Response:
    """Ask for the file from where its part ends; an answer that holds no data is an error.

    Raises:
        _BrokenError: if another try may help.
        DownloadError: if none will.
    """
    headers = {"Accept-Encoding": "identity"}
    if wanted.n_here:
        headers["Range"] = f"bytes={wanted.n_here}-"
        if wanted.tag.exists():
            headers["If-Range"] = wanted.tag.read_text()
    try:
        response = session.get(wanted.url, headers=headers, stream=True, timeout=(_CONNECT_S, _READ_S))
    except requests.exceptions.SSLError as error:
        raise UnreachableError(f"no secure connection: {_reason(error)}") from error
    except (requests.ConnectionError, requests.Timeout) as error:
        never = isinstance(error.args[0] if error.args else None, MaxRetryError)
        raise _BrokenError(f"no connection: {_reason(error)}", unreachable=never) from error
    except requests.RequestException as error:
        raise DownloadError(f"the server cannot be asked: {type(error).__name__}") from error
    if response.ok or (response.status_code == 416 and wanted.n_here):
        return response
    response.close()
    answer = f"the server answers {response.status_code} {response.reason}".rstrip()
    if response.status_code not in _BUSY:
        raise DownloadError(answer)
    wait = response.headers.get("Retry-After", "")
    raise _BrokenError(answer, wait_s=float(wait) if wait.isdigit() else 0.0)


def _start(wanted: _Wanted, response: requests.Response) -> int:
    """The first byte of an answer, after which its ETag is kept; _BrokenError if it is not the one asked for."""
    if response.status_code == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {wanted.n_here}-"):
            wanted.forget()
            raise _BrokenError("the server answers with another range")
        return wanted.n_here
    wanted.forget()
    tag = response.headers.get("ETag", "")
    if tag.startswith('"'):  # W/"..." does not promise equal bytes
        wanted.tag.write_text(tag)
    return 0


def _end_of_range(wanted: _Wanted, response: requests.Response) -> None:
    """Nothing comes after the part: it is whole, or too long and must be had again."""
    if response.headers.get("Content-Range") != f"bytes */{wanted.n_here}":
        wanted.forget()
        raise _BrokenError("the server has fewer bytes than came before")


def _body(response: requests.Response) -> Iterator[bytes]:
    """The bytes of an answer; _BrokenError where they break off."""
    try:
        yield from response.iter_content(_CHUNK)
    except requests.RequestException as error:
        raise _BrokenError(f"the connection broke off: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """Why, in the words of the system where it gave any."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or cause.__context__
    return "no answer in time" if isinstance(error, requests.Timeout) else type(error).__name__
