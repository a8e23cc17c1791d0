"""Write MMLU and BBH questions from the data root as tasks for lm-evaluation-harness; categories and chance levels.

Prompts, few-shot examples and scoring are those of lm-evaluation-harness, whose task files are included. Only the
questions come from files under the data root, so no network is needed.

Source: Hendrycks et al. 2021 (MMLU), Suzgun et al. 2022 (BIG-Bench Hard); categories of Aw et al. 2023 (arXiv
2312.00575v2), Table 2.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

TASKS = Path(__file__).with_name("benchmark_sizes.csv")
# Tasks with versions for 3, 5 and 7 objects count as one task with the questions of all three.
_SIZED = re.compile(r"_(three|five|seven)_objects$")
Benchmark = Literal["mmlu", "bbh", "bbh-choice"]
# bbh-choice scores the most likely of the offered answers; bbh scores the answer that the model writes. A model without
# any knowledge is at chance in the first and at 0 in the second.
N_SHOTS: dict[Benchmark, int] = {"mmlu": 5, "bbh": 3, "bbh-choice": 3}
METRICS: dict[Benchmark, str] = {"mmlu": "acc", "bbh": "exact_match", "bbh-choice": "acc"}
PREFIX = "brain_"  # distinguishes these task names from lm-evaluation-harness' own
_LETTERED = re.compile(r"^\([A-Z]\)", re.MULTILINE)
MAX_ANSWERS = 3  # a task without lettered options is multiple choice if it has at most this many different answers


@dataclass(frozen=True)
class Task:
    """One task, or one size of it.

    Attributes:
        name: name in the question files.
        task: name with all sizes joined.
        category: category in the benchmark; "" if unknown.
        n: number of questions.
        chance: expected fraction correct when guessing among the offered answers; 0 if answers are free text.
    """

    name: str
    task: str
    category: str
    n: int
    chance: float


def task_of(benchmark: str, name: str) -> str:
    """Return the task that a question file or result belongs to, joining sizes."""
    return name if benchmark == "mmlu" else _SIZED.sub("", name)


def category_of(benchmark: str, name: str, root: Path | None = None) -> str:
    """Return the category of a task; "" if unknown (for MMLU: if the data root lacks categories.csv)."""
    if benchmark == "mmlu":
        return _mmlu_categories(root).get(name, "") if root else ""
    return bbh_categories().get(task_of("bbh", name), "")


@cache
def bbh_categories() -> dict[str, str]:
    """Return task -> category of BBH in the paper."""
    return {task_of("bbh", row["task"]): row["category"] for row in csv_rows(TASKS) if row["benchmark"] == "bbh"}


def write_tasks(benchmark: Benchmark, root: Path, folder: Path) -> list[Task]:
    """Write a task file and the questions of each task into a folder for `lm_eval --include_path`.

    Args:
        benchmark: benchmark to write.
        root: the data root, with questions in root/mmlu/test, root/mmlu/dev and root/bbh/bbh.
        folder: output folder.

    Raises:
        FileNotFoundError: if there are no questions under the root; the message says where they are published.
        ModuleNotFoundError: if lm-evaluation-harness is not installed.
    """
    tasks = []
    for name, splits in sorted((_mmlu if benchmark == "mmlu" else _bbh)(root)):
        rows, task_file = splits["test"], _included_task_file(benchmark, name)
        offered = _offered(rows) if benchmark == "bbh-choice" else []
        if benchmark == "bbh-choice" and not offered:
            continue  # free-text answers
        for row, choices in zip(rows, offered, strict=False):
            row["choices"] = choices
        files = {split: str(folder / f"{name}.{split}.jsonl") for split in splits}
        for split, file in files.items():
            Path(file).write_text("".join(f"{json.dumps(row)}\n" for row in splits[split]), encoding="utf-8")
        task = {
            "include": str(task_file), "task": f"{PREFIX}{benchmark}_{name}", "tag": None,
            "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
            **(_multiple_choice_settings(task_file) if offered else {}),
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
        category = category_of(benchmark, name, root)
        tasks.append(Task(name, task_of(benchmark, name), category, len(rows), chance(benchmark, rows)))
    return tasks


def _included_task_file(benchmark: str, name: str) -> Path:
    """Return the path of lm-evaluation-harness' own task file."""
    import importlib.util

    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "lm-evaluation-harness is not installed: pip install 'brain-alignment-harness[knowledge]'."
        )
    tasks = Path(spec.submodule_search_locations[0]) / "tasks"
    return tasks / (f"mmlu/default/mmlu_{name}.yaml" if benchmark == "mmlu" else f"bbh/fewshot/{name}.yaml")


def chance(benchmark: str, rows: list[dict[str, Any]]) -> float:
    """Expected fraction correct when guessing: 1 of 4, 1 of the lettered options, or 1 of a few answers (yes, no)."""
    if benchmark == "mmlu":
        return 0.25
    offered = _offered(rows)
    return sum(1 / len(choices) for choices in offered) / len(rows) if offered else 0.0


def _offered(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return the answers that each question of a BBH task offers; [] if answers are free text."""
    lettered = [_LETTERED.findall(row["input"]) for row in rows]
    if all(lettered):
        return lettered
    answers = sorted({row["target"] for row in rows})
    return [answers] * len(rows) if len(answers) <= MAX_ANSWERS else []


def _multiple_choice_settings(task_file: Path) -> dict[str, Any]:
    """Return settings that turn one of their free-answer tasks into multiple choice over the answers' texts."""
    import yaml

    samples = yaml.safe_load(task_file.read_text(encoding="utf-8"))["fewshot_config"]["samples"]
    samples = [sample | {"choices": [sample["target"]]} for sample in samples]
    return {
        "output_type": "multiple_choice", "doc_to_choice": "choices", "generation_kwargs": None,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "fewshot_config": {"sampler": "first_n", "samples": samples},
    }  # fmt: skip


def _mmlu(root: Path) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    form = "SUBJECT_test.csv; columns question, choice0 to choice3, answer 0 to 3"
    files = _files(root / "mmlu" / "test", "*_test.csv", "MMLU", form, "https://github.com/hendrycks/test")
    for file in files:
        name = file.stem.removesuffix("_test")
        dev = root / "mmlu" / "dev" / f"{name}_dev.csv"
        yield name, {"test": _questions(file), "dev": _questions(dev)}


def _questions(file: Path) -> list[dict[str, Any]]:
    """Read questions as text: a choice that reads "None" or "0.50" stays as it is."""
    return [
        {"question": row["question"], "choices": [row[f"choice{k}"] for k in range(4)], "answer": int(row["answer"])}
        for row in csv_rows(file)
    ]


def _mmlu_categories(root: Path) -> dict[str, str]:
    file = root / "mmlu" / "categories.csv"
    return {row["subject"]: row["category"] for row in csv_rows(file)} if file.is_file() else {}


def csv_rows(file: Path) -> list[dict[str, str]]:
    """Rows of a CSV file of ours or of a benchmark, all cells as text."""
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _bbh(root: Path) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    source = "https://github.com/suzgunmirac/BIG-Bench-Hard"
    files = _files(root / "bbh" / "bbh", "*.json", "BBH", "TASK.json", source)
    for file in files:
        yield file.stem, {"test": json.loads(file.read_text(encoding="utf-8"))["examples"]}


def _files(folder: Path, pattern: str, benchmark: str, form: str, source: str) -> list[Path]:
    """The question files of a benchmark; FileNotFoundError if there are none."""
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(
            f"no {benchmark} questions at {folder} ({form}): see {source}, and --data-root DIR or HARNESS_DATA."
        )
    return files
