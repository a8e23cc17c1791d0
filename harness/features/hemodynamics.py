"""Features at word times -> features at scan times.

A scan (TR) sees the blood's answer to words heard or read seconds before. So words are pooled into the TR in which they
ended (or began), after a shift, and the features of some TRs before are set side by side (delays), from which the
regression makes its own response function.

Source: Huth et al. 2016 (delays); Brain-Score language, Blank2014 (words that ended 4 s before the scan); Toneva and
Wehbe 2019 (words by their onset, z-scored by run).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from harness.kernels.gram import standardise
from harness.protocol import Sampling
from harness.records import Features, Floats, Integers, LazyMapping, Responses, Stimuli, indices_of

# Clock readings are compared to the microsecond, so that .1 + .2 falls where .3 does.
_DECIMALS = 6


@dataclass(frozen=True)
class Scans:
    """How words are carried to scans.

    Attributes:
        own: (scan, word) share of each word in the scan that it belongs to, without delay.
        delayed: the same for each of the delays.
        runs: (scan,) whole number of the run in which columns are z-scored; None where they are not.
    """

    own: sparse.csr_array
    delayed: tuple[sparse.csr_array, ...]
    runs: Integers | None

    def carry(self, words: Floats) -> Floats:
        """(word, hidden) -> (scan, hidden x delay) float32, one copy of the hidden columns per delay."""
        carried = np.hstack([share @ words for share in self.delayed])
        return (carried if self.runs is None else _zscored(carried, self.runs)).astype(np.float32)

    def words_of(self, rows: Integers) -> Integers:
        """Words that belong to the scans of these rows."""
        words: Integers = np.unique(self.own[rows].indices)
        return words


def at_scans(features: Features, stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Features:
    """Pool word features into scans and delay them, see `scans`.

    Args:
        features: rows are stimuli, in any order.
        stimuli: words.
        responses: rows are scans.
        sampling: how words fall into scans.

    Returns:
        layer -> (scan, hidden x delay) float32, made when asked for; row ids are the scans'.

    Raises:
        ValueError: as `scans`, or if a word has no features (naming it).
    """
    how = scans(stimuli, responses, sampling)
    rows = indices_of(stimuli.ids, features.row_ids, "features for the words")
    n_scans, n_delays = len(responses.row_ids), len(sampling.delays)
    shapes = {layer: (n_scans, hidden * n_delays) for layer, (_, hidden) in features.shapes.items()}
    return Features(LazyMapping(shapes, lambda layer: how.carry(features.values[layer][rows])), responses.row_ids)


def scans(stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Scans:
    """Which words each scan is given.

    A scan at t is given the words whose end, plus sampling.shift_s, falls in (t - TR, t], TR being the median time
    between scans; on the clock "onset", those whose onset falls in (t, t + TR]. A delay of d gives the words of d TRs
    earlier, whether or not a scan of that time was kept. An empty TR is 0 under "mean" and "sum"; under "last" it keeps
    the last word so far, 0 before the first. Words are those of the passage named as the scan's block; where no passage
    is so named, all words are on one clock, and what came by the last scan of the block before stays with that block.

    Args:
        stimuli: words, with ends_s or onsets_s in seconds.
        responses: rows are scans, with times_s in seconds and the blocks over which time passes.
        sampling: pooling, clock, shift in seconds, delays in TRs.

    Raises:
        ValueError: if times are missing, or do not increase within a block.
    """
    heard_s = _check(stimuli, responses, sampling)
    own, *delayed = (_shares(stimuli, heard_s, responses, sampling, delay) for delay in (0, *sampling.delays))
    runs = np.unique(responses.row_blocks, return_inverse=True)[1] if sampling.zscore else None
    return Scans(own, tuple(delayed), runs)


def _zscored(values: Floats, runs: Integers) -> Floats:
    """Each column by its mean and sd within each run, 0 where it is constant there."""
    out = np.empty_like(values)
    for run in range(runs.max() + 1):
        out[runs == run] = standardise(values[runs == run])
    return out


def _shares(
    stimuli: Stimuli, heard_s: Floats, responses: Responses, sampling: Sampling, delay: int
) -> sparse.csr_array:
    """(scan, word) share of each word in each scan, `delay` TRs late."""
    assert responses.times_s is not None  # noqa: S101 - checked at the gate
    times, heard = responses.times_s.round(_DECIMALS), (heard_s + sampling.shift_s).round(_DECIMALS)
    blocks, passages = np.array(responses.row_blocks), np.array(stimuli.passages)
    tr = float(np.median(np.diff(times)[blocks[1:] == blocks[:-1]]))
    until = times + (tr if sampling.clock == "onset" else 0.0)  # the end of what a scan is given without delay
    pairs, shown, block_before = [], np.arange(len(heard)) >= sampling.skip_words, -np.inf
    for block in dict.fromkeys(responses.row_blocks):
        rows = np.flatnonzero(blocks == block)
        named = block in stimuli.passages
        words = np.flatnonzero(shown & ((passages == block) if named else (heard > block_before)))
        at = (until[rows] - delay * tr).round(_DECIMALS)
        match = _last_words(at, heard[words]) if sampling.pool == "last" else _words_of(at, heard[words], tr)
        pairs.append((rows[match[0]], words[match[1]]))
        block_before = until[rows[-1]]
    scan, word = (np.concatenate(column) for column in zip(*pairs, strict=True))
    share = 1.0 / np.bincount(scan, minlength=len(times))[scan] if sampling.pool == "mean" else np.ones(len(scan))
    return sparse.csr_array((share, (scan, word)), shape=(len(times), len(heard)))


def _words_of(times: Floats, heard: Floats, tr: float) -> tuple[Integers, Integers]:
    """Pairs (scan, word) of one clock: the word was heard in (time - tr, time] of the scan."""
    scan = np.searchsorted(times, heard, side="left")
    word = np.flatnonzero(scan < len(times))
    word = word[heard[word] > (times[scan[word]] - tr).round(_DECIMALS)]
    return scan[word], word


def _last_words(times: Floats, heard: Floats) -> tuple[Integers, Integers]:
    """Pairs (scan, word) of one clock: the last word heard by the time of the scan."""
    order = np.argsort(heard, kind="stable")
    place = np.searchsorted(heard[order], times, side="right") - 1
    scan = np.flatnonzero(place >= 0)
    return scan, order[place[scan]]


def _check(stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Floats:
    """(word,) seconds by the clock of the words; ValueError where they cannot be put on the clock of the scans."""
    name = f"{sampling.clock}s_s"
    heard_s: Floats | None = getattr(stimuli, name)
    if heard_s is None or responses.times_s is None:
        missing = f"{name} of the words" if heard_s is None else "times_s of the scans"
        raise ValueError(f"hemodynamics: {missing} are not given; a protocol with `sampling` needs both.")
    if not np.isfinite(heard_s).all():
        word = stimuli.ids[int(np.argmin(np.isfinite(heard_s)))]
        raise ValueError(
            f"hemodynamics: word {word!r} has no {sampling.clock}; give a time to each word or leave the word out."
        )
    if not sampling.delays or min(sampling.delays) < 0:
        raise ValueError(f"hemodynamics: delays {sampling.delays}; give at least one, none negative.")
    _check_clock(stimuli, responses, responses.times_s)
    return heard_s


def _check_clock(stimuli: Stimuli, responses: Responses, times_s: Floats) -> None:
    """Raise ValueError where time does not pass from scan to scan, on the clock of each block or of all."""
    blocks = np.array(responses.row_blocks)
    same_block = blocks[1:] == blocks[:-1]
    named = set(responses.row_blocks) & set(stimuli.passages)
    if named and named != set(responses.row_blocks):
        odd = sorted(set(responses.row_blocks) - named)
        raise ValueError(f"hemodynamics: blocks {odd} are not passages of the words, others are; name all or none.")
    if not same_block.any():
        raise ValueError("hemodynamics: no block has two scans, so the TR is not known; check row_blocks.")
    falls = np.flatnonzero((np.diff(times_s) <= 0) & (same_block | (not named)))
    if len(falls):
        scan = responses.row_ids[int(falls[0]) + 1]
        raise ValueError(f"hemodynamics: scan {scan!r} is not later than the scan before it; sort the scans by time.")
