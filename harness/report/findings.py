"""What came out of a run, in a few plain sentences; every number in them is computed from the tables.

A report that opens with tables leaves the reading to the reader; one that opens with written conclusions is wrong at
the next run. Where the run says what was planted in its data (column `content` of the table "runs"), the sentences say
whether it was found.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.numbers import interval, number
from harness.report.figures import PROTOCOLS
from harness.statistics import analysis
from harness.wording import folds_in_words

if TYPE_CHECKING:
    import pandas as pd

    from harness.protocol import Protocol
    from harness.statistics.analysis import Analysis

TIME_ONLY = "oasm"  # the control that knows when, and nothing else (METHODS.md, section 6.1)


class Finding(NamedTuple):
    """A few words that name it, and the sentences."""

    head: str
    text: str


def findings(frames: dict[str, pd.DataFrame], protocols: dict[str, Protocol], planted: dict[str, Any]) -> list[Finding]:
    """The sentences of a run.

    Args:
        frames: the tables model_scores, reading_scores, comparisons and failures of one run.
        protocols: protocol hash -> protocol, as far as this version of the program knows them.
        planted: what is known beforehand: "model", "layer", "ceiling" (brain) and "reading_model"; {} for real data.
    """
    whole = frames["model_scores"]
    brain, means = (whole[whole["target"] == target] for target in ("all", "group"))
    found: list[Finding] = []
    for dataset, rows in brain.groupby("dataset"):
        strict = _protocol(rows[rows["kind"] == "model"], "strict")
        if planted.get("model") in set(strict["model"]):
            found += _planted_layer(dataset, strict, planted)
        found += _best_model(dataset, rows)
        found += _best_model(f"the mean over subjects of {dataset}", means[means["dataset"] == dataset])
        found += _time_only(dataset, rows, protocols)
    for dataset, rows in frames["reading_scores"].groupby("dataset"):
        found += _reading(dataset, rows, planted.get("reading_model"))
    return found + list(_tuning(frames["comparisons"])) + list(_failures(frames["failures"]))


def in_short(frames: dict[str, pd.DataFrame], found: Analysis) -> list[str]:
    """The answer in three sentences: how close the best models come, what tuning does, what goes with alignment.

    Where a run cannot say one of the last two, what a control of nothing but time reaches, and reading times, take its
    place.
    """
    brain, read = frames["model_scores"], frames["reading_scores"]
    brain = brain[brain["target"] == "all"]
    said = [*_closest(brain), *analysis.of_tuning(found), *analysis.of_properties(found)[:1]]
    return [*said, *_time_in_short(brain), *_reading_in_short(read)][:3]


def _closest(brain: pd.DataFrame) -> Iterator[str]:
    protocol = next((name for name in PROTOCOLS if name in set(brain["protocol"])), "")
    parts = []
    for dataset, part in _protocol(brain, protocol).groupby("dataset"):
        best, control = (_top(part[part["kind"] == kind]) for kind in ("model", "control"))
        if best is None:
            continue
        of_ceiling = "" if math.isnan(best["ratio"]) else f", {number(100 * best['ratio'], 0)} % of the ceiling"
        higher = control is not None and control["r"] > best["r"]
        beside = f"; a control, {control['model']}, has {number(control['r'], 2)}" if higher and control else ""
        parts.append(f"{number(best['r'], 2)} on {dataset} ({best['model']}{of_ceiling}{beside})")
    if parts:
        yield f"Under {protocol.upper()} the best language models reach r = {', '.join(parts)}."


def _time_in_short(brain: pd.DataFrame) -> Iterator[str]:
    """Of the data set on which time alone gains most by PAPER's folds."""
    alone = brain[(brain["model"] == TIME_ONLY) & brain["protocol"].isin(["paper", "strict"])]
    wide = alone.pivot_table(index="dataset", columns="protocol", values="r", dropna=False)
    if {"paper", "strict"} <= set(wide) and wide["paper"].notna().any():
        dataset = wide["paper"].idxmax()
        now = wide.loc[dataset, "strict"]
        left = "nothing that could be measured" if math.isnan(now) else number(now, 2)
        then = number(wide.loc[dataset, "paper"], 2)
        yield (
            f"A control that knows nothing but time ({TIME_ONLY}) reaches r = {then} on {dataset} under PAPER, and "
            f"{left} under STRICT."
        )


