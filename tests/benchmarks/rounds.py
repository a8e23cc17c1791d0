"""All subjects of one workload, round after round, so that a busy minute hits all of them alike."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gates
import measure
import numpy as np
import ours
import peers
from measure import Subject
from table import row, summary
from workloads import FOLDS, Workload, load, make

# What took longer in the first round is not run again.
SLOW_S = 25.0

_started = time.perf_counter()


def say(text: str) -> None:
    """A line of progress."""
    print(f"[{time.perf_counter() - _started:6.0f} s] {text}", file=sys.stderr, flush=True)


def subjects(workload: Workload) -> list[Subject]:
    """Those of a workload, rule by rule, ours first.

    Least squares only where it is not too slow; scikit-learn on one thread only where that may be the faster.
    """
    rules = {subject.rule: None for subject in ours.SUBJECTS}
    everyone = [each for rule in rules for each in (*ours.SUBJECTS, *peers.SUBJECTS) if each.rule == rule]
    if workload.subjects:
        return [each for each in everyone if each.name in workload.subjects]
    left_out = {"W1": (), "W2": ("1 thread",)}.get(workload.name, ("1 thread", "least squares", "LinearRegression"))
    left_out += ("himalaya RidgeCV",)  # for more rows than features
    return [each for each in everyone if not any(part in each.name for part in left_out)]


def time_workload(workload: Workload, benchmark: str, rates: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Rows of all subjects.

    Args:
        workload: sizes, rounds, patience.
        benchmark: name in the rows.
        rates: GFLOP/s of the machine by type and threads.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(workload, folder)
        those = subjects(workload)
        if workload.is_quick:  # two threads only slow small products down
            those = [replace(each, threads=1) if each.needs else each for each in those]
        those = [_tuned(each, folder, workload) for each in those]
        present = [each for each in those if each.is_installed]
        samples = _samples(workload, present, folder)
        rows = [_row(each, workload, benchmark, samples, present, rates) for each in those]
        if benchmark == "ridge":
            _judge(rows, those, workload, folder)
    return rows


def reference(rule: str) -> Subject:
    """Ours, that ratios under a rule are to."""
    return next(each for each in ours.SUBJECTS if each.rule == rule)


def _tuned(subject: Subject, folder: Path, workload: Workload) -> Subject:
    """himalaya in its best setting for these data; others as they are."""
    if subject.name != peers.HIMALAYA.name or not subject.is_installed:
        return subject
    found = measure.run("peers:tune_himalaya", subject.threads, {"threads": subject.threads}, folder)
    if "error" in found:
        say(f"{workload.name}: himalaya could not be tuned: {found['error']}")
        return subject
    setting = found["said"]["setting"]
    say(f"{workload.name}: himalaya tuned in {found['seconds']:.1f} s: {setting}; tried {found['said']['tried']}")
    return replace(subject, settings=setting, precision=setting["dtype"], threads=setting["threads"])


def _samples(workload: Workload, those: Sequence[Subject], folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By subject, one sample a round; the first round keeps what was computed."""
    began, kept = time.perf_counter(), {each.name: [] for each in those}
    for number in range(workload.repeats):
        turn = [each for each in those if not number or _again(kept[each.name])]
        expected = sum(kept[each.name][0]["wall"] for each in turn) if number else 0.0
        if time.perf_counter() - began + expected > workload.budget_s and number:
            break
        for each in turn:
            sample = _sample(each, workload, folder, folder / f"{each.name}.npz" if not number else None)
            kept[each.name].append({**sample, "round": number})
            shown = sample.get("error") or f"{sample['seconds']:.3f} s{' dropped, machine busy' * sample['dropped']}"
            say(f"{workload.name}, round {number + 1} of {workload.repeats}: {each.name}: {shown}")
    return kept


def _again(samples: list[dict[str, Any]]) -> bool:
    return "error" not in samples[0] and samples[0]["wall"] < SLOW_S


def _sample(subject: Subject, workload: Workload, folder: Path, out: Path | None) -> dict[str, Any]:
    """One call, scaled to five folds: what it did once a layer is counted once."""
    folds, began = 1 if subject.name in workload.one_fold else FOLDS, time.perf_counter()
    sample = measure.run(subject.call, subject.threads, subject.settings, folder, folds, out)
    sample["wall"] = time.perf_counter() - began
    if "error" in sample:
        return sample
    once = sample["said"].get("setup_s", 0.0)
    sample["seconds"] = once + (sample["seconds"] - once) * FOLDS / folds
    sample["dropped"] = (sample["foreign"] or 0.0) > measure.FOREIGN
    return sample


def _row(
    subject: Subject, workload: Workload, benchmark: str, samples: dict[str, list[dict[str, Any]]],
    present: Sequence[Subject], rates: dict[tuple[str, int], float],
) -> dict[str, Any]:  # fmt: skip
    """One row, its gate still open."""
    setting = ", ".join(f"{name}={value}" for name, value in subject.settings.items())
    is_ours = subject.call == "ours:fit"
    found = row(
        benchmark=benchmark, workload=str(workload), subject=f"ours {subject.precision}" if is_ours else subject.name,
        inner_rule=subject.rule, precision=subject.precision, threads=subject.threads,
        setting=None if is_ours else setting, folds_timed=1 if subject.name in workload.one_fold else FOLDS,
        machine=measure.machine(),
    )  # fmt: skip
    if subject not in present:
        return {**found, "gate": "not installed"}
    good = [each for each in samples[subject.name] if "error" not in each]
    if not good:
        return {**found, "gate": f"FAILED: {samples[subject.name][0]['error']}"}
    base = reference(subject.rule)
    theirs = [each for each in samples.get(base.name, []) if "error" not in each]
    found |= {**summary(good, theirs), "against": f"ours {base.precision}, {base.threads} threads" if theirs else None}
    rate = rates.get(("float32" if subject.precision == "mixed" else subject.precision, subject.threads))
    if rate:
        found["gemm_share"] = workload.flops(subject.rule) / found["seconds"] / (rate * 1e9)
    return found


def _judge(
    rows: list[dict[str, Any]], those: Sequence[Subject], workload: Workload, folder: Path
) -> None:  # fmt: skip
    """Write into each row whether its subject computed what ours did, on the data that were timed."""
    layers, Y = load(folder)
    files = {each.name: folder / f"{each.name}.npz" for each in those}
    computed = {name: dict(np.load(file)) for name, file in files.items() if file.exists()}
    for found, subject in zip(rows, those, strict=True):
        base = _truth(subject, computed)
        if found["gate"]:
            continue
        if base == subject.name:
            found["gate"] = "reference"
            continue
        gaps = gates.gaps_of(layers, Y, subject.rule)
        passed, numbers = gates.compare(computed[subject.name], computed[base], _tolerance(subject), gaps)
        found["gate"] = f"{'passed' if passed else 'FAILED'}: {numbers}"
        say(f"{workload.name}: gate of {subject.name}: {found['gate']}")


def _truth(subject: Subject, computed: dict[str, Any]) -> str:
    """Name of what a subject is compared with: ours in float64 where it ran, or else ours."""
    alike = [each.name for each in ours.SUBJECTS if each.rule == subject.rule and each.name in computed]
    return next((name for name in alike if "float64" in name), alike[0] if alike else subject.name)


def _tolerance(subject: Subject) -> gates.Tolerance:
    if subject.needs == "himalaya":
        return gates.LOOSE
    return gates.ROUNDED if subject.call == "ours:fit" or subject.rule == "one alpha" else gates.SAME
