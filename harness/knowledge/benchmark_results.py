"""Read results files of lm-evaluation-harness (0.3 to 0.4.13) and of both Open LLM leaderboards.

Different prompting or scoring makes a different benchmark: MMLU scored by the text of the answers ("continuation"), by
generated answers or with reasoning; BBH with reasoning or as multiple choice; MMLU-Pro. Each has its own name in the
tables; only results measured as the harness measures them are called "mmlu" and "bbh".

Source: the task files and `evaluator.py` of lm-evaluation-harness 0.2.0 to 0.4.13. Version 0 of hendrycksTest (until
May 2023) scored the text of the answers; the files state question counts since 0.4.3.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from harness.delimited.encodings import TextSource, text_of
from harness.knowledge.questions import PREFIX, TASKS, csv_rows

logger = logging.getLogger(__name__)

_TOLERANCE = 0.05  # allowed relative deviation of a standard error from the one for the published number of questions
_OMITTED_FILTERS = {"none", "get-answer", "get_response", "custom-extract", ""}


@dataclass(frozen=True)
class BenchmarkFamily:
    """A group of lm-evaluation-harness tasks that form one benchmark.

    Attributes:
        benchmark: name in the tables.
        pattern: regular expression for task names; its group is the subject or task of the benchmark.
        metric: metric of correct answers, without its filter.
        kind: "mmlu" or "bbh" if the tasks have its subjects; else "".
    """

    benchmark: str
    pattern: str
    metric: str
    kind: str


# The first match counts.
FAMILIES = tuple(BenchmarkFamily(**row) for row in csv_rows(Path(__file__).with_name("benchmark_families.csv")))
_ANSWER_TEXT = "mmlu-answer-text"


class Measured(NamedTuple):
    """Result of one task. accuracy: fraction of correct answers. n: number of questions."""

    task: str
    accuracy: float
    n: int


class Results(NamedTuple):
    """Results of one benchmark. kind: as in `BenchmarkFamily`. n_shots: examples per question; None if unknown."""

    benchmark: str
    kind: str
    metric: str
    n_shots: int | None
    tasks: list[Measured]


def read(file: str) -> tuple[list[Results], str]:
    """Read a results file.

    Returns:
        The results by benchmark, and the version of the program that wrote the file.

    Raises:
        ValueError: naming file and task, if a value is not a fraction, a task has no questions or appears twice, tasks
            of one benchmark have different numbers of examples, or no task is known.
    """
    content = _json(file)
    by_benchmark: dict[tuple[str, str, str], dict[str, tuple[str, float]]] = defaultdict(dict)
    unknown = []
    for name, values in content["results"].items():
        family, task = _family_of(name)
        if family is None or not isinstance(values, dict):
            unknown.append(name)
            continue
        benchmark = _ANSWER_TEXT if content.get("versions", {}).get(name) == 0 and "hendrycks" in name else ""
        for suffix, accuracy in _accuracies(file, name, values, family.metric).items():
            task_results = by_benchmark[(benchmark or family.benchmark) + suffix, family.kind, family.metric]
            if task in task_results:
                raise ValueError(f"{file}: {task} appears twice, as {task_results[task][0]} and {name}; leave one out.")
            task_results[task] = (name, accuracy)
    if not by_benchmark:
        shown = ", ".join(unknown[:8]) + (", ..." if len(unknown) > 8 else "")
        raise ValueError(
            f"{file}: no results of tasks mmlu_* or bbh_* that are known; it has {shown or 'none'} (the value of a "
            "group is not enough: results of its single tasks are needed)."
        )
    results = [_results(file, content, key, tasks) for key, tasks in by_benchmark.items()]
    _log_notes(file, content, results)
    return results, str(content.get("lm_eval_version") or content.get("git_hash") or "of an unknown version")


def _json(file: str) -> dict[str, Any]:
    try:
        content = json.loads(text_of(TextSource(file)))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("results"), dict):
        raise ValueError(f"{file}: expected the results of lm-evaluation-harness, an object with `results`.")
    return content


def _family_of(name: str) -> tuple[BenchmarkFamily | None, str]:
    """Return a task's family and its subject or task of the benchmark; None for groups and other benchmarks."""
    for family in FAMILIES:
        match = re.fullmatch(family.pattern, name)
        if match and (not family.kind or name.startswith(PREFIX) or match[1] in sizes(family.kind)):
            return family, match[1]
    return None, ""