def _reading_in_short(read: pd.DataFrame) -> Iterator[str]:
    models = read[read["kind"] == "model"]
    best = _top(models, "delta_ll") or _top(models, "abs_r")
    if best is not None:
        gain = "" if math.isnan(best["delta_ll"]) else f", Δ log-likelihood {number(best['delta_ll'], 4)} a word"
        said = f"Reading times of {best['dataset']} go with the surprisal of {best['model']} most"
        yield f"{said}: r = {number(best['r'], 2)}{gain}."


def _planted_layer(dataset: str, models: pd.DataFrame, planted: dict[str, Any]) -> Iterator[Finding]:
    best = _top(models)
    if best is None:
        return
    own = models[models["model"] == planted["model"]].iloc[0]
    made = f"The responses of {dataset} were made from layer {planted['layer']} of {planted['model']}."
    layer_back, model_back = _layer(own) == planted["layer"], best["model"] == planted["model"]
    chosen = f"STRICT chose {'that layer' if layer_back else f'layer {_layer(own)} of it instead'}"
    rank = "scores highest" if model_back else f"scores below {best['model']} (r = {number(best['r'])})"
    text = f"{made} {chosen}, and {planted['model']} {rank}, r = {_with_interval(own)}, among {len(models)} models."
    if planted.get("ceiling") is not None:
        text += f" Signal was planted up to r = {number(planted['ceiling'])};"
        text += f" the table's ceiling is {number(own['ceiling'])}."
    came_back = layer_back and model_back
    yield Finding("What was planted was found" if came_back else "What was planted was not found", text)


def _best_model(dataset: str, rows: pd.DataFrame) -> Iterator[Finding]:
    parts = []
    for protocol in PROTOCOLS:
        part = _protocol(rows, protocol)
        best, control = _top(part[part["kind"] == "model"]), _top(part[part["kind"] == "control"])
        if best is None:
            continue
        text = f"Under {protocol.upper()} {best['model']} (layer {_layer(best)}) is best, r = {_with_interval(best)}"
        if not math.isnan(best["ratio"]):
            text += f", {number(best['ratio'], 2)} of the ceiling {number(best['ceiling'])}"
        twin = part.loc[part["model"] == f"{best['model']}:untrained", "r"]
        others = [(r, "with untrained weights") for r in twin]
        others += [] if control is None else [(control["r"], f"for the best control, {control['model']}")]
        beside = [f"{number(r)}{' (higher)' if r > best['r'] else ''} {what}" for r, what in others]
        text = f"{text}; beside it {' and '.join(beside)}." if beside else f"{text}."
        parts.append(text + _beyond_controls(best))
    if parts:
        yield Finding(f"Best model on {dataset}", " ".join(parts))


def _beyond_controls(best: dict[str, Any]) -> str:
    """What the model explains that the controls do not; nothing where that was not computed."""
    if math.isnan(best["unique_r2"]):
        return ""
    ends = interval(best["unique_low"], best["unique_high"])
    verdict = "something" if best["unique_low"] > 0 else "nothing that its interval tells from 0"
    said = f"R² {number(best['unique_r2'])}{f' ({ends})' if ends != '–' else ''}"
    return f" Beyond the controls it explains {verdict}: {said}, over {number(best['controls_r2'])} of theirs."


