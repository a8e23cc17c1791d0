"""Lower bounds of leave-block-out errors: never above the errors, close to them for noise, no effect on alphas."""

from __future__ import annotations

import numpy as np
import pytest

from harness.kernels import primal_search
from harness.kernels.gram import design
from harness.kernels.primal import basis_of
from harness.kernels.primal_search import Responses, StreamedBlocks
from harness.kernels.ridge import Penalty, Split, fit_folds

N, P, V, N_BLOCKS = 360, 40, 60, 12
ALPHAS = tuple(10.0**k for k in range(-8, 8))


def recording(kind, seed=0):
    """(row, feature) and (row, neuroid); half of the neuroids are noise."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((N, P)) / np.arange(1, P + 1) ** 0.5 @ rng.standard_normal((P, P))
    Y = rng.standard_normal((N, V))
    Y[:, ::2] += 0.5 * X[:, :5] @ rng.standard_normal((5, V // 2)) / X[:, :5].std()
    if kind == "massive":
        X[:, :3] *= 1000
    if kind == "a row apart":
        X[100] *= 1000
    if kind == "drift":
        Y += 3 * np.linspace(-1, 1, N)[:, None] ** 3
    return X, Y


def search_of(X, Y, dtype=np.float64):
    """The search on all rows, what it is given, and the (block, alpha, neuroid) true errors of each block."""
    rows = np.arange(N)
    stream, basis = basis_of(design(X), rows, 0.0)
    blocks, alphas = np.array_split(rows, N_BLOCKS), np.array(ALPHAS) * basis.mean_lam
    ones = [1.0] * N_BLOCKS
    search = StreamedBlocks(stream, rows, basis, alphas, blocks, [len(own) for own in blocks], ones, dtype)
    y = Y - Y.mean(axis=0)
    U = (X - X.mean(axis=0)) @ basis.V
    given = Responses(y, y.T @ U, (y * y).sum(axis=0), None)
    errors = np.empty((N_BLOCKS, len(alphas), V))
    for k, alpha in enumerate(alphas):
        fitted = (U * (basis.lam / (basis.lam + alpha))) @ U.T + 1.0 / N
        for block, own in enumerate(blocks):
            left_out = np.linalg.solve(np.eye(len(own)) - fitted[np.ix_(own, own)], (y - fitted @ y)[own])
            errors[block, k] = (left_out**2).sum(axis=0)
    return search, given, errors


def floors_of(search, given):
    kept, squares = search._kept(np.arange(len(search.alphas))), given.W**2
    norms = squares @ (kept * kept).T + (given.total - squares.sum(axis=1)).clip(0.0)[:, None]
    plain = search._floors(given, norms)
    return plain, search._tightened(search._floors(given, norms), given, squares)


@pytest.mark.parametrize("kind", ["plain", "massive", "a row apart", "drift"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_no_bound_is_above_the_error_of_the_blocks_that_are_left(kind, dtype):
    search, given, errors = search_of(*recording(kind), dtype)
    _, floors = floors_of(search, given)
    for block in range(N_BLOCKS + 1):
        left = errors[block:].sum(axis=0).T
        assert (floors.rest() <= left * (1 + floors.rounding) + floors.slack).all(), block
        if block < N_BLOCKS:
            U, own = search._directions(block), search.left_out[block]
            for k in range(len(ALPHAS)):
                c = given.y[own] - U @ (given.W * (1.0 - search._kept(k))).T
                floors.without(block, k, slice(None), (c * c).sum(axis=0))


def test_the_bound_is_close_to_the_error_of_a_weak_penalty_on_noise():
    X, _ = recording("plain")
    search, given, errors = search_of(X, np.random.default_rng(1).standard_normal((N, V)))
    plain, floors = floors_of(search, given)
    true = errors.sum(axis=0).T[:, 0]
    assert np.median(floors.rest()[:, 0] / true) > 0.95
    assert np.median(plain.rest()[:, 0] / true) < 0.85


def test_nothing_is_known_of_blocks_with_a_gap():
    search, given, _ = search_of(*recording("plain"))
    gaps = [np.r_[own, (own[-1] + 1) % N] for own in search.left_out]
    search = StreamedBlocks(*(getattr(search, name) for name in ("stream", "rows", "basis", "alphas")), gaps,
                            search.n_own, search.roots)  # fmt: skip
    assert not any(floors.rest().any() for floors in floors_of(search, given))


@pytest.mark.parametrize("kind", ["plain", "massive", "a row apart", "drift"])
@pytest.mark.parametrize("precision", ["float64", "mixed"])
def test_alphas_and_scores_are_those_without_bounds_and_of_the_dual(kind, precision, monkeypatch):
    X, Y = recording(kind)
    test = np.arange(N // 6)
    split = Split(np.arange(N // 6, N), test, inner=np.arange(N - N // 6) // 25)
    monkeypatch.setattr(primal_search, "_TINY", 0)
    fits = []
    for worth, way in ((2.0, "primal"), (0.0, "primal"), (2.0, "dual")):
        monkeypatch.setattr(primal_search, "_WORTH_A_BOUND", worth)
        fits += fit_folds(design(X), Y, [split], Penalty(ALPHAS, relative=True), precision=precision, way=way)
    without, bounded, dual = fits
    assert (bounded.alpha == without.alpha).all()
    assert (bounded.r == without.r).all()
    assert bounded.alpha == pytest.approx(dual.alpha)
    assert bounded.r == pytest.approx(dual.r, abs=1e-6)


@pytest.mark.parametrize("kept_bytes", [0, 8 * 300 * P, 8 * (300 * P + 9 * 25 * 25)])
def test_scores_do_not_depend_on_what_is_kept(kept_bytes, monkeypatch):
    X, Y = recording("plain")
    split = Split(np.arange(60, N), np.arange(60), inner=np.arange(300) // 25)
    monkeypatch.setattr(primal_search, "_TINY", 0)
    (everything,) = fit_folds(design(X), Y, [split], Penalty(ALPHAS, relative=True), way="primal")
    monkeypatch.setattr(primal_search, "_KEPT_BYTES", kept_bytes)
    (some,) = fit_folds(design(X), Y, [split], Penalty(ALPHAS, relative=True), way="primal")
    assert (some.alpha == everything.alpha).all()
    assert (some.r == everything.r).all()
