"""MMLU and BBH: results to rows, imported values, and a small evaluation of a real model end to end."""

import json
import math

import pytest
from statsmodels.stats.proportion import proportion_confint

from harness.cli import commands as cli
from harness.knowledge import benchmark_scores
from harness.knowledge.lm_eval import LmEvalRun
from harness.knowledge.questions import Task
from harness.statistics import scores
from harness.storage import tables


def results(**tasks):
    """Build results as lm-evaluation-harness writes them; tasks: name -> (fraction correct, questions)."""
    metric = {name: "exact_match,flexible" if "bbh" in name and "choice" not in name else "acc,none" for name in tasks}
    return {
        "results": {name: {metric[name]: accuracy, "acc_stderr,none": 0.1} for name, (accuracy, _) in tasks.items()}
        | {"mmlu": {"acc,none": 0.9, "alias": "mmlu"}},
        "n-samples": {name: {"original": 500, "effective": n} for name, (_, n) in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 5), "lm_eval_version": "0.4.13",
    }  # fmt: skip


def by(rows):
    return {(row["category"], row["task"]): row for row in rows}


def test_mmlu_is_the_accuracy_over_all_questions():
    tasks = [Task("anatomy", "anatomy", "Other", 100, 0.25), Task("virology", "virology", "Other", 300, 0.25),
             Task("astronomy", "astronomy", "STEM", 100, 0.25)]  # fmt: skip
    ran = LmEvalRun(
        results(brain_mmlu_anatomy=(0.5, 100), brain_mmlu_virology=(0.3, 300), brain_mmlu_astronomy=(0.2, 100)),
        tasks,
        True,
    )
    rows = by(benchmark_scores.rows_of(ran, "mmlu", "m", "abc"))
    assert rows["", ""]["value"] == pytest.approx((50 + 90 + 20) / 500)
    assert rows["Other", ""]["value"] == pytest.approx(140 / 400)
    assert (rows["", ""]["low"], rows["", ""]["high"]) == pytest.approx(proportion_confint(160, 500, method="wilson"))
    assert rows["STEM", "astronomy"]["n"] == 100
    assert len(rows) == 1 + 2 + 3
    row = rows["", ""]
    assert (row["model"], row["revision"], row["n_shots"], row["chance"], row["truncated"]) == (
        "m",
        "abc",
        5,
        0.25,
        True,
    )
    assert "lm-evaluation-harness 0.4.13, 5 shots" in row["source"]


def test_bbh_is_the_mean_over_tasks_with_sizes_pooled():
    sizes = {"three": 0.4, "five": 0.2, "seven": 0.0}
    names = {f"tracking_shuffled_objects_{size}_objects": accuracy for size, accuracy in sizes.items()}
    tasks = [Task(name, "tracking_shuffled_objects", "Algorithmic", 50, 0.5) for name in names]
    tasks.append(Task("snarks", "snarks", "Language understanding", 50, 0.5))
    names["snarks"] = 0.6
    ran = LmEvalRun(results(**{f"brain_bbh_{name}": (accuracy, 50) for name, accuracy in names.items()}), tasks, False)
    rows = by(benchmark_scores.rows_of(ran, "bbh", "m", ""))
    assert rows["Algorithmic", "tracking_shuffled_objects"]["value"] == pytest.approx(0.2)
    assert rows["Algorithmic", "tracking_shuffled_objects"]["n"] == 150
    assert rows["", ""]["value"] == pytest.approx((0.2 + 0.6) / 2)
    ends = [proportion_confint(30, 150, method="wilson"), proportion_confint(30, 50, method="wilson")]
    down = math.hypot(0.2 - ends[0][0], 0.6 - ends[1][0]) / 2
    assert rows["", ""]["low"] == pytest.approx(0.4 - down)


def test_zero_correct_answers_have_an_interval_of_positive_width():
    ran = LmEvalRun(
        results(brain_bbh_snarks=(0.0, 100)), [Task("snarks", "snarks", "Language understanding", 100, 0.5)], False
    )
    row = by(benchmark_scores.rows_of(ran, "bbh", "m", ""))["", ""]
    assert row["value"] == row["low"] == pytest.approx(0, abs=1e-12)
    assert 0.02 < row["high"] < 0.06


