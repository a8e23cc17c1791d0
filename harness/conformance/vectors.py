"""Conformance vectors: results of another program's metric code on synthetic data, read from files and checked.

One case is one .npz file of plain arrays; `meta`, a JSON text, gives the metric and the arguments of the
cross-validation. The files come from elsewhere, so nothing is unpickled, and every fault of a file is reported before
anything is computed from it.

Source: vectors recorded from Brain-Score language of August 2026.
"""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.conformance.recorded_names import experiments_in, key_of, layers_in
from harness.conformance.rows import identities, positions
from harness.records import Fold, Integers, indices_of

Arrays = dict[str, NDArray[Any]]

RIDGE, LINEAR, BENCHMARK = "ridge", "linear", "benchmark"
_METRICS = {"ridge_pearsonr": RIDGE, "linear_pearsonr": LINEAR}
# Arrays that identify the cases other than regression.
_KNOWN_BY = {
    "futrell": {"rt", "half1_member"},
    "similarity": {"cka_score", "cka_per_split", "rdm_score", "rdm_per_split"},
    "extrapolation": {"collected", "collected_subsets", "collected_num_subjects", "neuroid_ceiling", "boot_params"},
}
_REQUIRED = {
    RIDGE: ("X", "Y", "r", "per_split_score", "score", "alphas", "alpha", "loo_mse"),
    LINEAR: ("X", "Y", "r", "per_split_score", "score", "rank"),
    "futrell": ("rt", "half1_member", "uncorrected", "corrected", "ceiling", "model_output", "rvalue", "score",
                "word_within_sentence_id"),
    "similarity": ("X", "Y"),
    "extrapolation": ("Y", "subject_id", "collected", "collected_subsets", "collected_num_subjects", "boot_params",
                      "neuroid_ceiling", "endpoint_x", "ceiling"),
    "model": (),
    BENCHMARK: (),
}  # fmt: skip
_NEVER_LOADED = "which is never loaded because it could run code; save plain arrays"
_MAY_BE_NAN = ("rt", "model_output", "collected", "boot_params", "neuroid_ceiling", "endpoint_x")


class NotRunError(ValueError):
    """A case that cannot be compared; the message gives the reason."""


class DamagedError(ValueError):
    """A malformed case; the message gives the fault."""


@dataclass(frozen=True)
class Vectors:
    """One checked case.

    Attributes:
        case: name of the file.
        kind: "ridge", "linear", "benchmark", "futrell", "similarity", "extrapolation" or "model".
        meta: metric and arguments of the cross-validation.
        arrays: for a regression X (row, feature), Y (row, neuroid), r (split, neuroid), train_k and test_k, ...
    """

    case: str
    kind: str
    meta: dict[str, Any]
    arrays: Arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.arrays[name]

    @property
    def splits(self) -> list[Fold]:
        """The recorded rows of each split."""
        return [Fold(self[f"train_{k}"], self[f"test_{k}"]) for k in range(len(self["r"]))]

    def prediction_orders(self, k: int) -> list[tuple[str, Integers]]:
        """Positions within `test_k` of the rows of `pred_k`, each with a sentence for the result.

        One order if the file has row identities. Without them the order of `test_k`, and that of the file, in which
        Brain-Score predicts; only the right one can agree.
        """
        rows, ids = self[f"test_{k}"], self.arrays.get("stimulus_id")
        name = identities(self.arrays, k)
        order = positions(self[name], rows, ids) if name else None
        if name and order is None and len(self[name]) == len(rows):
            raise DamagedError(f"{name} does not name the {len(rows)} rows of test_{k}. Record the case again.")
        if order is not None:
            numbered = re.sub(r"\d+", "*", name)
            is_same = bool((order == np.arange(len(order))).all())
            return [("" if is_same else f"predictions joined by their recorded rows ({numbered})", order)]
        orders: list[tuple[str, Integers]] = [("", np.arange(len(rows)))]
        if (np.diff(rows) < 0).any():
            orders.append(("predictions are in the order of the file, not in that of the test rows", rows.argsort()))
        return orders


