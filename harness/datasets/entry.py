"""Records that declare a data set: title, licence, files, loader, protocols.

Files are pinned by checksum if the checksum is known, so that scores can be traced to the exact recording.
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

    path: path under the data root.
    url: direct address; "" if none is known.
    checksum: "sha256:...", "sha1:..." or "md5:..."; "" if none is known.
    n_bytes: size; 0 if it is not known.
    """

    path: str
    url: str
    checksum: str
    n_bytes: int

    def state(self, root: Path, *, verify: bool = True) -> State:
        """Whether the file exists under the data root and matches the published size and, if `verify`, checksum."""
        path = root / self.path
        if not path.is_file():
            return "missing"
        matches = self.n_bytes in (0, path.stat().st_size)
        if matches and verify and self.checksum:
            matches = checksum_of(path, self.checksum) == self.checksum
        return "here" if matches else "damaged"


@dataclass(frozen=True)
class Entry:
    """One data set of the table.

    Attributes:
        kind: "brain" (responses), "reading" (reading times) or "text" (text only, no human data: next-word prediction).
        load: function from the data root to the recording.
        protocols: PAPER, STRICT, EQUAL and, if Brain-Score has this or a similar data set, BRAINSCORE2026.
        landing: web page on which the data are published.
        files: files that must exist under the data root.
        optional: files that are also read if they exist.
        extent: rows x targets, such as "1,000 x 6"; "" if it is known only after loading.
        language: language of the texts, BCP 47; "" if not stated, which is treated as English.
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
        """The descriptive fields, without loader, protocols and files."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _NOT_DESCRIBED}


_NOT_DESCRIBED = {"load", "protocols", "files", "optional"}


def version_of(*contents: Stimuli | Responses | ReadingTimes | Floats | str) -> str:
    """First 16 hex digits of the sha256 over all loaded content: ids, texts and the bytes of the values."""
    return content_hash([_digest(content) for content in contents])[:16]


def _digest(content: Any) -> Any:
    """Replace records by the digests of their fields and arrays by the sha256 of dtype, shape and bytes."""
    if is_dataclass(content):
        return [_digest(getattr(content, field.name)) for field in fields(content) if field.compare]
    if isinstance(content, np.ndarray):
        digest = hashlib.sha256(f"{content.dtype.str}{content.shape}".encode())
        digest.update(np.ascontiguousarray(content).data)  # no copy: responses of long recordings fill the memory
        return digest.hexdigest()
    return content


def checksum_of(path: Path, like: str) -> str:
    """Checksum of a file, such as "sha256:...", with the algorithm of the checksum `like`; sha256 if it is ""."""
    algorithm = like.partition(":")[0] or "sha256"
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"
