"""Reading-time slopes per bit of surprisal, for all readers together and for each reader.

A mixed model of log reading times: surprisal of the word and of the two words before it, with the controls of
reading_times.py, and uncorrelated random intercepts and slopes by reader (statsmodels, REML). Its standard errors treat
words as independent, although the same words slow down all readers: with 17 readers per word they are too small by
half. Therefore the interval and p of a slope use standard errors clustered by reader and by sentence; those of the
mixed model are reported too.

Method: harness/scoring/README.md#reading-times.
Source: Smith & Levy (2013) for spill-over; Barr et al. (2013) for the random slopes; Cameron, Gelbach & Miller (2011)
for the two clusters.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import Dataset, Floats, Integers
from harness.scoring.reading_times import control_terms, passages_of, with_words_before, within

TERMS = ("word", "1 before", "2 before")
ALL = "all"
# From `se` to `sd_subjects`: not available for a single reader.
_NOT_OF_READERS = (np.nan,) * 8


@dataclass(frozen=True)
class Slope:
    """Change of the natural log of reading time in ms per unit of the predictor (bits, for a model's surprisal).

    Attributes:
        term: which word's surprisal: the "word", "1 before" or "2 before".
        subject: "all", or a reader. A reader's slope is the sum of the mixed model's fixed and random effect, and the
            columns from `se` to `sd_subjects` are NaN.
        slope, se, low, high, p: least squares within readers, standard errors clustered by reader and sentence; 95 %
            normal interval.
        mixed_slope, mixed_se, mixed_p: fixed effect of the mixed model.
        sd_subjects: standard deviation over readers of the random slope.
        n_subjects, n_readings: numbers of readers and reading times behind the slope.
        converged: whether the mixed model converged. If it has no solution, its columns are NaN and there are no rows
            for single readers.
    """

    term: str
    subject: str
    slope: float
    se: float
    low: float
    high: float
    p: float
    mixed_slope: float
    mixed_se: float
    mixed_p: float
    sd_subjects: float
    n_subjects: int
    n_readings: int
    converged: bool


def fit(predictor: Floats, dataset: Dataset) -> list[Slope]:
    """Fit the slopes of all readers together and of each reader.

    Args:
        predictor: (word,) float64 in the order of the data set's words; NaN where a word has none.
        dataset: with reading times of single readers.

    Returns:
        For each term the slope of "all", then of each reader. Empty if the controls determine the predictor or it does
        not vary.

    Raises:
        ValueError: if the data set has no reading times of single readers.
    """
    reading = dataset.reading
    if reading is None or reading.by_subject_ms is None:
        raise ValueError(f"{dataset.name} has no reading times of single readers; slopes need them.")
    terms, controls = with_words_before(predictor, passages_of(dataset)), control_terms(dataset)
    usable = reading.scored & np.isfinite(terms).all(axis=1) & np.isfinite(controls).all(axis=1)
    word, subject = np.nonzero(np.isfinite(reading.by_subject_ms) & usable[:, None])
    if not len(word) or _is_held(terms[usable], controls[usable]):
        return []
    X = np.concatenate([terms, controls], axis=1)
    centre, scale = X[usable].mean(axis=0), X[usable].std(axis=0)
    X = (X - centre) / np.where(scale > 0, scale, 1)  # the optimiser needs columns on one scale
    y = np.log(reading.by_subject_ms[word, subject].astype(np.float64))
    sentence = np.unique(dataset.stimuli.sentences, return_inverse=True)[1][word]
    readers, number = np.unique(subject, return_inverse=True)
    return _slopes(X[word], y, number, sentence, [reading.subjects[i] for i in readers], scale)


def _is_held(terms: Floats, controls: Floats) -> bool:
    """Whether the controls determine the predictor (as when it is a control itself), or it does not vary."""
    given = np.column_stack([np.ones(len(controls)), controls])
    left = terms - given @ np.linalg.lstsq(given, terms, rcond=None)[0]
    return bool((np.linalg.norm(left, axis=0) <= 1e-6 * np.linalg.norm(terms, axis=0)).any())


def _slopes(
    X: Floats, y: Floats, subject: Integers, sentence: Integers, readers: list[str], scale: Floats
) -> list[Slope]:
    """Slopes from standardised X (reading, column), whose first columns are TERMS; scale: sd of each column."""
    import statsmodels.api as sm
    from scipy.stats import norm

    clustered = sm.OLS(within(y[:, None], subject)[:, 0], within(X, subject)).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack([subject, sentence])}, use_t=False
    )
    mixed, counts, slopes = _mixed(X, y, subject), np.bincount(subject), []
    converged = mixed is not None and bool(mixed.converged)
    for k, term in enumerate(TERMS):
        slope, se = float(clustered.params[k]) / scale[k], float(clustered.bse[k]) / scale[k]
        from_mixed = (np.nan,) * 4
        if mixed is not None:
            fixed, error = float(mixed.fe_params[k + 1]) / scale[k], float(mixed.bse_fe[k + 1]) / scale[k]
            deviation = float(np.sqrt(max(mixed.cov_re[k + 1, k + 1], 0))) / scale[k]
            from_mixed = fixed, error, float(mixed.pvalues[k + 1]), deviation
        low, high, p = slope - 1.96 * se, slope + 1.96 * se, float(2 * norm.sf(abs(slope / se)))
        slopes.append(Slope(term, ALL, slope, se, low, high, p, *from_mixed, len(readers), len(y), converged))
        for number, reader in enumerate(readers if mixed is not None else ()):
            reader_slope = from_mixed[0] + float(np.asarray(mixed.random_effects[number])[k + 1]) / scale[k]
            slopes.append(Slope(term, reader, reader_slope, *_NOT_OF_READERS, 1, int(counts[number]), converged))
    return slopes


def _mixed(X: Floats, y: Floats, subject: Integers) -> Any:
    """Fit the mixed model; None if the Hessian of its likelihood is singular, so that it has no standard errors."""
    from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

    ones = np.ones((len(y), 1))
    random = np.concatenate([ones, X[:, : len(TERMS)]], axis=1)
    fixed = np.concatenate([ones, X], axis=1)
    free = MixedLMParams.from_components(fe_params=np.ones(fixed.shape[1]), cov_re=np.eye(random.shape[1]))
    model = MixedLM(y, fixed, groups=subject, exog_re=random)
    with warnings.catch_warnings():  # a random-effect variance of 0 is on the boundary, and a valid result
        warnings.simplefilter("ignore")
        try:
            # Gradient methods used first stop far from the maximum and report convergence.
            return model.fit(method=["powell", "lbfgs"], free=free)
        except np.linalg.LinAlgError:
            return None
