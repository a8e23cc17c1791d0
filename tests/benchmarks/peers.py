"""The other subjects: scikit-learn, himalaya and Brain-Score's way, each used as well as we know how.

All take (layers, Y, folds, settings) and give r and alpha, (layer, fold, neuroid); each imports its library itself, so
that a machine without it can still list it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from measure import Subject, limited, timed
from workloads import ALPHAS, pearson_r, stacked

Array = Any
Folds = list[tuple[Array, Array]]


def scikit_learn(layers: list[Array], Y: Array, folds: Folds, per_target: bool = True) -> dict[str, Array]:
    """RidgeCV in float64 with exact leave-one-out; its predictions from float32 features would be poor."""
    from sklearn.linear_model import RidgeCV

    def fit(X: Array, y: Array, X_test: Array) -> tuple[Array, Array]:
        model = RidgeCV(ALPHAS, alpha_per_target=per_target).fit(X, y)
        return model.predict(X_test), np.broadcast_to(model.alpha_, y.shape[1])

    return _each_fold(layers, Y, folds, fit)


def linear_regression(layers: list[Array], Y: Array, folds: Folds) -> dict[str, Array]:
    """LinearRegression in float64: the paper's least squares."""
    from sklearn.linear_model import LinearRegression

    def fit(X: Array, y: Array, X_test: Array) -> tuple[Array, Array]:
        return LinearRegression().fit(X, y).predict(X_test), np.zeros(y.shape[1])

    return _each_fold(layers, Y, folds, fit)


def brain_score(
    layers: list[Array], Y: Array, folds: Folds, by: str = "svd", device: str = "cpu",
    alphas: tuple[float, ...] = ALPHAS,
) -> dict[str, Array]:  # fmt: skip
    """Brain-Score language's ridge, restated from its definition: float64 torch, one alpha for all, weights formed.

    Exact leave-one-out error, mean over rows and targets of (e / (1 - h))^2, e the residual and h the leverage with the
    intercept's 1/n; ties keep the smaller alpha.

    Args:
        layers, Y, folds: as everywhere.
        by: "svd" of the centred features, as the definition has it; or "Gram", the eigenvectors of their inner
            products, what the same code costs where rows are few.
        device: torch's.
        alphas: to choose from, ascending.
    """
    import torch

    def fit(X: Array, y: Array, X_test: Array) -> tuple[Array, Array]:
        X, y, X_test = (torch.from_numpy(each).to(device) for each in (X, y, X_test))
        X_mean, y_mean = X.mean(0), y.mean(0)
        X, y = X - X_mean, y - y_mean
        if by == "svd":
            U, s, Vt = torch.linalg.svd(X, full_matrices=False)
            square = s**2
        else:
            square, U = torch.linalg.eigh(X @ X.T)
            square = square.clip(min=0.0)
        W = U.T @ y
        best, least = alphas[0], float("inf")
        for alpha in alphas:
            shrunk = square / (square + alpha)
            left_out = (y - U @ (shrunk[:, None] * W)) / (1 - U**2 @ shrunk - 1 / len(y))[:, None]
            error = float((left_out**2).mean())
            if error < least:
                best, least = alpha, error
        if by == "svd":
            weights = Vt.T @ ((s / (square + best))[:, None] * W)
        else:
            weights = X.T @ (U @ (W / (square + best)[:, None]))
        predicted = (X_test - X_mean) @ weights + y_mean
        return predicted.cpu().numpy(), np.full(y.shape[1], best)

    return _each_fold(layers, Y, folds, fit)


def himalaya(
    layers: list[Array], Y: Array, folds: Folds, backend: str = "torch", dtype: str = "float32",
    kernel: str = "precomputed", n_targets_batch: int | None = 1000, n_alphas_batch: int | None = None,
    threads: int = 2,
) -> dict[str, Any]:  # fmt: skip
    """KernelRidgeCV, inner KFold(5) in order, with an intercept.

    A precomputed kernel is the better way for several folds: made once in float64 and cast. Correlation forgives the
    intercept, so predictions are the kernel times the dual weights: in float32 adding a mean to a prediction that
    varies little would cost its digits. `threads` is for whoever calls: it is set outside.
    """
    from himalaya.backend import set_backend
    from himalaya.kernel_ridge import KernelRidgeCV
    from sklearn.model_selection import KFold

    library = set_backend(backend)
    solver = {"n_targets_batch": n_targets_batch, "n_alphas_batch": n_alphas_batch}
    precomputed, grid = kernel == "precomputed", np.log10(ALPHAS)
    r, alphas, setup = [], [], 0.0
    y = library.asarray(Y.astype(dtype) - Y.mean(axis=0, dtype=float).astype(dtype))
    for X in layers:
        started = time.perf_counter()
        Z = library.asarray(X - X.mean(axis=0, dtype=float), dtype="float64" if precomputed else dtype)
        K = library.asarray(Z @ Z.T, dtype=dtype) if precomputed else Z
        setup += time.perf_counter() - started
        for train, test in folds:
            model = KernelRidgeCV(
                np.array(ALPHAS), kernel=kernel, solver_params=solver, fit_intercept=True, cv=KFold(5), warn=False
            )
            within, across = (K[train[:, None], train], K[test[:, None], train]) if precomputed else (K[train], None)
            model.fit(within, y[train])
            across = K[test] @ within.T if across is None else across
            r.append(pearson_r(library.to_numpy(library.to_cpu(across) @ model.dual_coef_), Y[test]))
            found = np.log10(library.to_numpy(model.best_alphas_).astype(float))
            alphas.append(np.array(ALPHAS)[abs(found[:, None] - grid).argmin(axis=1)])  # 1e-3 is not itself in float32
    return {**stacked(r, alphas, layers, folds), "said": {"setup_s": setup}}


