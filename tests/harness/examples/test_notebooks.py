"""The notebooks run from the first cell to the last, and find what was planted in their example data."""

import ast
import json
import tempfile
from importlib import resources

import numpy as np
import pandas as pd
import pytest

from harness.models import tiny

NOTEBOOKS = sorted(path.name for path in resources.files("harness.examples").iterdir() if path.name.endswith(".ipynb"))


def cells(name, kind):
    book = json.loads((resources.files("harness.examples") / name).read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in book["cells"] if cell["cell_type"] == kind]


def show(value):
    """What a notebook asks of the value of a cell."""
    return value._repr_html_() if hasattr(value, "_repr_html_") else repr(value)


def execute(codes):
    """Run cells in one namespace, as a kernel would, and return it."""
    namespace = {"__name__": "__main__"}
    for number, code in enumerate(codes):
        tree = ast.parse(code)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, f"code cell {number}", "exec"), namespace)  # noqa: S102 - our own notebooks
        if last:
            value = eval(compile(ast.Expression(last.value), f"code cell {number}", "eval"), namespace)  # noqa: S307
            assert value is None or show(value)
    return namespace


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The current folder; temporary files go beside it."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path / "here"


@pytest.fixture
def run(here):
    """Runs a notebook, which writes nothing into the current folder."""

    def run(name):
        namespace = execute(cells(name, "code"))
        assert not list(here.iterdir())
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


FRAMES = """
import pandas as pd
stimuli, responses = pd.read_csv("stimuli.csv"), pd.read_csv("responses.csv")
recording = {"stimuli": stimuli, "responses": responses, "dataset": {"name": "mylab"}}
"""


@pytest.fixture
def own_data(here):
    """A reader's two models and three tables, of noise: no subjects, no groups, sentences that occur twice."""
    rng = np.random.default_rng(0)
    nouns, verbs = ("dog", "river", "house", "teacher", "engine"), ("sees", "follows", "paints", "remembers")
    texts = [f"The {rng.choice(nouns)} {rng.choice(verbs)} the old {rng.choice(nouns)}." for _ in range(120)]
    for seed, name in enumerate(("my-model", "my-model-tuned")):
        tiny.build("gpt2", here / name, texts, seed)
    rows = {"stimulus_id": [f"s{k}" for k in range(120)], "text": texts, "passage": [f"p{k // 6}" for k in range(120)]}
    pd.DataFrame(rows).to_csv("stimuli.csv", index=False)
    values = pd.DataFrame(rng.standard_normal((120, 5)), columns=list("abcde"))
    values.assign(row_id=rows["stimulus_id"]).to_csv("responses.csv", index=False)
    words = [(f"s{k}.{j}", word, f"p{k // 6}") for k, text in enumerate(texts) for j, word in enumerate(text.split())]
    frame = pd.DataFrame(words, columns=["stimulus_id", "text", "passage"])
    frame.assign(reading_ms=300 + 20 * rng.standard_normal(len(words))).to_csv("words.csv", index=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_own_data_need_changes_in_the_cells_marked_yours_only(own_data):
    build, _, look, _, *rest = cells("own_recording.ipynb", "code")
    assert "quickstart.build" in build
    results = execute([FRAMES, look, 'model = "my-model"', *rest])["results"]
    assert "my-model" in set(results.model_scores["model"])
    build, train, _, *rest = cells("base_and_tuned.ipynb", "code")
    assert "optimizer.step" in train
    table = execute([FRAMES + 'models = ["./my-model", "./my-model-tuned"]', *rest])["table"]
    assert list(table.index) == ["my-model", "my-model-tuned"]
    assert list(table["ceiling"]) == ["", ""], "without subjects there is none"
    build, _, *rest = cells("surprisal_and_reading_times.ipynb", "code")
    yours = 'import pandas as pd\nmodel, words = "my-model", pd.read_csv("words.csv")'
    assert execute([yours, *rest])["scores"].loc["my-model", "delta_ll"] < 0.05
