"""Each kernel runs on each array library."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest

from harness.kernels.arrays import Array, gpu_available, namespace, to_device, to_host
from tests.kernels import stand_in


@dataclass(frozen=True)
class Library:
    """An array library, as a test sees it.

    Attributes:
        name: of its namespace.
        put: a copy of a host array, as an array of the library; its order in memory stays.
    """

    name: str
    put: Callable[[np.ndarray], Array]

    def get(self, array: Array) -> np.ndarray:
        """An array of the library on the host; an array of another one fails the test, since a kernel mixed them up."""
        assert namespace(array).__name__ == self.name
        return to_host(array)


LIBRARIES = {
    "numpy": Library("numpy", np.array),
    "stand-in": Library("stand_in", stand_in.asarray),
    "cupy": Library("cupy", to_device),
}


@pytest.fixture(params=LIBRARIES, scope="module")
def library(request) -> Library:
    """NumPy, a library that keeps its arrays apart from NumPy's, and CuPy where there is a GPU."""
    if request.param == "cupy" and not gpu_available():
        pytest.skip("needs a GPU")
    return LIBRARIES[request.param]
