"""What is known of a model beside its scores: MMLU and BBH by category, measured here or taken from others.

Size is counted in the checkpoint and next-word loss is a data set of its own (wikitext2); both stand in the table
"model_properties" of a run. What stands here is of no run: the table "benchmark_scores" of an OUT holds for all its
runs, and every row says where it comes from.

Source: Aw et al. 2023 (arXiv 2312.00575v2), App. F (instruct-eval: MMLU over all questions, BBH the mean over tasks).
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq

from harness import tables
from harness.knowledge import Ran
from harness.questions import METRICS, N_SHOTS, PREFIX, Benchmark, category_of, task_of

Row = dict[str, Any]


def rows_of(ran: Ran, benchmark: Benchmark, model: str, revision: str, limit: int | None = None) -> list[Row]:
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
    rows = _aggregated(benchmark, tasks, about, [task_of(benchmark, name) for name in counts])
    return [row | {"cut": ran.cut} for row in rows]


def of_results(file: str, model: str, revision: str, root: Path | None) -> list[Row]:
    """Rows of a results file of lm-evaluation-harness that somebody else made: tasks mmlu_* and bbh_*.

    Args:
        file: its path.
        model: the name under which the model stands in our tables.
        revision: of the checkpoint that was measured; "" where not known.
        root: the data root, whose mmlu/categories.csv says the categories of MMLU; None: only the whole.

    Raises:
        ValueError: if there is no such task in the file.
    """
    results = _read(file)
    version = results.get("lm_eval_version") or results.get("git_hash") or "of an unknown version"
    rows: list[Row] = []
    for benchmark in METRICS:
        counts = _counts(benchmark, results, *_names(benchmark, results))
        if not counts:
            continue
        shots = next((int(n) for name, n in results.get("n-shot", {}).items() if benchmark in name), None)
        about = {
            "model": model, "revision": revision, "n_shots": shots,
            "source": f"lm-evaluation-harness {version}, {file}",
        }  # fmt: skip
        tasks = [(*count, category_of(benchmark, name, root), math.nan) for name, count in counts.items()]
        rows += _aggregated(benchmark, tasks, about, [task_of(benchmark, name) for name in counts])
    if not rows:
        raise ValueError(
            f"{file}: no results of tasks mmlu_* or bbh_*; it has {', '.join(results.get('results', {}))}."
        )
    return rows


def _read(file: str) -> Row:
    try:
        found: Row = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file}: wanted the results of lm-evaluation-harness, an object with `results`.")
    return found


def of_table(file: str, source: str) -> list[Row]:
    """Rows of published values in a CSV: model and a column "mmlu" or "bbh", or model, benchmark, value and more.

    Args:
        file: its path; of the long form also category, task, n, n_shots, low, high, chance, revision.
        source: where the values are published, which stands in every row; a column `source` goes before it.

    Raises:
        ValueError: if a column is missing or a value is no number; what and where.
    """
    with Path(file).open(encoding="utf-8", newline="") as stream:
        reader = csv.DictReader(stream)
        names = list(reader.fieldnames or ())
        lines = list(reader)
    is_long = {"benchmark", "value"} <= set(names)
    wide = [name for name in names if name in METRICS]
    if "model" not in names or not (is_long or wide):
        raise ValueError(
            f"{file}: wanted columns model and mmlu or bbh, or model, benchmark and value; it has {', '.join(names)}."
        )
    rows = []
    for number, line in enumerate(lines, start=2):
        parts = [(line["benchmark"], line["value"])] if is_long else [(name, line[name]) for name in wide]
        for benchmark, value in parts:
            if value.strip():
                rows.append(_published(line, benchmark, value, source, f"{file}, line {number}"))
    if not all(row["source"] for row in rows):
        raise ValueError(f"{file}: where are these values published? Give --source, or a column `source`.")
    return rows


def _published(line: dict[str, str], benchmark: str, value: str, source: str, where: str) -> Row:
    def number(name: str) -> float:
        text = (line.get(name) or "").strip()
        return _number(text, f"{where}: {name}") if text else math.nan

    def whole(name: str) -> int | None:
        return None if math.isnan(number(name)) else int(number(name))

    return {
        "model": line["model"].strip(), "revision": line.get("revision") or "", "benchmark": benchmark,
        "category": line.get("category") or "", "task": line.get("task") or "",
        "metric": line.get("metric") or "accuracy",
        "n_shots": whole("n_shots"), "value": _number(value, f"{where}: value"), "low": number("low"),
        "high": number("high"), "chance": number("chance"), "n": whole("n"), "cut": None,
        "source": line.get("source") or source, "created": _now(),
    }  # fmt: skip


def _number(text: str, what: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"{what} is {text!r}; wanted a number.")
    return found


def _names(benchmark: Benchmark, results: Row) -> tuple[str, ...]:
    """Beginnings of the names of single tasks in a foreign file."""
    found = results.get("results", {})
    if benchmark == "mmlu":
        return (f"{PREFIX}mmlu_", "mmlu_")
    if benchmark == "bbh-choice":
        return (f"{PREFIX}bbh-choice_",)
    return tuple(
        start for start in (f"{PREFIX}bbh_", "bbh_fewshot_", "bbh_cot_fewshot_", "bbh_zeroshot_", "bbh_cot_zeroshot_")
        if any(name.startswith(start) for name in found)
    )[:1]  # fmt: skip


def _counts(benchmark: Benchmark, results: Row, *starts: str) -> dict[str, tuple[float, int]]:
    """Name of each single task -> (share right, questions); groups of tasks, which have no questions, are left out."""
    sizes, found = results.get("n-samples", {}), {}
    for name, values in results.get("results", {}).items():
        start = next((start for start in starts if name.startswith(start)), None)
        metric = next((key for key in values if key.split(",")[0] == METRICS[benchmark]), None)
        if start and metric and name in sizes:
            found[name.removeprefix(start)] = (float(values[metric]), int(sizes[name]["effective"]))
    return found


def _aggregated(
    benchmark: Benchmark, counts: list[tuple[float, int, str, float]], about: Row, tasks: list[str]
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
        value, low, high, n, chance = _pool_all(parts) if benchmark == "mmlu" else _mean(parts)
        rows.append({
            **about, "benchmark": benchmark, "category": category, "task": task, "cut": None,
            "metric": METRICS[benchmark], "value": value, "low": low, "high": high, "chance": chance,
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
