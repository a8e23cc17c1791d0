"""Arrays and dictionaries out of a pickle, and nothing else.

A pickle is a program: it may call whatever it names. Some data sets are published as one, so the names that it may use
are listed here, and every other is refused before it is looked up.

Source: Python's documentation of `pickle`, "Restricting Globals".
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.lib import format as npy


def load(path: Path) -> Any:
    """What is pickled in a file: bare, or as the object array that `np.save` makes of anything (then its only item).

    Dictionaries, lists, numbers, strings and NumPy arrays, as Python 2 or 3 wrote them.

    Raises:
        ValueError: if the pickle names anything else (which), or is damaged.
    """
    with path.open("rb") as stream:
        try:
            _skip_header(stream)
            found = _ArraysAlone(stream, encoding="latin1").load()
        except _RefusedError as error:
            raise ValueError(
                f"{path} wants to call {error}, which is no array or dictionary; it was not run. Fetch the file anew."
            ) from None
        except Exception as error:
            raise ValueError(f"{path} is no pickle of arrays and dictionaries, or is damaged: {error}.") from error
    return found.item() if isinstance(found, np.ndarray) and found.size == 1 else found


def _skip_header(stream: BinaryIO) -> None:
    """Go to the pickle in a `.npy` file of objects, or stay at the beginning of a bare one."""
    is_array = stream.read(len(npy.MAGIC_PREFIX)) == npy.MAGIC_PREFIX
    stream.seek(0)
    if is_array:
        read = npy.read_array_header_1_0 if npy.read_magic(stream) == (1, 0) else npy.read_array_header_2_0
        dtype = read(stream)[2]
        if not dtype.hasobject:
            raise ValueError(f"an array of {dtype}, not of objects")


# What NumPy names in its own pickles, wherever it lies in this version.
_RECONSTRUCT = np.empty(0).__reduce__()[0]


class _RefusedError(Exception):
    """A name that is not in the list."""


class _ArraysAlone(pickle.Unpickler):
    """An unpickler that knows how an array is rebuilt, and no other name."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        if module in {"numpy.core.multiarray", "numpy._core.multiarray"} and name == "_reconstruct":
            return _RECONSTRUCT
        if (module, name) in {("numpy", "ndarray"), ("numpy", "dtype")}:
            return getattr(np, name)
        if (module, name) == ("_codecs", "encode"):  # how protocols 0 to 2 write the bytes of an array
            return _latin1
        raise _RefusedError(f"{module}.{name}")


def _latin1(text: str, encoding: str) -> bytes:
    """Bytes that were written as text; of all codecs the one that pickle uses."""
    if encoding != "latin1":
        raise _RefusedError(f"_codecs.encode with {encoding!r}")
    return text.encode("latin1")
