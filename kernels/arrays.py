"""NumPy or CuPy: a kernel asks its arguments where they live and computes there.

One code then serves a laptop and a GPU. CuPy is imported on first use only: most machines have none, and where it is
installed without a driver it imports well and fails at the first array, hence the question to `is_available`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

# A NumPy or a CuPy array. CuPy has no types to check against, so mypy sees Any.
Array = Any


def namespace(*arrays: Array) -> ModuleType:
    """The library that holds all the arrays: `numpy` or `cupy`.

    Raises:
        TypeError: if the arrays lie in both libraries, or one of them in neither.
        RuntimeError: if they are CuPy's and there is no GPU.
    """
    libraries = {type(array).__module__.split(".")[0] for array in arrays}
    if libraries == {"numpy"}:
        return np
    if libraries == {"cupy"}:
        return _cupy()
    raise TypeError(
        f"arrays of {' and '.join(sorted(libraries)) or 'no library'} given; wanted all of numpy or all of cupy. "
        "Move them with kernels.arrays.to_device or to_host first."
    )


def to_host(array: Array) -> Array:
    """The array as a NumPy array; itself where it is one."""
    return array if namespace(array) is np else array.get()


def to_device(array: Array) -> Array:
    """The array as a CuPy array on the current GPU; RuntimeError where there is none."""
    return _cupy().asarray(array)


def gpu_available() -> bool:
    """Whether CuPy is installed and finds a GPU with its driver."""
    try:
        return bool(importlib.import_module("cupy").cuda.is_available())
    except ImportError:
        return False


def _cupy() -> ModuleType:
    """CuPy, where it can compute."""
    if not gpu_available():
        raise RuntimeError("no GPU for cupy: install the extra `gpu` on a machine with a driver, or give NumPy arrays.")
    return importlib.import_module("cupy")
