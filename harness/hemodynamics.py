"""Features at word times -> features at scan times.

A scan (TR) sees the blood's answer to words heard seconds before. So words are pooled into the TR in which they ended,
after a shift, and the features of some TRs before are set side by side (delays), from which the regression makes its
own response function.

Source: Huth et al. 2016 (delays); Brain-Score language, Blank2014 (words that ended 4 s before the scan).
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from harness.records import Features, Floats, Integers, Layer, Responses, Stimuli, indices_of
from harness.spec import Sampling

# Clock readings are compared to the microsecond, so that .1 + .2 falls where .3 does.
_DECIMALS = 6


def at_scans(features: Features, stimuli: Stimuli, responses: Responses, sampling: Sampling) -> Features:
    """Pool word features into scans and delay them.

    A scan at t is given the words whose end, plus sampling.shift_s, falls in (t - TR, t], TR being the median time
    between scans. An empty TR is 0 under "mean" and "sum"; under "last" it keeps the last word heard so far, 0 before
    the first. Words are those of the passage named as the scan's block; where no passage is so named, all words are on
    one clock. A delay of d gives the features of d scans earlier in the same block, 0 where the block had not begun.

    Args:
        features: rows are stimuli, in any order.
        stimuli: words, with ends_s in seconds.
        responses: rows are scans, with times_s in seconds and the blocks over which time passes.
        sampling: pooling, shift in seconds, delays in TRs.

    Returns:
        layer -> (scan, hidden x delay) float32, one copy of the hidden columns per delay; row ids are the scans'.

    Raises:
        ValueError: if times are missing, do not increase within a block, or a word has no features (naming it).
    """
    _check(stimuli, responses, sampling)
    rows = indices_of(stimuli.ids, features.row_ids, "features for the words")
    pooling = _pooling(stimuli, responses, sampling)
    delayed = [_shift(responses.row_blocks, delay) @ pooling for delay in sampling.delays]
    values: dict[Layer, Floats] = {
        layer: np.hstack([each @ matrix[rows] for each in delayed]).astype(np.float32)
        for layer, matrix in features.values.items()
    }
    return Features(values, responses.row_ids)


def _pooling(stimuli: Stimuli, responses: Responses, sampling: Sampling) -> sparse.csr_array:
    """(scan, word) share of each word in each scan."""
    assert stimuli.ends_s is not None and responses.times_s is not None  # noqa: S101 - checked at the gate
    times, heard = responses.times_s.round(_DECIMALS), (stimuli.ends_s + sampling.shift_s).round(_DECIMALS)
    blocks, passages = np.array(responses.row_blocks), np.array(stimuli.passages)
    tr = float(np.median(np.diff(times)[blocks[1:] == blocks[:-1]]))
    pairs = []
    for block in dict.fromkeys(responses.row_blocks):
        scans = np.flatnonzero(blocks == block)
        words = np.flatnonzero(passages == block) if block in stimuli.passages else np.arange(len(passages))
        match = (
            _last_words(times[scans], heard[words])
            if sampling.pool == "last"
            else _words_of(times[scans], heard[words], tr)
        )
        pairs.append((scans[match[0]], words[match[1]]))
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


def _shift(blocks: tuple[str, ...], delay: int) -> sparse.csr_array:
    """(scan, scan) matrix that moves rows `delay` scans later within their block."""
    names = np.array(blocks)
    later = np.arange(delay, len(names))
    later = later[names[later] == names[later - delay]]
    return sparse.csr_array((np.ones(len(later)), (later, later - delay)), shape=(len(names), len(names)))


def _check(stimuli: Stimuli, responses: Responses, sampling: Sampling) -> None:
    """Raise ValueError where words cannot be put on the clock of the scans."""
    if stimuli.ends_s is None or responses.times_s is None:
        missing = "ends_s of the words" if stimuli.ends_s is None else "times_s of the scans"
        raise ValueError(f"hemodynamics: {missing} are not given; a protocol with `sampling` needs both.")
    if not np.isfinite(stimuli.ends_s).all():
        word = stimuli.ids[int(np.argmin(np.isfinite(stimuli.ends_s)))]
        raise ValueError(f"hemodynamics: word {word!r} has no end; give a time to each word or leave the word out.")
    if not sampling.delays or min(sampling.delays) < 0:
        raise ValueError(f"hemodynamics: delays {sampling.delays}; give at least one, none negative.")
    _check_clock(stimuli, responses, responses.times_s)


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
