"""Downloads the published files of data sets into the data root and verifies them; valid files are left unchanged.

A failure is a row of the result and does not stop the other files. Only one fetch at a time works on a data root. The
lock is held by the operating system and ends with its process, so a leftover file `.harness-fetch.lock` does not block.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from harness.datasets.entry import Entry, File, State, checksum_of
from harness.datasets.fetching.download import DownloadError, Session, UnreachableError, download, n_kept


@dataclass(frozen=True)
class Fetched:
    """Result of fetching one file.

    Attributes:
        file: path under the data root.
        place: full path.
        state: "fetched" now, "there" before, or "failed".
        n_bytes: size of the file, or the published size if it failed (0 if not known).
        checksum: checksum of the file at `place`; "" if it failed.
        pinned: whether the published checksum is known.
        why: reason for a failure, or a note that a damaged file was replaced; else "".
        optional: whether the data set can be read without the file.
    """

    dataset: str
    file: str
    place: str
    state: Literal["fetched", "there", "failed"]
    url: str
    landing: str
    n_bytes: int
    checksum: str
    pinned: bool
    why: str = ""
    optional: bool = False


def fetch(entries: Iterable[Entry], root: Path, *, console: Console, wait_s: float = 600.0) -> list[Fetched]:
    """Download the files of data sets that are missing or damaged.

    Args:
        entries: data sets of the table.
        root: the data root; created if it does not exist.
        console: shows progress bars if it is a terminal, and a message while another fetch is waited for.
        wait_s: maximum time to wait for another fetch into the same root.

    Returns:
        One row per file. An error with one file does not stop the others.
    """
    entries, root = list(entries), root.absolute()
    states = [state for entry in entries for state in _states(entry, root)]
    if not any(file.url and state != "here" for _, file, state in states):
        return [_row(*file_state, root) for file_state in states]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _locked(root, wait_s, console), _progress(console) as bars, Session() as session:
            fetcher = _Fetcher(root, session, bars)
            return [row for entry in entries for row in fetcher.fetch_all(entry)]
    except OSError as error:  # from the root or its lock; errors of single files are in their rows
        timed_out = isinstance(error, Timeout)
        why = f"another fetch into {root} did not end within {wait_s:.0f} s" if timed_out else str(error)
        return [_row(*file_state, root, why) for file_state in states]


@dataclass
class _Fetcher:
    """Fetches files and remembers which servers cannot be reached, so that each is tried only once."""

    root: Path
    session: Session
    bars: Progress
    unreachable: dict[str, str] = field(default_factory=dict)

    def fetch_all(self, entry: Entry) -> list[Fetched]:
        """Fetch all files of one data set, unless there is too little disk space."""
        states = _states(entry, self.root)
        missing = [file for _, file, state in states if file.url and state != "here"]
        needed = sum(max(0, file.n_bytes - n_kept(self.root / file.path)) for file in missing)
        free = shutil.disk_usage(self.root).free
        if needed > free:
            why = f"{entry.name} needs {decimal(needed)} of disk space, {decimal(free)} are free"
            return [_row(*file_state, self.root, why) for file_state in states]
        return [self._fetch(*file_state) for file_state in states]

    def _fetch(self, entry: Entry, file: File, before: State) -> Fetched:
        if before == "here" or not file.url:
            return _row(entry, file, before, self.root)
        host = urlsplit(file.url).netloc
        try:
            if host in self.unreachable:
                raise DownloadError(self.unreachable[host])
            self._download(file)
        except OSError as error:
            if isinstance(error, UnreachableError):
                self.unreachable[host] = str(error)
            return _row(entry, file, before, self.root, str(error))
        why = "replaced a file that was damaged or from another release" if before == "damaged" else ""
        return replace(_row(entry, file, "here", self.root), state="fetched", why=why)

    def _download(self, file: File) -> None:
        task = self.bars.add_task(Path(file.path).name, total=file.n_bytes or None)
        try:
            download(
                file.url, self.root / file.path, file.checksum, file.n_bytes, session=self.session,
                on_progress=lambda received, total: self.bars.update(task, completed=received, total=total or None),
            )  # fmt: skip
        finally:
            self.bars.remove_task(task)


def _states(entry: Entry, root: Path) -> list[tuple[Entry, File, State]]:
    """The files of a data set, with optional ones that have an address, and their state before the fetch."""
    optional = (file for file in entry.optional if file.url)
    return [(entry, file, file.state(root)) for file in (*entry.files, *optional)]


def _row(entry: Entry, file: File, state: State, root: Path, why: str = "") -> Fetched:
    """Describe a file in its current state; `why` is the reason if it could not be fetched."""
    place, here = root / file.path, state == "here"
    reasons = () if here else (
        why if file.url else "no direct address is known",
        "the existing file is damaged or from another release" if state == "damaged" else "",
    )  # fmt: skip
    return Fetched(
        entry.name, file.path, str(place), "there" if here else "failed", file.url, entry.landing,
        n_bytes=place.stat().st_size if here else file.n_bytes,
        checksum=(file.checksum or checksum_of(place, "sha256")) if here else "",
        pinned=bool(file.checksum), why="; ".join(filter(None, reasons)), optional=file in entry.optional,
    )  # fmt: skip


@contextmanager
def _locked(root: Path, wait_s: float, console: Console) -> Iterator[None]:
    """Lock the root; if another fetch holds the lock, print its process and wait; Timeout after `wait_s`."""
    lock, holder = FileLock(root / ".harness-fetch.lock"), root / ".harness-fetch.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = holder.read_text() if holder.exists() else "another process"
        console.print(f"{other} is fetching into {root}; waiting up to {wait_s:.0f} s for it to end", soft_wrap=True)
        lock.acquire(timeout=wait_s)
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _progress(console: Console) -> Progress:
    """Progress bars with bytes, speed and remaining time; hidden unless the console is a terminal."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
