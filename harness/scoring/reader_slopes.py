"""Each reader's times and a predictor -> how much longer a word takes per bit, and how much readers differ in it.

A mixed model of log reading times: surprisal of the word and of the two before it, over the controls of reading.py,
with an intercept and three slopes of each reader as random effects, uncorrelated (statsmodels, REML). Its standard
errors take words for independent, but what holds one reader up holds up others: with 17 readers to a word they are too
small by half. So the interval and p of a slope come from errors clustered by reader and by sentence; the mixed model's
own stand beside them.

Source: Smith & Levy (2013) for spill-over; Barr et al. (2013) for the random slopes; Cameron, Gelbach & Miller (2011)
for the two clusters.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import Dataset, Floats, Integers
from harness.scoring.reading_times import control_terms, stories_of, with_words_before

TERMS = ("word", "1 before", "2 before")
ALL = "all"
# From `se` to `sd_subjects`: a single reader has none.
_NOT_HIS = (np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan, np.nan)


@dataclass(frozen=True)
class Slope:
    """Change of a log reading time (natural logarithm, of milliseconds) per unit of the predictor: bits for a model.

    Attributes:
        term: whose surprisal: the "word", "1 before" or "2 before".
        subject: "all"; or a reader, whose slope is the mixed model's fixed and random effect together and of whom the
            columns from `se` to `sd_subjects` are NaN.
        slope, se, low, high, p: least squares within readers, errors clustered by reader and sentence; 95 %, normal.
        mixed_slope, mixed_se, mixed_p: the mixed model's own fixed effect.
        sd_subjects: standard deviation of the random slope over readers.
        n_subjects, n_readings: that the slope rests on.
        converged: of the mixed model; where it has no solution its columns are NaN and there are no rows of readers.
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
    """The slopes of all readers together and of each.

    Args:
        predictor: (word,) float64 in the order of the data set's words; NaN where a word has none.
        dataset: with reading times of each reader.

    Returns:
        For each term first the slope of "all", then of each reader; none where the predictor is held by the controls or
        does not vary, so that it has no slope.

    Raises:
        ValueError: if the data set has no readers.
    """
    reading = dataset.reading
    if reading is None or reading.by_subject_ms is None:
        raise ValueError(f"{dataset.name} has no reading times of single readers.")
    terms, controls = with_words_before(predictor, stories_of(dataset)), control_terms(dataset)
    usable = reading.scored & np.isfinite(terms).all(axis=1) & np.isfinite(controls).all(axis=1)
    word, subject = np.nonzero(np.isfinite(reading.by_subject_ms) & usable[:, None])
    if not len(word) or _is_held(terms[usable], controls[usable]):
        return []
    X = np.concatenate([terms, controls], axis=1)
    centre, scale = X[usable].mean(axis=0), X[usable].std(axis=0)
    X = (X - centre) / np.where(scale > 0, scale, 1)  # columns of one size: the optimiser needs it
    y = np.log(reading.by_subject_ms[word, subject].astype(np.float64))
    sentence = np.unique(dataset.stimuli.sentences, return_inverse=True)[1][word]
    readers = np.unique(subject)
    return _slopes(
        X[word], y, np.searchsorted(readers, subject), sentence, [reading.subjects[i] for i in readers], scale
    )


def _is_held(terms: Floats, controls: Floats) -> bool:
    """Whether the controls hold the predictor (a control that is scored like a model), or it does not vary."""
    given = np.column_stack([np.ones(len(controls)), controls])
    left = terms - given @ np.linalg.lstsq(given, terms, rcond=None)[0]
    return bool((np.linalg.norm(left, axis=0) <= 1e-6 * np.linalg.norm(terms, axis=0)).any())


def _slopes(
    X: Floats, y: Floats, subject: Integers, sentence: Integers, readers: list[str], scale: Floats
) -> list[Slope]:
    import statsmodels.api as sm

    clustered = sm.OLS(_within(y[:, None], subject)[:, 0], _within(X, subject)).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack([subject, sentence])}, use_t=False
    )
    mixed, counts, found = _mixed(X, y, subject), np.bincount(subject), []
    converged = mixed is not None and bool(mixed.converged)
    for k, term in enumerate(TERMS):
        slope, se = float(clustered.params[k]) / scale[k], float(clustered.bse[k]) / scale[k]
        own = np.nan, np.nan, np.nan, np.nan
        if mixed is not None:
            fixed, error = float(mixed.fe_params[k + 1]) / scale[k], float(mixed.bse_fe[k + 1]) / scale[k]
            deviation = float(np.sqrt(max(mixed.cov_re[k + 1, k + 1], 0))) / scale[k]
            own = fixed, error, float(mixed.pvalues[k + 1]), deviation
        low, high, p = slope - 1.96 * se, slope + 1.96 * se, _two_sided(slope / se)
        found.append(Slope(term, ALL, slope, se, low, high, p, *own, len(readers), len(y), converged))
        for number, reader in enumerate(readers if mixed is not None else ()):
            theirs = own[0] + float(np.asarray(mixed.random_effects[number])[k + 1]) / scale[k]
            found.append(
                Slope(
                    term,
                    reader,
                    theirs,
                    np.nan,
                    np.nan,
                    np.nan,
                    np.nan,
                    np.nan,
                    np.nan,
                    np.nan,
                    np.nan,
                    1,
                    int(counts[number]),
                    converged,
                )
            )
    return found


def _mixed(X: Floats, y: Floats, subject: Integers) -> Any:
    """The fitted model of statsmodels; None where its likelihood has no curvature to tell errors from."""
    from statsmodels.regression.mixed_linear_model import MixedLM, MixedLMParams

    ones = np.ones((len(y), 1))
    random = np.concatenate([ones, X[:, : len(TERMS)]], axis=1)
    fixed = np.concatenate([ones, X], axis=1)
    free = MixedLMParams.from_components(fe_params=np.ones(fixed.shape[1]), cov_re=np.eye(random.shape[1]))
    model = MixedLM(y, fixed, groups=subject, exog_re=random)
    with warnings.catch_warnings():  # readers whose slopes do not differ lie on the boundary, which is an answer
        warnings.simplefilter("ignore")
        try:
            # Methods that follow a gradient, taken first, end far from the largest likelihood and say they converged.
            return model.fit(method=["powell", "lbfgs"], free=free)
        except np.linalg.LinAlgError:
            return None


def _two_sided(z: float) -> float:
    from scipy.stats import norm

    return float(2 * norm.sf(abs(z)))


def _within(columns: Floats, subject: Integers) -> Floats:
    """(reading, column) without each reader's mean, which is what an intercept of each takes away."""
    sums = np.stack([np.bincount(subject, weights=column) for column in columns.T], axis=1)
    centred: Floats = columns - (sums / np.bincount(subject)[:, None])[subject]
    return centred
