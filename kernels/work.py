"""The arguments of a fit that all folds and blocks of neuroids share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from harness.kernels.arrays import Array
from harness.kernels.gram import Bands, Design
from harness.kernels.penalty import Penalty

Precision = Literal["float64", "mixed"]
Way = Literal["counted", "dual", "primal"]


@dataclass(frozen=True)
class Work:
    """What is fitted, and how it is computed.

    Attributes:
        features: of all rows.
        Y: (row, neuroid) responses, NaN where absent.
        penalty: the grid and the rule of choice.
        precision: of the neuroid side: "float64", or "mixed", which is float32 with near ties repeated in float64.
        threads: number of folds and blocks that run in parallel with one BLAS thread each; 1 leaves the cores to BLAS.
        budget_bytes: memory for a block of neuroids; changes results by rounding only.
        factors: `response_factors` of all neuroids, if they share one alpha and Y holds only some of them.
        way: "dual" (matrices of rows by rows), "primal" (of features by features), or "counted", whichever takes fewer
            operations.
    """

    features: Design | Bands
    Y: Array
    penalty: Penalty
    precision: Precision = "float64"
    threads: int = 1
    budget_bytes: int | None = None
    factors: dict[bytes, Array] | None = None
    way: Way = "counted"

    def __post_init__(self) -> None:
        for name, choices in (("precision", get_args(Precision)), ("way", get_args(Way))):
            if getattr(self, name) not in choices:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose from {', '.join(choices)}.")

    @property
    def dtype(self) -> type:
        """Of the neuroid side."""
        return np.float32 if self.precision == "mixed" else np.float64

    @cached_property
    def in_memory(self) -> Design | Bands:
        """The features as arrays, for matrices of rows by rows."""
        return self.features.in_memory
