"""The curve by which prediction rises with the number of subjects, fitted to all neuroids and bootstraps at once.

    v(x) = v0 (1 - exp(-x / tau0)),   0 <= v0 <= 1,   tau0 free,

by least squares, with x the number of subjects. Where data are noisy the sum of squares has flat valleys, and a second
minimum in a few per cent of fits, so that v0 depends on the way that is walked. It is SciPy's here: the trust-region
reflective algorithm of `scipy.optimize.curve_fit` from its default start (v0 = .5, tau0 = 1), the same steps, radii and
tolerances (1e-8), for all fits beside each other. Only v0 has bounds, so that the algorithm is written for two numbers:
every matrix is 2 x 2.

Precision: float64. What SciPy stops at is not the minimum, but up to 1e-3 beside it, and depends on rounding: the last
digit of the data changed, half of SciPy's v0 move by more than 1e-9, in the recorded case by up to 2e-6, and in noise
one in a hundred by 1e-3. Ours differ from SciPy's as SciPy's from themselves. In noise v0 says little: wherever scores
happen to rise it may be anything up to 1.

Source: Schrimpf et al. 2021 (the curve); Branch, Coleman & Li 1999 (reflections at the bound); More 1977 (the step).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.kernels.arrays import Array
from harness.records import Floats

# SciPy's: of the reduction of the sum of squares, of the step, and of the gradient; evaluations of two parameters.
_TOLERANCE = 1e-8
_EVALUATIONS = 200
# SciPy's step of tau0, of which the derivative is a difference; for v0, of which the curve is linear, ours is exact.
_DIFFERENCE = np.finfo(float).eps ** 0.5
# So many fits go beside each other: the few that take longest are walked alone, so blocks should be large.
_BLOCK = 2**15


class _Fits(NamedTuple):
    """Fits on their way.

    Attributes:
        which: (fit,) their place among all.
        y: (point, fit) data.
        at: (2, fit) v0 and tau0.
        decay: (point, fit) exp(-x / tau0).
        cost: (fit,) half the sum of squares.
        radius: (fit,) of the region in which the quadratic is trusted.
        damping: (fit,) Levenberg and Marquardt's, of the last step.
    """

    which: Array
    y: Floats
    at: Floats
    decay: Floats
    cost: Floats
    radius: Floats
    damping: Floats


class _Quadratic(NamedTuple):
    """The cost about a point, in coordinates (v0 / scale, tau0) whose scale falls towards the bound that is ahead.

    Attributes:
        scale: (fit,) of v0.
        gradient: (2, fit).
        A, B, C: (fit,) the matrix [[A, B], [B, C]], not negative.
        rest: (fit,) its determinant over A, by squares alone, so that no digits cancel.
        slope: (fit,) largest part of the gradient: at the minimum within the bounds it is 0.
    """

    scale: Floats
    gradient: Floats
    A: Floats
    B: Floats
    C: Floats
    rest: Floats
    slope: Floats

    def form(self, s: Floats, t: Floats) -> Floats:
        """(fit,) s' M t."""
        form: Floats = self.A * s[0] * t[0] + self.B * (s[0] * t[1] + s[1] * t[0]) + self.C * s[1] * t[1]
        return form

    def value(self, s: Floats) -> Floats:
        """(fit,) change of the cost by a step s."""
        change: Floats = 0.5 * self.form(s, s) + _dot(self.gradient, s)
        return change

    def least_along(self, start: Floats, way: Floats, low: Floats, high: Floats) -> Floats:
        """(2, fit) the least point start + t way with t from low to high."""
        bend, slope = self.form(way, way), _dot(self.gradient, way) + self.form(start, way)
        point: Floats = start + np.clip(-slope / bend, low, high) * way
        return point


def curve(x: NDArray[Any], parameters: Floats) -> Floats:
    """v(x) at (point,) x for (..., 2) v0 and tau0: (..., point)."""
    v0, tau0 = parameters[..., :1], parameters[..., 1:]
    values: Floats = v0 * (1.0 - np.exp(-x / tau0))
    return values


def fit(x: Floats, y: Floats) -> Floats:
    """Fit the curve to every row of data.

    Args:
        x: (point,) numbers of subjects.
        y: (fit, point) finite.

    Returns:
        (fit, 2) v0 and tau0; NaN where 200 evaluations did not suffice, where SciPy raises RuntimeError.
    """
    found = np.full((2, len(y)), np.nan)
    with np.errstate(all="ignore"):  # a step to a negative tau0 may run over, and is then taken back
        for start in range(0, len(y), _BLOCK):
            _fit_block(x[:, None], y[start : start + _BLOCK].T, found[:, start : start + _BLOCK])
    return found.T


