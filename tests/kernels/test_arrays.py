"""NumPy or CuPy is decided by the arrays."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from kernels.arrays import gpu_available, namespace, to_device, to_host


class _OnDevice:
    """Stands where a CuPy array would: what counts is the library its type comes from."""


_OnDevice.__module__ = "cupy._core.core"


def test_numpy_arrays_are_computed_by_numpy():
    assert namespace(np.ones(2), np.float32(1)) is np


def test_arrays_of_two_libraries_are_refused_by_name():
    with pytest.raises(TypeError, match="cupy and numpy"):
        namespace(np.ones(2), _OnDevice())


def test_a_list_is_no_array():
    with pytest.raises(TypeError, match="builtins"):
        namespace([1.0, 2.0])


def test_a_host_array_is_returned_without_a_copy():
    array = np.ones(3)
    assert to_host(array) is array


@pytest.mark.skipif(gpu_available(), reason="there is a GPU")
def test_without_a_gpu_the_device_is_refused_with_a_sentence():
    with pytest.raises(RuntimeError, match="no GPU"):
        to_device(np.ones(2))


@pytest.mark.skipif(not gpu_available(), reason="needs a GPU")
def test_an_array_survives_the_way_to_the_device_and_back():
    np.testing.assert_array_equal(to_host(to_device(np.arange(5.0))), np.arange(5.0))


def test_importing_the_kernels_loads_no_gpu_library():
    code = "import sys, kernels.ridge, kernels.metrics; sys.exit('cupy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
