"""The notebooks run from the first cell to the last, and find what was planted in their example data."""

import ast
import json
import tempfile
from importlib import resources

import pytest

NOTEBOOKS = sorted(path.name for path in resources.files("harness.examples").iterdir() if path.name.endswith(".ipynb"))


def cells(name, kind):
    book = json.loads((resources.files("harness.examples") / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def show(value):
    """What a notebook asks of the value of a cell."""
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the code cells in one namespace, as a kernel would; returns it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def run(name):
        namespace = {"__name__": "__main__"}
        for number, code in enumerate(cells(name, "code")):
            tree = ast.parse(code)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, f"{name}, code cell {number}", "exec"), namespace)  # noqa: S102 - our own notebooks
            if last:
                value = eval(compile(ast.Expression(last.value), f"{name}, code cell {number}", "eval"), namespace)  # noqa: S307
                assert value is None or show(value)
        assert not list((tmp_path / "here").iterdir()), "nothing is written into the current folder"
        return namespace

    return run


def test_own_recording_finds_the_planted_layer(run):
    results = run("own_recording.ipynb")["results"]
    scores = results.model_scores[lambda frame: frame["target"] == "all"].set_index("model")
    assert scores.loc["tiny-llama", ["stack", "layer"]].tolist() == ["decoder", 3]
    assert scores.loc["tiny-llama", "r"] == scores["r"].max()
    assert scores.loc["tiny-llama", "unique_low"] > 0.05
    assert scores.loc["tiny-llama:untrained", "unique_r2"] < 0.05


def test_base_and_tuned_ends_in_a_table(run):
    namespace = run("base_and_tuned.ipynb")
    assert namespace["tests"].loc["tiny-instruct", "high"] < 0, "the responses follow the base"
    table, latex = namespace["table"], namespace["latex"]
    assert list(table.index) == ["tiny", "tiny-instruct"]
    assert table.loc["tiny", "tuned - base [95% CI]"] == ""
    assert table.loc["tiny-instruct", "r [95% CI]"] in latex
    assert r"\toprule" in latex
    assert r"95\% CI" in latex


def test_surprisal_is_seen_in_reading_times(run):
    namespace = run("surprisal_and_reading_times.ipynb")
    scores = namespace["scores"]
    assert scores.loc["tiny-gpt2", "delta_ll_low"] > 0
    assert scores.loc["tiny-gpt2", "delta_ll"] == scores["delta_ll"].max()
    assert len(namespace["bits"]) == len(namespace["words"])


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_short_and_stored_without_outputs(name):
    book = json.loads((resources.files("harness.examples") / name).read_text(encoding="utf-8"))
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in book["cells"]}) == len(book["cells"])
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(cell["source"] and len(cell["source"]) <= 20 for cell in code)
    assert any("**yours**" in text for text in cells(name, "markdown"))
