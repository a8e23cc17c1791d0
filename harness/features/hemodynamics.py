"""Convert features at word times to features at scan times.

The BOLD signal of a scan (TR) reflects words heard or read seconds earlier. Words are therefore pooled into the TR in
which they ended (or began), after a shift, and the features of several earlier TRs are concatenated (delays), from
which the regression estimates a hemodynamic response. Two filters take words outside the TR too: "lanczos" samples the
features at the scans without aliasing, before they are delayed; "hrf" is the canonical response, instead of delays.

Source: Huth et al. 2016 (delays; Lanczos filter of three lobes); Friston et al. 1998 and SPM12 (canonical response: the
difference of two gamma densities, of shapes 6 and 16, one sixth of the second, over 32 s); Brain-Score language,
Blank2014 (words that ended 4 s before the scan); Toneva and Wehbe 2019 (words by their onset, z-scored by run).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse

from harness.kernels.gram import z_factors
from harness.protocol import Sampling
from harness.records import Features, Floats, Integers, Layer, LazyMapping, Responses, Stimuli, indices_of

# Times are compared to the microsecond, so that 0.1 + 0.2 equals 0.3.
_DECIMALS = 6
_LOBES = 3  # of the Lanczos filter, on each side
_HRF_S = 32.0  # length of the canonical response
_CHUNK = 256  # scans at a time


@dataclass(frozen=True)
class Scans:
    """The assignment of words to scans.

    Attributes:
        own: (scan, word) weight of each word in its scan, without delay.
        delayed: the same for each delay.
        runs: (scan,) integer run for z-scoring; None if columns are not z-scored.
    """

    own: sparse.csr_array
    delayed: tuple[sparse.csr_array, ...]
    runs: Integers | None

    def carry(self, words: Floats) -> Floats:
        """Convert (word, hidden) to (scan, delay x hidden) float32, one group of hidden columns per delay."""
        return self.on_access(words)[:]

    def on_access(self, words: Floats) -> ScanRows:
        """As `carry`, but only the scans that are read are computed, so that delays take no copies of the features."""
        rows = ScanRows(words, self.delayed)
        if self.runs is None:
            return rows
        by_run = [z_factors(rows.raw(np.flatnonzero(self.runs == run))) for run in range(self.runs.max() + 1)]
        means, factors = (np.stack(values) for values in zip(*by_run, strict=True))
        return replace(rows, runs=self.runs, means=means, factors=factors)

    def words_of(self, rows: Integers) -> Integers:
        """Indices of the words assigned to these scans."""
        words: Integers = np.unique(self.own[rows].indices)
        return words


@dataclass(frozen=True)
class ScanRows:
    """A (scan, delay x hidden) float32 matrix whose rows are computed when they are read.

    Attributes:
        words: (word, hidden) features.
        delayed: (scan, word) weights of each word in each scan, for each delay.
        runs: (scan,) run of each scan, for z-scoring; None if columns are not z-scored.
        means: (run, delay x hidden) means of the columns.
        factors: (run, delay x hidden) by which the columns are then multiplied.
    """

    words: Floats
    delayed: tuple[sparse.csr_array, ...]
    runs: Integers | None = None
    means: Floats | None = None
    factors: Floats | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Number of scans and of columns."""
        return self.delayed[0].shape[0], len(self.delayed) * self.words.shape[1]

    @property
    def dtype(self) -> np.dtype[np.float32]:
        """Type of the numbers."""
        return np.dtype(np.float32)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice | Integers | int) -> Floats:
        if isinstance(rows, int | np.integer):
            row: Floats = self[np.array([rows])][0]
            return row
        values = self.raw(rows)
        if self.runs is not None and self.means is not None and self.factors is not None:
            run = self.runs[rows]
            values = (values - self.means[run]) * self.factors[run]
        return values.astype(np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Floats:
        return self[:].astype(dtype or self.dtype, copy=False)

    def at(self, rows: Integers) -> ScanRows:
        """The same for these scans, in this order."""
        runs = None if self.runs is None else self.runs[rows]
        return replace(self, delayed=tuple(weights[rows] for weights in self.delayed), runs=runs)

    def raw(self, rows: slice | Integers) -> Floats:
        """(scan, delay x hidden) before z-scoring; only words of these scans are converted to float64, not all."""
        delayed = [weights[rows] for weights in self.delayed]
        used = np.unique(np.concatenate([weights.indices for weights in delayed]))
        words = self.words[used].astype(float)
        return np.hstack([_of_columns(weights, used) @ words for weights in delayed])


def _of_columns(weights: sparse.csr_array, used: Integers) -> sparse.csr_array:
    """The columns `used` of a matrix, which has all of its numbers there."""
    columns = np.searchsorted(used, weights.indices)
    return sparse.csr_array((weights.data, columns, weights.indptr), shape=(weights.shape[0], len(used)))


def at_scans(features: Features, stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Features:
    """Pool word features into scans and delay them, see `scans`.

    Args:
        features: rows are stimuli, in any order.
        stimuli: words.
        responses: rows are scans.
        sampling: rule for assigning words to scans.

    Returns:
        layer -> (scan, delay x hidden) float32, whose rows are computed when they are read; row ids are those of the
        scans.

    Raises:
        ValueError: as `scans`, or if a word has no features (naming it).
    """
    assignment = scans(stimuli, responses, sampling)
    rows = indices_of(stimuli.ids, features.row_ids, "features for the words")
    n_scans, n_delays = len(responses.row_ids), len(sampling.delays)
    shapes = {layer: (n_scans, hidden * n_delays) for layer, (_, hidden) in features.shapes.items()}

    def make(layer: Layer) -> Any:
        return assignment.on_access(features.values[layer][rows])

    return Features(LazyMapping(shapes, make), responses.row_ids)


def scans(stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Scans:
    """Assign words to scans.

    A scan at t takes the words whose end plus sampling.shift_s lies in (t - TR, t], where TR is the median time between
    scans; with clock "onset", the words whose onset lies in (t, t + TR]. A delay of d takes the words of d TRs earlier,
    whether or not that scan was kept. A TR without words is 0 under "mean" and "sum"; under "last" it repeats the last
    word so far (0 before the first word).

    If scan blocks are named after passages, a block takes the words of its passage. Otherwise all words share one
    clock, and words up to the last scan of a block belong to that block.

    Args:
        stimuli: words, with ends_s or onsets_s in seconds.
        responses: rows are scans, with times_s in seconds, in blocks of continuous time.
        sampling: pooling, clock, shift in seconds, delays in TRs.

    Raises:
        ValueError: if times are missing, or do not increase within a block.
    """
    heard_s = _check(stimuli, responses, sampling)
    in_tr = replace(sampling, pool="mean") if sampling.is_filter else sampling
    own = _weights(stimuli, heard_s, responses, in_tr, 0)
    delayed = (_weights(stimuli, heard_s, responses, sampling, delay) for delay in sampling.delays)
    runs = np.unique(responses.row_blocks, return_inverse=True)[1] if sampling.zscore else None
    return Scans(own, tuple(delayed), runs)


def _weights(
    stimuli: Stimuli, heard_s: Floats, responses: Responses, sampling: Sampling, delay: int
) -> sparse.csr_array:
    """(scan, word) weight of each word in each scan, delayed by `delay` TRs."""
    assert responses.times_s is not None  # noqa: S101 - checked by _check
    times, heard = responses.times_s.round(_DECIMALS), (heard_s + sampling.shift_s).round(_DECIMALS)
    blocks, passages = np.array(responses.row_blocks), np.array(stimuli.passages)
    tr = float(np.median(np.diff(times)[blocks[1:] == blocks[:-1]]))
    window_end = times + (tr if sampling.clock == "onset" else 0.0)  # end of the time window of a scan without delay
    pairs, weights, usable, block_before = [], [], np.arange(len(heard)) >= sampling.skip_words, -np.inf
    for block in dict.fromkeys(responses.row_blocks):
        rows = np.flatnonzero(blocks == block)
        named = block in stimuli.passages
        of_block = (passages == block) if named else (heard > block_before) & (heard <= window_end[rows[-1]])
        words = np.flatnonzero(usable & of_block)
        ends = (window_end[rows] - delay * tr).round(_DECIMALS)
        if sampling.is_filter:
            scan, word, weight = _filtered(times[rows] - delay * tr, heard[words], tr, sampling.pool)
            weights.append(weight)
        elif sampling.pool == "last":
            scan, word = _last_words(ends, heard[words])
        else:
            scan, word = _words_of(ends, heard[words], tr)
        pairs.append((rows[scan], words[word]))
        block_before = window_end[rows[-1]]
    scan, word = (np.concatenate(column) for column in zip(*pairs, strict=True))
    weight = np.concatenate(weights) if weights else np.ones(len(scan))
    if sampling.pool == "mean":
        weight = 1.0 / np.bincount(scan, minlength=len(times))[scan]
    return sparse.csr_array((weight, (scan, word)), shape=(len(times), len(heard)))


def _filtered(times: Floats, heard: Floats, tr: float, pool: str) -> tuple[Integers, Integers, Floats]:
    """(scan, word) index pairs on one clock, and the weight of each by the time of the scan after the word."""
    order, reach, found = np.argsort(heard, kind="stable"), max(_LOBES * tr, _HRF_S), []
    for start in range(0, len(times), _CHUNK):
        some = times[start : start + _CHUNK]
        first, last = np.searchsorted(heard[order], (some.min() - reach, some.max() + reach))
        words = order[first:last]
        weights = _FILTERS[pool](some[:, None] - heard[words], tr)
        scan, word = weights.nonzero()
        found.append((start + scan, words[word], weights[scan, word]))
    scans_found, words_found, weights = (np.concatenate(column) for column in zip(*found, strict=True))
    return scans_found, words_found, weights


def _lanczos(lags_s: Floats, tr: float) -> Floats:
    """Weights of words that are some seconds before a scan; the cut-off is that of the scans."""
    lags = lags_s / tr
    return np.where(np.abs(lags) < _LOBES, np.sinc(lags) * np.sinc(lags / _LOBES), 0.0)


def _hrf(lags_s: Floats, tr: float) -> Floats:
    """The same by the canonical response, whose integral is one TR."""
    from scipy import stats

    response = stats.gamma.pdf(lags_s, 6) - stats.gamma.pdf(lags_s, 16) / 6
    return np.where((lags_s > 0) & (lags_s < _HRF_S), response * tr / (1 - 1 / 6), 0.0)


_FILTERS = {"lanczos": _lanczos, "hrf": _hrf}


def _words_of(times: Floats, heard: Floats, tr: float) -> tuple[Integers, Integers]:
    """(scan, word) index pairs on one clock, where the word's time lies in (scan time - tr, scan time]."""
    scan = np.searchsorted(times, heard, side="left")
    word = np.flatnonzero(scan < len(times))
    word = word[heard[word] > (times[scan[word]] - tr).round(_DECIMALS)]
    return scan[word], word


def _last_words(times: Floats, heard: Floats) -> tuple[Integers, Integers]:
    """(scan, word) index pairs on one clock, where the word is the last one up to the time of the scan."""
    order = np.argsort(heard, kind="stable")
    place = np.searchsorted(heard[order], times, side="right") - 1
    scan = np.flatnonzero(place >= 0)
    return scan, order[place[scan]]


def _check(stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Floats:
    """(word,) word times in seconds; ValueError if they cannot be aligned with the scans."""
    name = f"{sampling.clock}s_s"
    heard_s: Floats | None = getattr(stimuli, name)
    if heard_s is None or responses.times_s is None:
        missing = f"{name} of the words" if heard_s is None else "times_s of the scans"
        raise ValueError(f"hemodynamics: {missing} are missing; a protocol with `sampling` needs word and scan times.")
    if not np.isfinite(heard_s).all():
        word = stimuli.ids[int(np.argmin(np.isfinite(heard_s)))]
        raise ValueError(f"hemodynamics: word {word!r} has no {sampling.clock}; add its time or remove the word.")
    if not sampling.delays or min(sampling.delays) < 0:
        raise ValueError(f"hemodynamics: delays {sampling.delays}; wanted at least one delay, none negative.")
    _check_clock(stimuli, responses, responses.times_s)
    return heard_s


def _check_clock(stimuli: Stimuli, responses: Responses, times_s: Floats) -> None:
    """Raise ValueError if scan times do not increase, within each block or over all blocks on a shared clock."""
    blocks = np.array(responses.row_blocks)
    same_block = blocks[1:] == blocks[:-1]
    named = set(responses.row_blocks) & set(stimuli.passages)
    if named and named != set(responses.row_blocks):
        odd = sorted(set(responses.row_blocks) - named)
        raise ValueError(
            f"hemodynamics: blocks {odd} are not named after passages, others are; name all blocks or none after them."
        )
    if not same_block.any():
        raise ValueError("hemodynamics: no block has two scans, so the TR is not known; check row_blocks.")
    falls = np.flatnonzero((np.diff(times_s) <= 0) & (same_block | (not named)))
    if len(falls):
        scan = responses.row_ids[int(falls[0]) + 1]
        raise ValueError(f"hemodynamics: scan {scan!r} is not later than the scan before it; sort the scans by time.")
