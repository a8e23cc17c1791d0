"""Results files of every version of lm-evaluation-harness, and tables of published values."""

from __future__ import annotations

import json
import math

import pytest

from harness.cli import commands
from harness.knowledge import benchmark_results, benchmark_tables
from harness.storage import tables

ANATOMY = {"acc,none": 0.3, "acc_stderr,none": math.sqrt(0.21 / 134), "alias": " - anatomy"}


def read(folder, content, encoding="utf-8"):
    file = folder / "results.json"
    file.write_bytes(json.dumps(content).encode(encoding))
    results, version = benchmark_results.read(str(file))
    return {result.benchmark: result for result in results}, version


def of_0_4(**tasks):
    """Build results as versions from 0.4.3 write them: name -> metrics."""
    return {
        "results": {**tasks, "mmlu": {"acc,none": 0.9, "alias": "mmlu"}}, "n-shot": dict.fromkeys(tasks, 5),
        "n-samples": {name: {"original": 135, "effective": 135} for name in tasks}, "lm_eval_version": "0.4.8",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("content", "n_shots", "version"),
    [
        (
            {"results": {"hendrycksTest-anatomy": {"acc": 0.3, "acc_stderr": 0.0396, "acc_norm": 0.2}},
             "versions": {"hendrycksTest-anatomy": 1}, "config": {"num_fewshot": 5, "limit": None}},
            5, "of an unknown version",
        ),
        (
            {"results": {"all": {"acc": 0.5}, "harness|hendrycksTest-anatomy|5": {"acc": 0.3, "acc_norm": 0.3}},
             "versions": {"all": 0}, "config_general": {"model_name": "a"}},
            5, "of an unknown version",
        ),
        (
            {"results": {"mmlu": {"acc,none": 0.9}, "mmlu_anatomy": ANATOMY}, "n-shot": {"mmlu_anatomy": 0},
             "git_hash": "abc"},
            0, "abc",
        ),
        (of_0_4(mmlu_anatomy=ANATOMY), 5, "0.4.8"),
        (of_0_4(mmlu_anatomy=ANATOMY) | {"n-shot": {"mmlu": None, "mmlu_anatomy": 5}}, 5, "0.4.8"),
        (of_0_4(mmlu_anatomy=ANATOMY) | {"n-shot": {"mmlu": " ", "mmlu_anatomy": "5"}}, 5, "0.4.8"),
        (of_0_4(mmlu_anatomy=ANATOMY) | {"n-shot": {}, "configs": {"mmlu_anatomy": {"num_fewshot": 3}}}, 3, "0.4.8"),
        (of_0_4(mmlu_anatomy=ANATOMY) | {"n-shot": {}}, None, "0.4.8"),
        (of_0_4(mmlu_anatomy=ANATOMY | {"acc_stderr,none": "N/A", "sample_len": 135, "name": "x"}), 5, "0.4.8"),
    ],
)  # fmt: skip
def test_mmlu_is_read_from_every_version(tmp_path, content, n_shots, version):
    results, written_by = read(tmp_path, content)
    assert list(results) == ["mmlu"]
    assert results["mmlu"].tasks == [("anatomy", 0.3, 135)]
    assert (results["mmlu"].n_shots, written_by) == (n_shots, version)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_results_file_may_state_its_encoding(tmp_path, encoding):
    assert list(read(tmp_path, of_0_4(mmlu_anatomy=ANATOMY), encoding)[0]) == ["mmlu"]


@pytest.mark.parametrize(
    ("task", "metric", "benchmark"),
    [
        ("mmlu_continuation_anatomy", "acc,none", "mmlu-continuation"),
        ("mmlu_anatomy_continuation", "acc,none", "mmlu-continuation"),
        ("mmlu_anatomy_generative", "exact_match,get_response", "mmlu-generative"),
        ("mmlu_flan_n_shot_loglikelihood_anatomy", "acc,none", "mmlu-flan-loglikelihood"),
        ("mmlu_flan_n_shot_generative_anatomy", "exact_match,none", "mmlu-flan-generative"),
        ("mmlu_flan_cot_fewshot_anatomy", "exact_match,get-answer", "mmlu-flan-cot-fewshot"),
        ("mmlu_redux_anatomy_generative", "exact_match,default", "mmlu-redux"),
        ("mmlu_llama_anatomy", "exact_match,strict_match", "mmlu-llama"),
        ("mmlu_pro_law", "exact_match,custom-extract", "mmlu-pro"),
        ("leaderboard_mmlu_pro", "acc,none", "mmlu-pro-leaderboard"),
        ("bbh_fewshot_snarks", "exact_match,none", "bbh"),
        ("bbh_cot_fewshot_snarks", "exact_match,get-answer", "bbh-cot"),
        ("bbh_zeroshot_snarks", "exact_match,flexible-extract", "bbh-zeroshot"),
        ("bbh_cot_zeroshot_snarks", "exact_match,flexible-extract", "bbh-cot-zeroshot"),
        ("leaderboard_bbh_snarks", "acc_norm,none", "bbh-leaderboard"),
    ],
)
def test_differently_measured_benchmarks_have_their_own_names(tmp_path, task, metric, benchmark):
    results, _ = read(tmp_path, of_0_4(**{task: {metric: 0.9, "alias": "x"}, "mmlu_anatomy": ANATOMY}))
    assert set(results) == {benchmark, "mmlu"}
    assert results["mmlu"].tasks == [("anatomy", 0.3, 135)]
    assert results[benchmark].tasks[0].accuracy == 0.9


