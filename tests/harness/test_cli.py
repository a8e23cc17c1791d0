import json

import pandas as pd
import pytest

from harness import tiny
from harness.cli import main


@pytest.mark.parametrize(
    "command", [["models"], ["datasets"], ["specs"], ["controls"], ["doctor"], ["datasets", "tuckute2024"]]
)
def test_json_is_one_document_and_nothing_else(command, capsys):
    assert main([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", [["models"], ["datasets"], ["specs"], ["controls"], ["datasets", "tuckute2024"]])
def test_people_get_a_table(command, capsys):
    assert main(command) == 0
    assert len(capsys.readouterr().out.splitlines()) > 2


@pytest.mark.parametrize(("command", "message"), [
    (["run", "quickstrat"], "the nearest are quickstart"),
    (["run", "quickstart", "--dataset", "synthetik"], "the nearest are synthetic"),
    (["datasets", "tuckute"], "the nearest are tuckute2024"),
    (["run", "real"], "give --model"),
    (["report", "/nowhere/at/all"], "no tables under"),
    (["surprisal", "/nowhere.csv", "--model", "x"], "is not there"),
])  # fmt: skip
def test_wrong_use_is_one_line_and_status_2(command, message, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1


def test_a_users_own_words_get_surprisals(tmp_path, capsys):
    model = tiny.build("gpt2", tmp_path / "tiny", ["the cat sat"], 0)
    file = tmp_path / "words.csv"
    file.write_text('word_id,passage,word\n1,a,The\n2,a,"owner\'s"\n3,b,caf\u00e9\n')
    assert main(["surprisal", str(file), "--model", str(model), "--json"]) == 0
    rows = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert list(rows.word_id) == ["1", "2", "3"]
    assert (rows.surprisal_bits > 0).all()


def test_a_table_without_words_is_refused_by_its_columns(tmp_path, capsys):
    file = tmp_path / "words.csv"
    file.write_text("text\nThe\n")
    assert main(["surprisal", str(file), "--model", "x"]) == 2
    assert "has the columns text" in capsys.readouterr().err
