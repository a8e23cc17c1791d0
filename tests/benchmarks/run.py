"""Side-by-side timings from one run: a table and benchmarks.json. `make bench`; no shared data are needed.

The task: for one layer, five contiguous outer folds and twelve alphas, an alpha per neuroid by the stated inner rule,
and Pearson's r of the held-out predictions per neuroid and fold. Every call has a process of its own; subjects take
turns; ratios are of calls in the same round. No time counts before its gate has opened: the same alphas, the same r.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import measure
import numpy as np
import table
from rounds import say, time_workload
from workloads import WORKLOADS, growth, quick

EXPECTED = "about 25 minutes on two cores that compute 100 GFLOP/s in float64; progress follows"
PARTS = ("gates", *(each.name for each in WORKLOADS), "growth", "extraction", "gpu")
# Most memory in use that ours may take, with data and libraries.
MOST_BYTES = {"wide": 4e9, "W7": 6e9}


def main() -> int:
    """Run the chosen parts; 1 where a gate failed."""
    arguments = _arguments()
    sys.path.insert(0, str(measure.ROOT))  # the kernels of this tree, whatever is installed
    say(f"expected: {'two minutes, more where others compute' if arguments.quick else EXPECTED}")
    rows, rates = _machine(arguments.quick)
    chosen = arguments.only or PARTS
    if "gates" in chosen:
        rows += _gates()
    for workload in WORKLOADS:
        if workload.name in chosen:
            rows += _workload(workload, arguments, rates)
    if "growth" in chosen:
        rows += _growth(arguments.quick, rates)
    if "extraction" in chosen:
        rows += _extraction(arguments.quick, rates)
    not_run = _gpu(arguments.quick, rows) if "gpu" in chosen else "gpu: not asked for"
    arguments.out.write_text(json.dumps(rows, indent=1))
    table.show(rows)
    print(f"{not_run}\nwritten to {arguments.out}" if not_run else f"written to {arguments.out}")
    return 1 if table.failures(rows) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="everything in miniature, one round: does it run at all?")
    parser.add_argument("--only", type=lambda text: text.split(","), help=f"some of {','.join(PARTS)}")
    parser.add_argument("--repeats", type=int, help="rounds, in place of each workload's own number")
    parser.add_argument("--out", type=Path, default=Path("benchmarks.json"))
    found = parser.parse_args()
    unknown = set(found.only or ()) - set(PARTS)
    if unknown:
        parser.error(f"--only: no part called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    return found


def _machine(is_quick: bool) -> tuple[list[dict[str, Any]], dict[tuple[str, int], float]]:
    """What the machine can do at best: rows, and GFLOP/s by type and threads."""
    rows, rates = [], {}
    settings = {"gemm": 256, "eigh": (60,)} if is_quick else {"gemm": 2048, "eigh": (307, 501, 1036)}
    common = {"benchmark": "machine", "workload": "peaks", "machine": measure.machine()}
    for threads in (1, 2):
        found = measure.run("measure:peaks", threads, settings)["said"]
        for name, rate in found["gflops"].items():
            rates[name, threads] = rate
            rows.append(table.row(**common, subject=f"GEMM {name}", precision=name, threads=threads, gflops=rate))
        for n, seconds in found["eigh_s"].items():
            rows.append(
                table.row(**common, subject=f"eigh n={n}", precision="float64", threads=threads, seconds=seconds)
            )
    say("GEMM peaks, GFLOP/s: " + ", ".join(f"{name} {n} threads {rate:.0f}" for (name, n), rate in rates.items()))
    return rows, rates


def _gates() -> list[dict[str, Any]]:
    """Correctness on small data, one process for all."""
    installed = [name for name in ("sklearn", "torch", "himalaya") if importlib.util.find_spec(name)]
    found = measure.run("gates:first", 1, {"installed": installed})
    if "error" in found:
        return [_failed("gate", "small data", found["error"])]
    rows = [table.row(benchmark="gate", machine=measure.machine(), **each) for each in found["said"]]
    for each in rows:
        subject = f"{each['workload']}: {each['subject']}, {each['inner_rule']}"
        say(f"gate: {subject}: {each['gate']} {each['setting'] or ''}")
    return rows


def _workload(workload: Any, arguments: argparse.Namespace, rates: dict[tuple[str, int], float]) -> list[Any]:
    """One of W1 to W7, or the wide one; those that must keep within their memory are judged by it too."""
    if arguments.quick:
        workload = quick(workload)
    if arguments.repeats:
        workload = replace(workload, repeats=arguments.repeats, budget_s=float("inf"))
    say(f"{workload}: data are made, peers tuned")
    rows = time_workload(workload, "ridge", rates)
    most = MOST_BYTES.get(workload.name, float("inf"))
    for each in rows:
        if each["subject"].startswith("ours") and (each["absolute_bytes"] or 0) > most:
            each["gate"] = f"FAILED: {each['absolute_bytes'] / 1e9:.1f} GB in use, wanted under {most / 1e9:.0f}"
    return rows


def _growth(is_quick: bool, rates: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """Ours along each axis, four points each and the slope between them."""
    points: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for axis, workload in growth(is_quick):
        found = time_workload(workload, "growth", rates)[0]
        points.setdefault(axis, []).append((getattr(workload, axis.split(",")[0]), found))
    rows = []
    for axis, found in points.items():
        rows += [each for _, each in found]
        good = [(size, each["seconds"]) for size, each in found if each["seconds"]]
        slope = float(np.polyfit(*np.log(good).T, 1)[0]) if len(good) > 1 else None
        last = {key: found[-1][1][key] for key in ("subject", "inner_rule", "precision", "threads", "machine")}
        rows.append(table.row(benchmark="growth", workload=f"growth in {axis}", exponent=slope, **last))
        say(f"growth in {axis}: " + ", ".join(f"{size:,} {s:.3f} s" for size, s in good) + f"; exponent {slope:.2f}")
    return rows


def _extraction(is_quick: bool, rates: dict[tuple[str, int], float]) -> list[dict[str, Any]]:
    """One pass over a story against the growing context, and growth; one process for each number of threads."""
    import extraction

    rows: list[dict[str, Any]] = []
    sizes = extraction.SMALL if is_quick else extraction.SIZES
    for threads in (1,) if is_quick else (1, 2):
        settings = {"n_words": 30 if is_quick else None, "every": 1 if is_quick else 16, "repeats": 1,
                    "sizes": sizes}  # fmt: skip
        found = measure.run("extraction:one_pass", threads, settings)
        if "error" in found:
            rows.append(_failed("extraction", "one pass", found["error"]))
            continue
        said = found["said"]
        workload, rate = said["workload"], f"{said['n_tokens'] / said['ours']:.0f} tokens"
        gate = "passed" if said["passed"] else f"FAILED: the states differ by {said['worst']:.0e}"
        share = said["flops"] / said["ours"] / 1e9 / rates["float32", threads]
        common = {"benchmark": "extraction", "workload": workload, "precision": "float32", "threads": threads,
                  "gate": gate, "machine": measure.machine(), "n_samples": len(said["ratios"])}  # fmt: skip
        timed = f"every {settings['every']}. word timed, times {settings['every']}" if settings["every"] > 1 else None
        rows += [
            table.row(**common, subject="ours", seconds=said["ours"], ratio_to_ours=1.0, gemm_share=share,
                      setting=f"{rate} a second"),
            table.row(**common, subject="growing context", seconds=said["theirs"], setting=timed,
                      ratio_to_ours=float(np.median(said["ratios"])), ratio_low=min(said["ratios"]),
                      ratio_high=max(said["ratios"])),
        ]  # fmt: skip
        say(f"{workload}, {threads} threads: {gate} (largest difference {said['worst']:.0e}), "
            f"{np.median(said['ratios']):.0f} times, {rate}/s, {share:.0%} of the GEMM rate")  # fmt: skip
    axes = {"tokens": [64, 128, 256, 512, 1024], "width": [128, 256, 512, 1024], "layers": [2, 4, 8, 16]}
    for axis, points in axes.items():
        rows += _extraction_growth(axis, points[: 2 if is_quick else None], sizes, rates)
    return rows


def _extraction_growth(
    axis: str, points: list[int], sizes: dict[str, int], rates: dict[tuple[str, int], float]
) -> list[dict[str, Any]]:
    """Seconds of one pass along an axis, and the slope of their logarithms."""
    found = measure.run("extraction:growth", 1, {"axis": axis, "points": points, "sizes": sizes})
    if "error" in found:
        return [_failed("extraction", f"growth in {axis}", found["error"])]
    said = found["said"]
    common = {"benchmark": "extraction", "subject": "ours", "precision": "float32", "threads": 1,
              "machine": measure.machine()}  # fmt: skip
    rows = [
        table.row(**common, workload=f"one pass, {axis} {point}", seconds=seconds,
                  gemm_share=flops / seconds / 1e9 / rates["float32", 1])
        for point, seconds, flops in zip(points, said["seconds"], said["flops"], strict=True)
    ]  # fmt: skip
    slope = float(np.polyfit(np.log(points), np.log(said["seconds"]), 1)[0])
    say(f"growth in {axis}: " + ", ".join(f"{p} {s:.3f} s" for p, s in zip(points, said["seconds"], strict=True))
        + f"; exponent {slope:.2f}")  # fmt: skip
    return [*rows, table.row(**common, workload=f"growth in {axis}", exponent=slope)]


def _gpu(is_quick: bool, rows: list[dict[str, Any]]) -> str | None:
    """Add the rows of a GPU; why there are none, where there are none."""
    found = measure.run("gpu:everything", 1 if is_quick else 2, {"is_quick": is_quick})
    if "error" in found:
        rows.append(_failed("gpu", "gpu", found["error"]))
        return None
    rows += [table.row(**each) for each in found["said"]["rows"]]
    return found["said"]["not_run"]


def _failed(benchmark: str, workload: str, why: str) -> dict[str, Any]:
    say(f"{workload}: {why}")
    about = {"benchmark": benchmark, "workload": workload, "machine": measure.machine()}
    return table.row(**about, subject="-", gate=f"FAILED: {why}")


if __name__ == "__main__":
    sys.exit(main())