def test_filters_and_version_0_are_separate_benchmarks(tmp_path):
    values = {"exact_match,strict-match": 0.1, "exact_match,flexible-extract": 0.4}
    results, _ = read(tmp_path, of_0_4(mmlu_flan_cot_zeroshot_anatomy=values))
    start = "mmlu-flan-cot-zeroshot"
    assert {name: result.tasks[0].accuracy for name, result in results.items()} == {
        f"{start}-strict-match": 0.1, f"{start}-flexible-extract": 0.4,
    }  # fmt: skip
    before = {"results": {"hendrycksTest-anatomy": {"acc": 0.3}}, "versions": {"hendrycksTest-anatomy": 0}}
    assert list(read(tmp_path, before)[0]) == ["mmlu-answer-text"]


def test_a_limit_sets_the_number_of_questions(tmp_path):
    content = {"results": {"mmlu_anatomy": {"acc,none": 0.5}, "mmlu_virology": {"acc,none": 0.5}}}
    for limit, n in ((None, [135, 166]), (20, [20, 20]), (0.1, [14, 17])):
        results, _ = read(tmp_path, content | {"config": {"limit": limit}})
        assert [task.n for task in results["mmlu"].tasks] == n
    fractional = of_0_4(mmlu_anatomy={"acc,none": 0.5})
    fractional["n-samples"]["mmlu_anatomy"]["effective"] = 0.1
    assert read(tmp_path, fractional)[0]["mmlu"].tasks[0].n == 14


def damaged(**changes):
    content = of_0_4(mmlu_anatomy=dict(ANATOMY), mmlu_virology={"acc,none": 0.4})
    content["n-samples"]["mmlu_virology"] = {"original": 166, "effective": changes.pop("n", 166)}
    content["results"]["mmlu_virology"] |= changes.pop("values", {})
    return content | changes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (damaged(n=0), "mmlu_virology has 0 questions"),
        (damaged(n=None), "mmlu_virology has None questions"),
        (damaged(values={"acc,none": "N/A"}), "acc of mmlu_virology is 'N/A'"),
        (damaged(values={"acc,none": math.nan}), "acc of mmlu_virology is nan"),
        (damaged(values={"acc,none": 41.0}), r"acc of mmlu_virology is 41\.0, which is not a fraction"),
        (damaged(**{"n-shot": {"mmlu_anatomy": 5, "mmlu_virology": 0}}), "mmlu_virology was measured with 0 examples"),
        (of_0_4(mmlu_anatomy={"acc_norm,none": 0.3}), "mmlu_anatomy has no acc; it has acc_norm,none"),
        (of_0_4(hellaswag={"acc,none": 0.3}), "no results of tasks mmlu_"),
        (
            of_0_4(mmlu_anatomy=ANATOMY, brain_mmlu_anatomy=ANATOMY),
            "anatomy appears twice, as mmlu_anatomy and brain_mmlu",
        ),
        ({"results": {"mmlu_anatomy": {"acc,none": 0.3, "acc_stderr,none": 0.1}}}, "is that of about 22 questions"),
        (
            {"results": {"mmlu_pro_law": {"exact_match,custom-extract": 0.3}}},
            "the number of questions of mmlu_pro_law is not stated",
        ),
        ({"tasks": {}}, "an object with `results`"),
    ],
)
def test_error_for_an_implausible_results_file_names_the_task(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_sizes_are_those_of_the_published_test_sets():
    assert (len(benchmark_results.sizes("mmlu")), sum(benchmark_results.sizes("mmlu").values())) == (57, 14_042)
    assert (len(benchmark_results.sizes("bbh")), sum(benchmark_results.sizes("bbh").values())) == (27, 6_511)


# --- tables -----------------------------------------------------------------------------------------------------------


def values(folder, text, **options):
    file = folder / "values.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    read = benchmark_tables.read(str(file), ("mmlu", "bbh"), **options)
    return {(value.model, value.benchmark): pytest.approx(value.value) for value in read}


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("model,mmlu,bbh\na,0.41,0.33\nb,0.52,\n", {}),
        ("model;mmlu;bbh\na;0,41;0,33\nb;0,52;\n", {}),
        ("Model,MMLU,BBH\na,41%,33%\nb,52 %,n/a\n", {}),
        ("model,mmlu,bbh\na,41,33\nb,52,\n", {"percent": True}),
        ("model,benchmark,value\na,mmlu,.41\na,bbh,.33\nb,mmlu,.52\n", {}),
        ("model,mmlu,bbh,\na,0.41,0.33,\nb,0.52,NA,\n,,,\n", {}),
    ],
)
def test_values_are_fractions_in_every_notation(tmp_path, text, options):
    assert values(tmp_path, text, **options) == {("a", "mmlu"): 0.41, ("a", "bbh"): 0.33, ("b", "mmlu"): 0.52}


