"""What is known of a model beside its scores: MMLU and BBH by category, measured here or taken from others.

Size is counted in the checkpoint and next-word loss is a data set of its own (wikitext2); both stand in the table
"model_properties" of a run. What stands here is of no run: the table "benchmark_scores" of an OUT holds for all its
runs, and every row says where it comes from.

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
    """Rows of "benchmark_scores" of what was just measured: of each task, each category, and the whole.

    Args:
        ran: as `knowledge.run` gives it.
        benchmark: which.
        model: the name under which the model stands in our tables.
        revision: of the checkpoint.
        limit: how many questions of each task were asked at most, which is said in `source`.
    """
    version = ran.results.get("lm_eval_version", "of an unknown version")
    source = f"lm-evaluation-harness {version}, {N_SHOTS[benchmark]} shots, questions of this machine"
    source += f", the first {limit} of each task" if limit else ""
    counts = _counts(benchmark, ran.results, f"{PREFIX}{benchmark}_")
    known = {task.name: task for task in ran.tasks}
    tasks = [(*count, known[name].category, known[name].chance) for name, count in counts.items()]
    about = {"model": model, "revision": revision, "source": source, "n_shots": N_SHOTS[benchmark]}
    names = [task_of(benchmark, name) for name in counts]
    rows = _aggregated(benchmark, tasks, about, names, METRICS[benchmark])
    return [row | {"cut": ran.cut} for row in rows]


def of_results(file: str, model: str, revision: str, root: Path | None) -> list[Row]:
    """Rows of a results file of lm-evaluation-harness that somebody else made: tasks of MMLU, BBH and their like.

    Args:
        file: its path.
        model: the name under which the model stands in our tables.
        revision: of the checkpoint that was measured; "" where not known.
        root: the data root, whose mmlu/categories.csv says the categories of MMLU; None: only the whole.

    Raises:
        ValueError: as `benchmark_results.read`.
    """
    results, version = benchmark_results.read(file)
    rows: list[Row] = []
    for each in results:
        about = {
            "model": model, "revision": revision, "n_shots": each.n_shots,
            "source": f"lm-evaluation-harness {version}, {file}",
        }  # fmt: skip
        categories = [category_of(each.kind, task.task, root) if each.kind else "" for task in each.tasks]
        tasks = [
            (task.accuracy, task.n, category, math.nan) for task, category in zip(each.tasks, categories, strict=True)
        ]
        names = [task_of(each.kind or "mmlu", task.task) for task in each.tasks]
        rows += _aggregated(each.benchmark, tasks, about, names, each.metric)
    return rows


def of_table(file: str, source: str, *, percent: bool = False, encoding: str | None = None) -> list[Row]:
    """Rows of published values in a CSV: model and a column "mmlu" or "bbh", or model, benchmark, value and more.

    Args:
        file: its path, and its form, as of `benchmark_tables.read`.
        source: where the values are published, which stands in every row; a column `source` goes before it.
        percent: whether values are percent.
        encoding: of a file that is not UTF-8 and does not state its own.

    Raises:
        ValueError: if a column is missing, or a value is no number or no share of 1; what and where.
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
        "n_shots": value.whole.get("n_shots"), "value": value.value, **numbers, "n": value.whole.get("n"), "cut": None,
        "source": value.texts.get("source") or source, "created": _now(),
    }  # fmt: skip


def _counts(benchmark: Benchmark, results: Row, start: str) -> dict[str, tuple[float, int]]:
    """Name of each single task of our own -> (share right, questions)."""
    sizes, found = results.get("n-samples", {}), {}
    for name, values in results.get("results", {}).items():
        metric = next((key for key in values if key.split(",")[0] == METRICS[benchmark]), None)
        if name.startswith(start) and metric and name in sizes:
            found[name.removeprefix(start)] = (float(values[metric]), int(sizes[name]["effective"]))
    return found


def _aggregated(
    benchmark: str, counts: list[tuple[float, int, str, float]], about: Row, tasks: list[str], metric: str
) -> list[Row]:
    """Rows of tasks, categories and the whole, from (share right, n, category, chance) of each file of questions."""
    of_task: dict[str, list[tuple[float, int, str, float]]] = defaultdict(list)
    for task, count in zip(tasks, counts, strict=True):
        of_task[task].append(count)
    pooled = {task: (_pool(parts), parts[0][2]) for task, parts in of_task.items()}
    groups = {("", ""): list(pooled)}
    for task, (_, category) in pooled.items():
        groups[category, task] = [task]
        if category:
            groups.setdefault((category, ""), []).append(task)
    rows = []
    for (category, task), members in sorted(groups.items()):
        parts = [pooled[name][0] for name in members]
        value, low, high, n, chance = _pool_all(parts) if benchmark.startswith("mmlu") else _mean(parts)
        rows.append({
            **about, "benchmark": benchmark, "category": category, "task": task, "cut": None,
            "metric": metric, "value": value, "low": low, "high": high, "chance": chance,
            "n": n, "created": _now(),
        })  # fmt: skip
    return rows


def _pool(parts: list[tuple[float, int, str, float]]) -> tuple[float, int, float]:
    """(right, n, chance) over the sizes of one task."""
    n = sum(part[1] for part in parts)
    return sum(part[0] * part[1] for part in parts), n, sum(part[3] * part[1] for part in parts) / n


def _pool_all(parts: list[tuple[float, int, float]]) -> tuple[float, float, float, int, float]:
    """Over all questions, with Wilson's 95 % interval."""
    right, n = sum(part[0] for part in parts), sum(part[1] for part in parts)
    low, high = _wilson(right, n)
    return right / n, low, high, n, sum(part[2] * part[1] for part in parts) / n


def _wilson(right: float, n: int) -> tuple[float, float]:
    from statsmodels.stats.proportion import proportion_confint

    low, high = proportion_confint(round(right), n, method="wilson")
    return float(low), float(high)


def _mean(parts: list[tuple[float, int, float]]) -> tuple[float, float, float, int, float]:
    """Mean over tasks; its 95 % interval from Wilson's of each (Zou & Donner 2008), which is none of nothing at 0."""
    shares = [right / n for right, n, _ in parts]
    ends = [_wilson(right, n) for right, n, _ in parts]
    value, k = sum(shares) / len(parts), len(parts)
    down, up = (
        math.sqrt(sum((share - end[side]) ** 2 for share, end in zip(shares, ends, strict=True))) / k for side in (0, 1)
    )
    return value, value - down, value + up, sum(n for _, n, _ in parts), sum(chance for _, _, chance in parts) / k


def store(out: str, rows: Iterable[Row]) -> list[str]:
    """Add rows to the table "benchmark_scores" of an OUT, one file for each model and benchmark; their paths."""
    import fsspec

    filesystem, root = fsspec.core.url_to_fs(out)
    parts: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in rows:
        parts[row["model"], row["benchmark"], row["source"]].append(row)
    written = []
    for (model, benchmark, source), part in parts.items():
        folder = f"{root}/tables/benchmark_scores/model={quote(model, safe='')}"
        filesystem.makedirs(folder, exist_ok=True)
        digest = hashlib.sha256(f"{part[0]['revision']} {source}".encode()).hexdigest()[:12]
        path = f"{folder}/{quote(benchmark, safe='')}-{digest}.parquet"
        content = io.BytesIO()
        pq.write_table(tables.rows_to_arrow("benchmark_scores", part).drop_columns(["model"]), content)
        filesystem.pipe_file(f"{path}.aside", content.getvalue())
        filesystem.mv(f"{path}.aside", path)
        written.append(path)
    return written


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