def _fit_block(x: Floats, y: Floats, found: Floats) -> None:
    """Walk until all have arrived, and write them into (2, fit) `found`."""
    at = np.repeat([[0.5], [1.0]], y.shape[1], axis=1)
    decay = np.exp(-x / at[1])
    nothing = np.zeros(y.shape[1])
    fits = _Fits(np.arange(y.shape[1]), y, at, decay, _cost(y, at, decay), nothing, nothing)
    about = _quadratic(x, fits)
    fits = fits._replace(radius=_norm(at / [about.scale, np.ones(y.shape[1])]))
    done = about.slope < _TOLERANCE
    for _ in range(_EVALUATIONS - 1):
        found[:, fits.which[done]] = fits.at[:, done]
        fits, about = _Fits(*(each[..., ~done] for each in fits)), _Quadratic(*(each[..., ~done] for each in about))
        if not len(fits.which):
            return
        fits, stopped = _step(x, fits, about)
        about = _quadratic(x, fits)
        done = stopped | (about.slope < _TOLERANCE)
    found[:, fits.which[done]] = fits.at[:, done]


def _step(x: Floats, fits: _Fits, about: _Quadratic) -> tuple[_Fits, NDArray[np.bool_]]:
    """Try one step of each fit, taken where the cost falls; and whether it was small enough to be the last."""
    step, damping = _within_radius(about, fits.radius, fits.damping, len(x))
    v0 = fits.at[0] + about.scale * step[0]
    outside = np.flatnonzero((v0 < 0) | (v0 > 1))
    if len(outside):
        ahead = _Quadratic(*(each[..., outside] for each in about))
        step[:, outside] = _inside(ahead, fits.at[0, outside], step[:, outside], fits.radius[outside])
    move = np.stack([about.scale * step[0], step[1]])
    at = fits.at + move
    at[0] = np.clip(at[0], np.nextafter(0.0, 1.0), np.nextafter(1.0, 0.0))
    decay = np.exp(-x / at[1])
    cost = _cost(fits.y, at, decay)
    finite, fall, promised, length = np.isfinite(cost), fits.cost - cost, -about.value(step), _norm(step)
    kept = np.where(promised > 0, fall / promised, (promised == 0) & (fall == 0))
    radius = np.where((kept > 0.75) & (length > 0.95 * fits.radius), 2.0 * fits.radius, fits.radius)
    radius = np.where((kept < 0.25) | ~finite, 0.25 * length, radius)
    damping = np.where(finite, damping * fits.radius / radius, damping)
    stopped = (fall < _TOLERANCE * fits.cost) & (kept > 0.25)
    stopped |= _norm(move) < _TOLERANCE * (_TOLERANCE + _norm(fits.at))
    falls = finite & (fall > 0)
    moved = fits._replace(
        at=np.where(falls, at, fits.at),
        decay=np.where(falls, decay, fits.decay),
        cost=np.where(falls, cost, fits.cost),
        radius=radius,
        damping=damping,
    )
    return moved, stopped & finite


def _cost(y: Floats, at: Floats, decay: Floats) -> Floats:
    """(fit,) half the sum of squares."""
    missed = at[0] * (1.0 - decay) - y
    cost: Floats = 0.5 * np.einsum("ij,ij->j", missed, missed)
    return cost


def _quadratic(x: Floats, fits: _Fits) -> _Quadratic:
    """Gauss and Newton's, with the scale of Coleman and Li and what it adds to the matrix."""
    v0, tau0 = fits.at
    by_v0 = 1.0 - fits.decay
    missed = v0 * by_v0 - fits.y
    ahead = tau0 + np.copysign(_DIFFERENCE * np.maximum(1.0, np.abs(tau0)), tau0)
    by_tau0 = (v0 * (1.0 - np.exp(-x / ahead)) - fits.y - missed) / (ahead - tau0)
    of_v0, of_tau0 = np.einsum("ij,ij->j", by_v0, missed), np.einsum("ij,ij->j", by_tau0, missed)
    room = np.where(of_v0 < 0, 1.0 - v0, np.where(of_v0 > 0, v0, 1.0))
    scale, bound = np.sqrt(room), np.abs(of_v0)
    by_v0 *= scale
    A = np.einsum("ij,ij->j", by_v0, by_v0) + bound
    B, C = np.einsum("ij,ij->j", by_v0, by_tau0), np.einsum("ij,ij->j", by_tau0, by_tau0)
    share = B / A
    by_tau0 -= share * by_v0
    rest = np.einsum("ij,ij->j", by_tau0, by_tau0) + share**2 * bound
    slope = np.maximum(bound * room, np.abs(of_tau0))
    return _Quadratic(scale, np.stack([scale * of_v0, of_tau0]), A, B, C, rest, slope)


