"""Made-up recordings with known answers, through the protocols: `python tests/benchmarks/known_answers.py`.

Each case is a kind of recording on which a score can mislead. It is scored many times with other random numbers by the
protocols and functions that a run uses (without Ray). For every column that a reader would quote, a line gives the
known answer, the mean, the fraction of 95 % intervals that hold the answer, and, where the answer is 0, the fraction of
intervals that exclude it (false positives; 5 % wanted; "above" counts intervals above 0 alone, 2.5 % wanted).

The known answer of r is the correlation of the true signal with the responses, which a fitted model can only approach.
The known answer of unique_r2 is that of a model whose weights are known, where it is not 0.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from harness.datasets.own import own_protocols, presentations
from harness.features import controls
from harness.protocol import Protocol
from harness.records import Dataset, Features, Floats, Layer, Responses, Stimuli
from harness.scoring.brain_scores import score_layers
from harness.scoring.rows import BrainRows
from harness.scoring.unique_variance import over_controls
from harness.statistics import scores, tuning
from harness.storage.store import Store
from harness.units.ceiling_units import compute_ceiling

LAYER, NAN = Layer("decoder", 1), float("nan")
WORDS = [first + second for first in "bdfgklmnprst" for second in ("an", "ell", "ig", "ot", "um")]
MEASURED = {"r": "r", "unique": "unique_r2", "ceiling": "ceiling"}  # prefix of the interval's columns -> column


class Quoted(NamedTuple):
    """One quoted number of one recording, with its interval and the known answer."""

    column: str
    value: float
    low: float
    high: float
    answer: float


Case = Callable[[np.random.Generator], Iterator[Quoted]]


# --- recordings -------------------------------------------------------------------------------------------------------


def sentences(rng: np.random.Generator, n: int) -> tuple[str, ...]:
    """Different sentences of six words."""
    texts: dict[str, None] = {}
    while len(texts) < n:
        texts[" ".join(rng.choice(WORDS, size=6)).capitalize() + "."] = None
    return tuple(texts)


def signal_in(values: Floats, noise: Floats, r: float) -> Floats:
    """Sum of the standardised signal and noise whose correlation with the signal is r."""
    return r * values / values.std(axis=0) + (1 - r**2) ** 0.5 * noise


def slow(rng: np.random.Generator, n: int, columns: int, memory: float) -> Floats:
    """(row, column) of unit variance, an autoregression over rows."""
    noise = rng.standard_normal((n + 100, columns))
    for row in range(1, len(noise)):
        noise[row] = memory * noise[row - 1] + (1 - memory**2) ** 0.5 * noise[row]
    return noise[100:]


def by_sentence(texts: tuple[str, ...], values: Floats, subjects: tuple[str, ...]) -> Dataset:
    """Unrelated sentences in order of presentation."""
    ids = tuple(f"s{k}" for k in range(len(texts)))
    names = tuple(f"{subject}.{k}" for k, subject in enumerate(subjects))
    responses = Responses(values.astype(np.float32), ids, ids, ids, names, subjects, ("",) * len(names), "z")
    return Dataset("made", "0", Stimuli(ids, texts, ids), responses)


def by_scan(rng: np.random.Generator, values: Floats, subjects: tuple[str, ...]) -> Dataset:
    """One story, a word every TR of 2 s."""
    n = len(values)
    ids, times = tuple(f"w{k}" for k in range(n)), 2.0 * np.arange(n)
    stimuli = Stimuli(ids, tuple(rng.choice(WORDS, size=n)), ("story",) * n, onsets_s=times - 1.5, ends_s=times - 1.0)
    scans, names = tuple(f"t{k}" for k in range(n)), tuple(f"{subject}.{k}" for k, subject in enumerate(subjects))
    minutes, blocks = tuple(f"minute {k // 30}" for k in range(n)), ("story",) * n
    responses = Responses(
        values.astype(np.float32), scans, minutes, blocks, names, subjects, ("",) * len(names), "z", times
    )
    return Dataset("made", "0", stimuli, responses)


def row_of(dataset: Dataset, X: Floats, name: str, *, beside: bool = False, ceilings: bool = False) -> dict[str, Any]:
    """The row of model_scores for target "all"; X on the rows of the responses, `beside` all controls that apply."""
    assert dataset.responses is not None
    protocol = protocol_of(dataset, name)
    features = Features({LAYER: X.astype(np.float32)}, dataset.responses.row_ids)
    fits = score_layers(features, dataset.responses, protocol)
    with tempfile.TemporaryDirectory() as folder:
        measured = dataset if ceilings else replace(dataset, is_planted=True, published_ceiling=NAN)
        ceiling = compute_ceiling(measured, protocol, Store(folder))
    brain = BrainRows({}, dataset.responses, fits, ceiling, protocol, seed=0)
    if beside:
        unique = over_controls(features, LAYER, controls_of(dataset), dataset.responses, protocol)
        brain = replace(brain, unique=unique)
    return next(row for row in brain.models() if row["target"] == "all")


def protocol_of(dataset: Dataset, name: str) -> Protocol:
    """The protocol that a user's own recording gets."""
    return next(protocol for protocol in own_protocols.choose(dataset, None, None) if protocol.name == name)


