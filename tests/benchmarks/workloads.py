"""What is timed: sizes of real recordings, filled with made-up data in good faith.

Features. Row i has min(n, p) latent variables, independent and Gaussian; the k-th has variance 1/k (the power law of
language models' principal components). They are turned into p features by random Gaussian directions and moved by a
mean per feature of the features' own size. `massive`: the first three features a thousand times larger, as the massive
activations of language models are.

Responses. 45 % of the neuroids are noise and nothing else, as most of a brain is to most models; in the others the
signal, a random mixture of the first 64 latent variables at their own sizes, has a share of the variance drawn evenly
between 0 and a half. The rest is Gaussian noise, fresh for every row. Means are Gaussian.

All is float32 and comes from one seed. Folds are five contiguous parts of the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Array = Any

ALPHAS = tuple(float(alpha) for alpha in np.logspace(-3, 8, 12))
FOLDS = 5
PURE_NOISE = 0.45
# Responses with more numbers are written and read in pieces.
LARGE = 3e8


@dataclass(frozen=True)
class Workload:
    """One regression task, and how much patience it deserves.

    Attributes:
        name: as in the table.
        n, p, v: rows, features, neuroids.
        layers: how many feature matrices are fitted to the same responses.
        massive: whether some features are a thousand times larger.
        repeats: rounds in which every subject has a turn.
        budget_s: no further round is begun that would end after this.
        one_fold: names of subjects too slow for five folds: one is timed and counted five times (marked *).
        subjects: names of those that run; empty for all.
        seed: of the data.
        is_quick: whether it is a miniature.
    """

    name: str
    n: int
    p: int
    v: int
    layers: int = 1
    massive: bool = False
    repeats: int = 3
    budget_s: float = 200.0
    one_fold: tuple[str, ...] = ()
    subjects: tuple[str, ...] = ()
    seed: int = 0
    is_quick: bool = False

    def __str__(self) -> str:
        several = f" layers={self.layers}" if self.layers > 1 else ""
        return f"{self.name} n={self.n:,} p={self.p:,} v={self.v:,}{several}"

    def flops(self, rule: str) -> float:
        """Of the plain dual method, whatever a subject did instead: the work that is worth paying for.

        A symmetric product for the Gram matrix; per fold 9 m^3 for the eigenvectors, U'Y, predictions, and either one
        product for each alpha or one symmetric product of the responses. With more rows than features, of the plain
        primal one: products of features with features and responses; per fold (and inner fold) 9 p^3 for the
        eigenvectors, and for each alpha the predictions of all training rows once.
        """
        if self.n > self.p:
            return self._flops_of_primal(rule)
        m = self.n * (FOLDS - 1) // FOLDS
        search = {"one alpha": m * m * self.v, "least squares": 0}.get(rule, 2 * m * m * self.v * len(ALPHAS))
        fold = 9 * m**3 + 2 * m * m * self.v + search + 2 * (self.n - m) * m * self.v
        return float(self.layers * (self.n**2 * self.p + FOLDS * fold))

    def _flops_of_primal(self, rule: str) -> float:
        m, p, v = self.n * (FOLDS - 1) // FOLDS, self.p, self.v
        fits = 1 + FOLDS if rule == "inner 5-fold" else 1
        search = {"least squares": 0, "inner 5-fold": 2 * m * p * v * len(ALPHAS)}.get(
            rule, 2 * m * p * v * len(ALPHAS) + 2 * m * p * p
        )
        fold = fits * (9 * p**3 + 2 * p * p * v) + search + 2 * (self.n - m) * p * v
        return float(self.layers * (self.n * p * p + 2 * self.n * p * v + FOLDS * fold))


_LOO = "ours mixed leave-one-out 2"
_BRAIN_SCORE = ("Brain-Score's way, torch svd", "Brain-Score's way, torch Gram", "Brain-Score's way, scikit-learn")
_SCIKIT_LEARN = ("scikit-learn RidgeCV", "scikit-learn LinearRegression")
_AT_W3 = (
    _LOO, "ours mixed leave-one-out 1", "ours float64 leave-one-out 2", "ours mixed inner 5-fold 2",
    "ours mixed one alpha 2", "ours mixed one alpha 1", "scikit-learn RidgeCV", "himalaya KernelRidgeCV", *_BRAIN_SCORE,
)  # fmt: skip
_FIVE = "ours mixed inner 5-fold 2"
_LONG_PEERS = ("scikit-learn RidgeCV", "himalaya RidgeCV")
_AT_LONG = (_LOO, _FIVE, "ours mixed leave-one-out 1", "ours mixed inner 5-fold 1", *_LONG_PEERS)
_AT_WIDE = (_LOO, "ours mixed inner 5-fold 2", "himalaya KernelRidgeCV")

WORKLOADS = (
    Workload("W1", 384, 768, 12_000, repeats=5, budget_s=210),
    Workload("W2", 627, 4096, 12_000, budget_s=260, one_fold=_SCIKIT_LEARN + _BRAIN_SCORE),
    Workload("W3", 1295, 4096, 25_000, budget_s=380, one_fold=_AT_W3[-5:], subjects=_AT_W3),
    Workload("W4", 1317, 4096, 60, layers=2, budget_s=170, one_fold=_SCIKIT_LEARN + _BRAIN_SCORE),
    Workload("W5", 9_000, 3072, 2_000, repeats=2, budget_s=900, one_fold=_LONG_PEERS, subjects=_AT_LONG),
    Workload("W6", 36_000, 1024, 400, repeats=2, budget_s=900, one_fold=_LONG_PEERS, subjects=_AT_LONG),
    Workload("W7", 10_000, 4096, 80_000, repeats=1, one_fold=(_LOO, _FIVE), subjects=(_LOO, _FIVE)),
    Workload("wide", 1000, 8192, 100_000, repeats=2, budget_s=100, one_fold=_AT_WIDE[1:], subjects=_AT_WIDE),
)


def quick(workload: Workload) -> Workload:
    """The same in miniature: seconds, and still more features than rows, or fewer."""
    if workload.n > workload.p:
        return replace(
            workload, n=workload.n // 20, p=workload.p // 32, v=max(40, workload.v // 100), repeats=1, is_quick=True
        )
    n, p, v = max(60, workload.n // 8), max(96, workload.p // 16), max(40, workload.v // 100)
    return replace(workload, n=n, p=p, v=v, repeats=1, is_quick=True)


def growth(is_quick: bool) -> Iterator[tuple[str, Workload]]:
    """Four points along each axis: (axis, workload); last, rows of a long recording, under two rules."""
    base = Workload("growth", 384, 2048, 4000, repeats=2, subjects=(_LOO,))
    steps = {"v": (4000, 8000, 16000, 32000), "p": (2048, 4096, 8192, 16384), "n": (256, 512, 1024, 2048)}
    for axis, sizes in {**steps, "layers": (1, 2, 4, 8)}.items():
        for size in sizes:
            small = axis != "layers" and is_quick
            point = replace(base, n=64, p=96, v=128, repeats=1, is_quick=True) if is_quick else base
            yield axis, replace(point, **{axis: size // 8 if small else size})
    for rule, subject in (("leave-one-out", _LOO), ("inner 5-fold", _FIVE)):
        for n in (600, 1200) if is_quick else (9_000, 18_000, 36_000, 72_000):
            long = Workload("long", n, 32 if is_quick else 512, 40 if is_quick else 200, repeats=1, subjects=(subject,))
            yield f"n, long, {rule}", replace(long, is_quick=is_quick)


def make(workload: Workload, folder: Path) -> None:
    """Write features_0.npy (row, feature), ... and responses.npy (row, neuroid), float32."""
    rng = np.random.default_rng(workload.seed)
    for layer in range(workload.layers):
        latent = latents(workload.n, workload.p, rng)
        np.save(folder / f"features_{layer}.npy", features(latent, workload.p, workload.massive, rng))
        if layer == 0:
            _save_responses(folder / "responses.npy", latent, workload, rng)


def _save_responses(path: Path, latent: Array, workload: Workload, rng: np.random.Generator) -> None:
    """All at once, or a thousand neuroids at a time where they would not fit in memory twice."""
    n, v = workload.n, workload.v
    if n * v < LARGE:
        np.save(path, responses(latent, v, rng))
        return
    file = np.lib.format.open_memmap(path, "w+", np.float32, (n, v))
    for start in range(0, v, 1000):
        file[:, start : start + 1000] = responses(latent, min(1000, v - start), rng)


def load(folder: Path) -> tuple[list[Array], Array]:
    """The feature matrices and the responses that `make` wrote; large ones as memory maps."""

    def read(path: Path) -> Array:
        mapped = np.load(path, mmap_mode="r")
        return mapped if is_large else np.load(path)

    is_large = np.load(folder / "responses.npy", mmap_mode="r").size >= LARGE
    layers = len(list(folder.glob("features_*.npy")))
    return [read(folder / f"features_{layer}.npy") for layer in range(layers)], read(folder / "responses.npy")


def split(n: int, folds: int = FOLDS) -> list[tuple[Array, Array]]:
    """(train, test) rows of the first `folds` of five contiguous parts."""
    rows = np.arange(n)
    return [(np.setdiff1d(rows, test), test) for test in np.array_split(rows, FOLDS)[:folds]]


def inner_blocks(n_train: int) -> Array:
    """(train,) number of the block in which each training row is left out: five, contiguous, as KFold(5) has them."""
    blocks = np.array_split(np.arange(n_train), FOLDS)
    return np.repeat(np.arange(FOLDS), [len(block) for block in blocks])


def pearson_r(predicted: Array, observed: Array) -> Array:
    """(column,) float64 correlation, for the subjects that have none of their own; alike for all of them."""
    p, o = (np.asarray(values, dtype=float) - values.mean(axis=0, dtype=float) for values in (predicted, observed))
    return np.einsum("ij,ij->j", p, o) / np.sqrt(np.einsum("ij,ij->j", p, p) * np.einsum("ij,ij->j", o, o))


def stacked(r: list[Array], alphas: list[Array], layers: list[Array], folds: list[Any]) -> dict[str, Array]:
    """The results of a subject as (layer, fold, neuroid), from one array for each layer and fold."""
    shape = (len(layers), len(folds), -1)
    return {"r": np.reshape(r, shape), "alpha": np.reshape(alphas, shape)}


def latents(n: int, p: int, rng: np.random.Generator) -> Array:
    """(row, latent) float32, as many as p features can hold."""
    k = min(n, p)
    return rng.standard_normal((n, k), dtype=np.float32) / np.sqrt(np.arange(1, k + 1, dtype=np.float32))


def features(latent: Array, p: int, massive: bool, rng: np.random.Generator) -> Array:
    """(row, feature) float32."""
    found = latent @ rng.standard_normal((latent.shape[1], p), dtype=np.float32)
    found += found.std() * rng.standard_normal(p, dtype=np.float32)
    if massive:
        found[:, :3] *= 1000
    return found


def responses(latent: Array, v: int, rng: np.random.Generator) -> Array:
    """(row, neuroid) float32."""
    signal = latent[:, :64] @ rng.standard_normal((min(64, latent.shape[1]), v), dtype=np.float32)
    share = np.where(rng.random(v) < PURE_NOISE, 0.0, rng.uniform(0.0, 0.5, v)).astype(np.float32)
    signal *= np.sqrt(share) / signal.std(axis=0)
    noise = rng.standard_normal(signal.shape, dtype=np.float32)
    noise *= np.sqrt(1 - share)
    return signal + noise + rng.standard_normal(v, dtype=np.float32)
