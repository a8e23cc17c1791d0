"""On a GPU: the numbers of the processor, in every family; half precision; memory that runs out."""

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import surprisal, with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts
from tests.harness.loading.test_families import BERTS, SENTENCES, STIMULI

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="wants a GPU")


def read(family, folder, device, dtype="float32", **more):
    """The extraction of the sentences by a tiny model of a family, read on a device; and the encoded contexts."""
    path = folder / family
    if not path.is_dir():
        tiny.build(family, path, SENTENCES, seed=3)
    model = loaded_model.load(checkpoints.resolve(str(path)), device, dtype=dtype)
    encoded = [model.encode(context) for context in contexts.build(STIMULI, "passage")]
    return with_transformers.extract(model, encoded, log_probabilities=family not in BERTS, **more), encoded, model


def assert_near(ours, theirs, share=1e-4):
    for layer, matrix in theirs.features.values.items():
        worst = np.abs(ours.features.values[layer] - matrix).max() / np.abs(matrix).max()
        assert worst < share, f"{layer}: {worst:.1e} of the largest"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_and_surprisal_are_those_of_the_processor(family, tmp_path):
    ours, encoded, model = read(family, tmp_path, "cuda")
    theirs, _, plain = read(family, tmp_path, "cpu")
    assert ours.facts["device"] == torch.cuda.get_device_name()
    assert {weight.device.type for weight in model.model.parameters()} == {"cuda"}
    assert_near(ours, theirs)
    if family not in BERTS:
        alone = model.is_encoder_decoder
        bits, known = (
            surprisal.per_word(encoded, found.predictions, which.openings, alone=alone)
            for found, which in ((ours, model), (theirs, plain))
        )
        np.testing.assert_allclose(bits.bits, known.bits, atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(bits.entropy_bits, known.entropy_bits, atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(bits.space_bits, known.space_bits, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("how", ["text", "stimulus", "nothing"])
def test_every_reading_of_t5(how, tmp_path):
    path = tiny.build("t5", tmp_path / "t5", SENTENCES, seed=3)
    found = []
    for device in ("cuda", "cpu"):
        model = loaded_model.load(checkpoints.resolve(str(path)), device)
        encoded = [model.encode(context) for context in contexts.build(STIMULI, "passage")]
        found.append(with_transformers.extract(model, encoded, log_probabilities=how != "nothing", decoder_reads=how))
    assert_near(*found)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "t5", "bert"])
def test_half_precision_stays_near(family, tmp_path):
    """Pooled states are float32 of finite bfloat16 states, within a few of its steps (2^-8) a block."""
    half, _, model = read(family, tmp_path, "cuda", "bfloat16")
    assert {weight.dtype for weight in model.model.parameters()} == {torch.bfloat16}
    assert_near(half, read(family, tmp_path, "cpu")[0], 0.1)


def test_an_untrained_twin_has_the_weights_that_the_processor_draws(tmp_path):
    found = checkpoints.resolve(str(tiny.build("llama", tmp_path / "llama", SENTENCES, seed=3)))
    ours, theirs = (loaded_model.load(found, device, untrained_seed=4).model for device in ("cuda", "cpu"))
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.cpu(), other, atol=0, rtol=0)


@pytest.fixture
def little_room():
    """A function that leaves torch so many bytes of the GPU; afterwards it has all again."""
    total = torch.cuda.get_device_properties(0).total_memory
    yield lambda n_bytes: torch.cuda.set_per_process_memory_fraction(n_bytes / total)
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_memory_that_runs_out_halves_the_batches_and_changes_nothing(tmp_path, monkeypatch, little_room):
    monkeypatch.setattr(with_transformers, "BATCH_TOKENS", 2**18)
    path = tiny.build("llama", tmp_path / "llama", SENTENCES, seed=3)
    texts = tuple(" ".join(np.random.default_rng(k).choice(" ".join(SENTENCES).split(), 100)) for k in range(1500))
    stimuli = Stimuli(tuple(map(str, range(1500))), texts, tuple(map(str, range(1500))))
    model = loaded_model.load(checkpoints.resolve(str(path)), "cuda")
    encoded = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    torch.cuda.reset_peak_memory_stats()
    whole = with_transformers.extract(model, encoded)
    assert whole.facts["n_oom"] == 0
    beside = torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    little_room(beside + (torch.cuda.max_memory_allocated() - beside) * 0.6)
    part = with_transformers.extract(model, encoded)
    assert part.facts["n_oom"] > 0
    assert part.facts["batch_tokens"] < whole.facts["batch_tokens"]
    assert_near(part, whole, 1e-5)