def test_imported_results_state_their_version(shared, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(
        json.dumps(results(mmlu_anatomy=(0.5, 100), mmlu_astronomy=(0.3, 100), bbh_fewshot_snarks=(0.25, 100)))
    )
    rows = benchmark_scores.of_results(str(file), "m", "", shared / "data")
    values_by_key = {(row["benchmark"], row["category"], row["task"]): row["value"] for row in rows}
    assert values_by_key["mmlu", "", ""] == pytest.approx(0.4)  # over the subjects, not their group
    assert values_by_key["mmlu", "STEM", ""] == pytest.approx(0.3)
    assert values_by_key["bbh", "", ""] == values_by_key["bbh", "Language understanding", "snarks"] == 0.25
    assert all("0.4.13" in row["source"] and row["n_shots"] == 5 for row in rows)
    file.write_text(json.dumps(results(hellaswag=(0.5, 10))))
    with pytest.raises(ValueError, match="no results of tasks mmlu_"):
        benchmark_scores.of_results(str(file), "m", "", None)


def test_published_values_keep_their_source_and_become_properties(shared, tmp_path, capsys):
    out = str(tmp_path / "out")
    table = str(shared / "paper" / "scores.csv")
    assert cli.main(["properties", "import", table, "--source", "Aw et al. 2023, Table 9", "--out", out]) == 0
    assert "42 values of 21 models" in capsys.readouterr().out
    rows = tables.read(out, "benchmark_scores")
    assert set(rows["source"]) == {"Aw et al. 2023, Table 9"}
    assert rows.set_index(["model", "benchmark"])["value"]["vicuna-13b", "mmlu"] > 0.4
    benchmarks = scores._benchmarks(rows)
    assert benchmarks["mmlu"]["flan-t5-small"] == 0.294
    assert cli.main(["properties", "show", "--out", out, "--model", "flan-t5-small"]) == 0
    assert "0.294" in capsys.readouterr().out


def test_the_long_form_has_more_columns(tmp_path):
    (tmp_path / "v.csv").write_text(
        "model,benchmark,value,category,n,low,high,source\nm,mmlu,.4,STEM,100,.3,.5,a paper\nm,arc,.7,,,,,another\n"
    )
    stem, arc = benchmark_scores.of_table(str(tmp_path / "v.csv"), "")
    assert (stem["category"], stem["n"], stem["low"], stem["source"]) == ("STEM", 100, 0.3, "a paper")
    assert arc["n"] is None
    assert math.isnan(arc["low"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model,accuracy\nm,.3\n", "wanted columns model and mmlu or bbh"),
        ("model,mmlu\nm,high\n", r"v\.csv, line 2, column 'mmlu' is 'high'; write a finite number"),
        ("model,mmlu\nm,.3\n", "where are these values published"),
        ("model,mmlu\nm,nan\n", r"v\.csv: no values in mmlu"),
    ],
)
def test_error_for_a_bad_table_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "v.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        benchmark_scores.of_table(str(tmp_path / "v.csv"), "")


def test_a_second_measurement_replaces_the_first(tmp_path):
    def row(value, source="one"):
        return {"model": "a/b", "revision": "r", "benchmark": "mmlu", "category": "", "task": "", "metric": "acc",
                "n_shots": 5, "value": value, "low": 0.1, "high": 0.9, "chance": 0.25, "n": 10, "truncated": None,
                "source": source, "created": "2026"}  # fmt: skip

    out = str(tmp_path)
    benchmark_scores.store(out, [row(0.3)])
    benchmark_scores.store(out, [row(0.4)])
    benchmark_scores.store(out, [row(0.5, "another")])
    table = tables.read(out, "benchmark_scores")
    assert sorted(table["value"]) == [0.4, 0.5]
    assert set(table["model"]) == {"a/b"}


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["mmlu"], "no model to measure"),
        (["import"], "no file to import"),
        (["import", "/nowhere.csv"], "does not exist"),
        (["mmlu", "--model", "nothing-like-it"], "neither a folder"),
        (["bbh", "--model", "x", "--limit", "0"], "--limit must be"),
    ],
)
def test_wrong_use_gives_status_2_and_a_message(command, message, capsys):
    assert cli.main(["properties", *command]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def few(shared, tmp_path):
    """A data root with two subjects of 12 and two tasks of 6 real questions."""
    for part in ("test", "dev"):
        (tmp_path / "mmlu" / part).mkdir(parents=True)
        for subject in ("anatomy", "astronomy"):
            lines = (shared / "data" / "mmlu" / part / f"{subject}_{part}.csv").read_text().splitlines()[:13]
            (tmp_path / "mmlu" / part / f"{subject}_{part}.csv").write_text("\n".join(lines))
    (tmp_path / "mmlu" / "categories.csv").write_text((shared / "data" / "mmlu" / "categories.csv").read_text())
    (tmp_path / "bbh" / "bbh").mkdir(parents=True)
    for task in ("snarks", "navigate"):
        content = json.loads((shared / "data" / "bbh" / "bbh" / f"{task}.json").read_text())
        (tmp_path / "bbh" / "bbh" / f"{task}.json").write_text(json.dumps({"examples": content["examples"][:6]}))
    return tmp_path


@pytest.mark.slow
def test_a_real_model_is_measured_end_to_end(shared, few, capsys):
    model, out = str(shared / "models" / "stories260K"), str(few / "out")
    for benchmark, n in (("mmlu", 24), ("bbh-choice", 12)):
        assert (
            cli.main(["properties", benchmark, "--model", model, "--data-root", str(few), "--out", out, "--json"]) == 0
        )
        content = json.loads(capsys.readouterr().out)
        assert content["failures"] == []
        rows = by(content["rows"])
        assert rows["", ""]["n"] == n
        assert 0 <= rows["", ""]["low"] <= rows["", ""]["value"] <= rows["", ""]["high"] <= 1
        assert rows["", ""]["truncated"]  # five examples do not fit into a window of 512 tokens
    assert rows["Language understanding", "snarks"]["chance"] == 0.5
    known = tables.read(out, "benchmark_scores")
    assert set(known["model"]) == {"stories260K"}
    assert set(known["benchmark"]) == {"mmlu", "bbh-choice"}


@pytest.mark.slow
def test_a_model_that_cannot_be_loaded_is_listed_and_the_status_is_1(shared, few, capsys, tmp_path_factory):
    broken = tmp_path_factory.mktemp("models") / "broken"
    broken.mkdir()
    for file in (shared / "models" / "stories260K").iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 3}))
    command = ["properties", "bbh", "--model", str(broken), "--data-root", str(few), "--out", str(few / "out")]
    assert cli.main(command) == 1
    assert "lm-evaluation-harness ended with status" in capsys.readouterr().err
    assert not (few / "out").exists()
