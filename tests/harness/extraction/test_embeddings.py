"""Input embeddings averaged over stimuli."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import embeddings
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts, tokens

SENTENCES = ("The old bee watched the hive.", "Nobody moved.", "A king and a fox hid the golden snow, slowly.")
STIMULI = Stimuli(tuple("abc"), SENTENCES, ("p", "p", "q"))


@pytest.fixture(scope="module", params=["gpt2", "llama", "t5"])
def loaded(request, tmp_path_factory):
    folder = tiny.build(request.param, tmp_path_factory.mktemp("models") / request.param, SENTENCES, seed=3)
    return loaded_model.load(checkpoints.resolve(str(folder)))


@pytest.mark.parametrize("rule", ["none", "passage"])
def test_a_stimulus_has_the_mean_embedding_of_its_own_tokens(loaded, rule):
    encoded = [tokens.encode(context, loaded.tokenizer) for context in contexts.build(STIMULI, rule)]
    matrix, row = loaded.model.get_input_embeddings().weight.detach().numpy(), 0
    found = embeddings.averaged(loaded, encoded)
    for text in encoded:
        for stimulus in range(len(text.stimulus_ids)):
            own = matrix[text.ids[text.owners == stimulus]]
            assert len(own) > 1
            np.testing.assert_allclose(found[row], own.mean(axis=0), atol=1e-7)
            row += 1
    assert found.shape == (3, matrix.shape[1])
    assert found.dtype == np.float32


def test_a_stimulus_without_a_token_is_nan_at_the_start_and_else_has_the_token_before_it(loaded):
    text = tokens.encode(next(iter(contexts.build(STIMULI, "passage"))), loaded.tokenizer)
    n = len(text.ids)
    empty = SimpleNamespace(
        ids=text.ids, owners=np.where(np.arange(n) < 3, 1, -1), last=np.array([-1, 2, 2]), stimulus_ids=("a", "b", "c"),
        retokenised={},
    )  # fmt: skip
    found = embeddings.averaged(loaded, [empty])
    assert np.isnan(found[0]).all()
    weight = loaded.model.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_allclose(found[2], weight[text.ids[2]], atol=1e-7)


def test_a_backend_without_embeddings_gives_none():
    engine = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(num_embeddings=8))
    assert embeddings.averaged(SimpleNamespace(model=engine, device=torch.device("cpu")), []) is None
