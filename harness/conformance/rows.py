"""The rows to which the rows of a recorded array belong, from the identities recorded beside it.

Predictions need not be recorded in the order of the test rows: Brain-Score predicts in the order of the model's
activations (passage by passage) and sorts by stimulus before it correlates. So rows are matched by recorded identity,
and never by position where an identity is recorded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.records import Integers

Arrays = Mapping[str, NDArray[Any]]

_OF_PREDICTIONS = {"pred", "preds", "prediction", "predictions", "predicted"}
_IDENTITY = {"row", "rows", "order", "id", "ids", "index", "indices", "stimulus", "stimuli", "presentation"}


def words(name: str) -> list[str]:
    """The words and numbers of an array's name, in lower case."""
    return [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]


def identities(arrays: Arrays, split: int) -> str:
    """Name of the array with the row identities of a split's predictions; "" if there is none.

    An array for the split (`pred_rows_3`, `pred_3_stimulus_id`) comes before one for all rows (`pred_stimulus_id`), and
    an array of the predictions before one of the test rows (`test_3_stimulus_id`).
    """
    candidates = list(_named_identities(arrays))
    for of_predictions in (True, False):
        for numbers in ({split}, set()):
            for name, of, found in candidates:
                if of is of_predictions and found == numbers and (numbers or of_predictions):
                    return name
    return ""


def _named_identities(arrays: Arrays) -> Iterator[tuple[str, bool, set[int]]]:
    """(name, whether it is of predictions and not of test rows, numbers in the name) of arrays with identities."""
    for name, array in arrays.items():
        parts = words(name)
        of_predictions = bool(_OF_PREDICTIONS & set(parts))
        is_identity = (of_predictions or "test" in parts) and _IDENTITY & set(parts)
        if array.ndim == 1 and is_identity and not {"neuroid", "neuroids", "train"} & set(parts):
            yield name, of_predictions, {int(part) for part in parts if part.isdigit()}


def positions(recorded: NDArray[Any], rows: Integers, ids: NDArray[Any] | None) -> Integers | None:
    """Position within `rows` of each recorded identity.

    Args:
        recorded: (row,) stimulus ids, row numbers of the case, or positions within `rows`; identities of other rows
            are skipped, so that one array can serve all splits.
        rows: (row,) row numbers of the split, in its own order.
        ids: (all rows,) stimulus ids of the case; None if there are none.

    Returns:
        (len(rows),) positions; None if the identities are not those of the rows, each once.
    """
    keys: list[NDArray[Any]] = [] if ids is None else [np.asarray(ids)[rows]]
    if recorded.dtype.kind in "iu":
        keys += [rows, np.arange(len(rows))]
    for key in keys:
        place = {value: position for position, value in enumerate(key.tolist())}
        found = [place[value] for value in recorded.tolist() if value in place]
        if len(place) == len(rows) and sorted(found) == list(range(len(rows))):
            return np.array(found, dtype=np.int64)
    return None
