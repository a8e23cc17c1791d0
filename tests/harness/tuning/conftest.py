"""A small job on stories260K, and a training that runs in this process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from harness.checkpoints import checkpoints
from harness.tuning import examples, sequences, training
from harness.tuning.job import TuningJob
from harness.tuning.recipe import Recipe
from harness.tuning.workers import Group

ALONE = Group(0, 1, torch.device("cpu"))
RECIPE = Recipe(epochs=2, batch=6, micro_batch=2, lr=1e-3, length=256, n_checkpoints=2, held_out=0.25)


@pytest.fixture(scope="session")
def stories(shared):
    return checkpoints.resolve(str(shared / "models" / "stories260K"))


@pytest.fixture(scope="session")
def examples_file(tmp_path_factory):
    """Sixteen examples with responses of different lengths, some without an input."""
    rows = [
        {"instruction": f"Say {word} {k + 1} times.", "input": "" if k % 3 else f"a {word}",
         "output": " ".join([word] * (k + 1))}
        for k, word in enumerate(["cat", "dog", "sun", "moon"] * 4)
    ]  # fmt: skip
    file = tmp_path_factory.mktemp("examples") / "alpaca.json"
    file.write_text(json.dumps(rows))
    return file


@pytest.fixture
def make_job(stories, examples_file, tmp_path):
    def make(recipe=RECIPE, out="out", arms=("with instructions",), **options):
        return TuningJob(
            stories, str(examples_file), examples.sha256_of(examples_file), str(tmp_path / out), recipe, arms, **options
        )

    return make


@pytest.fixture(scope="session")
def tokenizer(stories):
    from harness.loading import architectures

    return architectures.read(stories.folder).tokenizer


def corpus_of(job, tokenizer, prefix=(1,)):
    return sequences.of_examples(examples.read(Path(job.data)), tokenizer, prefix, job.recipe.length)


def train_all(job, tokenizer, group=ALONE):
    """Train what is unfinished, in this process."""
    job.claim_folder()
    corpus = corpus_of(job, tokenizer)
    for unfinished in job.unfinished:
        training.train(job, unfinished, corpus, group)
