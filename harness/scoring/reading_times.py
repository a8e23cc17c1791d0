"""Score surprisal (or a control) against reading times.

PAPER: Pearson r of the predictor with the mean reading time of each word. STRICT adds the effect beyond word length,
frequency, position and spill-over: the gain in held-out log-likelihood and a partial correlation. Words of a sentence
are not independent, so intervals come from resampling sentences.

Method: harness/scoring/README.md#reading-times. Source of the held-out gain: Goodkind & Bicknell (2018) and Wilcox et
al. (2020).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.features.controls import characters
from harness.protocol import Protocol
from harness.records import Dataset, Floats, Fold, Integers, ReadingTimes
from harness.scoring.intervals import Effects, Variance, t_quantile
from harness.text.frequencies import ENGLISH, zipf_frequencies

log = logging.getLogger(__name__)

INTERVAL = "95 % percentile bootstrap over sentences, 1000 resamples"
_N_RESAMPLES = 1000
_QUANTILES = (0.025, 0.975)
_SPILL_OVER = (0, 1, 2)


class StoryScore(NamedTuple):
    """Score of one story (passage): metric "abs_r" (r within the story, with the sign of r over all) or "delta_ll"."""

    story: str
    metric: str
    score: float
    n_words: int


@dataclass(frozen=True)
class ReadingScore:
    """How well one predictor explains reading times.

    Attributes:
        r, abs_r, r_low, r_high: signed Pearson r over the scored words, its absolute value, and the interval of r.
        partial_r, partial_low, partial_high: r of predictor and reading time after both are regressed on the controls
            and the passage, and its interval. NaN if the protocol's `reading` is "correlation".
        delta_ll, delta_ll_low, delta_ll_high: gain in held-out log-likelihood, in nats per word, from the predictor and
            its spill-over added to the controls. NaN if the protocol's `reading` is "correlation".
        r_low_stories, r_high_stories: interval of r over stories (passages), from the values without one story each.
        delta_ll_low_stories, delta_ll_high_stories, delta_ll_p_stories: interval of delta_ll over stories, and its p.
        n_stories: number of stories.
        stories: scores of single stories.
        n_words: number of words behind r.
        n_missing: scored words without a finite predictor and reading time.
        n_regression: number of words behind partial_r and delta_ll; excludes words without two words before them.
    """

    r: float
    abs_r: float
    r_low: float
    r_high: float
    partial_r: float
    partial_low: float
    partial_high: float
    delta_ll: float
    delta_ll_low: float
    delta_ll_high: float
    r_low_stories: float
    r_high_stories: float
    delta_ll_low_stories: float
    delta_ll_high_stories: float
    delta_ll_p_stories: float
    n_stories: int
    stories: tuple[StoryScore, ...]
    n_words: int
    n_missing: int
    n_regression: int
    interval_kind: str = INTERVAL


def score(
    predictor: Floats, dataset: Dataset, protocol: Protocol, folds: Sequence[Fold] = (), seed: int = 0
) -> ReadingScore:
    """Score one predictor of reading times.

    Args:
        predictor: (word,) float64 in the order of the data set's words; NaN where a word has none.
        dataset: with reading times.
        protocol: its `reading` selects r alone ("correlation") or the regression too ("regression").
        folds: of all words, made from the words' groups; required for "regression", otherwise unused.
        seed: of the bootstrap.

    Raises:
        ValueError: if the data set has no reading times, the lengths differ, the protocol is not for reading times, or
            folds are missing.
    """
    reading = _check(predictor, dataset, protocol, folds)
    usable = reading.scored & np.isfinite(predictor) & np.isfinite(reading.mean_ms)
    sentences = np.unique(dataset.stimuli.sentences, return_inverse=True)[1]
    r, r_low, r_high = _correlation(predictor[usable], reading.mean_ms[usable], sentences[usable], seed)
    partial, gains = (np.nan,) * 3, (np.nan,) * 3
    n_regression, gain = 0, np.full(len(predictor), np.nan)
    if protocol.reading == "regression":
        controls, terms = control_terms(dataset), with_words_before(predictor, passages_of(dataset))
        complete = usable & np.isfinite(controls).all(axis=1) & np.isfinite(terms).all(axis=1)
        n_regression = int(complete.sum())
        x, y = _residuals(predictor, reading.mean_ms, controls, passages_of(dataset), complete)
        partial = _correlation(x, y, sentences[complete], seed)
        gain = _held_out_gain(terms, reading.mean_ms, controls, folds, complete)
        gains = _mean_interval(gain, sentences, seed)
    n_words, n_scored = int(usable.sum()), int(reading.scored.sum())
    language = dataset.language or f"{ENGLISH} (assumed)"
    message = "reading dataset=%s language=%r n_words=%d n_regression=%d r=%.4f"
    log.info(message, dataset.name, language, n_words, n_regression, r)
    sign = np.where(usable, np.sign(r), np.nan)
    stories = (*_r_by_story(sign * predictor, reading.mean_ms, dataset), *_gain_by_story(gain, dataset))
    r_ends = _r_over_stories(predictor[usable], reading.mean_ms[usable], passages_of(dataset)[usable])
    return ReadingScore(
        r, abs(r), r_low, r_high, *partial, *gains, *r_ends, *_interval_over_stories(stories),
        len(set(dataset.stimuli.passages)), stories, n_words, n_scored - n_words, n_regression,
    )  # fmt: skip


def control_terms(dataset: Dataset) -> Floats:
    """(word, 9) float64 control predictors of reading time; NaN in the first two words of a passage.

    The columns are characters and Zipf frequency (in the data set's language) of the word and of the two words before
    it (spill-over), position in the passage and its logarithm (readers speed up, most at the start), and whether the
    word before started a sentence. There is no intercept per passage, since it cannot be estimated from other passages.

    Raises:
        ValueError: if the data set has no reading times.
    """
    stimuli, passages = dataset.stimuli, passages_of(dataset)
    if dataset.reading is None:
        raise ValueError(f"{dataset.name} has no reading times.")
    starts = np.array([True, *(before != after for before, after in pairwise(stimuli.sentences))])
    places = stimuli.positions().astype(np.float64)
    columns = [
        with_words_before(characters(stimuli.texts), passages),
        with_words_before(zipf_frequencies(stimuli.texts, dataset.language), passages),
        np.stack([places, np.log1p(places)], axis=1),
        _before(starts.astype(np.float64), passages, 1)[:, None],
    ]
    return np.concatenate(columns, axis=1)


def over_stories(scores: Floats, n_words: Floats) -> tuple[float, Variance]:
    """Mean over words of scores that are known by story, and its variance over stories.

    The regressions behind the gains of different stories share training words, but with thousands of words this hardly
    correlates the gains: in 300 simulated corpora of 10 stories the variance of the mean was 0.95 (no effect) and 0.86
    (an effect that differs between stories) of what independent stories give.

    Args:
        scores: (story,) mean over the words of a story.
        n_words: (story,) number of words, by which stories are weighted.

    Returns:
        The mean, and its variance with n - 1 degrees of freedom; NaN without any story, or with one.
    """
    n = len(scores)
    if not n:
        return np.nan, Variance(np.nan, np.nan)
    weights = n_words / n_words.sum()
    mean = float(weights @ scores)
    if n < 2:
        return mean, Variance(np.nan, np.nan)
    return mean, Variance(float(np.square(weights * (scores - mean)).sum()) * n / (n - 1), n - 1.0)


def _interval_over_stories(stories: Sequence[StoryScore]) -> tuple[float, float, float]:
    """Lower and upper end of the 95 % t interval of the gain over stories, and its two-sided p."""
    own = [story for story in stories if story.metric == "delta_ll"]
    mean, variance = over_stories(np.array([story.score for story in own]), np.array([story.n_words for story in own]))
    if not np.isfinite(variance.value):
        return (np.nan,) * 3
    effects = Effects(variance, Variance(0.0, 1.0), Variance(0.0, 1.0))
    half = effects.half_width()
    return mean - half, mean + half, effects.p(mean)


def _r_by_story(predictor: Floats, mean_ms: Floats, dataset: Dataset) -> Iterable[StoryScore]:
    """Pearson r within each story, over its words with a predictor and a reading time."""
    passages = np.array(dataset.stimuli.passages)
    for story in dict.fromkeys(passages.tolist()):
        own = (passages == story) & np.isfinite(predictor) & np.isfinite(mean_ms)
        x, y = predictor[own], mean_ms[own]
        if len(x) > 2 and np.ptp(x) > 0 and np.ptp(y) > 0:
            yield StoryScore(story, "abs_r", float(np.corrcoef(x, y)[0, 1]), len(x))


def _gain_by_story(gain: Floats, dataset: Dataset) -> Iterable[StoryScore]:
    """Mean gain in each story that has one."""
    passages, has_gain = np.array(dataset.stimuli.passages), np.isfinite(gain)
    for story in dict.fromkeys(passages[has_gain].tolist()):
        own = gain[has_gain & (passages == story)]
        yield StoryScore(story, "delta_ll", float(own.mean()), len(own))


def _r_over_stories(x: Floats, y: Floats, stories: Integers) -> tuple[float, float]:
    """95 % t interval of Pearson r over stories, by the delete-one-story jackknife; NaN for fewer than three stories.

    Source: Efron & Stein 1981, Annals of Statistics 9, 586-596.
    """
    x, y = (values - values.mean() if len(values) else values for values in (x, y))
    sums = _sums([np.ones(len(x)), x, y, x * x, y * y, x * y], stories) if len(x) else np.zeros((0, 6))
    n = len(sums)
    if n < 3:
        return np.nan, np.nan
    total = sums.sum(axis=0)
    r, without = _pearson(total[None])[0], _pearson(total - sums)
    half = t_quantile(0.975, n - 1) * np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())
    return float(r - half), float(r + half)


def _check(predictor: Floats, dataset: Dataset, protocol: Protocol, folds: Sequence[Fold]) -> ReadingTimes:
    if dataset.reading is None:
        raise ValueError(f"{dataset.name} has no reading times; score brain data with brain_scores.score_layers.")
    if predictor.shape != dataset.reading.mean_ms.shape:
        raise ValueError(
            f"predictor: shape {predictor.shape} for {len(dataset.reading.mean_ms)} words; wanted one value per word."
        )
    if protocol.reading is None:
        raise ValueError(
            f"protocol {protocol.name!r} is not for reading times; set its `reading` to 'correlation' or 'regression'."
        )
    if protocol.reading == "regression" and not folds:
        raise ValueError("protocol with regression: folds are missing; make them from the groups of the words.")
    return dataset.reading


def passages_of(dataset: Dataset) -> Integers:
    """(word,) number of each word's passage."""
    return np.unique(dataset.stimuli.passages, return_inverse=True)[1]


def _before(values: Floats, passages: Integers, lag: int) -> Floats:
    """(word,) value of the word `lag` words earlier in the same passage; NaN where there is none."""
    shifted = np.full(len(values), np.nan)
    same_passage = passages[lag:] == passages[: len(passages) - lag]
    shifted[lag:][same_passage] = values[: len(values) - lag][same_passage]
    return shifted


def with_words_before(values: Floats, passages: Integers) -> Floats:
    """(word, 3) values of the word and of the two words before it."""
    return np.stack([_before(values, passages, lag) for lag in _SPILL_OVER], axis=1)


def _resamples(n_sentences: int, seed: int) -> Floats:
    """(resample, sentence) number of times each sentence is drawn."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(n_sentences, np.full(n_sentences, 1 / n_sentences), size=_N_RESAMPLES).astype(np.float64)


def _sums(columns: Sequence[Floats], sentences: Integers) -> Floats:
    """(sentence, column) sums over the words of each sentence that occurs."""
    return _sums_by(columns, np.unique(sentences, return_inverse=True)[1])


def _sums_by(columns: Iterable[Floats], numbers: Integers) -> Floats:
    """(group, column) sums by group, whose numbers are 0, 1, ..."""
    return np.stack([np.bincount(numbers, weights=column) for column in columns], axis=1)


def within(columns: Floats, numbers: Integers) -> Floats:
    """Subtract each group's mean from (row, column), which is equivalent to an intercept per group."""
    centred: Floats = columns - (_sums_by(columns.T, numbers) / np.bincount(numbers)[:, None])[numbers]
    return centred


def _pearson(sums: Floats) -> Floats:
    """(row,) Pearson r from rows of n, sum x, sum y, sum xx, sum yy, sum xy; NaN where a variable is constant."""
    n, x, y, xx, yy, xy = sums.T
    spread = (xx - x * x / n) * (yy - y * y / n)
    r: Floats = (xy - x * y / n) / np.sqrt(np.where(spread > 0, spread, np.nan))
    return r


def _correlation(x: Floats, y: Floats, sentences: Integers, seed: int) -> tuple[float, float, float]:
    """Pearson r and its interval; values are centred first, to avoid cancellation in the sums."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return np.nan, np.nan, np.nan
    x, y = x - x.mean(), y - y.mean()
    sums = _sums([np.ones(len(x)), x, y, x * x, y * y, x * y], sentences)
    low, high = np.nanquantile(_pearson(_resamples(len(sums), seed) @ sums), _QUANTILES)
    return float(_pearson(sums.sum(axis=0, keepdims=True))[0]), float(low), float(high)


def _mean_interval(values: Floats, sentences: Integers, seed: int) -> tuple[float, float, float]:
    """Mean over the words with a value, and its interval over sentences."""
    has_value = np.isfinite(values)
    if not has_value.any():
        return np.nan, np.nan, np.nan
    sums = _sums([np.ones(int(has_value.sum())), values[has_value]], sentences[has_value])
    drawn = _resamples(len(sums), seed) @ sums
    low, high = np.quantile(drawn[:, 1] / drawn[:, 0], _QUANTILES)
    return float(values[has_value].mean()), float(low), float(high)


def _residuals(
    predictor: Floats, mean_ms: Floats, controls: Floats, passages: Integers, complete: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """(complete word,) residuals of predictor and reading time after controls and an intercept per passage."""
    numbers = np.unique(passages[complete], return_inverse=True)[1]
    columns = within(np.column_stack([predictor, mean_ms, controls])[complete], numbers)
    variables, control_columns = columns[:, :2], columns[:, 2:]
    x, y = (variables - control_columns @ np.linalg.lstsq(control_columns, variables, rcond=None)[0]).T
    # If the controls determine the predictor, its residuals are rounding errors.
    return (x * 0 if np.linalg.norm(x) <= 1e-8 * np.linalg.norm(variables[:, 0]) else x), y


def _held_out_gain(
    terms: Floats, mean_ms: Floats, controls: Floats, folds: Sequence[Fold], complete: NDArray[np.bool_]
) -> Floats:
    """(word,) gain in held-out log-likelihood from the terms, in nats; NaN where no fold tests the word."""
    total, count = np.zeros(len(mean_ms)), np.zeros(len(mean_ms))
    for fold in folds:
        train, test = fold.train[complete[fold.train]], fold.test[complete[fold.test]]
        alone = _log_likelihood(controls, mean_ms, train, test)
        joint = _log_likelihood(np.concatenate([controls, terms], axis=1), mean_ms, train, test)
        total[test] += joint - alone
        count[test] += 1
    gain: Floats = total / np.where(count > 0, count, np.nan)
    return gain


def _log_likelihood(X: Floats, y: Floats, train: Integers, test: Integers) -> Floats:
    """(test word,) log-likelihood in nats under a Gaussian linear model fitted to the training words."""
    centre, scale = X[train].mean(axis=0), X[train].std(axis=0)
    Z = np.column_stack([np.ones(len(X)), (X - centre) / np.where(scale > 0, scale, 1)])
    weights, _, rank, _ = np.linalg.lstsq(Z[train], y[train], rcond=None)
    variance = np.square(y[train] - Z[train] @ weights).sum() / (len(train) - rank)
    nats: Floats = -0.5 * (np.log(2 * np.pi * variance) + np.square(y[test] - Z[test] @ weights) / variance)
    return nats