def _accuracies(file: str, name: str, values: dict[str, Any], metric: str) -> dict[str, float]:
    """Return filter suffix -> fraction of correct answers; the suffix is empty if there is only one filter."""
    by_filter = {key.partition(",")[2]: value for key, value in values.items() if key.partition(",")[0] == metric}
    if not by_filter:
        metrics = ", ".join(key for key in values if "stderr" not in key and key != "alias")
        raise ValueError(f"{file}: {name} has no {metric}; it has {metrics or 'nothing'}.")
    for value in by_filter.values():
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise ValueError(
                f"{file}: {metric} of {name} is {value!r}; expected a fraction of correct answers; remove the task or "
                "measure it again."
            )
        if not 0 <= value <= 1:
            raise ValueError(
                f"{file}: {metric} of {name} is {value}, which is not a fraction between 0 and 1; divide percentages "
                "by 100."
            )
    omitted = set(by_filter) if len(by_filter) == 1 else _OMITTED_FILTERS
    return {"" if name in omitted else f"-{name}": float(value) for name, value in by_filter.items()}


def _results(
    file: str, content: dict[str, Any], key: tuple[str, str, str], tasks: dict[str, tuple[str, float]]
) -> Results:  # fmt: skip
    benchmark, kind, metric = key
    shots = {name: n for name, _ in tasks.values() if (n := _n_shots(content, name)) is not None}
    if len(set(shots.values())) > 1:
        (first, n), (second, m) = [min(shots.items(), key=lambda item: item[1]), max(shots.items(), key=lambda i: i[1])]
        raise ValueError(f"{file}: {first} was measured with {n} examples, {second} with {m}; split the file in two.")
    rows = [Measured(task, accuracy, _n(file, content, name, task, kind)) for task, (name, accuracy) in tasks.items()]
    return Results(benchmark, kind, metric, next(iter(shots.values()), None), rows)


def _n_shots(content: dict[str, Any], name: str) -> int | None:
    """Return the number of examples per question, wherever the file states it; None if it does not."""
    stated = [
        content.get("n-shot", {}).get(name), content.get("configs", {}).get(name, {}).get("num_fewshot"),
        name.rpartition("|")[2] if "|" in name else None, content.get("config", {}).get("num_fewshot"),
    ]  # fmt: skip
    texts = [str(value).strip() for value in stated if value is not None]
    return next((int(value) for value in texts if value.isdigit()), None)


def _n(file: str, content: dict[str, Any], name: str, task: str, kind: str) -> int:
    """Return the number of questions of a task as stated in the file, else in the published test set."""
    stated = (content.get("n-samples") or {}).get(name)
    if isinstance(stated, dict):
        effective, original = stated.get("effective"), stated.get("original")
        if isinstance(effective, float) and 0 < effective < 1 and original:  # a fractional limit, since 0.4.3
            return math.ceil(int(original) * effective)
        if not isinstance(effective, int | float) or effective < 1:
            raise ValueError(f"{file}: {name} has {effective} questions (n-samples); remove the task from the file.")
        return int(effective)
    published = sizes(kind).get(task) if kind else None
    if published is None:
        raise ValueError(f"{file}: the number of questions of {name} is not stated (n-samples); add it to the file.")
    limit = float((content.get("config") or {}).get("limit") or 0)
    n = published if not limit else min(published, math.ceil(published * limit) if limit < 1 else int(limit))
    _require_agreement(file, name, content["results"][name], n)
    return n


def _require_agreement(file: str, name: str, values: dict[str, Any], n: int) -> None:
    """Raise if a standard error belongs to another number of questions."""
    accuracy = next((value for key, value in values.items() if key.partition(",")[0] in {"acc", "acc_norm"}), None)
    error = next((value for key, value in values.items() if key.partition(",")[0].endswith("acc_stderr")), None)
    if isinstance(accuracy, float) and isinstance(error, float) and error > 0 and 0 < accuracy < 1 and n > 1:
        expected = math.sqrt(accuracy * (1 - accuracy) / (n - 1))
        if abs(error - expected) > _TOLERANCE * expected:
            n_implied = round(accuracy * (1 - accuracy) / error**2 + 1)
            raise ValueError(
                f"{file}: the standard error of {name} is that of about {n_implied} questions, but its test set has "
                f"{n}; add the number of questions to the file (n-samples)."
            )


@cache
def sizes(kind: str) -> dict[str, int]:
    """Return task -> number of questions in the published test set of "mmlu" or "bbh"."""
    return {row["task"]: int(row["n"]) for row in csv_rows(TASKS) if row["benchmark"] == kind}


def _log_notes(file: str, content: dict[str, Any], results: list[Results]) -> None:
    for result in results:
        if result.kind and len(result.tasks) < len(sizes(result.kind)):
            n = len(sizes(result.kind))
            logger.warning("%s: %s: %d of %d tasks.", file, result.benchmark, len(result.tasks), n)
        if result.benchmark not in {"mmlu", "bbh", "bbh-choice"}:
            message = "%s: %s is measured differently from ours and kept under its own name."
            logger.warning(message, file, result.benchmark)
    if not content.get("n-samples"):
        logger.warning("%s: no question counts are stated; those of the published test sets are used.", file)
