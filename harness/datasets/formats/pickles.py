"""Reads pickles that contain only arrays and dictionaries, without executing code.

A pickle is a program that can call any function it names. Some data sets are published as pickles, so the names needed
for arrays are allowed here and all others are rejected before they are imported.

Source: Python documentation of `pickle`, "Restricting Globals".
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy


def load(path: Path) -> Any:
    """Load dictionaries, lists, numbers, strings and NumPy arrays, as pickled by Python 2 or 3.

    Args:
        path: a bare pickle, or an object array saved by `np.save`, of which the only item is returned.

    Raises:
        ValueError: if the pickle names any other function or class, or is damaged.
    """
    with path.open("rb") as stream:
        try:
            _skip_header(stream)
            content = _ArrayUnpickler(stream, encoding="latin1").load()
        except _NotAllowedError as error:
            raise ValueError(
                f"{path} calls {error}, which is not an array or dictionary; it was not executed. Download the file "
                "again."
            ) from None
        except Exception as error:
            raise ValueError(
                f"{path} is not a pickle of arrays and dictionaries, or is damaged: {error}. Download the file again."
            ) from error
    return content.item() if isinstance(content, np.ndarray) and content.size == 1 else content


def _skip_header(stream: BinaryIO) -> None:
    """Seek to the pickle in a `.npy` file of objects, or to the beginning of a bare one."""
    is_array = stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    stream.seek(0)
    if is_array:
        read_header = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        dtype = read_header(stream)[2]
        if not dtype.hasobject:
            raise ValueError(f"an array of {dtype}, not of objects")


# The function that NumPy's own pickles name, whose module depends on the NumPy version.
_RECONSTRUCT = np.empty(0).__reduce__()[0]


class _NotAllowedError(Exception):
    """The pickle names a function or class that is not allowed."""


class _ArrayUnpickler(pickle.Unpickler):
    """An unpickler that can only rebuild arrays."""

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a name; _NotAllowedError if arrays do not need it."""
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return _RECONSTRUCT
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # protocols 0 to 2 write the bytes of an array as text
            return _encode_latin1
        raise _NotAllowedError(f"{module}.{name}")


def _encode_latin1(text: str, encoding: str) -> bytes:
    """Stand-in for `_codecs.encode` that only accepts Latin-1, the codec used by pickle."""
    if encoding != "latin1":
        raise _NotAllowedError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")
