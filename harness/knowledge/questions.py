"""MMLU and BBH: their categories, and the question files on this machine in the form that lm-evaluation-harness reads.

Prompts, few-shot examples and scoring are those of lm-evaluation-harness, whose task files are included; only where the
questions come from is ours: files under the data root, so that no network is needed.

Source: Hendrycks et al. 2021 (MMLU), Suzgun et al. 2022 (BIG-Bench Hard); categories of Aw et al. 2023 (arXiv
2312.00575v2), Table 2, as METHODS.md, section 7, assigns them.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

BBH_CATEGORIES = {
    "Algorithmic": (
        "multistep_arithmetic_two", "boolean_expressions", "logical_deduction", "geometric_shapes", "dyck_languages",
        "navigate", "temporal_sequences", "tracking_shuffled_objects",
    ),
    "Language understanding": ("disambiguation_qa", "hyperbaton", "snarks"),
    "World knowledge": (
        "sports_understanding", "movie_recommendation", "date_understanding", "causal_judgement", "ruin_names",
    ),
    "Multilingual": ("salient_translation_error_detection",),
    "Others": (
        "formal_fallacies", "object_counting", "penguins_in_a_table", "reasoning_about_colored_objects", "web_of_lies",
        "word_sorting",
    ),
}  # fmt: skip
# Tasks that come in three sizes, of 3, 5 and 7 objects: one task each, with the questions of all three.
_SIZED = re.compile(r"_(three|five|seven)_objects$")
Benchmark = Literal["mmlu", "bbh", "bbh-choice"]
# bbh-choice: the likeliest of the answers that a question offers, where bbh is the answer in the model's own words. A
# model that knows nothing is at chance in the first and at 0 in the second.
N_SHOTS: dict[Benchmark, int] = {"mmlu": 5, "bbh": 3, "bbh-choice": 3}
METRICS: dict[Benchmark, str] = {"mmlu": "acc", "bbh": "exact_match", "bbh-choice": "acc"}
PREFIX = "brain_"  # of our tasks' names, beside lm-evaluation-harness' own
_LETTERED = re.compile(r"^\([A-Z]\)", re.MULTILINE)
MOST_ANSWERS = 3  # a task without lettered options and with no more different answers is one of choosing among them


@dataclass(frozen=True)
class Task:
    """The questions of one task, or of one size of it.

    Attributes:
        name: as the files say it. task: with the sizes as one. category: of the benchmark.
        n: questions. chance: share right by guessing among the answers offered; 0 where any text is an answer.
    """

    name: str
    task: str
    category: str
    n: int
    chance: float


def task_of(benchmark: str, name: str) -> str:
    """The task that a file or a result is of."""
    return name if benchmark == "mmlu" else _SIZED.sub("", name)


def category_of(benchmark: str, name: str, root: Path | None = None) -> str:
    """The category of a task; "" where it is not known (of MMLU: where the data root lacks categories.csv)."""
    if benchmark == "mmlu":
        return _mmlu_categories(root).get(name, "") if root else ""
    return next((category for category, tasks in BBH_CATEGORIES.items() if task_of("bbh", name) in tasks), "")


def write_tasks(benchmark: Benchmark, root: Path, folder: Path) -> list[Task]:
    """Write one task file for each task, and its questions, into a folder for `lm_eval --include_path`.

    Args:
        benchmark: which.
        root: the data root; questions lie in root/mmlu/test, root/mmlu/dev and root/bbh/bbh.
        folder: where to.

    Raises:
        FileNotFoundError: if there are no questions under the root; where they are published.
        ModuleNotFoundError: if lm-evaluation-harness is not installed.
    """
    tasks = []
    for name, parts in sorted((_mmlu if benchmark == "mmlu" else _bbh)(root)):
        offered = _offered(parts["test"]) if benchmark == "bbh-choice" else []
        if benchmark == "bbh-choice" and not offered:
            continue  # any text is an answer
        for row, choices in zip(parts["test"], offered, strict=False):
            row["choices"] = choices
        files = {part: str(folder / f"{name}.{part}.jsonl") for part in parts}
        for part, rows in parts.items():
            Path(files[part]).write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        task = {
            "include": str(_theirs(benchmark, name)), "task": f"{PREFIX}{benchmark}_{name}", "tag": None,
            "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
            **(_of_choice(_theirs(benchmark, name)) if offered else {}),
        }  # fmt: skip
        (folder / f"{name}.yaml").write_text(json.dumps(task), encoding="utf-8")  # JSON is YAML
        rows = parts["test"]
        tasks.append(Task(
            name, task_of(benchmark, name), category_of(benchmark, name, root), len(rows), chance(benchmark, rows)
        ))  # fmt: skip
    return tasks


def _theirs(benchmark: str, name: str) -> Path:
    """The task file of lm-evaluation-harness."""
    import importlib.util

    found = importlib.util.find_spec("lm_eval")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(
            "lm-evaluation-harness is not installed: pip install 'brain-alignment-harness[knowledge]'."
        )
    tasks = Path(found.submodule_search_locations[0]) / "tasks"
    return tasks / (f"mmlu/default/mmlu_{name}.yaml" if benchmark == "mmlu" else f"bbh/fewshot/{name}.yaml")


def chance(benchmark: str, rows: list[dict[str, Any]]) -> float:
    """Share right by guessing: one of four, one of the lettered options, or one of a few answers such as yes and no."""
    if benchmark == "mmlu":
        return 0.25
    offered = _offered(rows)
    return sum(1 / len(choices) for choices in offered) / len(rows) if offered else 0.0


def _offered(rows: list[dict[str, Any]]) -> list[list[str]]:
    """The answers that each question of a BBH task offers; [] where any text is one."""
    lettered = [_LETTERED.findall(row["input"]) for row in rows]
    if all(lettered):
        return lettered
    answers = sorted({row["target"] for row in rows})
    return [answers] * len(rows) if len(answers) <= MOST_ANSWERS else []


def _of_choice(theirs: Path) -> dict[str, Any]:
    """What makes a task of theirs that asks for an answer one of choosing; the answer's text stands for its place."""
    import yaml

    samples = yaml.safe_load(theirs.read_text(encoding="utf-8"))["fewshot_config"]["samples"]
    samples = [sample | {"choices": [sample["target"]]} for sample in samples]
    return {
        "output_type": "multiple_choice", "doc_to_choice": "choices", "generation_kwargs": None,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "fewshot_config": {"sampler": "first_n", "samples": samples},
    }  # fmt: skip


