"""The table for a paper: chosen columns and rows, escapes, and values of the tables."""

import importlib.util
import re
from pathlib import Path

import pandas as pd
import pytest

from harness.cli import commands
from harness.report import page as report
from harness.report.paper_table import COLUMNS, paper_table

spec = importlib.util.spec_from_file_location("small_tables", Path(__file__).with_name("test_page.py"))
small = importlib.util.module_from_spec(spec)
spec.loader.exec_module(small)


def frames(brain=None, reading=None):
    return {
        "model_scores": pd.DataFrame(small.model_scores(brain or small.BRAIN)),
        "reading_scores": pd.DataFrame(small.reading_scores(reading or small.READING)),
        "model_properties": pd.DataFrame(small.properties()),
    }


def test_columns_and_rows_are_as_chosen():
    made = paper_table(frames(), ["model", "percent", "r", "parameters"], ["synthetic"])
    assert made.columns == ["Model", "% of ceiling", "r", "Parameters"]
    assert made.rows == [
        ["tiny-llama", "77 %", "0.612", "124 M"], ["tiny-llama-tuned", "75 %", "0.598", "124 M"],
        ["tiny-gpt2", "51 %", "0.401", "81,000"], ["tiny-t5", "48 %", "0.377", "7.24 B"],
    ]  # fmt: skip


def test_the_data_set_and_protocol_are_columns_if_they_differ():
    made = paper_table(frames(), ["model", "r"], protocols=["paper", "strict"])
    assert made.columns == ["Data set", "Protocol", "Model", "r"]
    assert made.n_words == 3
    assert [row[:2] for row in made.rows if row[2] == "tiny-gpt2"][-2:] == [
        ["futrell2018-2021", "STRICT"], ["futrell2018-2021", "PAPER"],
    ]  # fmt: skip
    assert ["synthetic", "PAPER", "tiny-llama", "0.655"] in made.rows
    by_default = paper_table(frames(), ["protocol", "model", "r"])
    assert by_default.columns == ["Data set", "Protocol", "Model", "r"]
    assert {row[1] for row in by_default.rows} == {"STRICT"}


def test_controls_and_untrained_networks_are_rows_if_the_kind_is_shown():
    made = paper_table(frames(), ["model", "kind", "r", "minus_control", "untrained"], ["synthetic"])
    by_name = {row[0]: row[1:] for row in made.rows}
    assert by_name["tiny-gpt2:untrained"] == ["untrained", "0.188", "–", "–"]
    assert by_name["oasm"] == ["control", "−0.013", "–", "–"]
    assert by_name["tiny-gpt2"] == ["model", "0.401", "+0.319", "0.188"]


def test_differences_of_reading_times_are_of_the_gain_if_it_is_shown():
    of_gain = paper_table(frames(), ["model", "gain", "minus_control"], ["futrell2018-2021"])
    assert of_gain.rows[0] == ["tiny-gpt2", "+0.0206", "+0.0043"]  # 0.412 / 20 and 0.326 / 20
    of_r = paper_table(frames(), ["model", "r", "minus_control"], ["futrell2018-2021"])
    assert of_r.rows[0] == ["tiny-gpt2", "0.412", "+0.086"]


def test_latex_is_one_table_that_compiles_with_booktabs(tmp_path, monkeypatch):
    monkeypatch.setitem(small.MODELS, "a_b&c%\\", ("x", 10))
    out = small.write_tables(tmp_path, small.BRAIN | {"a_b&c%\\": (0.7, 0.7)})
    text = report.table(out, ["model", "r", "interval", "minus_untrained"], "latex", datasets=["synthetic"])
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("\\")] == [
        "\\begin{tabular}{lrrr}", "\\toprule", "\\midrule", "\\bottomrule", "\\end{tabular}",
    ]  # fmt: skip
    assert r"Model & r & 95 \% interval & Minus untrained \\" in lines
    assert r"a\_b\&c\%\textbackslash{} & 0.700 & 0.660 to 0.735 & -- \\" in lines
    body = lines[lines.index("\\midrule") + 1 : lines.index("\\bottomrule")]
    assert all(line.count(" & ") == 3 and line.endswith(" \\\\") for line in body)
    assert all(line.startswith("%") for line in lines[: lines.index("\\begin{tabular}{lrrr}")])


def test_markdown_has_as_many_cells_in_every_row(tmp_path):
    out = small.write_tables(tmp_path)
    text = report.table(out, list(COLUMNS))
    rows = re.findall(r"^\|.*$", text, re.MULTILINE)
    assert len({line.count("|") for line in rows}) == 1
    assert len(rows) > 20
    assert "nan" not in text


@pytest.mark.parametrize(("arguments", "message"), [
    (["--columns", "model,intervall"], "column 'intervall' is unknown; the nearest are interval"),
    (["--columns", "model", "--dataset", "synthetc"], "data set of this run 'synthetc' is unknown"),
    (["--columns", "model", "--protocol", "equal"], "protocol of this run 'equal' is unknown; the nearest are strict"),
    (["--dataset", "synthetic"], "choose the rows of --columns"),
])  # fmt: skip
def test_unknown_names_are_errors(tmp_path, capsys, arguments, message):
    out = small.write_tables(tmp_path)
    assert commands.main(["report", out, *arguments]) != 0
    assert message in capsys.readouterr().err


def test_the_command_prints_the_table_and_lists_the_columns(tmp_path, capsys):
    out = small.write_tables(tmp_path)
    assert commands.main(["report", out, "--columns", "model, r", "--latex", "--dataset", "synthetic"]) == 0
    assert "tiny-llama & 0.612" in capsys.readouterr().out
    assert commands.main(["report", out, "--columns", "help"]) == 0
    assert set(capsys.readouterr().out.split()) >= set(COLUMNS)
