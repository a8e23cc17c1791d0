"""Lower bounds of leave-block-out errors, of the blocks of rows that are not computed yet.

With c = P y the residual of the training rows under an alpha, the residual of a left-out block is P_BB^-1 c_B, and its
square is bounded from below without P_BB^-1. By the inequalities of Cauchy and Schwarz and, for sums over blocks, of
Hölder, and since P_BB = I - U_B S U_B' with S = lam / (lam + alpha),

    sum ||P_BB^-1 c_B||^2 >= N^3 / T^2,   N = sum ||c_B||^2,   T = sum c_B'P_BB c_B = N - sum ||S^1/2 U_B'c_B||^2 <= N.

N over all blocks is almost free (kernels/search.py). U_B'c_B costs two products with U for one alpha; with its c_0, the
triangle inequality serves the other alphas, since ||U_B S U_B'|| is at most some l <= 1:

    sum ||S^1/2 U_B'c_B||^2 >= (sqrt(sum ||S^1/2 U_B'c_0,B||^2) - sqrt(l) ||c - c_0||)^2.

For noise and a weak penalty the bound is almost the error: with n rows and p features it is about n / (1 - p / n) times
the variance, ||c||^2 only n - p times. Per neuroid 4.3 of 16 alphas are computed with it and 8.7 without (10,800 rows,
1,024 features, 36 blocks), or 4.6 and 6.4 of 12 (7,200 rows, 3,072 features, 5 blocks); the chosen alphas are the same.
The bound is our own; we know no library that has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.kernels.arrays import Array


@dataclass(frozen=True)
class BlockFloors:
    """Bounds for the blocks that are left. The arrays are changed as blocks are taken away.

    Attributes:
        norms: (neuroid, alpha) N of the blocks that are left.
        lightest: smallest weight of a block; 0: nothing is known, as where rows are left out that do not count.
        rounding: relative, of an error.
        slack: (neuroid, 1) rounding of a sum of squares.
        along: (block, neuroid, alpha) sums of squares of S^1/2 U_B'c_0,B; None: not computed.
        left: (neuroid, alpha) their sum over the blocks that are left.
        apart: (neuroid, alpha) sqrt(l) ||c - c_0||, and what rounding adds.
    """

    norms: Array
    lightest: float
    rounding: float
    slack: Array
    along: Array | None = None
    left: Array | None = None
    apart: Array | None = None

    def rest(self, neuroids: Array | slice = slice(None), k: int | slice = slice(None)) -> Array:
        """Lower bounds of the errors of the blocks that are left: (neuroid, alpha), or (neuroid,) of one alpha."""
        slack = self.slack[neuroids] if isinstance(k, slice) else self.slack[neuroids, 0]
        norms = (self.norms[neuroids, k] - slack).clip(0.0)
        if self.left is None or self.apart is None:
            return self.lightest * norms
        along = np.sqrt(self.left[neuroids, k].clip(0.0)) - self.apart[neuroids, k]
        fitted = np.minimum(along.clip(0.0) ** 2, 0.9 * norms)  # more could only be rounding, or hardly matters
        return self.lightest * norms / (1.0 - fitted / np.where(norms > 0, norms, 1.0)) ** 2

    def without(self, number: int, k: int, neuroids: Array | slice, norm: Array) -> Array:
        """Take a block away for some neuroids and one alpha, given its ||c_B||^2; `rest` of what is left."""
        self.norms[neuroids, k] -= norm
        if self.along is not None and self.left is not None:
            self.left[neuroids, k] -= self.along[number][neuroids, k]
        return self.rest(neuroids, k)
