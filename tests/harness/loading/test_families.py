"""A tiny random model of every family, from its folder to stored features, compared with transformers on single texts.

A folder is resolved and loaded by a backend; a feature unit extracts and stores features, which are read back. Texts
differ in length, so that batches are padded; one is longer than a window of sliding attention.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import backends
from harness.models import tiny
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Layer, Stimuli
from harness.storage.store import Store
from harness.text import contexts
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features

SENTENCES = (
    "The old bee watched the hive.", "Nobody moved.", "A king and a fox hid the golden snow, slowly.",
    "Every oak near the moss carried a rose.", "When the fox left, the quiet owl found another path.",
    *(f"The {word} fox saw an owl that nobody else had seen near the {word} oak." for word in
      ("red", "lame", "tall", "blind", "slow", "first", "loud", "small")),
)  # fmt: skip
STIMULI = Stimuli(tuple(map(str, range(len(SENTENCES)))), SENTENCES, tuple("pppqq" + "r" * 8))
PROTOCOL = Protocol("strict", "passage", FoldRule("grouped", n=5), Regression("ols"), "max")
DECODERS = [name for name in tiny.FAMILIES if not name.startswith("t5")]
BERTS = ["bert", "roberta", "distilbert", "electra", "modernbert", "deberta-v2"]
DECODERS = [name for name in DECODERS if name not in BERTS]


def extracted(family, folder, protocol=PROTOCOL, surprisals=True):
    """The loaded model, encoded contexts, and the features, surprisals and manifest of its unit."""
    checkpoint = checkpoints.resolve(str(tiny.build(family, folder / family, SENTENCES, seed=3)))
    model, store = backends.load("transformers", checkpoint, "cpu"), Store(str(folder / "out"))
    source = FeatureSource(checkpoint.name, "model", checkpoint.revision, 0, checkpoint)
    unit = FeatureUnit(source, STIMULI, protocol, states=True, surprisals=surprisals)
    unit.run(model, store)
    features, words = stored_features(unit, store)
    encoded = [model.loaded.encode(context) for context in contexts.build(STIMULI, protocol.context)]
    return model.loaded, encoded, features, words, store.manifest("features", unit.key)


def states_of(run, block, which="hidden_states", **ids):
    """Every layer's (token, hidden) states of one text by transformers; the last is taken before the final norm."""
    kept = []
    hook = block.register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        out = run(**{name: torch.tensor([part]) for name, part in ids.items()}, output_hidden_states=True)
    hook.remove()
    return [state[0].numpy() for state in out[which][:-1]] + [kept[-1][0].numpy()], out


def last_block(stack):
    lists = [part for part in stack.modules() if isinstance(part, torch.nn.ModuleList) and len(part) == tiny.BLOCKS]
    return lists[0][-1]


def assert_layers(features, row, stack, states, at):
    for index, state in enumerate(states):
        ours = features.values[Layer(stack, index)][row]
        np.testing.assert_allclose(ours, state[at], rtol=0, atol=1e-5 * max(1, np.abs(state).max()))
    assert Layer(stack, len(states)) not in features.values


