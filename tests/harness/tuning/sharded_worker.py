"""One of two workers of a sharded training on the CPU: RANK of a process group by gloo. Run by test_workers.py."""

import dataclasses
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from harness.checkpoints import checkpoints
from harness.loading import architectures
from harness.tuning import examples, sequences, training
from harness.tuning.job import TuningJob
from harness.tuning.recipe import Lora, Recipe
from harness.tuning.workers import Group


def main(base, data, out, kind, is_killed):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    group = Group(int(os.environ["RANK"]), 2, torch.device("cpu"), is_sharded=True)
    recipe = Recipe(epochs=2, batch=6, micro_batch=2, lr=1e-3, length=256, n_checkpoints=2, held_out=0.25)
    if kind == "lora":
        recipe = dataclasses.replace(recipe, lora=Lora(rank=4), dtype="bfloat16")
    job = TuningJob(
        checkpoints.resolve(base), data, examples.sha256_of(Path(data)), out, recipe, ("with instructions",),
        n_workers=2, is_sharded=True, save_every=1,
    )  # fmt: skip
    tokenizer = architectures.read(base).tokenizer
    corpus = sequences.of_examples(examples.read(Path(data)), tokenizer, (1,), recipe.length)
    if is_killed:
        training._save_state = dying_at(3, training._save_state)
    training.train(job, job.trainings[0], corpus, group)
    dist.destroy_process_group()


def dying_at(last, save_state):
    def save_and_die(run, step):
        save_state(run, step)
        if step == last:
            os._exit(9)

    return save_and_die


if __name__ == "__main__":
    main(*sys.argv[1:])
