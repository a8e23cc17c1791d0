"""Choose NumPy or CuPy by the type of a kernel's arguments.

The same code then runs on a CPU, a GPU, and any library whose arrays follow the array API standard. CuPy is imported on
first use only, since most machines have none. Installed without a driver it imports and fails at the first array, which
is why `is_available` is called first.

Source: `__array_namespace__` of the array API standard (2022.12), which NumPy 2 follows. CuPy's arrays (14.2) lack this
method (only CuPy's namespace follows the standard), so they are recognised by the module of their type.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

# An array of any such library. CuPy has no type stubs, so this is Any.
Array = Any


def namespace(*arrays: Array) -> ModuleType:
    """The library that all the arrays belong to, for instance `numpy` or `cupy`.

    Raises:
        TypeError: if the arrays belong to two libraries, or one of them is not an array.
        RuntimeError: if they are CuPy arrays and there is no GPU.
    """
    libraries = dict(map(_library, arrays))
    if len(libraries) != 1:
        raise TypeError(
            f"arrays of {' and '.join(sorted(libraries)) or 'no library'} given; wanted all from one library. "
            "Move them with harness.kernels.arrays.to_device or to_host first."
        )
    (library,) = libraries.values()
    return library or _cupy()


def array_library(rows: Array) -> ModuleType:
    """The library of an array; NumPy for anything else with rows, such as features computed on access."""
    is_array = hasattr(rows, "__array_namespace__") or type(rows).__module__.split(".")[0] == "cupy"
    return namespace(rows) if is_array else np


def products(a: Array, b: Array, axis: int) -> Array:
    """Sum the elementwise product of two matrices over an axis.

    NumPy's einsum avoids storing the products. CuPy's einsum runs thousands of row-by-column matrix products instead,
    so there the products are stored and summed.
    """
    xp = namespace(a, b)
    return xp.einsum("ij,ij->j" if axis == 0 else "ij,ij->i", a, b) if xp is np else (a * b).sum(axis=axis)


def to_host(array: Array) -> Array:
    """Convert to a NumPy array; a NumPy array is returned as it is."""
    return array if namespace(array) is np else array.get()


def to_device(array: Array) -> Array:
    """Convert to a CuPy array on the current GPU; RuntimeError if there is none."""
    return _cupy().asarray(array)


def gpu_available() -> bool:
    """Whether CuPy is installed and finds a GPU with its driver."""
    try:
        return bool(importlib.import_module("cupy").cuda.is_available())
    except ImportError:
        return False


def _library(array: Array) -> tuple[str, ModuleType | None]:
    """Name and module of an array's library; CuPy without its module, which is imported only when needed."""
    if type(array).__module__.split(".")[0] == "cupy":
        return "cupy", None
    if not hasattr(array, "__array_namespace__"):
        raise TypeError(f"a {type(array).__name__} is not an array; pass NumPy or CuPy arrays.")
    library: ModuleType = array.__array_namespace__()
    return library.__name__, library


def _cupy() -> ModuleType:
    """Import CuPy; RuntimeError without a GPU."""
    if not gpu_available():
        raise RuntimeError("no GPU for cupy: install the extra `gpu` on a machine with a driver, or pass NumPy arrays.")
    return importlib.import_module("cupy")