def test_a_model_may_be_called_na_and_metrics_other_than_fractions_may_exceed_one(tmp_path):
    assert values(tmp_path, "model,mmlu\nNA,0.4\nNone,0.5\n") == {("NA", "mmlu"): 0.4, ("None", "mmlu"): 0.5}
    text = "model,benchmark,value,metric\na,lm,12.5,perplexity\n"
    assert values(tmp_path, text) == {("a", "lm"): 12.5}
    text = "model,mmlu,source\na,0.41,Müller 2023\n".encode("cp1252")
    assert values(tmp_path, text, encoding="cp1252") == {("a", "mmlu"): 0.41}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("model,mmlu\na,41.0\n", {}, r"line 2, column 'mmlu' is 41\.0, .* if the values are percent, give --percent"),
        ("model,mmlu\na,0.4\nb,52\n", {}, "line 3, column 'mmlu' is 52, which is not a fraction"),
        ("model,mmlu\na,-0.1\n", {}, "line 2, column 'mmlu' is -0.1, which is not a fraction"),
        ("model,mmlu\na,41%\nb,0.5\n", {}, "line 3, column 'mmlu' is '0.5', but .*line 2.*'41%'"),
        ("model,mmlu\na,0.41\n", {"percent": True}, "no value is above 1, so these are not percent"),
        ("model,mmlu\na,141\n", {"percent": True}, "is 141, which is not a percentage"),
        ("model,mmlu\na,0.4\na,0.5\n", {}, "line 3, column 'mmlu': mmlu of a is already given in values.csv, line 2"),
        ("model,mmlu\n,0.4\n", {}, "line 2: a value without its model"),
        ("model,benchmark,value,n\na,mmlu,.4,10.5\n", {}, r"column 'n' is 10\.5; wanted a whole number"),
        ("model,benchmark,value,high\na,mmlu,40%,45\n", {}, "high is 45, but the value 0.4"),
        ("model,mmlu,bbh\na,0.41,0.33\nb,0.52\n", {}, "line 3: 2 cells where the header names 3"),
        ("model,mmlu\na,NA\n", {}, "no values in mmlu"),
    ],
)
def test_error_for_a_value_that_is_not_a_fraction_names_the_line(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        values(tmp_path, text, **options)


def test_the_command_imports_tables_and_results_files(tmp_path, capsys):
    out = str(tmp_path / "out")
    (tmp_path / "v.csv").write_text("model,mmlu\na,41\n")
    (tmp_path / "r.json").write_text(json.dumps(of_0_4(mmlu_continuation_anatomy={"acc,none": 0.9})))
    assert commands.main(["properties", "import", str(tmp_path / "v.csv"), "--source", "x", "--out", out]) == 2
    assert "give --percent" in capsys.readouterr().err
    assert (
        commands.main(["properties", "import", str(tmp_path / "v.csv"), "--source", "x", "--percent", "--out", out])
        == 0
    )
    assert commands.main(["properties", "import", str(tmp_path / "r.json"), "--model", "a", "--out", out]) == 0
    rows = tables.read(out, "benchmark_scores").set_index(["benchmark", "task"])["value"]
    assert rows["mmlu", ""] == pytest.approx(0.41)
    assert rows["mmlu-continuation", "anatomy"] == 0.9
