"""The list of the paper's figures and tables: none missing, and each says what gives it."""

import json
import re
import typing

import pandas as pd
import pytest

from harness.cli import commands
from harness.models.model_table import MODELS, ancestors
from harness.spec import SPECS
from harness.statistics import paper_contents, published, score_files
from harness.statistics.paper_contents import CONTENTS, FIGURES, TABLE_8, TABLES, Status
from harness.storage.schemas import SCHEMAS


@pytest.fixture(scope="module")
def paper(shared):
    return score_files.read(str(shared / "paper" / "scores.csv"))


def test_no_figure_or_table_is_missing():
    kinds = {"Figure": set(), "Table": set()}
    for content in CONTENTS:
        kind, number = re.match(r"(Figure|Table) (\d+)", content.label).groups()
        kinds[kind].add(int(number))
    assert kinds == {"Figure": set(FIGURES), "Table": set(TABLES)}
    assert (len(FIGURES), len(TABLES)) == (9, 10)
    labels = [content.label for content in CONTENTS]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("content", CONTENTS, ids=lambda content: content.label)
def test_each_says_what_gives_it(content):
    assert content.status in typing.get_args(Status)
    assert content.shows
    for command in re.findall(r"`harness ([^`]+)`", content.by):
        words = command.split()
        assert words[0] in commands.parser().format_help()
        assert words[0] != "run" or words[1] in SPECS
    named = re.findall(r"\b([a-z]+(?:_word)?_scores)\b", content.by)
    assert set(named) <= set(SCHEMAS)
    is_referred = re.match(r"as (Figure \d\w?)", content.by)
    assert not is_referred or is_referred[1] in {other.label for other in CONTENTS}


def test_what_is_reproduced_without_a_reference_agrees_or_says_what_differs(paper):
    """Every statement belongs to an entry of the list."""
    figures = published.printed_figures(paper)
    labels = {content.label for content in CONTENTS}
    for figure in figures:
        assert set(figure.where.split(", ")) <= labels
    here = {row["item"]: row["here"] for row in paper_contents.overview(figures, None)}
    assert here["Figure 3B"] == "1 of 1 statements agree"
    assert here["Figure 1C"] == "1 of 3 statements agree"
    assert here["Figure 2A"] == "0 of 1 statements agree"  # 0.805 from scores rounded to three digits, printed 0.809
    assert here["Table 1"] == ""


def test_scores_of_a_run_are_counted(paper):
    compared = pd.DataFrame({"table": ["5", "5", "8"], "model": ["a", "a", "gemma-2b"]})
    here = {row["item"]: row["here"] for row in paper_contents.overview([], compared)}
    assert (here["Table 5"], here["Table 8"], here["Table 9"]) == (
        "1 models compared", "1 models compared", "no model in common",
    )  # fmt: skip


def test_the_models_of_appendix_j_are_planned_with_their_bases():
    spec = SPECS["appendix_j"]()
    assert set(spec.models) == set(TABLE_8)
    assert spec.datasets == ("pereira2018", "blank2014", "wehbe2014")
    pairs = {name: MODELS[name].tuned_from for name in spec.models if MODELS[name].tuned_from}
    assert pairs == {
        "gemma-2b-it": "gemma-2b", "gemma-7b-it": "gemma-7b", "llama-2-7b-chat": "llama-2-7b",
        "llama-2-13b-chat": "llama-2-13b",
    }  # fmt: skip
    assert {tuple(ancestors(name)) for name in pairs} == {(base,) for base in pairs.values()}


def test_tables_3_and_4_are_those_of_the_table_of_models(shared):
    printed = pd.read_csv(shared / "paper" / "models.csv").set_index("model")
    assert len(printed) == 33
    for name, row in printed.iterrows():
        assert MODELS[name].n_blocks == row["n_layers"]
        assert MODELS[name].n_parameters == row["n_parameters_nominal"]


def test_the_command_lists_everything(shared, capsys):
    assert commands.main(["compare", "paper", "--paper", str(shared / "paper" / "scores.csv"), "--json"]) == 0
    contents = json.loads(capsys.readouterr().out)["contents"]
    assert [row["item"] for row in contents] == [content.label for content in CONTENTS]