def controls_of(dataset: Dataset) -> dict[str, Features]:
    """Controls at the rows of the responses that need no words at scans."""
    assert dataset.responses is not None
    of_rows = [
        name for name, control in controls.CONTROLS.items()
        if (control.row_level or dataset.responses.times_s is None) and not control.needs
        and name != "random" and controls.applies(name, dataset)
    ]  # fmt: skip
    return {name: controls.features(name, dataset, 0) for name in of_rows}


def quoted(row: dict[str, Any], label: str, **answers: float) -> Iterator[Quoted]:
    """Columns of a row with their answers."""
    for prefix, answer in answers.items():
        column = MEASURED[prefix]
        yield Quoted(f"{label}: {column}", row[column], row[f"{prefix}_low"], row[f"{prefix}_high"], answer)


# --- cases ------------------------------------------------------------------------------------------------------------


def repeated_texts(rng: np.random.Generator) -> Iterator[Quoted]:
    """90 sentences three times; responses random per sentence, features identify the sentence."""
    order = np.concatenate([rng.permutation(90) for _ in range(3)])
    texts = sentences(rng, 90)
    per_sentence = rng.standard_normal((90, 10))
    values = signal_in(per_sentence[order], rng.standard_normal((270, 10)), 0.6)
    presented = by_sentence(tuple(texts[k] for k in order), values, tuple("aabbccddee"))
    features, number = rng.standard_normal((90, 24)), {text: k for k, text in enumerate(texts)}
    assert presented.responses is not None
    for setting in ("average", "keep"):
        combined = presentations.combine(presented.stimuli, presented.responses, "none", setting, ())
        dataset = replace(
            presented, stimuli=combined.stimuli, responses=combined.responses, repetitions=combined.repetitions
        )
        assert dataset.responses is not None
        text = dict(zip(dataset.stimuli.ids, dataset.stimuli.texts, strict=True))
        X = features[[number[text[row]] for row in dataset.responses.row_ids]]
        yield from quoted(row_of(dataset, X, "strict", beside=True), f"{setting}, STRICT", r=0.0, unique=0.0)


def session_drift(rng: np.random.Generator) -> Iterator[Quoted]:
    """Responses drift over the session, and so do features (topics); the text has no effect."""
    common = slow(rng, 150, 1, 0.98)
    values = signal_in(common + 0.5 * slow(rng, 150, 8, 0.98), rng.standard_normal((150, 8)), 0.8)
    dataset = by_sentence(sentences(rng, 150), values, tuple("aabbccdd"))
    X = np.hstack([slow(rng, 150, 10, 0.98), rng.standard_normal((150, 6))])
    yield from quoted(row_of(dataset, X, "strict", beside=True), "STRICT, over drift and others", unique=0.0)


def harmful_controls(rng: np.random.Generator) -> Iterator[Quoted]:
    """One story in five blocks of time: position and OASM extrapolate badly. With and without an effect."""
    X = slow(rng, 300, 8, 0.5)
    for r in (0.0, 0.6):
        noise = slow(rng, 300, 6, 0.9)
        values = signal_in(X @ rng.standard_normal((8, 6)), noise, r)
        dataset = by_scan(rng, values, tuple("aabbcc"))
        row = row_of(dataset, X, "strict", beside=True)
        yield from quoted(row, "effect" if r else "no effect", unique=r**2)
        if not r:
            yield from quoted(row, "no effect", r=0.0)
        above = row["unique_r2"] - max(row["joint_r2"], 0.0)
        yield Quoted(
            f"{'effect' if r else 'no effect'}: unique_r2 beyond a positive joint_r2", max(above, 0.0), NAN, NAN, 0.0
        )


def unequal_subjects(rng: np.random.Generator) -> Iterator[Quoted]:
    """One subject with 27 voxels of noise, one with 3 that follow the text (r .7): .35 on average."""
    X = rng.standard_normal((150, 3))
    noise = rng.standard_normal((150, 30))
    good = signal_in(X @ rng.standard_normal((3, 3)), noise[:, :3], 0.7)
    values = np.hstack([good, noise[:, 3:]])
    yield from quoted(
        row_of(by_sentence(sentences(rng, 150), values, ("a",) * 3 + ("b",) * 27), X, "strict"), "STRICT", r=0.35
    )


def rotated_basis(rng: np.random.Generator) -> Iterator[Quoted]:
    """The same features in another basis, one direction a hundred times larger: no score may change."""
    X = rng.standard_normal((150, 12)) * np.r_[100.0, np.ones(11)]
    turned = X @ np.linalg.qr(rng.standard_normal((12, 12)))[0]
    values = signal_in(X[:, 1:] @ rng.standard_normal((11, 8)), rng.standard_normal((150, 8)), 0.5)
    dataset = by_sentence(sentences(rng, 150), values, tuple("aabbccdd"))
    for name in ("strict", "equal", "paper"):
        first, second = (row_of(dataset, Z, name)["r"] for Z in (X, turned))
        yield Quoted(f"{name.upper()}: |r of the rotated features - r|", abs(first - second), NAN, NAN, 0.0)


