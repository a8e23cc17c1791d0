"""A stand-in for CuPy without a GPU: an array library that does not mix with NumPy.

A kernel that mixes host and device arrays works on NumPy and fails on the first GPU. Here it fails at once:
only `.get()` converts to NumPy and only `asarray` converts from NumPy. All results, also of one element, are arrays of
this library. The supported names are listed below; each exists in CuPy (14.2).

It is stricter than CuPy in three points: NumPy functions on device arrays (CuPy handles them itself), and NumPy arrays
as indices or assigned values (CuPy copies them silently). It is more permissive in one: lists of numbers.
"""

from __future__ import annotations

import functools
from types import ModuleType

import numpy as np

REFUSAL = (
    "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to construct a NumPy array explicitly."
)
SCALARS = (bool, int, float, complex, np.generic)

BINARY = [
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "and", "or", "xor",
]  # fmt: skip
COMPARISONS = ["lt", "le", "gt", "ge", "eq", "ne"]
UNARY = ["neg", "pos", "abs", "invert"]
METHODS = [
    "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "copy", "cumsum", "diagonal", "dot", "fill",
    "flatten", "item", "max", "mean", "min", "nonzero", "partition", "prod", "ravel", "repeat", "reshape", "round",
    "sort", "squeeze", "std", "sum", "swapaxes", "take", "tolist", "trace", "transpose", "var",
]  # fmt: skip

FUNCTIONS = [
    "abs", "add", "all", "any", "arange", "argmax", "argmin", "argsort", "array_equal", "ascontiguousarray",
    "bincount", "broadcast_to", "clip", "concatenate", "corrcoef", "cumsum", "diag", "divide", "dot", "einsum",
    "empty", "empty_like", "exp", "eye", "flatnonzero", "full", "full_like", "hstack", "isfinite", "isin", "isinf",
    "isnan", "log", "logical_and", "logical_not", "logical_or", "matmul", "max", "maximum", "mean", "median", "min",
    "minimum", "multiply", "nanmedian", "nonzero", "ones", "ones_like", "outer", "partition", "prod", "sort", "sqrt",
    "square", "stack", "std", "subtract", "sum", "take", "take_along_axis", "trace", "transpose", "tril", "triu",
    "unique", "var", "vstack", "where", "zeros", "zeros_like",
]  # fmt: skip
LINALG = ["cholesky", "eigh", "eigvalsh", "inv", "norm", "qr", "solve", "svd"]
CONSTANTS = [
    "bool_", "e", "finfo", "float32", "float64", "iinfo", "inf", "int32", "int64", "nan", "newaxis", "pi", "uint8",
]  # fmt: skip


class DeviceArray:
    """Wraps a NumPy array without exposing it to NumPy."""

    __slots__ = ("_host",)
    __hash__ = None

    def __init__(self, host):
        self._host = np.asarray(host)

    shape = property(lambda self: self._host.shape)
    ndim = property(lambda self: self._host.ndim)
    size = property(lambda self: self._host.size)
    nbytes = property(lambda self: self._host.nbytes)
    dtype = property(lambda self: self._host.dtype)
    flags = property(lambda self: self._host.flags)
    T = property(lambda self: DeviceArray(self._host.T))

    def get(self):
        """Copy to the host; the only way there."""
        return self._host.copy()

    def __array_namespace__(self, api_version=None):
        return library

    def __array__(self, dtype=None, copy=None):
        raise TypeError(REFUSAL)

    def __array_function__(self, function, types, args, kwargs):
        raise TypeError(REFUSAL)

    def __array_ufunc__(self, ufunc, method, *inputs, **kwargs):
        """Also called for `np.float64(2) * array`, which CuPy allows; for comparisons NumPy passes a 0-d array."""
        if ufunc.__name__ in ("less", "less_equal", "greater", "greater_equal", "equal", "not_equal"):
            inputs = [each[()] if isinstance(each, np.ndarray) else each for each in inputs]
        if method == "__call__" and not kwargs and any(isinstance(each, np.generic) for each in inputs):
            return _compute(ufunc, inputs, kwargs)
        raise TypeError(REFUSAL)

    def __getitem__(self, key):
        return _lift(self._host[_lower(key)])

    def __setitem__(self, key, value):
        self._host[_lower(key)] = _lower(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))

    def __bool__(self):
        return bool(self._host)

    def __int__(self):
        return int(self._host.item())

    def __float__(self):
        return float(self._host.item())

    def __repr__(self):
        return f"DeviceArray({self._host!r})"


def _lower(value):
    """Unwrap a device array for NumPy; TypeError for a NumPy array."""
    if isinstance(value, DeviceArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise TypeError(f"Unsupported type {type(value)}: a host array among arrays of the device.")
    return type(value)(map(_lower, value)) if type(value) in (list, tuple) else value


def _lift(value):
    """Wrap a NumPy result as a device array."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray(value)
    return tuple(map(_lift, value)) if isinstance(value, tuple) else value


def _compute(function, args, kwargs):
    """Call a NumPy function with device arrays; results go to `out` if given."""
    result = _lift(function(*map(_lower, args), **{key: _lower(value) for key, value in kwargs.items()}))
    out = kwargs.get("out")
    return result if out is None else out


def _function(function):
    """A NumPy function for device arrays, without a ufunc's `reduce` etc."""

    @functools.wraps(function, updated=())
    def on_device(*args, **kwargs):
        return _compute(function, args, kwargs)

    return on_device


def _operator(name):
    """An operator between device arrays, or a device array and a number."""

    def operate(self, other):
        if not isinstance(other, (DeviceArray, *SCALARS)):
            raise TypeError(f"Unsupported type {type(other)}: an operand that is not on the device.")
        return _lift(getattr(self._host, name)(_lower(other)))

    return operate


def _in_place(name):
    """An in-place operator; shape and type rules are NumPy's."""
    operate = _operator(name)

    def assign(self, other):
        operate(self, other)
        return self

    return assign


def _method(name):
    return lambda self, *args, **kwargs: _compute(getattr(self._host, name), args, kwargs)


for _name in METHODS:
    setattr(DeviceArray, _name, _method(_name))
for _name in UNARY:
    setattr(DeviceArray, f"__{_name}__", _method(f"__{_name}__"))
for _name in BINARY + COMPARISONS:
    setattr(DeviceArray, f"__{_name}__", _operator(f"__{_name}__"))
for _name in BINARY:
    setattr(DeviceArray, f"__r{_name}__", _operator(f"__r{_name}__"))
for _name in set(BINARY) - {"matmul"}:  # which CuPy lacks
    setattr(DeviceArray, f"__i{_name}__", _in_place(f"__i{_name}__"))


def asarray(values, dtype=None):
    """Copy host arrays, lists and numbers to the device."""
    if isinstance(values, DeviceArray):
        return values if dtype in (None, values.dtype) else values.astype(dtype)
    return DeviceArray(np.array(values, dtype))


library = ModuleType("stand_in")
library.asarray, library.ndarray, library.linalg = asarray, DeviceArray, ModuleType("stand_in.linalg")
for _name in FUNCTIONS:
    setattr(library, _name, _function(getattr(np, _name)))
for _name in LINALG:
    setattr(library.linalg, _name, _function(getattr(np.linalg, _name)))
for _name in CONSTANTS:
    setattr(library, _name, getattr(np, _name))
