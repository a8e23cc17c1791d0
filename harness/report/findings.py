"""The findings of a run in plain sentences; every number in them is computed from the tables.

If the run states what was planted in simulated data (column `content` of the table "runs"), the sentences say whether
it was recovered.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.numbers import interval, number
from harness.report.figures import PROTOCOLS, of_protocol
from harness.statistics import analysis
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
        frames: the tables model_scores, reading_scores, comparisons and failures of one run.
        protocols: protocol hash -> protocol, for those that this version of the program can read.
        planted: ground truth of simulated data: "model", "layer", "ceiling" (brain) and "reading_model"; {} for real
            data.
    """
    scores = frames["model_scores"]
    brain, group_means = (scores[scores["target"] == target] for target in ("all", "group"))
    results: list[Finding] = []
    for dataset, rows in brain.groupby("dataset"):
        strict = of_protocol(rows[rows["kind"] == "model"], "strict")
        if planted.get("model") in set(strict["model"]):
            results += _planted_layer(dataset, strict, planted)
        results += _best_model(dataset, rows)
        results += _best_model(f"the mean over subjects of {dataset}", group_means[group_means["dataset"] == dataset])
        results += _time_only(dataset, rows, protocols)
    for dataset, rows in frames["reading_scores"].groupby("dataset"):
        results += _reading(dataset, rows, planted.get("reading_model"))
    return results + list(_tuning(frames["comparisons"])) + list(_failures(frames["failures"]))


def summary(frames: dict[str, pd.DataFrame], results: Analysis) -> list[str]:
    """The summary in three sentences: the best scores, the effect of tuning, and what correlates with alignment.

    If a run has no data for one of the last two, the score of the time-only control and then reading times take its
    place.

    Args:
        frames: the tables model_scores and reading_scores of one run.
        results: the statistics of the same run.
    """
    brain, reading = frames["model_scores"], frames["reading_scores"]
    brain = brain[brain["target"] == "all"]
    sentences = [*_best_scores(brain), *analysis.tuning_sentences(results), *analysis.property_sentences(results)[:1]]
    return [*sentences, *_time_in_short(brain), *_reading_in_short(reading)][:3]


def _best_scores(brain: pd.DataFrame) -> Iterator[str]:
    protocol = next((name for name in PROTOCOLS if name in set(brain["protocol"])), "")
    phrases = []
    for dataset, rows in of_protocol(brain, protocol).groupby("dataset"):
        best, control = (_top(rows[rows["kind"] == kind]) for kind in ("model", "control"))
        if best is None:
            continue
        of_ceiling = "" if math.isnan(best["ratio"]) else f", {number(100 * best['ratio'], 0)} % of the ceiling"
        higher = control is not None and control["r"] > best["r"]
        comparison = f"; the control {control['model']} reaches {number(control['r'], 2)}" if higher and control else ""
        phrases.append(f"{number(best['r'], 2)} on {dataset} ({best['model']}{of_ceiling}{comparison})")
    if phrases:
        yield f"Under {protocol.upper()}, the best language models reach r = {', '.join(phrases)}."


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


def _reading_in_short(reading: pd.DataFrame) -> Iterator[str]:
    models = reading[reading["kind"] == "model"]
    best = _top(models, "delta_ll") or _top(models, "abs_r")
    if best is not None:
        gain = "" if math.isnan(best["delta_ll"]) else f", Δ log-likelihood {number(best['delta_ll'], 4)} per word"
        claim = f"The surprisal of {best['model']} predicts the reading times of {best['dataset']} best"
        yield f"{claim}: r = {number(best['r'], 2)}{gain}."


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


def _best_model(dataset: str, rows: pd.DataFrame) -> Iterator[Finding]:
    sentences = []
    for protocol in PROTOCOLS:
        scores = of_protocol(rows, protocol)
        best, control = _top(scores[scores["kind"] == "model"]), _top(scores[scores["kind"] == "control"])
        if best is None:
            continue
        text = f"Under {protocol.upper()}, {best['model']} (layer {_layer(best)}) scores highest, "
        text += f"r = {_with_interval(best)}"
        if not math.isnan(best["ratio"]):
            text += f", {number(best['ratio'], 2)} of the ceiling {number(best['ceiling'])}"
        untrained = scores.loc[scores["model"] == f"{best['model']}:untrained", "r"]
        others = [("its untrained control", r) for r in untrained]
        others += [] if control is None else [(f"the best control without a model, {control['model']},", control["r"])]
        phrases = [f"{name} reaches {number(r)}{' (higher)' if r > best['r'] else ''}" for name, r in others]
        text += f"; {' and '.join(phrases)}." if phrases else "."
        sentences.append(text + _beyond_controls(best))
    if sentences:
        yield Finding(f"Best model on {dataset}", " ".join(sentences))


