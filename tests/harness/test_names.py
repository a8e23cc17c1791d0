"""Unusual model names and configurations are accepted, or refused with one sentence without affecting other models."""

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

pytestmark = pytest.mark.ray

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
def test_unusual_printable_names_are_accepted(name):
    assert names.require(name) == name


@pytest.mark.parametrize(("name", "message"), [
    ("a\nb", r"'a\\nb' contains control characters"), ("a\x1b[31m", r"'a\\x1b\[31m' contains control characters"),
    ("bad\udcff", r"'bad\\udcff' is not valid UTF-8"), ("", "has no name"), ("   ", "has no name"),
    ("x" * 255, "takes 255 bytes as the name of a folder"), ("名" * 80, "takes 720 bytes"),
    ("m:untrained", "ends with the suffix of a variant"), ("a\u202eb", "contains control characters"),
])  # fmt: skip
def test_a_name_that_no_table_can_hold_is_refused_with_a_printable_message(name, message):
    with pytest.raises(ValueError, match=message) as error:
        names.require(name)
    assert str(error.value).isprintable()


@given(st.text(max_size=80))
def test_a_name_can_be_a_partition_folder_or_is_refused(name):
    try:
        names.require(name)
    except ValueError as error:
        assert str(error).isprintable()
    else:
        assert name.encode() and len(name.encode()) <= MAX_BYTES


@given(st.text(alphabet=st.characters(), max_size=60))
def test_printable_text_is_valid_utf_8_without_control_characters(text):
    shown = names.printable(text)
    assert shown.encode().decode() == shown
    assert all(letter.isprintable() or letter in "\n\t" for letter in shown)


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
def test_any_configuration_is_accepted_or_refused_with_a_message(folder, changes):
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(json.loads(before) | changes))
    try:
        checkpoint = checkpoints.resolve(str(folder))
        facts = {"model": checkpoint.name, "n_layers": checkpoint.n_layers, "vocabulary": checkpoint.vocabulary}
        tables.rows_to_arrow("model_properties", [dict.fromkeys(tables.SCHEMAS["model_properties"]) | facts])
    except (ValueError, FileNotFoundError) as error:
        assert str(error)
    finally:
        file.write_text(before)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_JSON)
def test_any_other_json_in_place_of_a_configuration_is_refused_with_a_message(folder, content):
    file = folder / "config.json"
    before = file.read_text()
    file.write_text(json.dumps(content))
    try:
        with pytest.raises(ValueError, match=r"config\.json|model_type"):
            checkpoints.resolve(str(folder))
    finally:
        file.write_text(before)


def test_a_value_that_does_not_fit_its_column_loses_no_other_row(caplog):
    row = dict.fromkeys(tables.SCHEMAS["model_properties"])
    rows = [row | {"model": "a", "tuned_from": "x\ud800", "context_size": 10**30}, row | {"model": "b", "n_layers": 2}]
    written = tables.rows_to_arrow("model_properties", rows).to_pylist()
    assert [(row["model"], row["tuned_from"], row["context_size"]) for row in written] == [
        ("a", r"x\ud800", None), ("b", None, None),
    ]  # fmt: skip
    assert "model a: context_size cannot be written unchanged" in caplog.text


@pytest.mark.parametrize("name", ODD)
def test_names_are_displayed_unchanged(name, capsys):
    printing.show([{"model": name, "r": math.nan}], as_json=False)
    assert name in capsys.readouterr().out
    console = Console(file=io.StringIO(), force_terminal=True, width=200)
    with Display(console) as display:
        display.words(name, 1, 2)
        display.busy(name)
        display.remarked(name, name)
        display.failed(Failure("models", name, "", "", "ValueError", f"{name} is wrong"))
    assert f"{name} is wrong" in console.file.getvalue()


def test_errors_of_a_progress_display_or_metric_do_not_end_a_run(caplog):
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
def test_credentials_and_control_characters_are_removed_from_printed_text(text, safe, caplog):
    assert names.printable(text) == safe
    assert Failure.of(OSError(text), "store").message == safe
    record = logging.LogRecord("harness.x", logging.WARNING, "f", 1, text, (), None)
    assert logs.Lines("%(message)s").format(record) == safe
    assert json.loads(logs.JsonLines().format(record))["message"] == safe


def test_names_that_look_like_spreadsheet_formulas_are_escaped_and_words_are_not():
    frame = pd.DataFrame({"model": ["=cmd()", "-rf", "gpt2"], "word": ["=", "-", "+1"], "r": [-0.1, 0.2, None]})
    escaped = embedded_files.escape_formulas(frame)
    assert escaped["model"].tolist() == ["'=cmd()", "'-rf", "gpt2"]
    assert escaped[["word", "r"]].equals(frame[["word", "r"]])


@pytest.mark.parametrize("error", [RuntimeError("Ray is\nlost"), ray.exceptions.RayError("GCS"), KeyError("x")])
def test_an_unexpected_error_ends_with_one_sentence_and_status_1(monkeypatch, capsys, error):
    def fail(_):
        raise error

    monkeypatch.setattr(run_commands, "specs", fail)
    assert commands.main(["specs"]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith(f"harness: {type(error).__name__}: ")


def test_a_missing_filesystem_library_is_named(tmp_path, capsys):
    assert commands.main(["run", "quickstart", "--out", "s3://bucket/x"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "s3fs" in message
