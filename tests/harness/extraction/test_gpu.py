"""On a GPU: the numbers of the CPU in every family; half precision; running out of memory."""

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import surprisal, with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import ExtractionSettings, Stimuli
from harness.text import contexts
from tests.harness.loading.test_families import BERTS, SENTENCES, STIMULI

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def extracted(family, folder, device, dtype="float32", **more):
    """The extraction of the sentences by a tiny model of a family on a device, the encoded contexts, and the model."""
    path = folder / family
    if not path.is_dir():
        tiny.build(family, path, SENTENCES, seed=3)
    model = loaded_model.load(checkpoints.resolve(str(path)), device, dtype=dtype)
    encoded = [model.encode(context) for context in contexts.build(STIMULI, "passage")]
    return with_transformers.extract(model, encoded, log_probabilities=family not in BERTS, **more), encoded, model


def assert_near(ours, theirs, fraction=1e-4):
    for layer, matrix in theirs.features.values.items():
        worst = np.abs(ours.features.values[layer] - matrix).max() / np.abs(matrix).max()
        assert worst < fraction, f"{layer}: {worst:.1e} of the largest"


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_states_and_surprisal_equal_those_of_the_cpu(family, tmp_path):
    ours, encoded, model = extracted(family, tmp_path, "cuda")
    theirs, _, plain = extracted(family, tmp_path, "cpu")
    assert ours.facts["device"] == torch.cuda.get_device_name()
    assert {weight.device.type for weight in model.model.parameters()} == {"cuda"}
    assert_near(ours, theirs)
    if family not in BERTS:
        alone = model.is_encoder_decoder
        gpu_words, cpu_words = (
            surprisal.per_word(encoded, extraction.predictions, loaded.word_initial_tokens, single_stimuli=alone)
            for extraction, loaded in ((ours, model), (theirs, plain))
        )
        np.testing.assert_allclose(gpu_words.bits, cpu_words.bits, atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(gpu_words.entropy_bits, cpu_words.entropy_bits, atol=1e-3, rtol=1e-4)
        np.testing.assert_allclose(gpu_words.space_bits, cpu_words.space_bits, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("how", ["text", "stimulus", "nothing"])
def test_every_reading_of_t5(how, tmp_path):
    path = tiny.build("t5", tmp_path / "t5", SENTENCES, seed=3)
    extractions = []
    for device in ("cuda", "cpu"):
        model = loaded_model.load(checkpoints.resolve(str(path)), device)
        encoded = [model.encode(context) for context in contexts.build(STIMULI, "passage")]
        extractions.append(
            with_transformers.extract(
                model, encoded, ExtractionSettings(decoder_reads=how), log_probabilities=how != "nothing"
            )
        )
    assert_near(*extractions)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "t5", "bert"])
def test_half_precision_is_close_to_float32(family, tmp_path):
    """Pooled states differ from float32 by a few bfloat16 steps (2^-8) per block."""
    half, _, model = extracted(family, tmp_path, "cuda", "bfloat16")
    assert {weight.dtype for weight in model.model.parameters()} == {torch.bfloat16}
    assert_near(half, extracted(family, tmp_path, "cpu")[0], 0.1)


def test_an_untrained_control_has_the_same_weights_as_on_the_cpu(tmp_path):
    checkpoint = checkpoints.resolve(str(tiny.build("llama", tmp_path / "llama", SENTENCES, seed=3)))
    ours, theirs = (loaded_model.load(checkpoint, device, untrained_seed=4).model for device in ("cuda", "cpu"))
    for weight, cpu_weight in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(weight.cpu(), cpu_weight, atol=0, rtol=0)


@pytest.fixture
def limit_gpu_memory():
    """Returns a function that limits torch to some bytes of the GPU; the limit is removed afterwards."""
    total = torch.cuda.get_device_properties(0).total_memory
    yield lambda n_bytes: torch.cuda.set_per_process_memory_fraction(n_bytes / total)
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_running_out_of_memory_halves_batches_and_changes_no_numbers(tmp_path, monkeypatch, limit_gpu_memory):
    monkeypatch.setattr(with_transformers, "BATCH_TOKENS", 2**18)
    path = tiny.build("llama", tmp_path / "llama", SENTENCES, seed=3)
    texts = tuple(" ".join(np.random.default_rng(k).choice(" ".join(SENTENCES).split(), 100)) for k in range(1500))
    stimuli = Stimuli(tuple(map(str, range(1500))), texts, tuple(map(str, range(1500))))
    model = loaded_model.load(checkpoints.resolve(str(path)), "cuda")
    encoded = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    torch.cuda.reset_peak_memory_stats()
    whole = with_transformers.extract(model, encoded)
    assert whole.facts["n_oom"] == 0
    n_allocated = torch.cuda.memory_allocated()
    torch.cuda.empty_cache()
    limit_gpu_memory(n_allocated + (torch.cuda.max_memory_allocated() - n_allocated) * 0.6)
    halved = with_transformers.extract(model, encoded)
    assert halved.facts["n_oom"] > 0
    assert halved.facts["batch_tokens"] < whole.facts["batch_tokens"]
    assert_near(halved, whole, 1e-5)
