"""Published files -> the data root: each to its place, checked; what is there and right is left alone.

What fails is a row of the result and the rest goes on. One fetch at a time works on a data root: the lock is one of the
kernel, which ends with its process, so that the file `.harness-fetch.lock` alone blocks nobody.
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
    """What became of one file.

    Attributes:
        file: its path under the data root; `place` is the whole path.
        state: "fetched" now, "there" already, or "failed".
        checksum: of what lies at `place`, "" where that failed; `pinned` tells whether it is known beforehand.
        why: what failed, or that a damaged file was replaced; else "".
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


def fetch(entries: Iterable[Entry], root: Path, *, console: Console, wait_s: float = 600.0) -> list[Fetched]:
    """Download the files of data sets that are not at their place, or are not the published ones.

    Args:
        entries: data sets of the table.
        root: the data root; it is made where it is missing.
        console: where a terminal sees bytes, speed and remaining time; also told whom a fetch waits for.
        wait_s: how long to wait for another fetch into the same root.

    Returns:
        One row per file. Whatever is wrong with one file, the others are fetched.
    """
    entries, root = list(entries), root.absolute()
    found = [(entry, file, file.state(root)) for entry in entries for file in entry.files]
    if not any(file.url and state != "here" for _, file, state in found):
        return [_row(*known, root) for known in found]
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root, wait_s, console), _bars(console) as bars, Session() as session:
            errand = _Errand(root, session, bars)
            return [row for entry in entries for row in errand.fetch_all(entry)]
    except OSError as error:  # of the root or its lock; those of a file are rows already
        why = f"another fetch into {root} was not done in {wait_s:.0f} s" if isinstance(error, Timeout) else str(error)
        return [_row(*known, root, why) for known in found]


@dataclass
class _Errand:
    """One round of downloads; remembers which servers cannot be reached, so that each is waited for once."""

    root: Path
    session: Session
    bars: Progress
    unreachable: dict[str, str] = field(default_factory=dict)

    def fetch_all(self, entry: Entry) -> list[Fetched]:
        """Every file of one data set, unless the disk cannot hold them."""
        found = [(entry, file, file.state(self.root)) for file in entry.files]
        needed = sum(
            max(0, file.n_bytes - n_kept(self.root / file.path))
            for _, file, state in found
            if file.url and state != "here"
        )
        free = shutil.disk_usage(self.root).free
        if needed > free:
            why = f"{entry.name} needs {decimal(needed)} more and {decimal(free)} are free"
            return [_row(*known, self.root, why) for known in found]
        return [self._fetch(*known) for known in found]

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
        why = "replaced what was damaged or of another release" if before == "damaged" else ""
        return replace(_row(entry, file, "here", self.root), state="fetched", why=why)

    def _download(self, file: File) -> None:
        task = self.bars.add_task(Path(file.path).name, total=file.n_bytes or None)
        try:
            download(
                file.url, self.root / file.path, file.checksum, file.n_bytes, session=self.session,
                watch=lambda came, total: self.bars.update(task, completed=came, total=total or None),
            )  # fmt: skip
        finally:
            self.bars.remove_task(task)


def _row(entry: Entry, file: File, found: State, root: Path, why: str = "") -> Fetched:
    """The row of a file as it lies there; `why` it could not be fetched, where it is not."""
    place, here = root / file.path, found == "here"
    reasons = () if here else (
        why if file.url else "no direct address is known",
        "what is there is damaged or of another release" if found == "damaged" else "",
    )  # fmt: skip
    return Fetched(
        dataset=entry.name,
        file=file.path,
        place=str(place),
        state="there" if here else "failed",
        url=file.url,
        landing=entry.landing,
        n_bytes=place.stat().st_size if here else file.n_bytes,
        checksum=(file.checksum or checksum_of(place, "sha256")) if here else "",
        pinned=bool(file.checksum),
        why="; ".join(reason for reason in reasons if reason),
    )


@contextmanager
def _alone(root: Path, wait_s: float, console: Console) -> Iterator[None]:
    """Wait until no other fetch works on the root, saying whose end is waited for; Timeout after `wait_s`."""
    lock, holder = FileLock(root / ".harness-fetch.lock"), root / ".harness-fetch.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        who = holder.read_text() if holder.exists() else "another process"
        console.print(f"{who} is fetching into {root}; waiting up to {wait_s:.0f} s for its end", soft_wrap=True)
        lock.acquire(timeout=wait_s)
    try:
        holder.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _bars(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
