"""The array library is chosen by the type of the arrays."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import numpy as np
import pytest

from harness.kernels.arrays import gpu_available, namespace, to_device, to_host

ELSEWHERE = ModuleType("elsewhere")


class Named:
    """The minimum that `namespace` needs: an object that names its library."""

    def __init__(self, library):
        self.library = library

    def __array_namespace__(self, api_version=None):
        return self.library


class OnDevice:
    """Imitates a CuPy array: it names no library and is recognised by the module of its type."""


OnDevice.__module__ = "cupy"


def test_numpy_arrays_and_scalars_use_numpy():
    assert namespace(np.ones(2), np.float32(1), np.True_) is np


def test_arrays_use_the_library_they_name():
    assert namespace(Named(ELSEWHERE), Named(ELSEWHERE)) is ELSEWHERE


def test_the_library_comes_from_the_namespace_and_not_from_the_module_of_the_type():
    class Measured(np.ndarray):
        """A subclass from outside NumPy."""

    assert namespace(np.ones(2).view(Measured)) is np


def test_arrays_of_two_libraries_are_refused_by_name():
    with pytest.raises(TypeError, match="elsewhere and numpy"):
        namespace(np.ones(2), Named(ELSEWHERE))
    with pytest.raises(TypeError, match="cupy and numpy"):
        namespace(OnDevice(), np.float32(1))


@pytest.mark.parametrize("thing", [[1.0, 2.0], 1.0, None])
def test_a_list_or_a_number_is_not_an_array(thing):
    with pytest.raises(TypeError, match=f"{type(thing).__name__} is not an array"):
        namespace(np.ones(2), thing)


def test_no_arrays_have_no_library():
    with pytest.raises(TypeError, match="no library"):
        namespace()


def test_a_host_array_is_returned_without_a_copy():
    array = np.ones(3)
    assert to_host(array) is array


@pytest.mark.skipif(gpu_available(), reason="there is a GPU")
def test_without_a_gpu_to_device_raises_an_explanation():
    with pytest.raises(RuntimeError, match="no GPU"):
        to_device(np.ones(2))
    with pytest.raises(RuntimeError, match="no GPU"):
        namespace(OnDevice())


def test_cupy_arrays_are_recognised_by_the_module_of_their_type():
    cupy = pytest.importorskip("cupy")  # installed without a GPU too
    assert cupy.ndarray.__module__ == OnDevice.__module__


@pytest.mark.skipif(not gpu_available(), reason="needs a GPU")
def test_an_array_survives_the_round_trip_to_the_device():
    np.testing.assert_array_equal(to_host(to_device(np.arange(5.0))), np.arange(5.0))


def test_computing_with_host_arrays_imports_no_gpu_library():
    code = (
        "import sys, numpy as np, harness.kernels.ridge; from harness.kernels.metrics import pearson_r\n"
        "pearson_r(np.eye(3), np.eye(3)); sys.exit('cupy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