def _within_radius(about: _Quadratic, radius: Floats, damping: Floats, n_points: int) -> tuple[Floats, Floats]:
    """(2, fit) the step to the minimum, or the best of the radius' length; (fit,) its damping, 0 to the minimum."""
    half = 0.5 * (about.A - about.C)
    large = 0.5 * (about.A + about.C) + np.sqrt(half**2 + about.B**2)
    values = np.stack([large, about.A * about.rest / large])
    angle = 0.5 * np.arctan2(about.B, half)
    cos, sin = np.cos(angle), np.sin(angle)
    g = np.stack([cos * about.gradient[0] + sin * about.gradient[1], cos * about.gradient[1] - sin * about.gradient[0]])
    full = np.sqrt(values[1]) > np.finfo(float).eps * n_points * np.sqrt(large)
    beyond = np.flatnonzero(~(full & (_norm(g / values) <= radius)))
    found = np.zeros_like(radius)
    found[beyond] = _damping(values[:, beyond], g[:, beyond], radius[beyond], damping[beyond], full[beyond])
    p = -g / (values + found)
    p[:, beyond] *= radius[beyond] / _norm(p[:, beyond])
    return np.stack([cos * p[0] - sin * p[1], sin * p[0] + cos * p[1]]), found


def _damping(values: Floats, g: Floats, radius: Floats, last: Floats, full: NDArray[np.bool_]) -> Floats:
    """(fit,) the damping by which the step g / (values + damping) has the radius' length to a hundredth."""

    def excess(damping: Floats) -> tuple[Floats, Floats]:
        damped = values + damping
        length = _norm(g / damped)
        return length - radius, -(g**2 / damped**3).sum(axis=0) / length

    upper = _norm(g) / radius
    over, slope = excess(np.zeros_like(radius))
    lower = np.where(full, -over / slope, 0.0)
    damping = np.where(~full & (last == 0), np.inf, last)
    searching = np.ones(len(radius), dtype=bool)
    for _ in range(10):
        astray = (damping < lower) | (damping > upper)
        tried = np.where(astray, np.maximum(0.001 * upper, np.sqrt(lower * upper)), damping)
        over, slope = excess(tried)
        upper = np.where(searching & (over < 0), tried, upper)
        lower = np.where(searching, np.maximum(lower, tried - over / slope), lower)
        damping = np.where(searching, tried - (over + radius) * over / slope / radius, damping)
        searching &= np.abs(over) >= 0.01 * radius
        if not searching.any():
            break
    return damping


def _inside(about: _Quadratic, v0: Floats, step: Floats, radius: Floats) -> Floats:
    """(2, fit) instead of a step that leaves [0, 1]: shortened, reflected at the bound, or straight down; the best."""
    theta = np.maximum(0.995, 1.0 - about.slope)
    stride = _to_bound(v0, about.scale * step[0])
    way, step = step * [[-1.0], [1.0]], step * stride
    across, to_radius = _dot(step, way), _dot(way, way)
    to_radius = (np.sqrt(across**2 - to_radius * (_dot(step, step) - radius**2)) - across) / to_radius
    to_bound = _to_bound(v0 + about.scale * step[0], about.scale * way[0])
    longest = np.minimum(to_bound, to_radius)
    low = (1.0 - theta) * stride / longest
    high = np.where(to_bound <= to_radius, theta * to_bound, to_radius)
    reflected = about.least_along(step, way, low, high)
    down = -about.gradient
    to_radius, to_bound = radius / _norm(down), _to_bound(v0, about.scale * down[0])
    longest_down = np.where(to_bound < to_radius, theta * to_bound, to_radius)
    steepest = about.least_along(np.zeros_like(down), down, np.zeros_like(v0), longest_down)
    candidates = np.stack([theta * step, reflected, steepest])
    changes = np.stack([about.value(each) for each in candidates])
    changes[1] = np.where((longest > 0) & (low <= high), changes[1], np.inf)
    best = changes.argmin(axis=0)
    chosen: Floats = np.take_along_axis(candidates, best[None, None], axis=0)[0]
    return chosen


def _to_bound(v0: Floats, move: Floats) -> Floats:
    """(fit,) how many moves it takes from v0 to 0 or 1."""
    return np.maximum(-v0 / move, (1.0 - v0) / move)


def _dot(s: Floats, t: Floats) -> Floats:
    dot: Floats = s[0] * t[0] + s[1] * t[1]
    return dot


def _norm(s: Floats) -> Floats:
    return np.sqrt(_dot(s, s))