def _time_only(dataset: str, rows: pd.DataFrame, protocols: dict[str, Protocol]) -> Iterator[Finding]:
    paper, strict = (_protocol(rows, name) for name in ("paper", "strict"))
    best = _top(paper[paper["kind"] == "model"])
    alone = strict[strict["model"] == TIME_ONLY]
    then = _top(paper[paper["model"] == TIME_ONLY])
    if best is None or then is None or alone.empty:
        return
    now = alone.iloc[0]
    folds = [
        f"{row['protocol'].upper()} ({folds_in_words(protocols[row['protocol_hash']].folds)})"
        if row["protocol_hash"] in protocols
        else row["protocol"].upper()
        for row in (then, now)
    ]
    reach = "above" if then["r"] > best["r"] else "as good as" if then["r"] >= best["r_low"] else "below"
    left = f"it {'falls to' if now['r'] < then['r'] else 'reaches'} {number(now['r'])}"
    if math.isnan(now["r"]):
        left = "nothing is left to measure: it predicts the same for all rows of a group it was not trained on"
    text = (
        f"{TIME_ONLY} knows nothing of the text. Under {folds[0]} it reaches r = {number(then['r'])}, {reach} the best "
        f"model ({best['model']}, {number(best['r'])}). Under {folds[1]} {left}."
    )
    yield Finding(f"Time alone on {dataset}", text)


def _reading(dataset: str, rows: pd.DataFrame, planted_reader: str | None) -> Iterator[Finding]:
    parts = []
    for protocol in PROTOCOLS:
        part = _protocol(rows, protocol)
        measure = "delta_ll" if part["delta_ll"].notna().any() else "abs_r"
        best = _top(part[part["kind"] == "model"], measure)
        control = _top(part[part["kind"] == "control"], "abs_r")
        if best is None:
            continue
        text = f"Under {protocol.upper()} the surprisal of {best['model']} says most"
        if planted_reader in set(part["model"]):
            text += ", as planted" if best["model"] == planted_reader else f", though {planted_reader} was planted"
        if measure == "delta_ll":
            text += f": Δ log-likelihood {_with_interval(best, 'delta_ll', 4)} per word"
            text += f", partial r {number(best['partial_r'])}"
        text += f"; r = {_with_interval(best)}"
        text += "" if math.isnan(best["ceiling"]) else f", ceiling {number(best['ceiling'])}"
        text += "" if control is None else f"; the best control, {control['model']}, has r = {number(control['r'])}"
        parts.append(f"{text}.")
    if parts:
        yield Finding(f"Reading times of {dataset}", " ".join(parts))


def _tuning(comparisons: pd.DataFrame) -> Iterator[Finding]:
    """Mean difference over pairs; pairs that share a base are not independent, so no test is named."""
    whole = comparisons[comparisons["target"].isin(["all", "reading"])].dropna(subset=["difference"])
    whole = whole[whole["metric"] != "delta_ll"]
    parts = []
    for dataset, rows in whole.groupby("dataset"):
        said = []
        for protocol in PROTOCOLS:
            gains = _protocol(rows, protocol)["difference"]
            if len(gains):
                up = f"{int((gains > 0).sum())} of {_count(len(gains), 'pair')} up"
                said.append(f"{number(gains.mean(), sign=True)} under {protocol.upper()} ({up})")
        parts.append(f"{dataset} {', '.join(said)}")
    if parts:
        yield Finding("Tuned minus base", f"Mean difference in r: {'; '.join(parts)}.")


def _failures(failures: pd.DataFrame) -> Iterator[Finding]:
    if len(failures):
        models = ", ".join(sorted(set(failures["model"])))
        lost = f"{_count(len(failures), 'evaluation')} failed ({models}); the numbers above are without them."
        yield Finding("Failures", f"{lost} See the section Failures.")


def _top(rows: pd.DataFrame, by: str = "r") -> dict[str, Any] | None:
    """The row with the highest value, or None where nothing was measured."""
    measured = rows[rows[by].notna()]
    if measured.empty:
        return None
    found: dict[str, Any] = measured.loc[[measured[by].idxmax()]].iloc[0].to_dict()
    return found


def _protocol(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    return rows[rows["protocol"] == name]


def _layer(row: Any) -> str:
    return f"{row['stack']}.{row['layer']}"


def _with_interval(row: Any, value: str = "r", digits: int = 3) -> str:
    low, high = ("r_low", "r_high") if value == "r" else (f"{value}_low", f"{value}_high")
    ends = interval(row[low], row[high], digits)
    return number(row[value], digits) + (f" ({ends})" if ends != "–" else "")


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
