"""NumPy or CuPy: a kernel asks its arguments where they live and computes there.

One code then serves a laptop, a GPU, and any library whose arrays name their namespace by the array API standard. CuPy
is imported on first use only: most machines have none, and where it is installed without a driver it imports well and
fails at the first array, hence the question to `is_available`.

Source: `__array_namespace__` of the array API standard (2022.12), which NumPy 2 follows. CuPy's arrays do not have the
method (14.2; only its namespace follows the standard), so they are known by the module of their type.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import numpy as np

# An array of any such library. CuPy has no types to check against, so mypy sees Any.
Array = Any


def namespace(*arrays: Array) -> ModuleType:
    """The library that holds all the arrays, for instance `numpy` or `cupy`.

    Raises:
        TypeError: if the arrays lie in two libraries, or one of them is no array.
        RuntimeError: if they are CuPy's and there is no GPU.
    """
    libraries = dict(map(_library, arrays))
    if len(libraries) != 1:
        raise TypeError(
            f"arrays of {' and '.join(sorted(libraries)) or 'no library'} given; wanted all of one. "
            "Move them with harness.kernels.arrays.to_device or to_host first."
        )
    (library,) = libraries.values()
    return library or _cupy()


def products(a: Array, b: Array, axis: int) -> Array:
    """Sums over an axis of the products of two matrices.

    NumPy's einsum makes no matrix of the products. CuPy's makes a matrix product of one row by one column of each sum,
    thousands of them; there the products are made, and summed.
    """
    xp = namespace(a, b)
    return xp.einsum("ij,ij->j" if axis == 0 else "ij,ij->i", a, b) if xp is np else (a * b).sum(axis=axis)


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


def _library(array: Array) -> tuple[str, ModuleType | None]:
    """The library of one array, by name; CuPy is only named, since it is loaded where all arrays are its own."""
    if type(array).__module__.split(".")[0] == "cupy":
        return "cupy", None
    if not hasattr(array, "__array_namespace__"):
        raise TypeError(f"a {type(array).__name__} is no array; give arrays of NumPy or CuPy.")
    library: ModuleType = array.__array_namespace__()
    return library.__name__, library


def _cupy() -> ModuleType:
    """CuPy, where it can compute."""
    if not gpu_available():
        raise RuntimeError("no GPU for cupy: install the extra `gpu` on a machine with a driver, or give NumPy arrays.")
    return importlib.import_module("cupy")
