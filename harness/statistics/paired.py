"""A model against another source on the same folds: its untrained control, controls, its base, other models, variants.

Sources are compared fold by fold and subject by subject. Both are random: the interval generalises to other stimuli and
other subjects. Folds share training rows, so the variance over folds is corrected (Nadeau & Bengio 2003); experiments
are averaged. A fold holds out whole topics, stories or stretches of time, which are therefore the clusters. Subjects
alone are never resampled: all of them saw the same stimuli. Reading times have one value per story, weighted by words.

Selection is part of the test. Against controls, a model must exceed each of them, so the control with the largest p
counts (intersection-union test). The best model is chosen by the same scores, so p of any other model against it is
multiplied by the number of models that could have been the best (Bonferroni), and the interval is widened to match.

Method and false positives: harness/statistics/README.md#is-a-model-better-than-another. Source: Berger 1982
(intersection-union tests); Gutmann & Maymin 1987 (is the selected population the best?).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.records import Floats
from harness.scoring import intervals, reading_times
from harness.scoring.intervals import NO_VARIANCE, Effects
from harness.scoring.permutation import benjamini_hochberg
from harness.statistics.scores import root_of
from harness.variants import base_name

if TYPE_CHECKING:
    import pandas as pd

UNTRAINED, CONTROL, HIGHEST, BASE, PREVIOUS, BEST, REGRESSION = (
    "untrained control", "best control", "highest-scoring control", "base", "previous stage", "best model", "controls",
)  # fmt: skip
# Of variants of a model: a prompt against none, and localised units against other units and whole layers.
NO_PROMPT, RANDOM_UNITS, UNTRAINED_UNITS, WHOLE_LAYER = (
    "no prompt", "random units", "untrained control's localised units", "whole layer",
)  # fmt: skip
_GROUP = ["dataset", "dataset_version", "protocol", "protocol_hash", "target", "metric"]
_CELL = ["part", "fold", "subject"]
_FAMILY = ["dataset", "protocol", "relation", "metric"]  # of tests that are adjusted together
COLUMNS = (
    "dataset", "dataset_version", "protocol", "target", "metric", "model", "other", "relation", "difference", "low",
    "high", "p", "p_adjusted", "n_folds", "n_subjects", "n_others", "method",
)  # fmt: skip

# Scores that differ by less, in all folds, are equal up to rounding: there is nothing to test.
_ROUNDING = 1e-9


class PairedTest(NamedTuple):
    """Difference of two sources, and what its test generalises over.

    Attributes:
        difference: mean over experiments of the mean over folds of the mean over subjects.
        effects: its variances; None if there are too few folds.
        n_folds: folds, or stories.
        n_subjects: subjects over whom the test generalises; 0 if it is over folds or stories alone.
        method: the test, in words.
    """

    difference: float
    effects: Effects | None
    n_folds: int
    n_subjects: int
    method: str

    @property
    def is_testable(self) -> bool:
        """Whether there is a variance to test against."""
        return self.effects is not None and self.effects.folds.value > _ROUNDING**2

    def p(self, n_tests: int = 1) -> float:
        """Two-sided p, multiplied by the number of tests; NaN if it cannot be tested."""
        return min(1.0, n_tests * self.effects.p(self.difference)) if self.effects and self.is_testable else math.nan

    def interval(self, n_tests: int = 1) -> tuple[float, float]:
        """95 % interval; with several tests, of all of them together."""
        if not self.effects or not self.is_testable:
            return math.nan, math.nan
        half = self.effects.half_width(1 - 0.05 / n_tests)
        return self.difference - half, self.difference + half


def compare(table: Floats, parts: tuple[str, ...], correlation: float) -> PairedTest:
    """Test the mean of differences over folds and subjects.

    Args:
        table: (fold, subject) differences of two sources; NaN where one of them has no score.
        parts: (fold,) the experiment of each fold.
        correlation: of the scores of two folds without an effect (`folds.correlation`).

    Returns:
        The test. With fewer than three subjects it generalises to other stimuli and the same subjects. There is none
        with fewer than two folds in an experiment, or if two folds test each other's training rows.
    """
    by_fold = intervals.mean(table, axis=1)
    part_of_fold, n_folds = np.array(parts), int(np.isfinite(by_fold).sum())
    of_parts = [intervals.mean(by_fold[part_of_fold == part], axis=0) for part in dict.fromkeys(parts)]
    n_subjects = int(np.isfinite(table).any(axis=0).sum())
    effects = intervals.effects(table, parts, correlation)
    is_known = math.isfinite(effects.folds.value)
    n_subjects = n_subjects if is_known and n_subjects >= intervals.FEWEST_SUBJECTS else 0
    over = f"t over {n_folds} folds" + (f" and {n_subjects} subjects" if n_subjects else "")
    method = f"{over}, corrected for shared training rows"
    return PairedTest(float(np.mean(of_parts)), effects if is_known else None, n_folds, n_subjects, method)


def compare_stories(differences: Floats, n_words: Floats) -> PairedTest:
    """Test the mean over words of differences by story; (story,) each."""
    known = np.isfinite(differences)
    mean, variance = reading_times.over_stories(differences[known], n_words[known])
    effects = Effects(variance, NO_VARIANCE, NO_VARIANCE) if math.isfinite(variance.value) else None
    n_stories = int(known.sum())
    return PairedTest(mean, effects, n_stories, 0, f"t over {n_stories} stories, weighted by words")


def tests(fold_scores: pd.DataFrame, bases: dict[str, str]) -> pd.DataFrame:
    """All paired tests of a run.

    Args:
        fold_scores: the table of that name, of one run.
        bases: tuned model -> its base, or the previous stage of its tuning.

    Returns:
        The columns `COLUMNS`; empty without fold scores. A difference with fewer than two folds has no p.
    """
    import pandas as pd

    rows = [
        {**dict(zip(_GROUP, key, strict=True)), **row}
        for key, group in fold_scores.groupby(_GROUP, sort=False)
        for row in _of_group(Sources(group), bases)
    ]
    table = pd.DataFrame(rows, columns=[name for name in COLUMNS if name != "p_adjusted"])
    table.insert(table.columns.get_loc("p") + 1, "p_adjusted", math.nan)
    for _, family in table.groupby(_FAMILY, sort=False):
        table.loc[family.index, "p_adjusted"] = benjamini_hochberg(family["p"].to_numpy(float))
    return table


class Sources:
    """The scores of all sources on one target.

    Attributes:
        tables: source -> (fold, subject) scores, NaN where it has none; folds of reading times are stories.
    """

    def __init__(self, rows: pd.DataFrame) -> None:
        cells = rows[_CELL].drop_duplicates().sort_values(["part", "fold"], kind="stable")
        self.is_reading = bool((rows["target"] == "reading").all())
        self.metric = str(rows["metric"].iloc[0])
        self._folds = list(dict.fromkeys(zip(cells["part"], cells["fold"], strict=True)))
        self._subjects = list(dict.fromkeys(cells["subject"]))
        self._correlation = float(rows.groupby("part")["fold_correlation"].first().mean())
        self._kinds = rows.groupby("model", sort=False)["kind"].first().to_dict()
        self.tables = {model: self._table(own, "score") for model, own in rows.groupby("model", sort=False)}
        self._words = {model: self._table(own, "n_averaged")[:, 0] for model, own in rows.groupby("model", sort=False)}

    def _table(self, rows: pd.DataFrame, column: str) -> Floats:
        """(fold, subject) values of one source; NaN where it has none."""
        fold, subject = ({key: k for k, key in enumerate(keys)} for keys in (self._folds, self._subjects))
        table = np.full((len(self._folds), len(self._subjects)), math.nan)
        where = [fold[key] for key in zip(rows["part"], rows["fold"], strict=True)]
        table[where, [subject[name] for name in rows["subject"]]] = rows[column]
        return table

    def of_kind(self, kind: str) -> list[str]:
        """The sources of a kind: "model", "control", ..."""
        return [model for model, own in self._kinds.items() if own == kind]

    def __contains__(self, model: str) -> bool:
        return model in self.tables

    def against(self, model: str, other: str) -> PairedTest:
        """The test of two sources, on the folds and subjects that both have."""
        difference = self.tables[model] - self.tables[other]
        return self.test(difference, np.fmin(self._words[model], self._words[other]))

    def alone(self, model: str) -> PairedTest:
        """The test of a score that is itself a difference, such as a gain over a regression."""
        return self.test(self.tables[model], self._words[model])

    def test(self, differences: Floats, n_words: Floats | None = None) -> PairedTest:
        """Test the mean of (fold, subject) differences; of stories, weighted by their words."""
        if self.is_reading:
            return compare_stories(differences[:, 0], self.weights[:, 0] if n_words is None else n_words)
        return compare(differences, tuple(part for part, _ in self._folds), self._correlation)

    @property
    def weights(self) -> Floats:
        """(fold, subject) weight of each cell in a mean: the words of a story; of folds, experiments weigh the same."""
        if self.is_reading:
            words: Floats = np.fmin.reduce(list(self._words.values()))
            return words[:, None]
        parts = [part for part, _ in self._folds]
        per_fold = np.array([1 / parts.count(part) for part in parts])
        return np.repeat(per_fold[:, None], len(self._subjects), axis=1)

    def mean(self, model: str) -> float:
        """The score of a source."""
        return self.alone(model).difference


def _of_group(sources: Sources, bases: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The tests of every model on one target."""
    models, controls = sources.of_kind("model"), sources.of_kind("control")
    means = {model: mean for model in models if math.isfinite(mean := sources.mean(model))}
    best = max(means, key=means.__getitem__, default="")
    for model in models:
        others = {f"{model}:untrained": UNTRAINED, bases.get(model, ""): PREVIOUS, root_of(model, bases): BASE}
        for other, relation in others.items():
            if other in sources and other != model:
                yield _row(model, other, relation, sources.against(model, other))
        if controls:
            tested = {name: sources.against(model, name) for name in controls}
            scored = {name: mean for name in controls if math.isfinite(mean := sources.mean(name))}
            yield from _against_controls(model, tested, max(scored, key=scored.__getitem__, default=""))
        if best and model != best:
            yield _row(model, best, BEST, sources.against(model, best), max(len(means) - 1, 1))
        if sources.metric == "delta_ll":
            yield _row(model, "", REGRESSION, sources.alone(model))
    for model, other, relation in [*_of_prompts(sources), *_of_units(sources)]:
        if other in sources:
            yield _row(model, other, relation, sources.against(model, other))


