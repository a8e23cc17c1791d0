"""Two sharded workers on the CPU give the training of one, and their state resumes with another number of workers."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from harness.checkpoints import checkpoints
from harness.loading import loaded_model
from harness.tuning import losses
from tests.harness.tuning.conftest import train_all

SCRIPT, ROOT = Path(__file__).with_name("sharded_worker.py"), Path(__file__).resolve().parents[3]


def run_sharded(job, kind, killed=""):
    """Exit statuses of the two workers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, str(SCRIPT), job.base.folder, job.data, job.out, kind, killed]
    workers = [subprocess.Popen(command, env=environment | {"RANK": str(rank)}) for rank in range(2)]
    return [worker.wait(timeout=300) for worker in workers]


@pytest.mark.slow
def test_sharded_workers_train_alike_and_resume_with_one(make_job, tokenizer):
    alone = make_job(out="alone")
    train_all(alone, tokenizer)
    sharded, killed = make_job(out="sharded", save_every=1), make_job(out="killed", save_every=1)
    for job in (sharded, killed):
        job.claim_folder()
    assert run_sharded(sharded, "full") == [0, 0]
    assert run_sharded(killed, "full", "killed") == [9, 9]
    assert len(list(killed.states_of(killed.trainings[0]).rglob("part-*-of-2.tensors"))) == 2
    train_all(killed, tokenizer)  # one worker goes on from the parts of two
    rows = [losses.read(job.folder_of(job.trainings[0])) for job in (alone, sharded, killed)]
    for other in rows[1:]:
        assert [row["loss"] for row in other] == pytest.approx([row["loss"] for row in rows[0]], rel=1e-5)
        assert [row["tokens"] for row in other] == [row["tokens"] for row in rows[0]]
    ends = [load_file(job.checkpoint_of(job.trainings[0], 4) / "model.safetensors") for job in (alone, sharded, killed)]
    for other in ends[1:]:
        assert other.keys() == ends[0].keys()
        for name, tensor in other.items():
            torch.testing.assert_close(tensor, ends[0][name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_sharded_adapters_in_bfloat16_open_as_a_model(make_job, stories):
    job = make_job(out="lora")
    job.claim_folder()
    assert run_sharded(job, "lora") == [0, 0]
    rows = losses.read(job.folder_of(job.trainings[0]))
    assert len(rows) == 4
    assert all(row["loss"] < 12 for row in rows)
    opened = checkpoints.resolve(str(job.checkpoint_of(job.trainings[0], 4)))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        logits, base = (loaded_model.load(one).model(ids).logits for one in (opened, stories))
    assert 1e-4 < (logits - base).abs().max() < 5
