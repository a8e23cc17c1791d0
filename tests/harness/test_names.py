"""Whatever a folder is called and its configuration holds: it is right, or refused in one sentence, and alone."""

import io
import json
import logging
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import ray
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from harness import names
from harness.checkpoints import checkpoints
from harness.cli import commands, logs, printing, run_commands
from harness.models import tiny
from harness.names import MAX_BYTES
from harness.report import embedded_files
from harness.runs.metrics import RunMetrics
from harness.runs.progress import Display
from harness.runs.workload import Failure, ProgressListener, guarded
from harness.storage import tables

ODD = (
    "ünï",
    "[/b]",
    "[bold red]x",
    "=cmd()",
    "a b",
    "100%",
    "org/m1",
    "../..",
    "你好",
    "$(id)",
    "a;b",
    "o'brien",
    "NA",
)


@pytest.mark.parametrize("name", ODD)
def test_a_name_of_letters_is_right_however_odd(name):
    assert names.require(name) == name


@pytest.mark.parametrize(("name", "said"), [
    ("a\nb", r"'a\\nb' contains control characters"), ("a\x1b[31m", r"'a\\x1b\[31m' contains control characters"),
    ("bad\udcff", r"'bad\\udcff' is not valid UTF-8"), ("", "has no name"), ("   ", "has no name"),
    ("x" * 255, "takes 255 bytes as the name of a folder"), ("名" * 80, "takes 720 bytes"),
    ("m:untrained", "ends like that of a model's own control"), ("a\u202eb", "contains control characters"),
])  # fmt: skip
def test_a_name_that_cannot_stand_in_tables_is_refused_in_a_line_that_can_be_shown(name, said):
    with pytest.raises(ValueError, match=said) as error:
        names.require(name)
    assert str(error.value).isprintable()


@given(st.text(max_size=80))
def test_a_name_is_a_folder_of_a_partition_or_is_refused(name):
    try:
        names.require(name)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert name.encode() and len(name.encode()) <= MAX_BYTES


@given(st.text(alphabet=st.characters(), max_size=60))
def test_what_is_shown_can_be_written_and_rules_no_terminal(text):
    found = names.printable(text)
    assert found.encode().decode() == found
    assert all(letter.isprintable() or letter in "\n\t" for letter in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.build("llama", tmp_path_factory.mktemp("names") / "m", ["the old bee watched the hive"], seed=0)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6,
)  # fmt: skip
_KEYS = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings", "bos_token_id",
    "model_type", "architectures", "torch_dtype", "rope_parameters", "quantization_config", "_name_or_path",
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from(_KEYS) | st.text(max_size=8), _JSON, min_size=1, max_size=3))
def test_any_configuration_is_read_or_refused_in_words(folder, odd):
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | odd))
    try:
        found = checkpoints.resolve(str(folder))
        row = dict.fromkeys(tables.SCHEMAS["model_properties"]) | {"model": found.name, "n_layers": found.n_layers}
        tables.rows_to_arrow("model_properties", [row | {"vocabulary": found.vocabulary}])
    except (ValueError, FileNotFoundError) as error:
        assert str(error)
    finally:
        file.write_text(before)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_JSON)
def test_anything_in_place_of_a_configuration_is_refused_in_words(folder, odd):
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(odd))
    try:
        with pytest.raises(ValueError, match=r"config\.json|model_type"):
            checkpoints.resolve(str(folder))
    finally:
        file.write_text(before)


def test_a_value_that_no_column_holds_costs_no_other_row(caplog):
    row = dict.fromkeys(tables.SCHEMAS["model_properties"])
    rows = [row | {"model": "a", "tuned_from": "x\ud800", "context_size": 10**30}, row | {"model": "b", "n_layers": 2}]
    found = tables.rows_to_arrow("model_properties", rows).to_pylist()
    assert [(one["model"], one["tuned_from"], one["context_size"]) for one in found] == [
        ("a", r"x\ud800", None), ("b", None, None),
    ]  # fmt: skip
    assert "model a: context_size cannot be written as it is" in caplog.text


@pytest.mark.parametrize("name", ODD)
def test_names_are_shown_as_they_are(name, capsys):
    printing.show([{"model": name, "r": math.nan}], as_json=False)
    assert name in capsys.readouterr().out
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Display(console) as display:
        display.words(name, 1, 2)
        display.busy(name)
        display.remarked(name, name)
        display.failed(Failure("models", name, "", "", "ValueError", f"{name} is wrong"))
    assert f"{name} is wrong" in console.file.getvalue()


def test_what_goes_wrong_in_showing_or_measuring_ends_no_run(caplog):
    class Broken(ProgressListener):
        def busy(self, what):
            raise UnicodeEncodeError("ascii", what, 0, 1, "no")

    guarded(Broken()).busy("ünï")
    assert "busy could not be shown: UnicodeEncodeError" in caplog.text
    labels = RunMetrics._labels(SimpleNamespace(run="r"), model="ünï")
    assert labels["model"].isascii()


@pytest.mark.parametrize(("text", "safe"), [
    ("cannot write to s3://KEY:SECRET@bucket/out", "cannot write to s3://bucket/out"),
    ("--out https://user:pass@host/x?a=1", "--out https://host/x?a=1"),
    ("https://hub/x?token=hf_abc&b=2&X-Amz-Signature=00", "https://hub/x?token=...&b=2&X-Amz-Signature=..."),
    ("mail me at a@b.c, org/model@main", "mail me at a@b.c, org/model@main"), ("a\x1b[31mred\x07", r"a\x1b[31mred\x07"),
])  # fmt: skip
def test_addresses_lose_their_credentials_and_terminals_are_not_ruled(text, safe, caplog):
    assert names.printable(text) == safe
    assert Failure.of(OSError(text), "store").message == safe
    record = logging.LogRecord("harness.x", logging.WARNING, "f", 1, text, (), None)
    assert logs.Lines("%(message)s").format(record) == safe
    assert json.loads(logs.JsonLines().format(record))["message"] == safe


def test_no_name_is_a_formula_of_a_spreadsheet_and_words_stay_as_they_are():
    frame = pd.DataFrame({"model": ["=cmd()", "-rf", "gpt2"], "word": ["=", "-", "+1"], "r": [-0.1, 0.2, None]})
    found = embedded_files.escape_formulas(frame)
    assert found["model"].tolist() == ["'=cmd()", "'-rf", "gpt2"]
    assert found[["word", "r"]].equals(frame[["word", "r"]])


@pytest.mark.parametrize("error", [RuntimeError("Ray is\nlost"), ray.exceptions.RayError("GCS"), KeyError("x")])
def test_whatever_goes_wrong_ends_in_a_sentence_and_a_status(monkeypatch, capsys, error):
    def fail(_):
        raise error

    monkeypatch.setattr(run_commands, "specs", fail)
    assert commands.main(["specs"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"harness: {type(error).__name__}: ")


def test_a_filesystem_without_its_library_is_named(tmp_path, capsys):
    assert commands.main(["run", "quickstart", "--out", "s3://bucket/x"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "s3fs" in said
