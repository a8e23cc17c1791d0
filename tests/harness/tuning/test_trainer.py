"""`harness tune` on a local Ray of two workers: the end of one worker, also when a worker or the command is killed."""

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from harness.tuning import losses, trainer
from tests.harness.tuning.conftest import RECIPE, train_all

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = dataclasses.replace(RECIPE, epochs=12, n_checkpoints=3)


def command(job, out, *options):
    words = [
        sys.executable, "-m", "harness.cli", "tune", job.base.folder, job.data, "--out", str(out), "--epochs", "12",
        "--batch", "6", "--micro-batch", "2", "--lr", "1e-3", "--length", "256", "--checkpoints", "3", "--held-out",
        "0.25", "--arms", "with", "--save-every", "2", "--json", *options,
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT)


def last_step(folder):
    return max((row["step"] for row in losses.read(folder)), default=0)


def wait_for_step(folder, step, started):
    """Wait until a training has made some steps; fails if the command ends before."""
    while last_step(folder) < step:
        assert started.poll() is None, "it ended too early to be killed"
        time.sleep(0.02)


def workers_of(driver):
    processes = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in processes if "RayTrainWorker" in " ".join(process.cmdline())]


def listening(driver):
    """Addresses on which the command and its processes listen."""
    addresses = set()
    for process in [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections("inet")
            addresses |= {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return addresses


def test_an_error_of_the_job_is_stated_and_not_tried_again(make_job, tmp_path, monkeypatch):
    calls = []

    def fails(job):
        calls.append(job)
        raise ValueError("use a lower --lr")

    monkeypatch.setattr(trainer, "_train_unfinished", fails)
    config = {"job": make_job(), "error_file": tmp_path / "error.txt"}
    with pytest.raises(ValueError, match="lower --lr"):
        trainer._work(config)
    assert config["error_file"].read_text() == "use a lower --lr"
    trainer._work(config)  # in the group that Ray Train starts in its place
    assert len(calls) == 1


def test_what_a_killed_command_left_is_removed_although_its_workers_had_finished(make_job, tokenizer):
    job = make_job()
    train_all(job, tokenizer)
    left = Path(job.out) / ".state" / "ray-1"
    left.mkdir(parents=True)
    (left.parent / "lock").touch()
    trainer.tune(job)
    assert not left.parent.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_end_as_one_although_the_command_and_a_worker_are_killed(make_job, tokenizer, tmp_path):
    alone = make_job(SETTINGS, out="alone")
    train_all(alone, tokenizer)
    (training,) = alone.trainings
    two = dataclasses.replace(alone, out=str(tmp_path / "two"))
    started = command(alone, two.out, "--workers", "2")
    folder = two.folder_of(training)
    wait_for_step(folder, 3, started)
    workers = workers_of(started)
    started.kill()
    started.wait()
    started = command(alone, two.out, "--workers", "2")
    assert not psutil.wait_procs(workers, 60)[1]  # they outlive their command by a moment
    reached = last_step(folder)
    wait_for_step(folder, reached + 1, started)
    workers_of(started)[0].kill()
    assert listening(started) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    answer, _ = started.communicate(timeout=900)
    assert started.returncode == 0
    assert [row["step"] for row in json.loads(answer)["checkpoints"]] == [8, 16, 24]
    expected, rows = (losses.read(job.folder_of(training)) for job in (alone, two))
    assert [row["step"] for row in rows] == list(range(1, 25))
    for key in ("loss", "gradient_norm", "tokens"):
        assert [row[key] for row in rows] == pytest.approx([row[key] for row in expected], rel=1e-5)
    ends = [load_file(job.checkpoint_of(training, 24) / "model.safetensors") for job in (alone, two)]
    assert max((ends[0][name] - ends[1][name]).abs().max().item() for name in ends[0]) < 1e-5
    assert not list(Path(two.out).glob(".*"))