def himalaya_primal(
    layers: list[Array], Y: Array, folds: Folds, backend: str = "torch", dtype: str = "float32",
    n_targets_batch: int | None = None, n_alphas_batch: int | None = 1,
) -> dict[str, Any]:  # fmt: skip
    """RidgeCV, himalaya's better way where rows outnumber features; inner KFold(5) in order, with an intercept.

    One alpha at a time: for each it makes a matrix of inner test rows by inner training rows.
    """
    from himalaya.backend import set_backend
    from himalaya.ridge import RidgeCV
    from sklearn.model_selection import KFold

    library, grid = set_backend(backend), np.log10(ALPHAS)
    solver = {"n_targets_batch": n_targets_batch, "n_alphas_batch": n_alphas_batch, "warn": False}
    r, alphas = [], []
    for X in layers:
        for train, test in folds:
            level, Z = Y[train].mean(axis=0, dtype=float), (X - X[train].mean(axis=0, dtype=float)).astype(dtype)
            model = RidgeCV(np.array(ALPHAS), fit_intercept=True, cv=KFold(5), solver_params=solver)
            model.fit(library.asarray(Z[train]), library.asarray((Y[train] - level).astype(dtype)))
            r.append(pearson_r(library.to_numpy(library.asarray(Z[test]) @ model.coef_), Y[test]))
            found = np.log10(library.to_numpy(model.best_alphas_).astype(float))
            alphas.append(np.array(ALPHAS)[abs(found[:, None] - grid).argmin(axis=1)])
    return stacked(r, alphas, layers, folds)


def tune_himalaya(layers: list[Array], Y: Array, folds: Folds, threads: int, neuroids: int = 3000) -> dict[str, Any]:
    """Find its best setting: library, precision and kernel, then batches, then threads; one fold, some neuroids.

    A setting in float32 must choose the alphas that float64 chooses, but for .5 % of the neuroids, and give the same r
    to 1e-4 where it does.
    """
    Y, folds, layers = Y[:, :neuroids], folds[:1], layers[:1]
    truth = himalaya(layers, Y, folds, backend="numpy", dtype="float64")
    tried: dict[str, str] = {}

    def seconds(setting: dict[str, Any]) -> float:
        took = []
        with limited(setting["threads"]):
            for _ in range(2):
                elapsed, found = timed(himalaya, layers, Y, folds, **setting)
                took.append(elapsed)
                if elapsed > 2:
                    break
        other = found["alpha"] != truth["alpha"]
        good = other.mean() < 0.005 and abs(found["r"] - truth["r"])[~other].max() < 1e-4
        tried[" ".join(map(str, setting.values()))] = f"{min(took):.3f} s" + ("" if good else ", inaccurate")
        return min(took) if good else np.inf

    def best(settings: list[dict[str, Any]]) -> dict[str, Any]:
        return min(settings, key=seconds)

    common = {"n_targets_batch": 1000, "n_alphas_batch": None, "threads": threads}
    first = best([
        {"backend": backend, "dtype": dtype, "kernel": kernel, **common}
        for backend in ("torch", "numpy")
        for dtype in ("float32", "float64")
        for kernel in ("precomputed", "linear")
    ])  # fmt: skip
    sizes = [size for size in (200, 500, 2000) if size < Y.shape[1]]
    second = best([first, *({**first, "n_targets_batch": size} for size in (*sizes, None))])
    third = best([second, {**second, "n_alphas_batch": 1}])
    fourth = best([third, *({**third, "threads": fewer} for fewer in range(1, threads))])
    return {"said": {"setting": fourth, "tried": tried}}


def _each_fold(
    layers: list[Array], Y: Array, folds: Folds, fit: Callable[[Array, Array, Array], tuple[Array, Array]]
) -> dict[str, Array]:
    """Fold by fold in float64, as one uses an estimator; `fit` gives predictions and alphas."""
    r, alphas = [], []
    for X in layers:
        for train, test in folds:
            predicted, alpha = fit(X[train].astype(float), Y[train].astype(float), X[test].astype(float))
            r.append(pearson_r(predicted, Y[test]))
            alphas.append(alpha)
    return stacked(r, alphas, layers, folds)


def _peer(name: str, call: str, rule: str, needs: str, **settings: Any) -> Subject:
    return Subject(name, f"peers:{call}", rule, "float64", 2, settings, needs)


HIMALAYA = _peer("himalaya KernelRidgeCV", "himalaya", "inner 5-fold", "himalaya")

SUBJECTS = (
    _peer("scikit-learn RidgeCV", "scikit_learn", "leave-one-out", "sklearn"),
    replace(_peer("scikit-learn RidgeCV, 1 thread", "scikit_learn", "leave-one-out", "sklearn"), threads=1),
    HIMALAYA,
    _peer("himalaya RidgeCV", "himalaya_primal", "inner 5-fold", "himalaya"),
    _peer("Brain-Score's way, torch svd", "brain_score", "one alpha", "torch", by="svd"),
    _peer("Brain-Score's way, torch Gram", "brain_score", "one alpha", "torch", by="Gram"),
    _peer("Brain-Score's way, scikit-learn", "scikit_learn", "one alpha", "sklearn", per_target=False),
    _peer("scikit-learn LinearRegression", "linear_regression", "least squares", "sklearn"),
)
