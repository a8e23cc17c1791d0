import json

import pandas as pd
import pytest

from harness.cli import commands as cli
from harness.cli import run_commands
from harness.cli.commands import main
from harness.models import tiny
from harness.runs import pipeline

pytestmark = pytest.mark.ray


@pytest.mark.parametrize(
    "command", [["models"], ["datasets"], ["specs"], ["controls"], ["doctor"], ["datasets", "tuckute2024"]]
)
def test_json_is_one_document_and_nothing_else(command, capsys):
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", [["models"], ["datasets"], ["specs"], ["controls"], ["datasets", "tuckute2024"]])
def test_without_json_a_table_is_printed(command, capsys):
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


@pytest.mark.parametrize(("command", "message"), [
    (["run", "quickstrat"], "the nearest are quickstart"),
    (["run", "quickstart", "--dataset", "synthetik"], "the nearest are synthetic"),
    (["datasets", "tuckute"], "the nearest are tuckute2024"),
    (["run", "real"], "give --model"),
    (["report", "/nowhere/at/all"], "no tables under"),
    (["surprisal", "/nowhere.csv", "--model", "x"], "is neither a file nor a data set"),
])  # fmt: skip
def test_wrong_usage_is_one_line_and_status_2(command, message, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("protocol", "protocols"), [
    ("both", ("strict", "paper")),
    ("equal", ("equal",)),
    ("brainscore2026", ("brainscore2026",)),
    ("all", ("strict", "paper", "equal", "brainscore2026")),
])  # fmt: skip
def test_protocols_are_selected_by_name(protocol, protocols):
    arguments = cli.parser().parse_args(["run", "quickstart", "--protocol", protocol])
    assert run_commands.spec_of(arguments).protocols == protocols


def test_a_protocol_that_no_data_set_has_is_reported():
    outcome = pipeline.Outcome("run-1", n_units=0, n_computed=0, n_reused=0, failures=(), seconds=1.0)
    assert "no data set of the spec has the requested protocol" in run_commands._last_words(outcome, "report.html")


@pytest.mark.parametrize(("flags", "pinned"), [([], True), (["--unpinned"], False)])
def test_checksums_are_pinned_unless_unpinned_is_given(flags, pinned, monkeypatch):
    values = []

    def run(spec, out, options, **_):
        values.append(options.pinned)
        raise ValueError("stop here")

    monkeypatch.setattr(pipeline, "run", run)
    assert main(["run", "quickstart", *flags]) == 2
    assert values == [pinned]


def test_a_data_set_shows_its_protocols_in_words(capsys):
    assert main(["datasets", "tuckute2024"]) == 0
    output = capsys.readouterr().out
    assert "brainscore2026 (" in output
    assert (
        "ridge, one of 7 alphas for all neuroids chosen in training rows; 10 random splits, 10% of the rows" in output
    )


def test_surprisal_of_words_in_a_users_file(tmp_path, capsys):
    model = tiny.build("gpt2", tmp_path / "tiny", ["the cat sat"], 0)
    file = tmp_path / "words.csv"
    file.write_text('word_id,passage,word\n1,a,The\n2,a,"owner\'s"\n3,b,caf\u00e9\n')
    assert main(["surprisal", str(file), "--model", str(model), "--json"]) == 0
    rows = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert list(rows.word_id) == ["1", "2", "3"]
    assert (rows.surprisal_bits > 0).all()


def test_json_has_null_instead_of_nan(tmp_path, capsys):
    model = tiny.build("gpt2", tmp_path / "tiny", ["the cat sat"], 0)
    file = tmp_path / "words.csv"
    file.write_text("word\nThe\ncat\n")
    assert main(["surprisal", str(file), "--model", str(model), "--bos", "none", "--json"]) == 0
    output = capsys.readouterr().out
    assert "NaN" not in output
    assert [row["surprisal_bits"] is None for row in json.loads(output)] == [True, False]


def test_an_error_during_the_forward_pass_names_the_model(tmp_path, capsys):
    model = tiny.build("gpt2", tmp_path / "tiny", ["the cat sat"], 0)
    file = tmp_path / "words.csv"
    file.write_text("word\nThe\ncat\n")
    assert main(["surprisal", str(file), "--model", str(model), "--window", "1"]) == 2
    assert "tiny: a window holds 0 tokens after its BOS; 2 or more are wanted" in capsys.readouterr().err


def test_a_table_without_a_word_column_is_refused_with_its_columns(tmp_path, capsys):
    file = tmp_path / "words.csv"
    file.write_text("text\nThe\n")
    assert main(["surprisal", str(file), "--model", "x"]) == 2
    assert "has the columns text" in capsys.readouterr().err