def read(path: Path) -> Vectors:
    """Read and check one case.

    Raises:
        NotRunError: if the file has another format or an unknown metric.
        DamagedError: if the file is malformed; the message names the array.
    """
    arrays = _load(path)
    meta = _meta(arrays)
    kind = _kind(meta, arrays)
    missing = [name for name in _REQUIRED[kind] if name not in arrays]
    if missing:
        raise DamagedError(f"{', '.join(missing)} missing; wanted {', '.join(_REQUIRED[kind])}. Record the case again.")
    for name, array in arrays.items():
        if array.dtype.kind == "f" and kind not in ("model", BENCHMARK) and name not in _MAY_BE_NAN:
            _require(bool(np.isfinite(array).all()), f"{name} contains NaN or infinity")
    vectors = Vectors(path.stem, kind, meta, arrays)
    if kind in (RIDGE, LINEAR):
        _use_row_numbers(arrays)
        _check_shapes(vectors)
        _check_splits(vectors)
        arrays["r"] = arrays["r"][:, _order(arrays)]
    return vectors


def _load(path: Path) -> Arrays:
    """Load all arrays of an archive without unpickling anything."""
    if path.suffix != ".npz":
        raise NotRunError("a folder" if path.is_dir() else "not an .npz archive of vectors")
    with path.open("rb") as file:
        if file.read(1) == b"\x80":
            raise NotRunError(f"a pickle, {_NEVER_LOADED} with numpy.savez")
    if not zipfile.is_zipfile(path):
        raise DamagedError("not an .npz archive, or a truncated one; copy it again")
    arrays: Arrays = {}
    name = "the list of arrays"
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
    except (OSError, ValueError, RuntimeError, MemoryError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise NotRunError(f"{name} is pickled, {_NEVER_LOADED}") from error
        raise DamagedError(f"{name} cannot be read: {error}; copy the file again") from error
    return arrays


def _meta(arrays: Arrays) -> dict[str, Any]:
    if "meta" not in arrays:
        if {"X", "Y", "r"} & set(arrays):
            raise DamagedError("meta missing: it gives the metric and the cross-validation. Record the case again.")
        raise NotRunError("a file in another format: it has no `meta`")
    try:
        meta = json.loads(str(arrays["meta"]))
    except json.JSONDecodeError as error:
        raise DamagedError(f"meta is not JSON: {error}") from error
    if not isinstance(meta, dict):
        raise DamagedError(f"meta is a JSON {type(meta).__name__}; wanted an object with the metric and its arguments.")
    return meta


def _kind(meta: dict[str, Any], arrays: Arrays) -> str:
    """The kind of a case, as in `Vectors`."""
    if _is_benchmark(meta, arrays):
        return BENCHMARK
    for kind, names in _KNOWN_BY.items():
        if names & set(arrays):
            return kind
    if any(name.endswith(("__neural", "__surprisal_bits")) for name in arrays):
        return "model"
    metric = meta.get("metric")
    if metric is None:
        raise NotRunError("a file in another format: its `meta` names no metric")
    if metric not in _METRICS:
        raise NotRunError(f"metric {metric!r} is unknown; known metrics: {', '.join(_METRICS)}")
    return _METRICS[metric]


def _is_benchmark(meta: dict[str, Any], arrays: Arrays) -> bool:
    """Whether a case has features and responses, and experiments or a ceiling or scores of layers."""
    experiments = experiments_in(arrays, meta)
    layers = layers_in(arrays, meta, experiments)
    quantities = {key.quantity for name in arrays if (key := key_of(name, experiments, layers))}
    of_benchmark = {"ceiling", "normalised", "layer_scores", "raw"} & quantities
    return {"X", "Y"} <= quantities and bool(experiments or of_benchmark or {"benchmark", "benchmarks"} & set(meta))


def _check_shapes(vectors: Vectors) -> None:
    """Require that the arrays of a regression have matching shapes."""
    for name in ("X", "Y", "r"):
        array, wanted = vectors[name], "wanted two-dimensional floats"
        _require(array.ndim == 2 and array.dtype.kind == "f", f"{name} is {array.dtype} {array.shape}, {wanted}")
    (n_rows, _), n_neuroids = vectors["X"].shape, vectors["Y"].shape[1]
    n_splits = len(vectors["r"])
    shapes: dict[str, tuple[int, ...]] = {
        "Y": (n_rows, n_neuroids), "r": (n_splits, n_neuroids), "per_split_score": (n_splits,), "score": (),
        "n_splits": (), "stimulus_id": (n_rows,), "group": (n_rows,), "neuroid_id": (n_neuroids,),
        "subject": (n_neuroids,), "rank": (n_splits,), "alpha": (n_splits,), "r_neuroid_order": (n_neuroids,),
        "loo_mse": (n_splits, np.size(vectors.arrays.get("alphas", ()))),
    }  # fmt: skip
    for name, shape in shapes.items():
        if name in vectors.arrays:
            _require(vectors[name].shape == shape, f"{name} is {vectors[name].shape}, wanted {shape}")
    _require(min(vectors["X"].shape + vectors["r"].shape) > 0, "X or r is empty")
    _require(int(vectors.arrays.get("n_splits", n_splits)) == n_splits, f"n_splits is not the {n_splits} rows of r")
    for name in {"alphas", "alpha"} & set(vectors.arrays):
        _require(vectors[name].size > 0 and bool((vectors[name] > 0).all()), f"{name} must be positive")


def _check_splits(vectors: Vectors) -> None:
    """Require train and test rows for every split, and predictions of the right shape."""
    n_splits, (n_rows, n_neuroids) = len(vectors["r"]), vectors["Y"].shape
    for side in ("train", "test"):
        present = {name for name in vectors.arrays if name.startswith(f"{side}_") and name[len(side) + 1 :].isdigit()}
        unmatched = sorted({f"{side}_{k}" for k in range(n_splits)} ^ present)
        _require(not unmatched, f"{', '.join(unmatched)} missing or beyond the {n_splits} splits of r")
    for k, fold in enumerate(vectors.splits):
        _check_rows(k, fold, n_rows)
        predictions, shape = vectors.arrays.get(f"pred_{k}"), (len(fold.test), n_neuroids)
        _require(predictions is None or predictions.shape == shape, f"pred_{k} does not have shape {shape}")


def _use_row_numbers(arrays: Arrays) -> None:
    """Replace splits that are recorded as masks or as stimulus ids by row numbers."""
    for name in [name for name in arrays if re.fullmatch(r"(train|test)_\d+", name)]:
        if arrays[name].dtype == bool:
            arrays[name] = np.flatnonzero(arrays[name])
        elif arrays[name].dtype.kind in "US" and "stimulus_id" in arrays:
            try:
                arrays[name] = indices_of(arrays[name].tolist(), arrays["stimulus_id"].tolist(), name)
            except ValueError as error:
                raise DamagedError(str(error)) from error


def _order(arrays: Arrays) -> Integers | slice:
    """Column of each neuroid in the recorded r, matched by name if the file has names."""
    if not {"neuroid_id", "r_neuroid_order"} <= set(arrays):
        return slice(None)
    try:
        return indices_of(arrays["neuroid_id"].tolist(), arrays["r_neuroid_order"].tolist(), "r_neuroid_order")
    except ValueError as error:
        raise DamagedError(str(error)) from error


def _check_rows(k: int, fold: Fold, n_rows: int) -> None:
    """Require that the row indices of one split are valid, unique, and disjoint between train and test."""
    for name, side in zip((f"train_{k}", f"test_{k}"), fold, strict=True):
        _require(side.ndim == 1 and side.dtype.kind in "iu" and len(side) > 0, f"{name} must be a list of row indices")
        inside = int(side.min()) >= 0 and int(side.max()) < n_rows
        _require(inside, f"{name} contains rows {side.min()} to {side.max()}, but there are {n_rows}")
        _require(len(np.unique(side)) == len(side), f"{name} contains a row twice")
    shared = np.intersect1d(fold.train, fold.test)
    _require(not len(shared), f"train_{k} and test_{k} share {len(shared)} rows, starting with {shared[:1]}")


def _require(condition: bool, fault: str) -> None:
    if not condition:
        raise DamagedError(f"{fault}. Record the case again, or copy the file again.")