def _of_prompts(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """Each model after a prompt, the model without one, and the relation."""
    for name in sources.of_kind("condition"):
        yield name, base_name(name), NO_PROMPT


def _of_units(sources: Sources) -> Iterator[tuple[str, str, str]]:
    """The localised units of each model, what they are compared with, and the relation."""
    draws = sources.of_kind("random units")
    for name in sources.of_kind("localised"):
        model, label = base_name(name), name.rpartition(":localised-")[2]
        random_units = re.compile(rf"{re.escape(f'{model}:random-units-{label}')}(-\d+)?")
        yield from ((name, draw, RANDOM_UNITS) for draw in draws if random_units.fullmatch(draw))
        yield name, f"{model}:untrained-localised-{label}", UNTRAINED_UNITS
        yield name, model, WHOLE_LAYER


def _against_controls(model: str, tested: dict[str, PairedTest], highest: str) -> Iterator[dict[str, Any]]:
    """The control that is hardest to exceed, and the one with the highest score; none if none can be compared.

    If the model exceeds all of them, each must be exceeded significantly, so the largest p counts. If it does not, it
    is below the best of several, and p is multiplied by their number. A control that the model does not exceed, and
    that cannot be tested (it has the same scores, or a score in one fold only), leaves no claim: it is given without p.
    A control below the model whose prediction is constant in more than half of the folds (the number of words, where
    nearly all sentences have six) is not the hardest to exceed: its few scores say little.
    """
    n_folds = max(test.n_folds for test in tested.values())
    above = {name for name, test in tested.items() if test.difference > _ROUNDING}
    tested = {name: test for name, test in tested.items() if name not in above or 2 * test.n_folds >= n_folds}
    above &= tested.keys()
    p = {name: test.p() for name, test in tested.items() if test.is_testable}
    untested = {name: tested[name].difference for name in tested.keys() - above - p.keys()}
    untested = {name: difference for name, difference in untested.items() if math.isfinite(difference)}
    below, n = p.keys() - above, len(p) + len(untested)
    if below:
        hardest = min(below, key=p.__getitem__)
    elif untested:
        hardest = min(untested, key=untested.__getitem__)
    elif p:
        hardest = max(p, key=p.__getitem__)
    else:
        return
    yield _row(model, hardest, CONTROL, tested[hardest], 1 if hardest in above else n, n_others=n)
    if highest in tested and highest != hardest:
        yield _row(model, highest, HIGHEST, tested[highest], 1 if highest in above else n, n_others=n)


def _row(
    model: str, other: str, relation: str, test: PairedTest, n_tests: int = 1, n_others: int | None = None
) -> dict[str, Any]:
    low, high = test.interval(n_tests)
    method = test.method + (f"; Bonferroni over {n_tests}" if n_tests > 1 else "")
    return {
        "model": model, "other": other, "relation": relation, "difference": test.difference, "low": low, "high": high,
        "p": test.p(n_tests), "n_folds": test.n_folds, "n_subjects": test.n_subjects,
        "n_others": n_tests if n_others is None else n_others, "method": method,
    }  # fmt: skip