def _mmlu(root: Path) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    files = sorted((root / "mmlu" / "test").glob("*_test.csv"))
    if not files:
        raise FileNotFoundError(
            f"no MMLU questions at {root / 'mmlu' / 'test'} (SUBJECT_test.csv; columns question, choice0 to choice3, "
            "answer 0 to 3): see https://github.com/hendrycks/test, and --data-root DIR or HARNESS_DATA."
        )
    for file in files:
        name = file.stem.removesuffix("_test")
        dev = root / "mmlu" / "dev" / f"{name}_dev.csv"
        yield name, {"test": _questions(file), "dev": _questions(dev)}


def _questions(file: Path) -> list[dict[str, Any]]:
    """Text stays text: a choice that reads "None" or "0.50" is that."""
    with file.open(encoding="utf-8", newline="") as stream:
        return [
            {
                "question": row["question"],
                "choices": [row[f"choice{k}"] for k in range(4)],
                "answer": int(row["answer"]),
            }
            for row in csv.DictReader(stream)
        ]


def _mmlu_categories(root: Path) -> dict[str, str]:
    file = root / "mmlu" / "categories.csv"
    if not file.is_file():
        return {}
    with file.open(encoding="utf-8", newline="") as stream:
        return {row["subject"]: row["category"] for row in csv.DictReader(stream)}


def _bbh(root: Path) -> Iterator[tuple[str, dict[str, list[dict[str, Any]]]]]:
    files = sorted((root / "bbh" / "bbh").glob("*.json"))
    if not files:
        raise FileNotFoundError(
            f"no BBH questions at {root / 'bbh' / 'bbh'} (TASK.json): see "
            "https://github.com/suzgunmirac/BIG-Bench-Hard, and --data-root DIR or HARNESS_DATA."
        )
    for file in files:
        yield file.stem, {"test": json.loads(file.read_text(encoding="utf-8"))["examples"]}
