"""The stand-in for CuPy refuses what CuPy refuses and computes what NumPy computes."""

from __future__ import annotations

import operator

import numpy as np
import pytest

from harness.kernels.arrays import namespace, to_host
from tests.kernels.stand_in import CONSTANTS, FUNCTIONS, LINALG, METHODS, REFUSAL, DeviceArray, library

OPERATORS = [
    operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod, operator.pow,
    operator.matmul,
]  # fmt: skip
COMPARISONS = [operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne]
IN_PLACE = [operator.iadd, operator.isub, operator.imul, operator.itruediv]
HOST = np.arange(1.0, 10.0).reshape(3, 3)


@pytest.fixture
def device():
    return library.asarray(HOST)


@pytest.mark.parametrize(
    "convert",
    [
        np.asarray, np.array, lambda x: np.array([x, x]), np.sqrt, np.sum, np.add.reduce, np.concatenate,
        np.linalg.norm, lambda x: np.add(x, x), lambda x: np.where(x > 0, x, x), lambda x: np.einsum("ij->j", x),
        lambda x: np.ones(3) @ x, lambda x: np.zeros((3, 3)).__iadd__(x),
    ],
)  # fmt: skip
def test_numpy_cannot_convert_a_device_array(convert, device):
    with pytest.raises(TypeError, match="Implicit conversion to a NumPy array is not allowed"):
        convert(device)


@pytest.mark.parametrize("operate", OPERATORS + COMPARISONS)
@pytest.mark.parametrize("host", [HOST, np.array(2.0)], ids=["matrix", "0-d"])
def test_operators_do_not_mix_host_and_device(operate, host, device):
    with pytest.raises(TypeError, match="Unsupported type"):
        operate(device, host)
    if host.ndim or operate not in COMPARISONS:  # NumPy makes its scalars 0-d before it compares them
        with pytest.raises(TypeError, match=r"Unsupported type|Implicit conversion"):
            operate(host, device)


@pytest.mark.parametrize("operate", IN_PLACE)
def test_operators_in_place_do_not_mix_and_write_into_the_array(operate, device):
    with pytest.raises(TypeError, match="Unsupported type"):
        operate(device, HOST)
    row = device[1]
    assert operate(row, device[0]) is row
    np.testing.assert_array_equal(device.get()[1], operate(HOST[1].copy(), HOST[0]))


@pytest.mark.parametrize("operate", OPERATORS[:-1] + COMPARISONS)
@pytest.mark.parametrize("number", [2, 2.5, np.float64(2.5), np.float32(2), np.int64(2)], ids=repr)
def test_operators_take_numbers_on_either_side(operate, number, device):
    for ours, numpys in ((operate(device, number), operate(HOST, number)),
                         (operate(number, device), operate(number, HOST))):  # fmt: skip
        assert isinstance(ours, DeviceArray)
        np.testing.assert_array_equal(ours.get(), numpys)
        assert ours.dtype == numpys.dtype


def test_functions_and_assignments_refuse_host_arrays(device):
    for refused in (
        lambda: library.where(device > 1, HOST, device),
        lambda: library.concatenate([device, HOST]),
        lambda: library.matmul(device, device, out=np.empty((3, 3))),
        lambda: library.linalg.eigh(HOST),
        lambda: device.take(np.array([0]), axis=0),
        lambda: device.__setitem__(0, HOST[1]),
    ):
        with pytest.raises(TypeError, match="Unsupported type"):
            refused()


@pytest.mark.parametrize("key", [np.array([0, 2]), np.array([True, False, True]), (slice(None), np.array([1]))])
def test_a_host_array_is_refused_as_an_index(key, device):
    with pytest.raises(TypeError, match="Unsupported type"):
        device[key]
    with pytest.raises(TypeError, match="Unsupported type"):
        device[key] = 0.0


def test_device_indices_read_and_write(device):
    rows, mask = library.asarray([2, 0]), library.asarray([True, False, True])
    np.testing.assert_array_equal(device[rows][:, mask].get(), HOST[[2, 0]][:, [0, 2]])
    device[rows[:, None], mask] = -1.0
    assert (device == -1.0).sum() == 4
    device[1] = device[0]
    np.testing.assert_array_equal(device.get()[1], [-1, 2, -1])


def test_results_of_one_element_stay_on_the_device(device):
    for result in (device.sum(), device.max(), device[0, 0], device.trace(), device.any(), device[0] @ device[0],
                   library.sum(device), library.linalg.norm(device), library.sqrt(2.0)):  # fmt: skip
        assert isinstance(result, DeviceArray)
        assert result.shape == ()


def test_one_element_becomes_a_number_and_several_do_not(device):
    assert (float(device.sum()), int(device[0, 1]), bool(device[0, 0] > 5), device.sum().item()) == (45, 2, False, 45)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(device)
    with pytest.raises(ValueError):
        float(device)


def test_iteration_yields_rows(device):
    assert len(device) == 3
    assert all(isinstance(row, DeviceArray) for row in device)
    np.testing.assert_array_equal([row.get() for row in device], HOST)


def test_several_results_are_all_on_the_device(device):
    parts = [*library.linalg.qr(device), *library.linalg.svd(device), *library.linalg.eigh(device @ device.T),
             *library.unique(device, return_inverse=True), *device.nonzero()]  # fmt: skip
    assert len(parts) == 11
    assert all(isinstance(part, DeviceArray) for part in parts)


def test_out_receives_the_result(device):
    room = library.empty((3, 3))
    assert library.matmul(device, device, out=room) is room
    np.testing.assert_array_equal(room.get(), HOST @ HOST)


def test_transfers_to_the_device_and_back_copy():
    host = HOST.copy()
    device = library.asarray(host)
    host[0, 0] = 100.0
    back = to_host(device)
    back[0, 1] = 100.0
    np.testing.assert_array_equal(device.get(), HOST)
    assert library.asarray(device) is device
    assert library.asarray(device, dtype=np.float32).dtype == np.float32


def test_the_array_names_its_library(device):
    assert namespace(device, device[0]) is library
    with pytest.raises(TypeError, match="numpy and stand_in"):
        namespace(device, HOST)


def test_names_that_are_not_listed_are_missing(device):
    for absent in ("errstate", "nan_to_num", "ma", "lib", "interp"):
        assert not hasattr(library, absent)
    for absent in ("lstsq", "eig"):
        assert not hasattr(library.linalg, absent)
    assert not hasattr(library.minimum, "reduce")
    assert not hasattr(device, "searchsorted")


def test_every_name_exists_in_cupy():
    cupy = pytest.importorskip("cupy")  # installed without a GPU too
    assert [name for name in [*FUNCTIONS, *CONSTANTS, "asarray", "ndarray"] if not hasattr(cupy, name)] == []
    assert [name for name in LINALG if not hasattr(cupy.linalg, name)] == []
    listed = [*METHODS, *(name for name in vars(DeviceArray) if name not in ("_host", "__array_namespace__"))]
    assert [name for name in listed if not hasattr(cupy.ndarray, name)] == []


def test_the_error_message_is_that_of_cupy():
    assert REFUSAL.startswith("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")
