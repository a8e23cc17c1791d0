"""Batches when memory runs out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import with_transformers
from harness.loading import batches, loaded_model
from harness.loading.batches import Batches
from harness.loading.memory import InsufficientMemoryError
from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts

SENTENCES = tuple(" ".join(["the", word, "bee"] * n) for n in (1, 9, 2, 7, 3, 5) for word in ("old", "red"))
STIMULI = Stimuli(tuple(map(str, range(12))), SENTENCES, tuple(map(str, range(12))))


def test_batches_are_sorted_by_length_and_within_the_budget_and_hold_each_item_once():
    items, seen = [[0] * n for n in (3, 8, 1, 5, 5, 2, 9, 4)], []
    Batches(10).read(items, len, lambda batch: seen.append([len(item) for item in batch]))
    assert seen == [[9], [8], [5, 5], [4, 3], [2, 1]]


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
])  # fmt: skip
def test_a_batch_that_does_not_fit_is_halved_and_so_are_those_after_it(error):
    seen, progress = [], []

    def forward(batch):
        if len(batch) * len(batch[0]) > 8:
            raise error
        seen.append(len(batch))

    made = Batches(100, progress.append)
    made.read([[0] * 2 for _ in range(20)], len, forward)
    assert sum(seen) == made.n_sequences == 20
    assert max(seen) * 2 <= 8
    assert made.n_oom == 3  # 20, 10, 5, then 2 at a time
    assert made.oom
    assert progress[-1] == 1


def test_one_sequence_alone_that_does_not_fit_says_what_to_do():
    def forward(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(InsufficientMemoryError, match=r"one sequence of 5 tokens does not fit .*CUDA out of memory"):
        Batches(100).read([[0] * 5, [0] * 3], len, forward)


def test_what_is_wrong_otherwise_is_not_tried_again():
    calls = []

    def forward(batch):
        calls.append(batch)
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        Batches(100).read([[0] * 5], len, forward)
    assert len(calls) == 1


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_a_model_that_ran_out_of_memory_gives_the_same_numbers_and_says_so(family, tmp_path, monkeypatch):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build(family, tmp_path / family, SENTENCES, seed=3))))
    read = [model.encode(context) for context in contexts.build(STIMULI, "none")]
    asks = {"log_probabilities": family != "bert"}
    whole = with_transformers.extract(model, read, **asks)
    blocks = [part for part in model.model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 4]

    def fail(_, args, kwargs, output):
        states = output[0] if isinstance(output, tuple) else output
        if states.shape[0] * states.shape[1] > 60 and states.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    for part in blocks:  # after two blocks are pooled
        part[2].register_forward_hook(fail, with_kwargs=True)
    found = with_transformers.extract(model, read, **asks)
    assert found.facts["n_oom"] >= 2
    assert found.facts["oom"] == "CUDA out of memory."
    assert found.facts["batch_tokens"] < whole.facts["batch_tokens"] == with_transformers.BATCH_TOKENS
    for layer in whole.features.layers:
        np.testing.assert_allclose(found.features.values[layer], whole.features.values[layer], atol=1e-4)
    if family != "bert":
        for ours, theirs in zip(found.log_probabilities, whole.log_probabilities, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert batches.padded([np.arange(3), np.arange(2)], torch.device("cpu"))[1].tolist() == [[1, 1, 1], [1, 1, 0]]
