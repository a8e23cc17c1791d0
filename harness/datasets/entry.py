"""What a data set declares of itself: title, licence, files, how it is loaded, its protocols.

Every file is pinned by its checksum, so that a score names exactly the recording it was made with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from harness.protocol import Protocol, content_hash
from harness.records import Dataset, Floats, ReadingTimes, Responses, Stimuli
from harness.text.frequencies import ENGLISH

State = Literal["here", "missing", "damaged"]


class File(NamedTuple):
    """One published file.

    path: under the data root. url: direct address, "" where none is known. checksum: "sha256:..." or "sha1:...", as its
    publisher pins it; "" where nobody does. n_bytes: size, 0 where it is not known.
    """

    path: str
    url: str
    checksum: str
    n_bytes: int

    def state(self, root: Path, *, verify: bool = True) -> State:
        """Whether the file lies under the data root and is the published one: by size, and by checksum if `verify`."""
        path = root / self.path
        if not path.is_file():
            return "missing"
        right = self.n_bytes in (0, path.stat().st_size)
        if right and verify and self.checksum:
            right = checksum_of(path, self.checksum) == self.checksum
        return "here" if right else "damaged"


@dataclass(frozen=True)
class Entry:
    """One data set of the table.

    Attributes:
        kind: "brain" (responses), "reading" (reading times) or "text" (nobody's data: next-word prediction).
        load: the data root -> the recording.
        protocols: PAPER, STRICT and, where Brain-Score holds the set or one like it, BRAINSCORE2026.
        landing: the page where the data are published.
        files, optional: what must lie under the data root; what is read besides where it lies there.
        extent: rows x targets in words, such as "1,000 x 6"; "" where only loading tells.
        language: of the texts, BCP 47; "" where none is stated, which is read as English.
        notes: what was unusual about the files, and how they were read.
    """

    name: str
    title: str
    kind: Literal["brain", "reading", "text"]
    licence: str
    load: Callable[[Path], Dataset]
    protocols: tuple[Protocol, ...]
    non_commercial: bool = False
    citation: str = ""
    landing: str = ""
    files: tuple[File, ...] = ()
    optional: tuple[File, ...] = ()
    extent: str = ""
    language: str = ENGLISH
    notes: tuple[str, ...] = ()

    def described(self) -> dict[str, Any]:
        """The entry without what is code."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _CODE}


_CODE = {"load", "protocols", "files", "optional"}


def version_of(*contents: Stimuli | Responses | ReadingTimes | Floats | str) -> str:
    """sha256 over everything that was loaded: ids, texts and the bytes of the values; 16 hex digits."""
    return content_hash([_digest(content) for content in contents])[:16]


def _digest(content: Any) -> Any:
    """A record -> the digests of its fields; an array -> sha256 of its bytes; the rest as it is."""
    if is_dataclass(content):
        return [_digest(getattr(content, field.name)) for field in fields(content)]
    if isinstance(content, np.ndarray):
        described = f"{content.dtype.str}{content.shape}".encode()
        return hashlib.sha256(described + np.ascontiguousarray(content).tobytes()).hexdigest()
    return content


def checksum_of(path: Path, like: str) -> str:
    """The checksum of a file by the algorithm of another: "sha1:..." or "sha256:..."."""
    algorithm = like.partition(":")[0] or "sha256"
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"
