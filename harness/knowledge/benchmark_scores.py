"""Rows of the table "benchmark_scores": MMLU and BBH by category, measured here or imported.

The table belongs to no run; it holds for all runs of an OUT, and every row states its source. Model size (counted in
the checkpoint) and next-word loss (data set wikitext2) are in the table "model_properties" of a run instead.

Source: Aw et al. 2023 (arXiv 2312.00575v2), App. F (instruct-eval: MMLU over all questions, BBH the mean over tasks).
"""

from __future__ import annotations

import hashlib
import io
import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from harness.knowledge import benchmark_results, benchmark_tables
from harness.knowledge.benchmark_tables import Value
from harness.knowledge.lm_eval import LmEvalRun
from harness.knowledge.questions import METRICS, N_SHOTS, PREFIX, Benchmark, category_of, task_of
from harness.storage import tables

Row = dict[str, Any]


def rows_of(ran: LmEvalRun, benchmark: Benchmark, model: str, revision: str, limit: int | None = None) -> list[Row]:
    """Return the rows of a measurement: one per task, one per category and one for the whole benchmark.

    Args:
        ran: result of `lm_eval.run`.
        benchmark: benchmark that was run.
        model: name of the model in the tables.
        revision: revision of the checkpoint.
        limit: maximum number of questions per task, stated in `source`; None if all were used.
    """
    version = ran.results.get("lm_eval_version", "of an unknown version")
    source = f"lm-evaluation-harness {version}, {N_SHOTS[benchmark]} shots, questions of this machine"
    source += f", the first {limit} of each task" if limit else ""
    counts = _counts(benchmark, ran.results, f"{PREFIX}{benchmark}_")
    task_by_name = {task.name: task for task in ran.tasks}
    tasks = [(*count, task_by_name[name].category, task_by_name[name].chance) for name, count in counts.items()]
    about = {"model": model, "revision": revision, "source": source, "n_shots": N_SHOTS[benchmark]}
    names = [task_of(benchmark, name) for name in counts]
    rows = _aggregated(benchmark, tasks, about, names, METRICS[benchmark])
    return [row | {"truncated": ran.truncated} for row in rows]


def of_results(file: str, model: str, revision: str, root: Path | None) -> list[Row]:
    """Return the rows of an existing results file of lm-evaluation-harness.

    Args:
        file: path of the file.
        model: name of the model in the tables.
        revision: revision of the measured checkpoint; "" if unknown.
        root: data root, whose mmlu/categories.csv gives the MMLU categories; None for the whole benchmark only.

    Raises:
        ValueError: as `benchmark_results.read`.
    """
    results, version = benchmark_results.read(file)
    rows: list[Row] = []
    source = f"lm-evaluation-harness {version}, {file}"
    for result in results:
        about = {"model": model, "revision": revision, "n_shots": result.n_shots, "source": source}
        tasks = [
            (task.accuracy, task.n, category_of(result.kind, task.task, root) if result.kind else "", math.nan)
            for task in result.tasks
        ]
        names = [task_of(result.kind or "mmlu", task.task) for task in result.tasks]
        rows += _aggregated(result.benchmark, tasks, about, names, result.metric)
    return rows


def of_table(file: str, source: str, *, percent: bool = False, encoding: str | None = None) -> list[Row]:
    """Return the rows of a CSV of published values.

    Args:
        file: path of the CSV, in a form that `benchmark_tables.read` accepts.
        source: publication, stored in every row; a column `source` takes precedence.
        percent: whether the values are percentages.
        encoding: encoding of the file, if it is not UTF-8 and does not state it.

    Raises:
        ValueError: naming file, line and column, if a column is missing or a value is not a number or not a fraction.
    """
    values = benchmark_tables.read(file, tuple(METRICS), percent=percent, encoding=encoding)
    rows = [_published(value, source) for value in values]
    if not all(row["source"] for row in rows):
        raise ValueError(f"{file}: where are these values published? Give --source, or a column `source`.")
    return rows


def _published(value: Value, source: str) -> Row:
    numbers = {name: value.numbers.get(name, math.nan) for name in ("low", "high", "chance")}
    texts = {name: value.texts.get(name, "") for name in ("revision", "category", "task")}
    return {
        "model": value.model, "benchmark": value.benchmark, **texts, "metric": value.texts.get("metric") or "accuracy",
        "n_shots": value.whole.get("n_shots"), "value": value.value, **numbers, "n": value.whole.get("n"),
        "truncated": None, "source": value.texts.get("source") or source, "created": _now(),
    }  # fmt: skip


