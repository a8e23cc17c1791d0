"""A run in MLflow and W&B, read back from what they write without a server, and trackers that fail."""

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness.cli import run_commands
from harness.cli.commands import main
from harness.tracking import contents, trackers, with_mlflow

pytestmark = pytest.mark.ray  # the quickstart


def require(library):
    if importlib.util.find_spec(library) is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{library} is not installed (extra `dev`).")


@pytest.fixture
def out(finished_quickstart, tmp_path):
    return finished_quickstart.copy_to(tmp_path / "results")


def overall(out):
    """The scores that the trackers get, from the Parquet files."""
    brain = pd.read_parquet(Path(out) / "tables" / "model_scores").query("target == 'all'")
    reading = pd.read_parquet(Path(out) / "tables" / "reading_scores")
    columns = {"brain": ["r", "r_low", "r_high", "ceiling", "unique_r2"],
               "reading": ["abs_r", "delta_ll", "delta_ll_low", "delta_ll_high"]}  # fmt: skip
    labels = ["dataset", "protocol", "model"]
    melted = pd.concat([
        brain.melt(labels, columns["brain"]), reading.melt(labels, columns["reading"]),
    ]).dropna()  # fmt: skip
    names = melted[labels].astype(str).agg("/".join, axis=1) + "/" + melted["variable"]
    return dict(zip(names, melted["value"].astype(float), strict=True))


def test_scores_settings_and_files_of_a_run(out, tmp_path):
    content = contents.of_run(out, None, tmp_path / "files")
    assert content.scores == pytest.approx(overall(out))
    assert np.isfinite(list(content.scores.values())).all()
    assert content.settings["spec"] == "quickstart"
    assert content.settings["models"] == "tiny-llama, tiny-gpt2, tiny-t5"
    assert content.settings["protocols"] == "strict, paper"
    assert content.facts["status"] == "done"
    written = {path.relative_to(tmp_path / "files").as_posix() for path in (tmp_path / "files").rglob("*.*")}
    assert {"report.html", "figures/glance-1.svg", "tables/model_scores.parquet"} <= written
    assert not [path for path in written if Path(path).stem in contents.LARGE]
    sent = pd.read_parquet(tmp_path / "files" / "tables" / "model_scores.parquet")
    assert len(sent) == len(pd.read_parquet(Path(out) / "tables" / "model_scores"))


SEND = "import sys\nfrom harness.tracking import trackers\nprint(trackers.send(sys.argv[1], None, sys.argv[2]))"


def send(out, tracker, environment, *more):
    """In a process of its own, since both libraries keep threads and settings for the life of a process."""
    command = [sys.executable, "-c", SEND, out, tracker, *more]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, cwd=Path(out).parent, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_mlflow_has_the_run_once_with_its_scores_and_files(out, tmp_path, monkeypatch):
    require("mlflow")
    store = {"MLFLOW_TRACKING_URI": (tmp_path / "mlruns").as_uri(), "MLFLOW_ALLOW_FILE_STORE": "true"}
    assert "of experiment brain-alignment" in send(out, "mlflow", store)
    (setting,) = (tmp_path / "mlruns").glob("*/*/params/spec")
    setting.write_text("of an earlier version")
    send(out, "mlflow", store)
    (experiment,) = [path.parent for path in (tmp_path / "mlruns").glob("*/meta.yaml")
                     if "name: brain-alignment" in path.read_text()]  # fmt: skip
    (run,) = [path.parent for path in experiment.glob("*/meta.yaml")]
    written = {path.relative_to(run / "metrics").as_posix(): float(path.read_text().splitlines()[-1].split()[1])
               for path in (run / "metrics").rglob("*") if path.is_file()}  # fmt: skip
    assert written == pytest.approx(overall(out))
    assert setting.read_text() == "of an earlier version"
    assert (run / "params" / "protocols").read_text() == "strict, paper"
    assert (run / "tags" / "status").read_text() == "done"
    assert (run / "artifacts" / "report.html").read_bytes() == (Path(out) / "report.html").read_bytes()
    assert (run / "artifacts" / "tables" / "paired_tests.parquet").is_file()


def wandb_records(file):
    """The records of an offline run: LevelDB's log format, blocks of 32 kB with headers of 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    data, at, joined = file.read_bytes(), 7, b""
    while at < len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        n, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        joined, at = joined + data[at + 7 : at + 7 + n], at + 7 + n
        if kind in (1, 4):  # whole, last
            record = wandb_internal_pb2.Record()
            record.ParseFromString(joined)
            joined = b""
            yield record


@pytest.mark.slow
def test_wandb_has_the_run_offline_without_the_command_line(out, tmp_path):
    require("wandb")
    home = {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_DATA_DIR": str(tmp_path / "data"),
            "WANDB_CACHE_DIR": str(tmp_path / "cache"), "WANDB_CONFIG_DIR": str(tmp_path / "config")}  # fmt: skip
    for _ in range(2):
        assert "wandb sync" in send(out, "wandb", home, "s3://user:password@bucket")
    first, file = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert first.name == file.name, "both have one id, so that `wandb sync` updates the run"
    records = list(wandb_records(file))
    (run,) = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert run.project == "brain-alignment"
    assert run.run_id.startswith("quickstart-")
    assert {item.key: item.value_json for item in run.config.update}["spec"] == '"quickstart"'
    summary = {item.key or "/".join(item.nested_key): item.value_json
               for record in records for item in record.summary.update}  # fmt: skip
    wanted = overall(out)
    assert {name: float(summary[name]) for name in wanted} == pytest.approx(wanted)
    files = {item.path for record in records for item in record.artifact.manifest.contents}
    assert {"report.html", "figures/glance-1.svg", "tables/model_scores.parquet"} <= files
    assert b"password" not in file.read_bytes()


def refuse(content):
    raise ConnectionError(f"no route to http://me:secret@host for {content.run}")


@pytest.fixture
def refusing(monkeypatch):
    """An installed MLflow whose server cannot be reached."""
    monkeypatch.setattr(trackers, "require_installed", lambda names: None)
    monkeypatch.setattr(contents, "of_run", lambda out, run, folder: contents.Content(run, {}, {}, {}, folder))
    monkeypatch.setattr(with_mlflow, "send", refuse)


def test_a_tracker_that_fails_loses_nothing(out, refusing, finished_quickstart, monkeypatch, capsys):
    monkeypatch.setattr(run_commands, "evaluate", lambda *_: (finished_quickstart.outcome, "report.html"))
    assert main(["run", "quickstart", "--out", out, "--track", "mlflow"]) == 1
    shown = capsys.readouterr().out
    assert "open the report: report.html" in shown
    assert "mlflow did not take the run (ConnectionError: no route to http://host" in shown
    assert main(["track", out, "mlflow", "--json"]) == 1
    assert "secret" not in capsys.readouterr().out
    assert overall(out)


@pytest.mark.parametrize("spec", [None, importlib.machinery.ModuleSpec("wandb", None)], ids=["nothing", "a folder"])
def test_without_the_library_nothing_is_computed(spec, monkeypatch, capsys):
    monkeypatch.setattr(trackers, "find_spec", lambda name: spec)
    monkeypatch.setattr(run_commands, "evaluate", None)
    assert main(["run", "quickstart", "--track", "wandb"]) == 2
    assert "wandb is not installed; pip install 'brain-alignment-harness[wandb]'." in capsys.readouterr().err


def test_an_unknown_run_is_named(out, refusing, capsys):
    assert main(["track", out, "mlflow", "--run", "quickstart-0"]) == 2
    assert "run quickstart-0 is not in the table of runs" in capsys.readouterr().err
