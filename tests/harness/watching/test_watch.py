"""Watching checkpoints that appear, break and change: each complete one is evaluated once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import ray

from harness.checkpoints import checkpoints
from harness.cli.commands import main
from harness.protocol import content_hash
from harness.report import page
from harness.runs import assemble
from harness.runs.outcome import Outcome
from harness.runs.workload import Failure
from harness.spec import EvaluationSpec
from harness.storage import tables
from harness.storage.store import Store
from harness.units import quickstart
from harness.watching import hooks, sources
from harness.watching.watch import CheckpointWatcher
from tests.harness import earlier_files

pytestmark = pytest.mark.ray

SPEC = EvaluationSpec("real", ("base",), ("tuckute2024",))


class Laboratory:
    """Replaces pipeline.run: writes tables for the given names and revisions without running models."""

    def __init__(self, out):
        self.store, self.scored, self.runs, self.fails, self.stops = Store(str(out)), [], [], {}, False

    def __call__(self, spec):
        models, failures = {}, []
        for given in spec.models:
            name = checkpoints.name_of(given)
            revision = checkpoints.resolve(given).revision if Path(given).is_dir() else "base"
            if name in self.fails:
                failures.append(Failure("extract", name, "tuckute2024", "strict", "OSError", self.fails[name]))
            else:
                models[name] = revision
        run = f"real-{content_hash(models)[:8]}"
        self.runs.append(run)
        if self.stops:
            return Outcome(run, 9, 0, 0, (), 0.0, was_stopped=True)
        self.scored += [pair for pair in models.items() if pair not in self.scored]
        self.write(run, models)
        return Outcome(run, len(models), len(models), 0, tuple(failures), 0.0)

    def write(self, run, models):
        def row(table, **values):
            return dict.fromkeys(tables.SCHEMAS[table]) | {"run": run} | values

        score = {"dataset": "tuckute2024", "protocol": "strict", "target": "all", "kind": "model"}
        step = {name: int("0" + "".join(filter(str.isdigit, name))) for name in models}
        rows = {
            "model_properties": [row("model_properties", model=name, revision=revision, kind="model")
                                 for name, revision in models.items()],
            "units": [row("units", kind="scores", key=f"{name}-{revision}", model=name)
                      for name, revision in models.items()],
            "model_scores": [row("model_scores", model=name, r=0.2 - (step[name] == 200) * 0.1, **score)
                             for name in models],
            "reading_scores": [],
            "runs": [row("runs", status="done")],
        }  # fmt: skip
        for table, content in rows.items():
            assemble.write_rows(self.store, run, table, content)


class Training:
    """A folder to which checkpoints are written."""

    def __init__(self, folder, models):
        self.folder, self.models = folder, models

    def add(self, name, like="step-0050"):
        to = self.folder / name
        to.mkdir(parents=True, exist_ok=True)
        for file in (self.models / like).iterdir():
            shutil.copyfile(file, to / file.name)
        return to


@pytest.fixture
def training(shared, tmp_path):
    """A training with one checkpoint."""
    made = Training(tmp_path / "training", shared / "models" / "stories260K-instruct")
    made.add("step-100")
    return made


@pytest.fixture
def laboratory(tmp_path):
    return Laboratory(tmp_path / "out")


@pytest.fixture
def watch(training, laboratory, tmp_path):
    return CheckpointWatcher(str(training.folder), SPEC, str(tmp_path / "out"), laboratory, quiet_s=0)


def names(rows):
    return [row["model"] for row in rows]


def test_new_checkpoints_are_evaluated_together_with_earlier_ones_and_none_twice(watch, training, laboratory):
    assert names(watch.once().evaluated) == ["training@step-100"]
    training.add("step-200", "step-0200")
    training.add("step-300", "step-0600")
    result = watch.once()
    assert (names(result.evaluated), result.done) == (["training@step-200", "training@step-300"], 1)
    assert set(tables.read(watch.out, "model_scores", result.run).model) == {
        "base", "training@step-100", "training@step-200", "training@step-300",
    }  # fmt: skip
    n_runs = len(laboratory.runs)
    again = CheckpointWatcher(watch.source, SPEC, watch.out, laboratory, quiet_s=0).once()  # another process
    assert (again.done, again.evaluated, len(laboratory.runs)) == (3, [], n_runs)
    rows = tables.read(watch.out, "watched")
    assert list(rows.state) == ["evaluated"] * 3
    assert list(rows.attempt) == [1] * 3
    assert not rows.revision.duplicated().any()


def test_attempts_recorded_by_an_earlier_version_count(watch, training, laboratory):
    watch.once()
    for file in (Path(watch.out) / "tables" / "watched").glob("*.parquet"):
        earlier_files.rewrite("watched", file)
    training.add("step-200", "step-0200")
    result = watch.once()
    assert (names(result.evaluated), result.done) == (["training@step-200"], 1)
    assert set(tables.read(watch.out, "watched").spec_hash) == {watch.spec_hash}
    assert page._parked(watch.out, result.run) == []


def test_a_run_contained_in_a_newer_one_is_removed(watch, training):
    first = watch.once().run
    training.add("step-200", "step-0200")
    second = watch.once().run
    assert first != second
    assert set(tables.read(watch.out, "runs").run) == {second}


def test_a_checkpoint_replaced_in_place_is_a_new_revision_and_the_old_one_stays(watch, training, laboratory):
    first = watch.once()
    training.add("step-100", "step-0200")
    second = watch.once()
    (old,), (new,) = first.evaluated, second.evaluated
    assert old["model"] == new["model"]
    assert old["revision"] != new["revision"]
    scored = tables.read(watch.out, "model_properties")
    assert {old["revision"], new["revision"]} <= set(scored.revision)
    assert watch.once().evaluated == []
    assert len(laboratory.scored) == 3  # base, and both revisions


def test_a_checkpoint_whose_dates_alone_change_is_the_same_revision(watch, training, laboratory):
    watch.once()
    os.utime(training.folder / "step-100" / "config.json")
    watch.once()
    assert len(laboratory.scored) == 2
    assert tables.read(watch.out, "watched").revision.nunique() == 1


def test_a_failing_checkpoint_is_retried_and_then_parked_with_its_reason(watch, training, laboratory):
    training.add("step-200", "step-0200")
    os.truncate(training.folder / "step-200" / "model.safetensors", 900_000)
    laboratory.fails["training@step-300"] = "out of memory\nat line 3"
    training.add("step-300", "step-0600")
    passes = [watch.once() for _ in range(4)]
    assert [names(one.failed) for one in passes] == [["training@step-200", "training@step-300"]] * 2 + [[], []]
    assert names(passes[2].parked) == ["training@step-200", "training@step-300"]
    assert [one.event for one in passes[2].events] == ["parked", "parked"]
    assert passes[3].parked == []
    reasons = [row["reason"] for row in passes[2].parked]
    assert "its header promises 1044992 bytes, the file has 900000" in reasons[0]
    assert reasons[1] == "OSError: out of memory"
    assert [row["state"] for row in watch.listed()] == ["evaluated", "parked", "parked"]
    training.add("step-200", "step-0200")  # copied again
    assert names(watch.once().evaluated) == ["training@step-200"]


def test_an_incomplete_checkpoint_is_not_evaluated(watch, training, laboratory):
    waiting = CheckpointWatcher(watch.source, SPEC, watch.out, laboratory, marker="finished")
    result = waiting.once()
    assert [one.where for one in result.waiting] == [str(training.folder / "step-100")]
    assert laboratory.runs == []
    (training.folder / "step-100" / "finished").touch()
    assert names(waiting.once().evaluated) == ["training@step-100"]


def test_a_stopped_pass_records_nothing_and_the_next_one_resumes(watch, laboratory):
    laboratory.stops = True
    result = watch.once()
    assert result.was_stopped
    assert watch.listed()[0]["state"] == "new"
    laboratory.stops = False
    assert names(watch.once().evaluated) == ["training@step-100"]


def test_a_missing_data_set_does_not_count_as_a_failed_attempt(watch, laboratory):
    def evaluate(spec):
        failure = Failure("datasets", "", "tuckute2024", "", "FileNotFoundError", "not there")
        return Outcome("run", 0, 0, 0, (failure,), 0.0)

    with pytest.raises(ValueError, match="could not load tuckute2024"):
        CheckpointWatcher(watch.source, SPEC, watch.out, evaluate, quiet_s=0).once()
    assert names(watch.once().evaluated) == ["training@step-100"]


def test_results_and_drops_are_events(watch, training):
    watch.once()
    training.add("step-200", "step-0200")
    events = watch.once().events
    assert [one.event for one in events] == ["result", "drop"]
    assert events[1].text == "training@step-200: tuckute2024 strict 0.100, a drop from 0.200"


def test_a_drop_is_detected_even_if_the_previous_step_was_deleted(watch, training):
    watch.once()
    shutil.rmtree(training.folder / "step-100")
    training.add("step-200", "step-0200")
    events = watch.once().events
    assert [one.text for one in events if one.event == "drop"] == [
        "training@step-200: tuckute2024 strict 0.100, a drop from 0.200"
    ]


@pytest.mark.parametrize("change", [
    lambda folder: os.utime(folder / "model.safetensors"),
    lambda folder: (folder / "trainer_state.json").write_text("{}"),
    lambda folder: (folder / "optimizer.pt").write_text("x"),
], ids=["touched", "trainer_state.json", "optimizer.pt"])  # fmt: skip
def test_touched_or_additional_files_make_no_new_checkpoint(watch, training, laboratory, change):
    watch.once()
    n_runs = len(laboratory.runs)
    change(training.folder / "step-100")
    result = watch.once()
    assert (result.done, result.evaluated, len(laboratory.runs)) == (1, [], n_runs)
    assert len(tables.read(watch.out, "watched")) == 1


def test_checkpoints_with_the_same_name_get_different_model_names(watch, training, laboratory, monkeypatch):
    def named(spec):
        known = checkpoints.names_of(spec.models)
        models = {name: checkpoints.resolve(given).revision for given, name in known.items() if Path(given).is_dir()}
        laboratory.write("real-1", models)
        return Outcome("real-1", len(models), len(models), 0, (), 0.0)

    shutil.rmtree(training.folder / "step-100")
    training.add("a/final")
    training.add("b/final", "step-0200")
    result = CheckpointWatcher(watch.source, SPEC, watch.out, named, quiet_s=0).once()
    assert sorted(names(result.evaluated)) == ["a-final", "b-final"]
    assert len({row["revision"] for row in result.evaluated}) == 2


def test_a_checkpoint_deleted_during_a_pass_does_not_affect_the_others(watch, training, monkeypatch):
    training.add("step-200", "step-0200")
    files_fingerprint = sources.fingerprints.files_fingerprint

    def delete_first(folder):
        if folder.name == "step-100":
            shutil.rmtree(folder, ignore_errors=True)
        return files_fingerprint(folder)

    monkeypatch.setattr(sources.fingerprints, "files_fingerprint", delete_first)
    assert names(watch.once().evaluated) == ["training@step-200"]


def test_each_event_is_reported_once_and_a_failing_handler_does_not_end_the_watch(
    watch, training, laboratory, monkeypatch
):
    monkeypatch.setattr("harness.watching.watch.MOST_AT_ONCE", 1)
    training.add("step-200", "step-0200")
    events = []

    def handle(event):
        events.append((event.event, event.model, len(laboratory.runs)))
        raise SystemError("the hook is broken")

    result = CheckpointWatcher(watch.source, SPEC, watch.out, laboratory, quiet_s=0, on_event=handle).once()
    assert events == [
        ("result", "training@step-100", 1), ("result", "training@step-200", 2), ("drop", "training@step-200", 2),
    ]  # fmt: skip
    assert len(result.evaluated) == 2


@pytest.mark.parametrize(("hook", "message"), [
    ("nosuch-command --x", "command 'nosuch-command' not found"), ("'unclosed", "cannot be parsed as a command"),
    ("http://", "has no host"), ("", None), (sys.executable, None), ("https://host/secret", None),
])  # fmt: skip
def test_hooks_are_validated_at_the_start(training, tmp_path, capsys, hook, message):
    status = main(["watch", str(training.folder), "--out", str(tmp_path / "o"), "--on-drop", hook, "--list"])
    assert status == (2 if message else 0)
    assert (message or "") in capsys.readouterr().err


def test_parked_checkpoints_are_in_the_report(watch, training, laboratory):
    training.add("step-200", "step-0200")
    os.truncate(training.folder / "step-200" / "model.safetensors", 900_000)
    passes = [watch.once() for _ in range(3)]
    (row,) = page._parked(watch.out, passes[0].run)
    assert (row["exception"], row["model"]) == ("parked", "training@step-200")
    assert "after 3 attempts: ValueError: step-200: model.safetensors is damaged" in row["message"]
    assert page._parked(watch.out, "another") == []


def test_another_spec_starts_another_watch(watch, laboratory):
    watch.once()
    other = CheckpointWatcher(
        watch.source, EvaluationSpec("real", (), ("brennan2016",)), watch.out, laboratory, quiet_s=0
    )
    assert names(other.once().evaluated) == ["training@step-100"]


def test_many_checkpoints_are_evaluated_in_several_runs_and_end_in_one(watch, training, laboratory, monkeypatch):
    monkeypatch.setattr("harness.watching.watch.MOST_AT_ONCE", 2)
    for k in range(2, 6):
        os.utime(training.add(f"step-{k}00") / "config.json")
        (training.folder / f"step-{k}00" / "generation_config.json").write_text(json.dumps({"top_k": k}))
    result = watch.once()
    assert len(result.evaluated) == 5
    assert len(laboratory.runs) == 3
    assert set(tables.read(watch.out, "runs").run) == {result.run}
    assert len(set(tables.read(watch.out, "model_scores", result.run).model)) == 6


def test_hooks_get_one_json_document_and_failures_are_only_logged(tmp_path, caplog):
    event = {"event": "drop", "model": "m", "score": 0.1}
    script = f"import sys, pathlib; pathlib.Path({str(tmp_path / 'told')!r}).write_text(sys.stdin.read())"
    assert hooks.call(f'{sys.executable} -c "{script}"', event)
    assert json.loads((tmp_path / "told").read_text()) == event
    assert not hooks.call("false", event)
    assert not hooks.call("http://127.0.0.1:1/secret-path", event)
    assert "secret-path" not in caplog.text


@pytest.mark.parametrize(
    ("answers", "n_posts", "succeeded"), [([200], 1, True), ([503, 429, 200], 3, True), ([404], 1, False)]
)
def test_posting_to_a_webhook_is_retried_until_accepted_or_refused(answers, n_posts, succeeded, monkeypatch, caplog):
    monkeypatch.setattr(hooks, "PAUSE_S", 0.0)
    posted = []

    class Server(BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answers[len(posted) - 1])
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Server) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/secret-path"
        assert hooks.call(url, {"event": "result", "text": "new"}) == succeeded
        server.shutdown()
    assert posted == [{"event": "result", "text": "new"}] * n_posts
    assert "secret-path" not in caplog.text


# --- a training that is still running ---------------------------------------------------------------------------------


def started(folder, out, *options):
    command = [
        sys.executable, "-m", "harness.cli", "watch", str(folder), "--spec", "quickstart", "--protocol", "strict",
        "--dataset", "synthetic-reading", "--no-untrained", "--quiet", "2s", "--out", str(out), *options,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(true, process, seconds=150):
    end = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.2)


def watched(out):
    try:
        return tables.read(str(out), "watched")
    except FileNotFoundError:
        return tables.schema("watched").empty_table().to_pandas()


@pytest.mark.slow
@pytest.mark.ray
def test_a_running_training_is_watched_and_the_killed_watcher_resumes(training, tmp_path):
    """Checkpoints appear, one is written in two steps, one is corrupt, one is replaced; the watcher is killed once."""
    ray.shutdown()
    out = tmp_path / "out"
    quickstart.build(str(quickstart.folder_of(str(out))), 0)
    half = training.add("step-200", "step-0200") / "model.safetensors"
    os.truncate(half, 300_000)
    (training.add("step-300", "step-0200") / "model.safetensors").write_bytes(os.urandom(10_000))
    first = started(training.folder, out, "--every", "2s", "--tries", "9")
    until(lambda: "training@step-100" in set(watched(out).model[watched(out).state == "evaluated"]), first)
    training.add("step-200", "step-0200")
    until(lambda: list(out.glob("units/.claims/*/*")), first)
    first.kill()
    first.communicate()
    ray.shutdown()
    second = started(training.folder, out, "--every", "2s", "--tries", "3")
    until(lambda: "training@step-200" in set(watched(out).model[watched(out).state == "evaluated"]), second)
    training.add("step-100", "step-0600")
    until(lambda: (watched(out).state == "evaluated").sum() == 3, second)
    until(lambda: "parked" in set(watched(out).state), second)
    second.send_signal(signal.SIGTERM)
    said = second.communicate(timeout=60)
    assert second.returncode == 0, said
    rows = watched(out)
    done = rows[rows.state == "evaluated"]
    assert sorted(done.model) == ["training@step-100", "training@step-100", "training@step-200"]
    assert done.revision.nunique() == 3
    assert set(rows[rows.state == "parked"].model) == {"training@step-300"}
    assert (
        len(list(out.glob("units/features/*/manifest.json"))) == 3
    )  # features of each complete checkpoint were extracted once
    newest = tables.pick_run(str(out))["run"]
    assert set(tables.read(str(out), "model_properties", newest).model) == {"training@step-100", "training@step-200"}
    assert "Score against training step" in (out / "report.html").read_text()


def test_a_thousand_checkpoints_are_listed(training):
    for k in range(1000):
        to = training.folder / f"step-{k}"
        to.mkdir(exist_ok=True)
        for file in (training.models / "step-0050").iterdir():
            (to / file.name).symlink_to(file) if not (to / file.name).exists() else None
    found = sources.list_checkpoints(str(training.folder), quiet_s=0)
    assert len(found) == 1000
    assert not any(one.damage for one in found)
