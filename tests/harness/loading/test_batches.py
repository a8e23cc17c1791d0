"""Batches are built by length and halved when memory runs out."""

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


def test_batches_are_sorted_by_length_within_the_budget_and_hold_each_item_once():
    items, seen = [[0] * n for n in (3, 8, 1, 5, 5, 2, 9, 4)], []
    Batches(10).run(items, len, lambda batch: seen.append([len(item) for item in batch]))
    assert seen == [[9], [8], [5, 5], [4, 3], [2, 1]]


@pytest.mark.parametrize("error", [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
])  # fmt: skip
def test_a_batch_that_does_not_fit_is_halved_as_are_later_batches(error):
    seen = []

    def forward(batch):
        if len(batch) * len(batch[0]) > 8:
            raise error
        seen.append(len(batch))

    batches = Batches(100)
    batches.run([[0] * 2 for _ in range(20)], len, forward)
    assert sum(seen) == batches.n_sequences == 20
    assert max(seen) * 2 <= 8
    assert batches.n_oom == 3  # 20, 10, 5, then 2 at a time
    assert batches.oom


def test_the_error_for_a_single_sequence_that_does_not_fit_states_what_to_do():
    def forward(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with pytest.raises(InsufficientMemoryError, match=r"one sequence of 5 tokens does not fit .*CUDA out of memory"):
        Batches(100).run([[0] * 5, [0] * 3], len, forward)


def test_other_errors_are_not_retried():
    calls = []

    def forward(batch):
        calls.append(batch)
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side assert"):
        Batches(100).run([[0] * 5], len, forward)
    assert len(calls) == 1


@pytest.mark.parametrize("family", ["llama", "t5", "bert"])
def test_features_are_the_same_after_running_out_of_memory_which_is_recorded(family, tmp_path, monkeypatch):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build(family, tmp_path / family, SENTENCES, seed=3))))
    encoded = [model.encode(context) for context in contexts.build(STIMULI, "none")]
    options = {"log_probabilities": family != "bert"}
    whole = with_transformers.extract(model, encoded, **options)
    blocks = [part for part in model.model.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == 4]

    def fail(_, args, kwargs, output):
        states = output[0] if isinstance(output, tuple) else output
        if states.shape[0] * states.shape[1] > 60 and states.shape[0] > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    for part in blocks:  # fails after two blocks have been pooled
        part[2].register_forward_hook(fail, with_kwargs=True)
    halved = with_transformers.extract(model, encoded, **options)
    assert halved.facts["n_oom"] >= 2
    assert halved.facts["oom"] == "CUDA out of memory."
    assert halved.facts["batch_tokens"] < whole.facts["batch_tokens"] == with_transformers.BATCH_TOKENS
    for layer in whole.features.layers:
        np.testing.assert_allclose(halved.features.values[layer], whole.features.values[layer], atol=1e-4)
    if family != "bert":
        for ours, theirs in zip(halved.log_probabilities, whole.log_probabilities, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert batches.padded([np.arange(3), np.arange(2)], torch.device("cpu"))[1].tolist() == [[1, 1, 1], [1, 1, 0]]
