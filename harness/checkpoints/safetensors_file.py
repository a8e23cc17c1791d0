"""One file of weights, before any number is read: whether it is a file at all, and what its header says.

A header is untrusted input. It is at most 100 MB, the limit of the safetensors library, and that library checks it
(offsets without holes or overlaps, shapes that fit them, known types); what it finds is put into words here.

Source: the safetensors format, https://github.com/huggingface/safetensors (8-byte length, JSON, data).
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

MAX_HEADER_BYTES = 100_000_000
_POINTER = b"version https://git-lfs"
# What a file begins with that is called *.safetensors and is none.
_OTHER_FORMATS = {
    _POINTER: "is a Git LFS pointer, not the weights; run `git lfs pull` in its folder",
    b"<": "is a web page, not the weights; download it again",
    b"PK\x03\x04": "is a zip archive, as torch.save writes; convert it to safetensors",
    b"\x80\x02": "is a pickle; convert it to safetensors",
    b"GGUF": "is a GGUF file; save the model as safetensors",
    b"\x89HDF": "is an HDF5 file; save the model as safetensors",
}
# Bits of a number, by the name of its type.
_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32,
    "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe (FIFO)"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"), (stat.S_ISBLK, "a block device"),
)  # fmt: skip


class StoredTensor(NamedTuple):
    """A tensor as a header describes it: type by its safetensors name (F32, BF16, F8_E4M3, ...), and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def n_numbers(self) -> int:
        """Product of the shape."""
        product = 1
        for size in self.shape:
            product *= size
        return product


def require_regular(file: Path, name: str) -> None:
    """Raise where a path cannot be read as a file: opening a named pipe would block for ever.

    Args:
        file: of weights.
        name: of the model, for messages.

    Raises:
        FileNotFoundError: if it is not there, or a symbolic link to nothing.
        ValueError: if it is no regular file, or must not be read.
    """
    try:
        mode = file.stat().st_mode
    except FileNotFoundError as error:
        if file.is_symlink():
            raise FileNotFoundError(
                f"{name}: {file.name} is a symbolic link to {file.readlink()}, which is not there; fetch or copy the "
                "weights again."
            ) from error
        raise FileNotFoundError(f"{name}: there is no {file.name} in {file.parent}.") from error
    except OSError as error:
        raise ValueError(f"{name}: {file} cannot be read ({error.strerror}); look at its permissions.") from error
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "no regular file")
        raise ValueError(f"{name}: {file.name} is {kind}, not a file of weights; copy the checkpoint again.")
    if not os.access(file, os.R_OK):
        raise ValueError(f"{name}: {file} cannot be read (permission denied); look at its permissions.")


def is_lfs_pointer(file: Path) -> bool:
    """Whether a file is only a Git LFS pointer to its content."""
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def header_of(file: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file; no number is read.

    Args:
        file: where it is.
        name: of the model, for messages.

    Raises:
        FileNotFoundError: if it is not there.
        ValueError: if it is no regular file, another format, or damaged; the message says where.
    """
    from safetensors import SafetensorError, safe_open

    require_regular(file, name)
    _require_format(file, name)
    try:
        opened = safe_open(file, "np", backend="pread")
        slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118 - not a mapping
        return {key: StoredTensor(part.get_dtype(), tuple(part.get_shape())) for key, part in slices.items()}
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name}: {file.name} is damaged: {_reason(file, error)}. Copy it again.") from error


def _require_format(file: Path, name: str) -> None:
    """Raise where the first bytes are of another format, or promise more than the file or the limit."""
    n_bytes = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(64)
    length = int.from_bytes(start[:8], "little")
    is_header = start[8:9] == b"{" and length + 8 <= n_bytes  # whatever the bytes of its length look like
    for magic, words in _OTHER_FORMATS.items():
        if start.startswith(magic) and not is_header:
            raise ValueError(f"{name}: {file.name} {words}.")
    if n_bytes < 8 or length + 8 > n_bytes:
        promised = f"its header alone takes {length} bytes" if n_bytes >= 8 else "a header takes 8 bytes and more"
        raise ValueError(f"{name}: {file.name} is damaged: {promised}, the file has {n_bytes}. Copy it again.")
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"{name}: {file.name} has a header of {length / 1e6:.0f} MB; safetensors allows "
            f"{MAX_HEADER_BYTES / 1e6:.0f} MB. Save it again in shards."
        )


def _reason(file: Path, error: Exception) -> str:
    """What is wrong with a header: the tensor by its name where one is found, else in the library's words."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        raw = stream.read(length)
    try:
        entries = {key: entry for key, entry in json.loads(raw).items() if key != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        n_bytes = file.stat().st_size
        if (promised := 8 + length + max(ends, default=0)) != n_bytes:
            return f"its header promises {promised} bytes, the file has {n_bytes}"
        return next(filter(None, (_oddity(key, entry) for key, entry in entries.items())), _in_short(error))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return _in_short(error)


def _oddity(key: str, entry: dict[str, Any]) -> str:
    """Why the shape of one tensor does not fit the bytes that it is given; "" where it may."""
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in _BITS:
        return f"its header gives {key} the type {dtype}, which safetensors does not know"
    if StoredTensor(dtype, tuple(shape)).n_numbers * _BITS[dtype] / 8 != end - begin:
        return (
            f"its header gives {key} the shape {shape} of {dtype}, which does not take the {end - begin} bytes it has"
        )
    return ""


def _in_short(error: Exception) -> str:
    """The library's words, of which one case says too little."""
    words = str(error).strip().splitlines()[0].removeprefix("Error while deserializing header: ")[:200]
    if words.startswith("invalid offset for tensor"):
        return f"the data of {words.partition('`')[2].strip('`')} overlap with another tensor's, or leave a hole"
    return words
