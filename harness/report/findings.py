"""The findings of a run in plain sentences; every number in them is computed from the tables.

That a score is the highest is a fact about numbers. Whether it is higher than another is a question to a test, so each
such sentence is followed by the tested differences (table "paired_tests"), or says that none was tested. If the run
states what was planted in simulated data (column `content` of the table "runs"), the sentences say whether it was
recovered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.numbers import interval, number
from harness.report.figures import PROTOCOLS, of_protocol
from harness.statistics import analysis, evidence
from harness.statistics.evidence import Difference
from harness.statistics.tuning import of_base
from harness.wording import folds_in_words

if TYPE_CHECKING:
    import pandas as pd

    from harness.protocol import Protocol
    from harness.statistics.analysis import Analysis

TIME_ONLY = "oasm"  # control whose features encode only the block of a row and its position in time


class Finding(NamedTuple):
    """A short heading and its sentences."""

    head: str
    text: str


def findings(frames: dict[str, pd.DataFrame], protocols: dict[str, Protocol], planted: dict[str, Any]) -> list[Finding]:
    """The findings of a run.

    Args:
        frames: the tables model_scores, reading_scores, comparisons and failures of one run; paired_tests,
            tuning_tests and trajectory_tests if there are any.
        protocols: protocol hash -> protocol, for those that this version of the program can read.
        planted: ground truth of simulated data: "model", "layer", "ceiling" (brain) and "reading_model"; {} for real
            data.
    """
    scores, tests = frames["model_scores"], frames.get("paired_tests")
    brain, group_means = (scores[scores["target"] == target] for target in ("all", "group"))
    results: list[Finding] = []
    for dataset, rows in brain.groupby("dataset"):
        strict = of_protocol(rows[rows["kind"] == "model"], "strict")
        if planted.get("model") in set(strict["model"]):
            results += _planted_layer(dataset, strict, planted)
        results += _highest_score(dataset, rows, tests)
        results += _highest_score(dataset, group_means[group_means["dataset"] == dataset], tests, "group")
        results += _time_only(dataset, rows, protocols, tests)
    for dataset, rows in frames["reading_scores"].groupby("dataset"):
        results += _reading(dataset, rows, planted.get("reading_model"), tests)
    tests_of_tuning = frames.get("tuning_tests")
    tuning = _tuning(of_base(frames["comparisons"]), None if tests_of_tuning is None else of_base(tests_of_tuning))
    return [*results, *tuning, *_trainings(frames.get("trajectory_tests")), *_failures(frames["failures"])]


def summary(frames: dict[str, pd.DataFrame], results: Analysis) -> list[str]:
    """The summary in three sentences: the highest scores, the effect of tuning, and what correlates with alignment.

    If a run has no data for one of the last two, the score of the time-only control and then reading times take its
    place.

    Args:
        frames: the tables model_scores and reading_scores of one run; paired_tests if there is one.
        results: the statistics of the same run.
    """
    brain, reading, tests = frames["model_scores"], frames["reading_scores"], frames.get("paired_tests")
    brain = brain[brain["target"] == "all"]
    highest = _highest_in_short(brain, tests)
    sentences = [*highest, *analysis.tuning_sentences(results), *analysis.property_sentences(results)[:1]]
    return [*sentences, *_time_in_short(brain), *_reading_in_short(reading, tests)][:3]


def _highest_in_short(brain: pd.DataFrame, tests: pd.DataFrame | None) -> Iterator[str]:
    protocol = next((name for name in PROTOCOLS if name in set(brain["protocol"])), "")
    phrases = []
    for dataset, rows in of_protocol(brain, protocol).groupby("dataset"):
        best = _top(rows[rows["kind"] == "model"])
        if best is None:
            continue
        details = [best["model"], *([] if math.isnan(best["ratio"]) else [_of_ceiling(best)])]
        others = list(_others(best, rows, tests, dataset, protocol, "all"))
        higher = [f"{name} reaches {number(r, 2)}" for name, r, _ in others if r > best["r"]]
        compared = evidence.phrases([(name, difference) for name, _, difference in others])
        clauses = [", ".join(details), *_of_interval(best["r_low"], best["r_high"]), *higher]
        phrases.append(f"{number(best['r'], 2)} on {dataset} ({'; '.join([*clauses, *filter(None, [compared])])})")
    if phrases:
        plural = "score of a language model is" if len(phrases) == 1 else "scores of language models are"
        yield f"Under {protocol.upper()}, the highest {plural} r = {', '.join(phrases)}."


def _of_ceiling(best: dict[str, Any]) -> str:
    return f"{number(100 * best['ratio'], 0)} % of the ceiling"


def _of_interval(low: float, high: float) -> list[str]:
    """A clause where the interval of a score does not lie above 0."""
    if math.isnan(low + high):
        return ["no interval"]
    return [] if low > 0 else ["its interval includes 0" if high >= 0 else "its interval lies below 0"]


def _others(
    best: dict[str, Any], rows: pd.DataFrame, tests: pd.DataFrame | None, dataset: str, protocol: str, target: str
) -> Iterator[tuple[str, float, Difference]]:
    """(name in words, score, tested difference) of the untrained control, the best control and the next model."""

    def against(name: str, row: dict[str, Any]) -> tuple[str, float, Difference]:
        difference = evidence.between(tests, best["model"], row["model"], dataset, protocol, target, row["metric"])
        return name, row["r"], difference

    untrained = _top(rows[rows["model"] == f"{best['model']}:untrained"])
    control = _top(rows[rows["kind"] == "control"])
    following = _top(rows[(rows["kind"] == "model") & (rows["model"] != best["model"])])
    if untrained:
        yield against("its untrained control", untrained)
    if control:
        yield against(f"the highest-scoring control ({control['model']})", control)
    if following:
        yield against(f"the next model ({following['model']})", following)


def _time_in_short(brain: pd.DataFrame) -> Iterator[str]:
    """The time-only control, on the data set where it scores highest under PAPER."""
    control = brain[(brain["model"] == TIME_ONLY) & brain["protocol"].isin(["paper", "strict"])]
    by_dataset = control.pivot_table(index="dataset", columns="protocol", values="r", dropna=False)
    if {"paper", "strict"} <= set(by_dataset) and by_dataset["paper"].notna().any():
        dataset = by_dataset["paper"].idxmax()
        paper, strict = (by_dataset.loc[dataset, name] for name in ("paper", "strict"))
        under_strict = "cannot be scored" if math.isnan(strict) else f"r = {number(strict, 2)}"
        yield (
            f"A control that encodes only time ({TIME_ONLY}) reaches r = {number(paper, 2)} on {dataset} under PAPER "
            f"and {under_strict} under STRICT."
        )


def _reading_in_short(reading: pd.DataFrame, tests: pd.DataFrame | None) -> Iterator[str]:
    protocol = next((name for name in PROTOCOLS if name in set(reading["protocol"])), "")
    models = of_protocol(reading[reading["kind"] == "model"], protocol)
    measure = _measure(models)
    best = _top(models, measure)
    if best is None:
        return
    ends = ("delta_ll_low", "delta_ll_high") if measure == "delta_ll" else ("r_low", "r_high")
    gain = f"Δ log-likelihood {number(best['delta_ll'], 4)} per word, " if measure == "delta_ll" else ""
    clauses = [f"{gain}r = {number(best['r'], 2)}"]
    if measure == "delta_ll":
        clauses += _of_interval(best[ends[0]], best[ends[1]])
    following = _top(_of_dataset(models, best["dataset"]).query("model != @best['model']"), measure)
    if following:
        place = (best["dataset"], protocol, "reading", measure)
        difference = evidence.between(tests, best["model"], following["model"], *place)
        clauses.append(evidence.phrases([(f"the next model ({following['model']})", difference)]))
    what = "gain in predicting" if measure == "delta_ll" else "|r| with"
    claim = f"Under {protocol.upper()}, the surprisal of {best['model']} has the highest {what} the reading times"
    yield f"{claim} of {best['dataset']}: {'; '.join(clauses)}."


def _of_dataset(rows: pd.DataFrame, dataset: str) -> pd.DataFrame:
    return rows[rows["dataset"] == dataset]


def _measure(rows: pd.DataFrame) -> str:
    """The measure by which surprisals are ranked: the gain in log-likelihood if there is one, else |r|."""
    return "delta_ll" if rows["delta_ll"].notna().any() else "abs_r"


def _planted_layer(dataset: str, models: pd.DataFrame, planted: dict[str, Any]) -> Iterator[Finding]:
    best = _top(models)
    if best is None:
        return
    model, layer = planted["model"], planted["layer"]
    source = models[models["model"] == model].iloc[0]
    is_right_layer, is_right_model = _layer(source) == layer, best["model"] == model
    selected = "that layer" if is_right_layer else f"its layer {_layer(source)} instead"
    score = f"r = {_with_interval(source)}"
    if is_right_model:
        rank = f"scores highest of {len(models)} models, {score}"
    else:
        rank = f"scores {score}, below {best['model']} (r = {number(best['r'])})"
    text = f"The responses of {dataset} were simulated from layer {layer} of {model}. "
    text += f"STRICT selects {selected}, and {model} {rank}."
    if planted.get("ceiling") is not None:
        text += f" The planted signal allows at most r = {number(planted['ceiling'])};"
        text += f" the ceiling in the table is {number(source['ceiling'])}."
    is_recovered = is_right_layer and is_right_model
    yield Finding("Planted layer recovered" if is_recovered else "Planted layer not recovered", text)


def _highest_score(
    dataset: str, rows: pd.DataFrame, tests: pd.DataFrame | None, target: str = "all"
) -> Iterator[Finding]:
    """The highest score of a model under each protocol, what it is compared with, and its unique variance."""
    where = dataset if target == "all" else f"the mean over subjects of {dataset}"
    sentences = []
    for protocol in PROTOCOLS:
        scores = of_protocol(rows, protocol)
        models = scores[scores["kind"] == "model"]
        best = _top(models)
        if best is None and len(models):
            sentences.append(f"Under {protocol.upper()}, none of the {_count(len(models), 'model')} can be scored.")
        if best is None:
            continue
        text = f"Under {protocol.upper()}, {_leader(best, models)}, r = {_with_interval(best)}"
        if not math.isnan(best["ratio"]):
            text += f", {number(best['ratio'], 2)} of the ceiling {number(best['ceiling'])}"
        others = list(_others(best, scores, tests, dataset, protocol, target))
        reached = [f"{name} reaches {number(r)}{' (higher)' if r > best['r'] else ''}" for name, r, _ in others]
        clauses = [text, *_of_interval(best["r_low"], best["r_high"]), *([evidence.joined(reached)] if reached else [])]
        compared = evidence.sentences([(name, difference) for name, _, difference in others])
        sentences.append(" ".join(filter(None, [f"{'; '.join(clauses)}.", compared, _beyond_controls(best)])))
    if sentences:
        yield Finding(f"Highest score on {where}", " ".join(sentences))


def _leader(best: dict[str, Any], models: pd.DataFrame) -> str:
    """Names the model with the highest score; with equal scores all of them, a single model as the only one."""
    name = f"{best['model']} (layer {_layer(best)})"
    scored = models[models["r"].notna()]
    equal = sorted(set(scored.loc[scored["r"] == best["r"], "model"]) - {best["model"]})
    if equal:
        return f"{name} and {evidence.joined(equal)} have the same, highest score"
    return f"{name} scores highest" if len(scored) > 1 else f"{name} is the only model with a score"


def _beyond_controls(best: dict[str, Any]) -> str:
    """A sentence on the model's unique variance; empty if it was not computed.

    "Explains" needs three things: an interval above 0, a joint R² above 0, and a unique R² that is no larger than the
    joint one. Otherwise part of the difference is harm by the controls that the joint fit avoids.
    """
    unique, joint, controls = best["unique_r2"], best["joint_r2"], best["controls_r2"]
    if math.isnan(unique):
        return ""
    ends = interval(best["unique_low"], best["unique_high"])
    value = f"{number(unique)}" + (f" ({ends})" if ends != "–" else "")
    if best["unique_low"] > 0 and joint > 0 and unique <= joint:
        alone = (
            f"the controls alone explain {number(controls)}" if controls > 0 else "the controls alone explain nothing"
        )
        return f"Beyond the controls it explains R² = {value}; {alone}."
    text = f"With the controls it reaches R² = {number(joint)}, the controls alone {number(controls)}"
    if ends == "–":
        return f"{text}; the difference of {value} has no interval."
    if not best["unique_low"] > 0:
        return f"{text}; the difference of {value} is not reliably above 0."
    return f"{text}; the difference of {value} is partly harm by the controls, no evidence of variance explained."


def _time_only(
    dataset: str, rows: pd.DataFrame, protocols: dict[str, Protocol], tests: pd.DataFrame | None
) -> Iterator[Finding]:
    paper, strict = (of_protocol(rows, name) for name in ("paper", "strict"))
    best = _top(paper[paper["kind"] == "model"])
    strict_rows = strict[strict["model"] == TIME_ONLY]
    under_paper = _top(paper[paper["model"] == TIME_ONLY])
    if best is None or under_paper is None or strict_rows.empty:
        return
    under_strict = strict_rows.iloc[0]
    folds = [
        f"{row['protocol'].upper()} ({folds_in_words(protocols[row['protocol_hash']].folds)})"
        if row["protocol_hash"] in protocols
        else row["protocol"].upper()
        for row in (under_paper, under_strict)
    ]
    outcome = f"it reaches r = {_with_interval(under_strict)}"
    if math.isnan(under_strict["r"]):
        outcome = "it cannot be scored, because its prediction is constant within each held-out group"
    difference = evidence.between(tests, TIME_ONLY, best["model"], dataset, "paper", "all", best["metric"])
    compared = evidence.phrases([(f"the highest-scoring model ({best['model']}, {number(best['r'])})", difference)])
    text = (
        f"{TIME_ONLY} encodes only the block of a row and its position in time. Under {folds[0]} it reaches "
        f"r = {_with_interval(under_paper)}; {compared}. Under {folds[1]} {outcome}."
    )
    yield Finding(f"Time-only control on {dataset}", text)


def _reading(
    dataset: str, rows: pd.DataFrame, planted_model: str | None, tests: pd.DataFrame | None
) -> Iterator[Finding]:
    sentences = []
    for protocol in PROTOCOLS:
        scores = of_protocol(rows, protocol)
        models, measure = scores[scores["kind"] == "model"], _measure(scores)
        best, control = _top(models, measure), _top(scores[scores["kind"] == "control"], "abs_r")
        if best is None:
            continue
        what = "gain in log-likelihood" if measure == "delta_ll" else "|r| with reading times"
        text = f"Under {protocol.upper()}, the surprisal of {best['model']} has the highest {what}"
        if planted_model in set(scores["model"]):
            is_planted = best["model"] == planted_model
            text += ", as planted" if is_planted else f", although they were simulated from {planted_model}"
        text += f": {'; '.join(_reading_values(best, measure))}."
        if control is not None:
            text += f" The control with the highest |r|, {control['model']}, reaches r = {number(control['r'])}."
        following = _top(models[models["model"] != best["model"]], measure)
        if following:
            place = (dataset, protocol, "reading", measure)
            difference = evidence.between(tests, best["model"], following["model"], *place)
            text += " " + evidence.sentences(
                [(f"the next model ({following['model']})", difference)],
                "Its gain" if measure == "delta_ll" else "Its |r|",
                4,
            )
        sentences.append(text)
    if sentences:
        yield Finding(f"Reading times of {dataset}", " ".join(sentences))


def _reading_values(best: dict[str, Any], measure: str) -> list[str]:
    """The gain with its intervals over sentences and over stories, r and its ceiling."""
    values = [f"r = {_with_interval(best)}"]
    if measure == "delta_ll":
        gain = f"Δ log-likelihood {_with_interval(best, 'delta_ll', 4)} per word"
        over_stories = [best.get(f"delta_ll_{end}_stories", math.nan) for end in ("low", "high")]
        if not math.isnan(sum(over_stories)):
            gain += f", over stories {interval(over_stories[0], over_stories[1], 4)}"
        clauses = _of_interval(best["delta_ll_low"], best["delta_ll_high"])
        if not clauses and over_stories[0] <= 0:
            clauses = ["the interval over stories includes 0"]
        values = [f"{gain}, partial r = {number(best['partial_r'])}", *clauses, *values]
    values[-1] += "" if math.isnan(best["ceiling"]) else f", ceiling {number(best['ceiling'])}"
    return values


def _tuning(comparisons: pd.DataFrame, tests: pd.DataFrame | None) -> Iterator[Finding]:
    """Mean difference over pairs, and the test over bases, because pairs that share a base are not independent."""
    overall = comparisons[comparisons["target"].isin(["all", "reading"])].dropna(subset=["difference"])
    overall = overall[overall["metric"] != "delta_ll"]
    by_dataset = []
    for dataset, rows in overall.groupby("dataset"):
        phrases = []
        for protocol in PROTOCOLS:
            gains = of_protocol(rows, protocol)["difference"]
            if len(gains):
                n_higher = f"higher in {int((gains > 0).sum())} of {_count(len(gains), 'pair')}"
                test = _test_over_bases(tests, dataset, protocol)
                phrases.append(f"{number(gains.mean(), sign=True)} under {protocol.upper()} ({n_higher}; {test})")
        by_dataset.append(f"{dataset} {', '.join(phrases)}")
    if by_dataset:
        yield Finding(
            "Tuned minus base", f"Mean difference in r over pairs, tested over bases: {'; '.join(by_dataset)}."
        )


def _test_over_bases(tests: pd.DataFrame | None, dataset: str, protocol: str) -> str:
    """The test of a mean difference as a clause."""
    if tests is None or tests.empty:
        return "not tested"
    rows = tests[(tests["dataset"] == dataset) & (tests["protocol"] == protocol) & (tests["metric"] != "delta_ll")]
    return analysis.test_in_words(rows.iloc[0].to_dict()) if len(rows) else "not tested"


MOST_PAIRS = 3  # of trainings on a data set, with a sentence each; more are in the table alone


def _trainings(tests: pd.DataFrame | None) -> Iterator[Finding]:
    """The mean difference of two trainings, with its tests over stimuli and over seeds."""
    if tests is None or tests.empty:
        return
    rows = tests[(tests["statistic"] == "mean") & (tests["metric"] != "delta_ll")]
    rows = rows[rows.groupby("dataset")["training"].transform("size") <= MOST_PAIRS * rows["protocol"].nunique()]
    for (dataset, one, other), pair in rows.groupby(["dataset", "training", "other"], sort=False):
        row = pair.sort_values("protocol", key=lambda names: names != "strict", kind="stable").iloc[0]
        found = Difference(row["difference"], row["low_both"], row["high_both"], row["p_both"])
        seeds = f" and {row['n_seeds']} seeds" if row["n_seeds"] > 1 else ", one seed each"
        words = {
            "reliable": "a reliable difference", "not reliable": "not a reliable difference", "untested": "not tested",
            "contradictory": evidence.contradiction(found.low, found.high),
        }[found._replace(p=row["p_adjusted"]).verdict]  # fmt: skip
        where = f"on {dataset} under {row['protocol'].upper()}, mean along training, over stimuli{seeds}"
        yield Finding("Two trainings", f"{one} minus {other} {where}: {found.in_words()}: {words}.")


def _failures(failures: pd.DataFrame) -> Iterator[Finding]:
    if len(failures):
        models = ", ".join(sorted(set(failures["model"])))
        text = f"{_count(len(failures), 'evaluation')} failed ({models}); the results above do not include them."
        yield Finding("Failures", f"{text} See the section Failures.")


def _top(rows: pd.DataFrame, by: str = "r") -> dict[str, Any] | None:
    """The row with the highest value; None if all are NaN."""
    measured = rows[rows[by].notna()]
    if measured.empty:
        return None
    row: dict[str, Any] = measured.loc[[measured[by].idxmax()]].iloc[0].to_dict()
    return row


def _layer(row: Any) -> str:
    return f"{row['stack']}.{row['layer']}"


def _with_interval(row: Any, value: str = "r", digits: int = 3) -> str:
    low, high = ("r_low", "r_high") if value == "r" else (f"{value}_low", f"{value}_high")
    ends = interval(row[low], row[high], digits)
    return number(row[value], digits) + (f" ({ends})" if ends != "–" else "")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
