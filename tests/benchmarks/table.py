"""Rows of benchmarks.json, and the table that is printed of them."""

from __future__ import annotations

import statistics
from typing import Any

# One meaning each, in every row; None where a column says nothing about a row.
COLUMNS = {
    "benchmark": "machine, gate, ridge, growth, extraction or gpu",
    "workload": "name and sizes",
    "subject": "whose way",
    "inner_rule": "how alpha is chosen within the training rows",
    "precision": "of the side of the neuroids",
    "threads": "of every library",
    "setting": "what was tuned, or what a gate saw",
    "folds_timed": "of five; with fewer, seconds are scaled to five and marked *",
    "seconds": "for the whole workload, five outer folds; median of the samples",
    "against": "the row that the ratio is to: ours with the same rule, run in the same round",
    "ratio_to_ours": "their seconds over ours; median of the rounds",
    "ratio_low": "least of the rounds",
    "ratio_high": "greatest of the rounds",
    "n_samples": "that count",
    "n_dropped": "because others used more than 12 % of the machine",
    "busy": "whether all were dropped, and therefore none",
    "gemm_share": "floating-point operations of the plain dual method, over seconds, over the machine's own rate",
    "peak_bytes": "most memory in use, less what data and libraries took before",
    "absolute_bytes": "most memory in use, with data and libraries",
    "gflops": "the machine's rate",
    "exponent": "slope of log seconds over log size",
    "gate": "passed; FAILED and why; or what it could not be compared with",
    "machine": "processor and cores",
}


_LEGEND = """
* one fold timed, times five.  to ours: their seconds over ours with the same rule, 2 threads, same round.
GEMM: operations of the plain dual method a second, over the machine's own product of matrices in that type."""


def row(**values: Any) -> dict[str, Any]:
    """All columns, the given ones filled."""
    unknown = values.keys() - COLUMNS.keys()
    if unknown:
        raise KeyError(f"no such column: {sorted(unknown)}")
    return {**dict.fromkeys(COLUMNS), **values}


def summary(samples: list[dict[str, Any]], reference: list[dict[str, Any]]) -> dict[str, Any]:
    """The timing columns of a subject.

    Args:
        samples: one per round, as `measure.run` gives them, those with an error left out.
        reference: of the subject that ratios are to, same rounds.
    """
    good = [sample for sample in samples if not sample["dropped"]]
    counted = good or samples
    ours = {each["round"]: each for each in reference}
    pairs = [(each, ours[each["round"]]) for each in counted if each["round"] in ours]
    quiet = [pair for pair in pairs if not pair[1]["dropped"]] or pairs
    ratios = [theirs["seconds"] / mine["seconds"] for theirs, mine in quiet]
    return {
        "seconds": statistics.median(sample["seconds"] for sample in counted),
        "ratio_to_ours": statistics.median(ratios) if ratios else None,
        "ratio_low": min(ratios, default=None),
        "ratio_high": max(ratios, default=None),
        "n_samples": len(counted),
        "n_dropped": len(samples) - len(good),
        "busy": not good,
        "peak_bytes": max(sample["peak_bytes"] for sample in samples),
        "absolute_bytes": max(sample["absolute_bytes"] for sample in samples),
    }


def failures(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows whose gate did not open."""
    return [each for each in rows if str(each["gate"] or "").startswith("FAILED")]


def show(rows: list[dict[str, Any]]) -> None:
    """Print gates that failed, the timings side by side, what was tuned, and gates that passed in one line."""
    print(f"\n{rows[0]['machine']}")
    for each in (each for each in rows if each["benchmark"] == "machine"):
        rate = f"{each['gflops']:.0f} GFLOP/s" if each["gflops"] else f"{each['seconds']:.4f} s"
        print(f"  {each['subject']}, {each['threads']} threads: {rate}")
    print(
        f"\n{'workload':<34}{'subject':<34}{'inner rule':<15}{'precision':<10}{'thr':>3}{'seconds':>11}"
        f"{'to ours':>9}{'range':>14}{'n':>4}{'drop':>5}{'GEMM':>6}{'peak MB':>9}{'all MB':>8}  gate"
    )
    last = None
    for each in (each for each in rows if each["benchmark"] not in {"machine", "gate"}):
        if last not in {None, each["workload"].split()[0]}:
            print()
        last = each["workload"].split()[0]
        print(_line(each))
    print(_LEGEND)
    for each in (each for each in rows if each["setting"] and each["benchmark"] in {"ridge", "extraction"}):
        print(f"setting, {each['workload']}: {each['subject']}: {each['setting']}")
    gates = [each for each in rows if each["benchmark"] == "gate"]
    print(f"gates: {sum(each['gate'] == 'passed' for each in gates)} of {len(gates)} passed on small data")
    for each in (each for each in gates if each["gate"] == "not installed"):
        print(f"not compared, not installed: {each['subject']} ({each['workload']})")
    for each in failures(rows):
        print(f"!!! GATE FAILED: {each['workload']}: {each['subject']}, {each['inner_rule']}: {each['gate']}", end=" ")
        print(f"{each['setting'] or ''}; no time of this run is worth reading")


def _line(each: dict[str, Any]) -> str:
    """One line of the table."""
    seconds = "" if each["seconds"] is None else f"{each['seconds']:.3f}"
    scaled = "*" if each["folds_timed"] not in {None, 5} and seconds else " "
    ratio = "" if each["ratio_to_ours"] is None else f"{each['ratio_to_ours']:.2f}"
    spread = "" if each["ratio_low"] is None else f"{each['ratio_low']:.2f}-{each['ratio_high']:.2f}"
    share = "" if each["gemm_share"] is None else f"{each['gemm_share']:.0%}"
    memory = ["" if each[name] is None else f"{each[name] / 1e6:.0f}" for name in ("peak_bytes", "absolute_bytes")]
    grown = "" if each["exponent"] is None else f"exponent {each['exponent']:.2f}; "
    return (
        f"{each['workload'][:33]:<34}{each['subject'][:33]:<34}{each['inner_rule'] or '':<15}"
        f"{each['precision'] or '':<10}{each['threads'] or '':>3}{seconds:>10}{scaled}{ratio:>9}{spread:>14}"
        f"{each['n_samples'] or '':>4}{'' if each['n_dropped'] is None else each['n_dropped']:>5}{share:>6}"
        f"{memory[0]:>9}{memory[1]:>8}  {grown}{'(busy) ' if each['busy'] else ''}{each['gate'] or ''}"
    )
