"""MMLU and BBH questions: categories, chance levels, and the task files for lm-evaluation-harness."""

import json
from collections import Counter

import pytest

from harness.knowledge import questions


def mmlu(root, subjects=("anatomy", "astronomy"), n=3):
    for part in ("test", "dev"):
        folder = root / "mmlu" / part
        folder.mkdir(parents=True)
        for subject in subjects:
            lines = [f'"Is it {k}, or so?",None,0.50,"a, b",nan,{k % 4}' for k in range(n)]
            (folder / f"{subject}_{part}.csv").write_text(
                "\n".join(["question,choice0,choice1,choice2,choice3,answer", *lines])
            )
    (root / "mmlu" / "categories.csv").write_text("subject,category\nanatomy,Other\nastronomy,STEM\n")
    return root


def bbh(root, **tasks):
    folder = root / "bbh" / "bbh"
    folder.mkdir(parents=True)
    for name, examples in tasks.items():
        rows = [{"input": question, "target": answer} for question, answer in examples]
        (folder / f"{name}.json").write_text(json.dumps({"canary": "", "examples": rows}))
    return root


LETTERED = [("Which?\nOptions:\n(A) one\n(B) two\n(C) three", "(B)"), ("Which?\nOptions:\n(A) one\n(B) two", "(A)")]


def written(benchmark, root, folder):
    tasks = questions.write_tasks(benchmark, root, folder)
    rows = {
        task.name: [json.loads(line) for line in (folder / f"{task.name}.test.jsonl").read_text().splitlines()]
        for task in tasks
    }
    return {task.name: task for task in tasks}, rows


def test_category_sizes_match_the_paper(shared):
    root = shared / "data"
    counts = Counter(
        questions.category_of("mmlu", file.stem.removesuffix("_test"), root)
        for file in (root / "mmlu" / "test").glob("*.csv")
    )
    assert counts == {"STEM": 18, "Humanities": 13, "Social Sciences": 12, "Other": 14}
    assert Counter(questions.bbh_categories().values()) == {
        "Algorithmic": 8, "Language understanding": 3, "World knowledge": 5, "Multilingual": 1, "Others": 6,
    }  # fmt: skip
    names = [file.stem for file in (root / "bbh" / "bbh").glob("*.json")]
    assert len(names) == 27
    assert len({questions.task_of("bbh", name) for name in names}) == 23
    assert all(questions.category_of("bbh", name) for name in names)


def test_all_questions_under_the_data_root_are_written(shared, tmp_path):
    for benchmark, n_tasks, n in (("mmlu", 57, 14042), ("bbh", 27, 6511)):
        folder = tmp_path / benchmark
        folder.mkdir()
        tasks = questions.write_tasks(benchmark, shared / "data", folder)
        assert (len(tasks), sum(task.n for task in tasks)) == (n_tasks, n)
    chance = {task.name: task.chance for task in tasks}
    assert chance["boolean_expressions"] == 0.5
    assert chance["logical_deduction_seven_objects"] == pytest.approx(1 / 7)
    assert chance["word_sorting"] == chance["multistep_arithmetic_two"] == 0


def test_choices_that_look_like_numbers_stay_text(tmp_path):
    tasks, rows = written("mmlu", mmlu(tmp_path), tmp_path)
    assert rows["anatomy"][1] == {
        "question": "Is it 1, or so?",
        "choices": ["None", "0.50", "a, b", "nan"],
        "answer": 1,
    }
    assert (tasks["anatomy"].category, tasks["astronomy"].category) == ("Other", "STEM")
    task = json.loads((tmp_path / "anatomy.yaml").read_text())
    assert task["include"].endswith("mmlu/default/mmlu_anatomy.yaml")
    assert task["task"] == "brain_mmlu_anatomy"


def test_chance_is_computed_from_the_offered_answers(tmp_path):
    root = bbh(
        tmp_path,
        snarks=LETTERED,
        navigate=[("?", "Yes"), ("?", "No")],
        word_sorting=[(str(k), str(k)) for k in range(9)],
    )
    tasks, _ = written("bbh", root, tmp_path)
    assert tasks["snarks"].chance == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert tasks["navigate"].chance == 0.5
    assert tasks["word_sorting"].chance == 0


def test_multiple_choice_questions_have_their_answers_and_free_text_tasks_are_left_out(tmp_path):
    root = bbh(
        tmp_path,
        snarks=LETTERED,
        navigate=[("?", "Yes"), ("?", "No")],
        word_sorting=[(str(k), str(k)) for k in range(9)],
    )
    tasks, rows = written("bbh-choice", root, tmp_path)
    assert set(tasks) == {"snarks", "navigate"}
    assert [row["choices"] for row in rows["snarks"]] == [["(A)", "(B)", "(C)"], ["(A)", "(B)"]]
    assert rows["navigate"][0]["choices"] == ["No", "Yes"]
    task = json.loads((tmp_path / "snarks.yaml").read_text())
    assert task["output_type"] == "multiple_choice"
    assert len(task["fewshot_config"]["samples"]) == 3


@pytest.mark.parametrize("benchmark", ["mmlu", "bbh", "bbh-choice"])
def test_missing_questions_are_an_error(tmp_path, benchmark):
    with pytest.raises(FileNotFoundError, match=r"no (MMLU|BBH) questions at .*https://github\.com"):
        questions.write_tasks(benchmark, tmp_path, tmp_path)