def _counts(benchmark: Benchmark, results: Row, start: str) -> dict[str, tuple[float, int]]:
    """Return task -> (fraction correct, number of questions) for the harness's own tasks in the results."""
    sizes, counts = results.get("n-samples", {}), {}
    for name, values in results.get("results", {}).items():
        metric = next((key for key in values if key.split(",")[0] == METRICS[benchmark]), None)
        if name.startswith(start) and metric and name in sizes:
            counts[name.removeprefix(start)] = (float(values[metric]), int(sizes[name]["effective"]))
    return counts


def _aggregated(
    benchmark: str, counts: list[tuple[float, int, str, float]], about: Row, tasks: list[str], metric: str
) -> list[Row]:
    """Return rows for tasks, categories and the whole, from (fraction correct, n, category, chance) per file."""
    by_task: dict[str, list[tuple[float, int, str, float]]] = defaultdict(list)
    for task, count in zip(tasks, counts, strict=True):
        by_task[task].append(count)
    pooled = {task: (_pool(parts), parts[0][2]) for task, parts in by_task.items()}
    groups = {("", ""): list(pooled)}
    for task, (_, category) in pooled.items():
        groups[category, task] = [task]
        if category:
            groups.setdefault((category, ""), []).append(task)
    rows = []
    for (category, task), members in sorted(groups.items()):
        results = [pooled[name][0] for name in members]
        value, low, high, n, chance = _pool_all(results) if benchmark.startswith("mmlu") else _mean(results)
        rows.append({
            **about, "benchmark": benchmark, "category": category, "task": task, "truncated": None,
            "metric": metric, "value": value, "low": low, "high": high, "chance": chance,
            "n": n, "created": _now(),
        })  # fmt: skip
    return rows


def _pool(counts: list[tuple[float, int, str, float]]) -> tuple[float, int, float]:
    """Pool the sizes of one task: (number correct, n, chance)."""
    n = sum(count[1] for count in counts)
    return sum(count[0] * count[1] for count in counts), n, sum(count[3] * count[1] for count in counts) / n


def _pool_all(results: list[tuple[float, int, float]]) -> tuple[float, float, float, int, float]:
    """Accuracy over all questions, with Wilson's 95 % interval."""
    right, n = sum(result[0] for result in results), sum(result[1] for result in results)
    low, high = _wilson(right, n)
    return right / n, low, high, n, sum(result[2] * result[1] for result in results) / n


def _wilson(right: float, n: int) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(round(right), n, method="wilson")
    return float(low), float(high)


def _mean(results: list[tuple[float, int, float]]) -> tuple[float, float, float, int, float]:
    """Mean over tasks; the 95 % interval combines Wilson's of each task (Zou & Donner 2008), so 0 correct has width."""
    accuracies = [right / n for right, n, _ in results]
    intervals = [_wilson(right, n) for right, n, _ in results]
    value, k = sum(accuracies) / len(results), len(results)
    down, up = (
        math.sqrt(sum((accuracy - ends[side]) ** 2 for accuracy, ends in zip(accuracies, intervals, strict=True))) / k
        for side in (0, 1)
    )
    return value, value - down, value + up, sum(n for _, n, _ in results), sum(chance for _, _, chance in results) / k


def store(out: str, rows: Iterable[Row]) -> list[str]:
    """Add rows to the table "benchmark_scores" of an OUT, one file per model, benchmark and source; return paths."""
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(out)
    groups: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["model"], row["benchmark"], row["source"]].append(row)
    written = []
    for (model, benchmark, source), group in groups.items():
        folder = f"{root}/tables/benchmark_scores/model={quote(model, safe='')}"
        filesystem.makedirs(folder, exist_ok=True)
        digest = hashlib.sha256(f"{group[0]['revision']} {source}".encode()).hexdigest()[:12]
        path = f"{folder}/{quote(benchmark, safe='')}-{digest}.parquet"
        content = io.BytesIO()
        pq.write_table(tables.rows_to_arrow("benchmark_scores", group).drop_columns(["model"]), content)
        filesystem.pipe_file(f"{path}.aside", content.getvalue())
        filesystem.mv(f"{path}.aside", path)
        written.append(path)
    return written


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