def missing_cells(rng: np.random.Generator) -> Iterator[Quoted]:
    """Four subjects, a fifth of the responses missing at random."""
    X = rng.standard_normal((150, 3))
    values = signal_in(X @ rng.standard_normal((3, 12)), rng.standard_normal((150, 12)), 0.5)
    values[rng.random(values.shape) < 0.2] = np.nan
    row = row_of(by_sentence(sentences(rng, 150), values, tuple("aaabbbcccddd")), X, "strict")
    yield from quoted(row, "STRICT", r=0.5)
    yield Quoted("STRICT: n_missing", row["n_missing"], NAN, NAN, float(np.isnan(values).sum()))


def few_subjects(rng: np.random.Generator) -> Iterator[Quoted]:
    """Three and five subjects who share a signal (true ceiling .707); a model of part of it, and noise alone."""
    for n in (3, 5):
        shared = rng.standard_normal((120, 4))
        subjects = tuple(name for name in "abcde"[:n] for _ in range(3))
        mixed = np.hstack([shared @ rng.standard_normal((4, 3)) for _ in range(n)])
        for label, r in (("signal", 0.5**0.5), ("noise", 0.0)):
            values = signal_in(mixed, rng.standard_normal(mixed.shape), r)
            row = row_of(by_sentence(sentences(rng, 120), values, subjects), shared, "strict", ceilings=True)
            yield from quoted(row, f"{n} subjects, {label}", r=r, ceiling=r)
            yield Quoted(
                f"{n} subjects, {label}: ratio is given",
                float(np.isfinite(row["ratio"])),
                NAN,
                NAN,
                float(n > 4 and r > 0),
            )


def one_pair(rng: np.random.Generator) -> Iterator[Quoted]:
    """One tuned model and its base, nine subjects, no difference: no interval over subjects, no test, no percentage."""
    base, tuned = rng.normal(0.3, 0.01, size=2)
    rows = pd.DataFrame({
        "model": ["base", "tuned"], "dataset": "made", "protocol": "strict", "target": "all", "metric": "pearson_r",
        "score": [base, tuned],
    })  # fmt: skip
    people = pd.DataFrame([
        {"model": model, "dataset": "made", "protocol": "strict", "subject": f"p{k}", "score": rng.normal(score, 0.02)}
        for model, score in (("base", base), ("tuned", tuned)) for k in range(9)
    ])  # fmt: skip
    index = pd.Index(["base", "tuned"], name="model")
    models = pd.DataFrame({"family": "x", "base": ["", "base"], "pair_source": "", "is_main": True}, index=index)
    table = scores.of_frames("made", rows, models, people, brain=set())
    (test,) = tuning.tests(table, tuning.pairs(table)).to_dict("records")
    yield Quoted("an interval is shown", float(np.isfinite(test["low"])), NAN, NAN, 0.0)
    yield Quoted("sign flips over bases give p < .05", float(test["p_sign_flip"] < 0.05), NAN, NAN, 0.0)


CASES: dict[str, Case] = {
    "repeated texts": repeated_texts, "drift over the session": session_drift, "harmful controls": harmful_controls,
    "unequal subjects": unequal_subjects, "rotated basis": rotated_basis, "missing cells": missing_cells,
    "few subjects": few_subjects, "one pair": one_pair,
}  # fmt: skip


# --- table ------------------------------------------------------------------------------------------------------------


def main() -> None:
    """Print one line per case and column."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--n", type=int, default=200, help="recordings per case (default: 200)")
    parser.add_argument("--only", choices=CASES, help="one case")
    arguments = parser.parse_args()
    started = time.monotonic()
    print(f"{'case':<24}{'column':<62}{'answer':>8}{'mean':>9}{'holds %':>9}{'excludes 0 %':>14}{'above %':>9}")
    for name, case in CASES.items():
        if arguments.only in (None, name):
            for line in lines(case, arguments.n):
                print(f"{name:<24}{line}", flush=True)
    error = 100 * (0.0475 / arguments.n) ** 0.5
    print(f"{arguments.n} recordings each, standard error of 5 %: {error:.1f} %; {time.monotonic() - started:.0f} s")


def lines(case: Case, n: int) -> Iterator[str]:
    """Columns of the table for one case."""
    found: dict[str, list[Quoted]] = defaultdict(list)
    for seed in range(n):
        for one in case(np.random.default_rng([seed, 22])):
            found[one.column].append(one)
    for column, ones in found.items():
        value, low, high, answer = (np.array(values, dtype=float) for values in list(zip(*ones, strict=True))[1:])
        line = f"{column:<62}{np.mean(answer):8.3f}{np.nanmean(value):9.4f}"
        if np.isfinite(low).any():
            measured = np.isfinite(low)
            excludes = f"{100 * np.mean((low > 0) | (high < 0)):14.1f}{100 * np.mean(low > 0):9.1f}"
            line += f"{100 * np.mean(((low <= answer) & (answer <= high))[measured]):9.1f}"
            line += excludes if not answer.any() else ""
        yield line


if __name__ == "__main__":
    main()