def _beyond_controls(best: dict[str, Any]) -> str:
    """A sentence on the model's unique variance; empty if it was not computed.

    "Explains" only where the interval lies above 0 and the joint fit predicts at least as much.
    """
    unique, joint, controls = best["unique_r2"], best["joint_r2"], best["controls_r2"]
    if math.isnan(unique):
        return ""
    ends = interval(best["unique_low"], best["unique_high"])
    in_parentheses = f" ({ends})" if ends != "–" else ""
    fits = f"R² of model and controls is {number(joint)}, of the controls alone {number(controls)}"
    if best["unique_low"] > 0 and joint > 0 and joint >= unique:
        return f" Beyond the controls it explains R² = {number(unique)}{in_parentheses}; {fits}."
    return f" No variance beyond the controls is shown: unique R² = {number(unique)}{in_parentheses}; {fits}."


def _time_only(dataset: str, rows: pd.DataFrame, protocols: dict[str, Protocol]) -> Iterator[Finding]:
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
    is_similar = under_paper["r"] >= best["r_low"]
    relation = "above" if under_paper["r"] > best["r"] else "similar to" if is_similar else "below"
    outcome = f"it {'falls to' if under_strict['r'] < under_paper['r'] else 'reaches'} {number(under_strict['r'])}"
    if math.isnan(under_strict["r"]):
        outcome = "it cannot be scored, because its prediction is constant within each held-out group"
    text = (
        f"{TIME_ONLY} encodes only the block of a row and its position in time. Under {folds[0]} it reaches "
        f"r = {number(under_paper['r'])}, {relation} the best model ({best['model']}, {number(best['r'])}). "
        f"Under {folds[1]} {outcome}."
    )
    yield Finding(f"Time-only control on {dataset}", text)


def _reading(dataset: str, rows: pd.DataFrame, planted_model: str | None) -> Iterator[Finding]:
    sentences = []
    for protocol in PROTOCOLS:
        scores = of_protocol(rows, protocol)
        measure = "delta_ll" if scores["delta_ll"].notna().any() else "abs_r"
        best = _top(scores[scores["kind"] == "model"], measure)
        control = _top(scores[scores["kind"] == "control"], "abs_r")
        if best is None:
            continue
        text = f"Under {protocol.upper()}, the surprisal of {best['model']} predicts reading times best"
        if planted_model in set(scores["model"]):
            is_planted = best["model"] == planted_model
            text += ", as planted" if is_planted else f", although they were simulated from {planted_model}"
        values = [f"r = {_with_interval(best)}"]
        if measure == "delta_ll":
            gain = f"Δ log-likelihood {_with_interval(best, 'delta_ll', 4)} per word"
            values = [f"{gain}, partial r = {number(best['partial_r'])}", *values]
        values[-1] += "" if math.isnan(best["ceiling"]) else f", ceiling {number(best['ceiling'])}"
        text += f": {'; '.join(values)}."
        text += "" if control is None else f" The best control, {control['model']}, reaches r = {number(control['r'])}."
        sentences.append(text)
    if sentences:
        yield Finding(f"Reading times of {dataset}", " ".join(sentences))


def _tuning(comparisons: pd.DataFrame) -> Iterator[Finding]:
    """Mean difference over pairs. No test is reported, because pairs that share a base are not independent."""
    overall = comparisons[comparisons["target"].isin(["all", "reading"])].dropna(subset=["difference"])
    overall = overall[overall["metric"] != "delta_ll"]
    by_dataset = []
    for dataset, rows in overall.groupby("dataset"):
        phrases = []
        for protocol in PROTOCOLS:
            gains = of_protocol(rows, protocol)["difference"]
            if len(gains):
                n_higher = f"higher in {int((gains > 0).sum())} of {_count(len(gains), 'pair')}"
                phrases.append(f"{number(gains.mean(), sign=True)} under {protocol.upper()} ({n_higher})")
        by_dataset.append(f"{dataset} {', '.join(phrases)}")
    if by_dataset:
        yield Finding("Tuned minus base", f"Mean difference in r: {'; '.join(by_dataset)}.")


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