@pytest.mark.parametrize("family", DECODERS)
def test_features_of_a_decoder_equal_those_of_transformers(family, tmp_path):
    loaded, encoded, features, words, facts = extracted(family, tmp_path)
    row, bits, entropies, ranks, spaces = 0, [], [], [], []
    for part in encoded:
        ids = [*loaded.prefix, *map(int, part.ids)]
        states, _ = states_of(loaded.model.base_model, last_block(loaded.model.base_model), input_ids=ids)
        with torch.no_grad():
            logs = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        nats = -logs[:-1].gather(-1, torch.tensor(ids)[1:, None])[:, 0].numpy()
        for k, last in enumerate(part.last):
            assert_layers(features, row, "decoder", states, len(loaded.prefix) + last)
            bits.append(nats[part.owners == k].sum() / np.log(2))
            before = np.flatnonzero(part.owners == k)[0] + len(loaded.prefix) - 1
            entropies.append(-(logs[before].exp() * logs[before]).sum().item() / np.log(2))
            ranks.append((logs[before] > logs[before, ids[before + 1]]).sum().item() + 1)
            mass = logs[:, loaded.word_initial_tokens].logsumexp(-1) / np.log(2)
            begins = mass[before].item() if ids[before + 1] in loaded.word_initial_tokens else 0
            spaces.append(begins - mass[len(loaded.prefix) + last].item())
            row += 1
    assert row == len(STIMULI)
    np.testing.assert_allclose(words.bits, bits, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(words.entropy_bits, entropies, rtol=1e-4, atol=1e-4)
    assert np.abs(words.ranks - ranks).max() <= 1  # rounding may swap neighbours
    np.testing.assert_allclose(words.space_bits, spaces, rtol=1e-4, atol=1e-4)
    assert max(len(part.ids) for part in encoded) > tiny.CONTEXT // 4
    assert facts["parity_states"] < 1e-5
    assert facts["parity_nats"] < 1e-4
    assert (facts["n_windows"], facts["n_reencoded"], facts["n_oom"]) == (3, 0, 0)


@pytest.mark.parametrize("family", BERTS)
def test_an_encoder_processes_the_prefix_of_each_stimulus(family, tmp_path):
    loaded, encoded, features, _, facts = extracted(family, tmp_path, surprisals=False)
    row = 0
    for part in encoded:
        for last in part.last:
            ids = [*loaded.prefix, *map(int, part.ids[: last + 1]), *loaded.suffix]
            assert len(loaded.prefix) == len(loaded.suffix) == 1
            states, _ = states_of(loaded.model, last_block(loaded.model), input_ids=ids)
            assert_layers(features, row, "encoder", states, 1 + last)
            row += 1
    assert row == len(STIMULI)
    assert facts["parity_states"] < 1e-5
    assert facts["parity_nats"] is None


def nats_of(model, source, target):
    """Surprisal of each token of the target except the first, in nats."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0]
    return -logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(target)[1:, None])[:, 0].numpy()


@pytest.mark.parametrize("decoder_reads", ["stimulus", "text", "nothing"])
@pytest.mark.parametrize("family", ["t5", "t5-original"])
def test_both_stacks_of_t5_equal_those_of_transformers(family, decoder_reads, tmp_path):
    from dataclasses import replace

    protocol = replace(PROTOCOL, decoder_reads=decoder_reads)
    has_predictions = decoder_reads != "nothing"
    loaded, encoded, features, words, facts = extracted(family, tmp_path, protocol, surprisals=has_predictions)
    model, row, bits, eos = loaded.model, 0, [], loaded.tokenizer.eos_token_id
    (start,) = loaded.prefix
    for part in encoded:
        whole = [start, *map(int, part.ids)]
        along = nats_of(model, [eos], whole)
        for k, last in enumerate(part.last):
            prefix = [*map(int, part.ids[: last + 1]), eos]
            before = [*map(int, part.ids[: part.last[k - 1] + 1]), eos] if k else [eos]
            own = [start, *map(int, part.ids[part.owners == k])]
            states, _ = states_of(
                model, last_block(model.encoder), "encoder_hidden_states", input_ids=prefix, decoder_input_ids=[start]
            )
            assert_layers(features, row, "encoder", states, last)
            source, target, at = {
                "stimulus": (before, own, len(own) - 1), "nothing": (prefix, [start], 0),
                "text": ([eos], whole, 1 + last),
            }[decoder_reads]  # fmt: skip
            states, _ = states_of(
                model, last_block(model.decoder), "decoder_hidden_states", input_ids=source, decoder_input_ids=target
            )
            assert_layers(features, row, "decoder", states, at)
            nats = along[part.owners == k] if decoder_reads == "text" else nats_of(model, before, own)
            bits.append(nats.sum() / np.log(2))
            row += 1
    assert row == len(STIMULI)
    assert facts["parity_states"] < 1e-5
    if has_predictions:
        np.testing.assert_allclose(words.bits, bits, rtol=1e-5, atol=1e-4)
        assert facts["parity_nats"] < 1e-4


def test_probabilities_of_an_encoder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="bert is a bidirectional encoder"):
        extracted("bert", tmp_path)
