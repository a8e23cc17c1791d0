"""Check one weights file by its type and header, without reading any tensor.

A header is untrusted input. It is at most 100 MB, the limit of the safetensors library, which also checks it (offsets
without gaps or overlaps, shapes that match them, known types). This module turns its findings into clear messages.

Source: the safetensors format, https://github.com/huggingface/safetensors (8-byte length, JSON, data).
"""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

MAX_HEADER_BYTES = 100_000_000
_POINTER = b"version https://git-lfs"
# First bytes of files that are named *.safetensors but have another format.
_OTHER_FORMATS = {
    _POINTER: "is a Git LFS pointer, not the weights; run `git lfs pull` in its folder",
    b"<": "is a web page, not the weights; download it again",
    b"PK\x03\x04": "is a zip archive, as torch.save writes; convert it to safetensors",
    b"\x80\x02": "is a pickle; convert it to safetensors",
    b"GGUF": "is a GGUF file; save the model as safetensors",
    b"\x89HDF": "is an HDF5 file; save the model as safetensors",
}
# Bits per number, by type name.
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
    """A tensor as described by a header: safetensors type name (F32, BF16, F8_E4M3, ...) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def n_numbers(self) -> int:
        """Product of the shape."""
        return math.prod(self.shape)


def require_regular(file: Path, name: str) -> None:
    """Raise if a path is not a readable regular file; opening a named pipe would block forever.

    Args:
        file: file of weights.
        name: model name, for error messages.

    Raises:
        FileNotFoundError: if it does not exist or is a broken symbolic link.
        ValueError: if it is not a regular file or not readable.
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
        raise ValueError(f"{name}: {file} cannot be read ({error.strerror}); check its permissions.") from error
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "not a regular file")
        raise ValueError(f"{name}: {file.name} is {kind}; expected a file of weights: copy the checkpoint again.")
    if not os.access(file, os.R_OK):
        raise ValueError(f"{name}: {file} cannot be read (permission denied); check its permissions.")


def is_lfs_pointer(file: Path) -> bool:
    """Return whether a file is a Git LFS pointer instead of its content."""
    with file.open("rb") as stream:
        return stream.read(len(_POINTER)) == _POINTER


def header_of(file: Path, name: str) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file: tensor name -> type and shape.

    Args:
        file: path of the file.
        name: model name, for error messages.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is not a regular file, has another format or is damaged; the message says how.
    """
    from safetensors import SafetensorError, safe_open

    require_regular(file, name)
    _require_format(file, name)
    try:
        reader = safe_open(file, "np", backend="pread")
        slices = {key: reader.get_slice(key) for key in reader.keys()}  # noqa: SIM118 - not a mapping
        return {
            key: StoredTensor(tensor_slice.get_dtype(), tuple(tensor_slice.get_shape()))
            for key, tensor_slice in slices.items()
        }
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{name}: {file.name} is damaged: {_reason(file, error)}. Copy it again.") from error


def _require_format(file: Path, name: str) -> None:
    """Raise if the first bytes belong to another format, or the header is longer than the file or the limit."""
    n_bytes = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(64)
    length = int.from_bytes(start[:8], "little")
    is_header = start[8:9] == b"{" and length + 8 <= n_bytes  # the length itself may look like another format
    for magic, words in _OTHER_FORMATS.items():
        if start.startswith(magic) and not is_header:
            raise ValueError(f"{name}: {file.name} {words}.")
    if n_bytes < 8 or length + 8 > n_bytes:
        promised = f"its header alone takes {length} bytes" if n_bytes >= 8 else "a header takes at least 8 bytes"
        raise ValueError(f"{name}: {file.name} is damaged: {promised}, the file has {n_bytes}. Copy it again.")
    if length > MAX_HEADER_BYTES:
        raise ValueError(
            f"{name}: {file.name} has a header of {length / 1e6:.0f} MB; safetensors allows "
            f"{MAX_HEADER_BYTES / 1e6:.0f} MB. Save it again in shards."
        )


def _reason(file: Path, error: Exception) -> str:
    """Say what is wrong with a header, naming the tensor if possible, else in the library's words."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        raw = stream.read(length)
    try:
        entries = {key: entry for key, entry in json.loads(raw).items() if key != "__metadata__"}
        ends = [entry["data_offsets"][1] for entry in entries.values()]
        n_bytes = file.stat().st_size
        if (promised := 8 + length + max(ends, default=0)) != n_bytes:
            return f"its header promises {promised} bytes, the file has {n_bytes}"
        return next(filter(None, (_mismatch(key, entry) for key, entry in entries.items())), _library_message(error))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return _library_message(error)


def _mismatch(key: str, entry: dict[str, Any]) -> str:
    """Say why a tensor's shape does not match its number of bytes; "" if it does."""
    begin, end = entry["data_offsets"]
    dtype, shape = entry["dtype"], entry["shape"]
    if dtype not in _BITS:
        return f"its header gives {key} the type {dtype}, which safetensors does not know"
    if StoredTensor(dtype, tuple(shape)).n_numbers * _BITS[dtype] / 8 != end - begin:
        return (
            f"its header gives {key} the shape {shape} of {dtype}, which does not take the {end - begin} bytes it has"
        )
    return ""


def _library_message(error: Exception) -> str:
    """Return the library's message, rewritten where it does not name the problem."""
    words = str(error).strip().splitlines()[0].removeprefix("Error while deserializing header: ")[:200]
    if words.startswith("invalid offset for tensor"):
        return f"the data of {words.partition('`')[2].strip('`')} overlap with another tensor's, or leave a gap"
    return words
