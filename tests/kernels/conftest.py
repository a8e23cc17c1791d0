"""Runs each kernel on each array library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from harness.kernels.arrays import Array, gpu_available, namespace, to_device, to_host
from tests.kernels import stand_in


@dataclass(frozen=True)
class Library:
    """An array library for tests.

    Attributes:
        name: of its namespace.
        put: copies a host array to the library, keeping the memory order.
    """

    name: str
    put: Callable[[np.ndarray], Array]

    def get(self, array: Array) -> np.ndarray:
        """Copy an array of the library to the host; an array of another library fails the test."""
        assert namespace(array).__name__ == self.name
        return to_host(array)


LIBRARIES = {
    "numpy": Library("numpy", np.array),
    "stand-in": Library("stand_in", stand_in.asarray),
    "cupy": Library("cupy", to_device),
}


@pytest.fixture(params=LIBRARIES, scope="module")
def library(request) -> Library:
    """NumPy, the stand-in for CuPy, and CuPy if there is a GPU."""
    if request.param == "cupy" and not gpu_available():
        pytest.skip("needs a GPU")
    return LIBRARIES[request.param]
