"""Hidden states and log-probabilities equal those of transformers for one text at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import predictions, surprisal, with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import ExtractionSettings, Layer, Stimuli
from harness.text import contexts, tokens
from harness.text.tokens import Window

SENTENCES = (
    "The old bee watched the hive.",
    "Nobody moved.",
    "A king and a fox hid the golden snow, slowly.",
    "Every oak near the moss carried a rose.",
    "When the fox left, the quiet owl found another path.",
)
STIMULI = Stimuli(tuple("abcde"), SENTENCES, ("p", "p", "p", "q", "q"))


@pytest.fixture(scope="module", params=["gpt2", "llama", "t5"])
def loaded(request, tmp_path_factory):
    folder = tiny.build(request.param, tmp_path_factory.mktemp("models") / request.param, SENTENCES, seed=3)
    return loaded_model.load(checkpoints.resolve(str(folder)))


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    folder = tiny.build("llama", tmp_path_factory.mktemp("models") / "llama", SENTENCES, seed=3)
    return loaded_model.load(checkpoints.resolve(str(folder)))


def _extracted(model, rule="passage", **options):
    encoded = [tokens.encode(context, model.tokenizer) for context in contexts.build(STIMULI, rule)]
    chosen = {name: options.pop(name) for name in list(options) if name in ExtractionSettings.__dataclass_fields__}
    return encoded, with_transformers.extract(model, encoded, ExtractionSettings(**chosen), **options)


def _plain_states(model, ids, stack, **more):
    """Hidden states of one text by transformers; the last is taken from the last block, before the final norm."""
    part = model.model.base_model
    blocks = part.encoder.block if stack == "encoder" else getattr(part, "layers", None) or part.h
    kept = []
    handle = blocks[-1].register_forward_hook(lambda _, __, out: kept.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        out = part(input_ids=torch.tensor([ids]), output_hidden_states=True, **more)
    handle.remove()
    states = out.hidden_states if "hidden_states" in out else out[f"{stack}_hidden_states"]
    return [state[0].numpy() for state in states[:-1]] + [kept[0][0].numpy()]


@pytest.mark.parametrize("loaded", ["gpt2", "llama"], indirect=True)
def test_every_layer_of_a_decoder_equals_a_forward_of_the_single_text(loaded):
    encoded, extraction = _extracted(loaded)
    row = 0
    for context_tokens in encoded:
        states = _plain_states(loaded, [*loaded.prefix, *context_tokens.ids], "decoder")
        for last in context_tokens.last:
            for index, state in enumerate(states):
                ours = extraction.features.values[Layer("decoder", index)][row]
                np.testing.assert_allclose(ours, state[len(loaded.prefix) + last], atol=1e-5, rtol=1e-5)
            row += 1
    assert row == len(STIMULI)


def test_an_encoder_processes_each_prefix_by_itself(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("t5", tmp_path / "t5", SENTENCES, seed=3))))
    encoded, extraction = _extracted(model)
    context_tokens = encoded[0]
    for row, last in enumerate(context_tokens.last):
        source = [*context_tokens.ids[: last + 1], model.tokenizer.eos_token_id]
        states = _plain_states(model, source, "encoder", decoder_input_ids=torch.tensor([[2]]))
        for index, state in enumerate(states):
            np.testing.assert_allclose(
                extraction.features.values[Layer("encoder", index)][row], state[last], atol=1e-5, rtol=1e-5
            )


def test_a_t5_decoder_reads_the_stimulus_while_the_encoder_holds_the_text_before_it(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("t5", tmp_path / "t5", SENTENCES, seed=3))))
    encoded, extraction = _extracted(model)
    context_tokens = encoded[0]
    for row in range(3):
        before = [] if row == 0 else list(context_tokens.ids[: context_tokens.last[row - 1] + 1])
        target = [*model.prefix, *context_tokens.ids[context_tokens.owners == row]]
        with torch.no_grad():
            out = model.model.base_model(
                input_ids=torch.tensor([[*before, model.tokenizer.eos_token_id]]),
                decoder_input_ids=torch.tensor([target]),
                output_hidden_states=True,
            )
        for index, states in enumerate(out.decoder_hidden_states[:-1]):
            state = states[0, -1].numpy()
            np.testing.assert_allclose(
                extraction.features.values[Layer("decoder", index)][row], state, atol=1e-5, rtol=1e-5
            )


WORDS = tuple("The old bee watched the hiveless hive, slowly hid the golden qzjxkwvy owl".split())  # noqa: SIM905
CHAPTER = Stimuli(tuple(f"w{i}" for i in range(len(WORDS))), WORDS, ("p",) * 8 + ("q",) * (len(WORDS) - 8))


def _word_tokens(model, before, word):
    """Ids of the words before a word and of the word itself, tokenised as one text."""
    ids = model.tokenizer(" ".join([*before, word]), add_special_tokens=False)["input_ids"]
    n_before = len(model.tokenizer(" ".join(before), add_special_tokens=False)["input_ids"]) if before else 0
    return ids[:n_before], ids[n_before:]


def _window_before(row, n=3):
    start = 0 if row < 8 else 8
    return WORDS[max(start, row - n) : row]


def test_mean_pooling_in_a_running_window_equals_one_forward_per_word(loaded):
    """The window restarts at each passage. Some words have many tokens; all are batched together."""
    encoded = [tokens.encode(context, loaded.tokenizer) for context in contexts.build(CHAPTER, "window", 3)]
    extraction = with_transformers.extract(loaded, encoded, ExtractionSettings(pooling="mean"))
    assert extraction.features.row_ids == CHAPTER.ids
    assert max((context_tokens.owners == 0).sum() for context_tokens in encoded) > 3
    for row, word in enumerate(WORDS):
        before, own = _word_tokens(loaded, _window_before(row), word)
        if loaded.is_encoder_decoder:
            eos = loaded.tokenizer.eos_token_id
            states = {"encoder": _plain_states(loaded, [*before, *own, eos], "encoder",
                                             decoder_input_ids=torch.tensor([[2]]))}  # fmt: skip
            with torch.no_grad():
                out = loaded.model.base_model(
                    input_ids=torch.tensor([[*before, eos]]),
                    decoder_input_ids=torch.tensor([[*loaded.prefix, *own]]),
                    output_hidden_states=True,
                )
            states["decoder"] = [state[0].numpy() for state in out.decoder_hidden_states[:-1]]
            first = {"encoder": len(before), "decoder": len(loaded.prefix)}
        else:
            states = {"decoder": _plain_states(loaded, [*loaded.prefix, *before, *own], "decoder")}
            first = {"decoder": len(loaded.prefix) + len(before)}
        for stack, layers in states.items():
            for index, state in enumerate(layers):
                wanted = state[first[stack] : first[stack] + len(own)].mean(axis=0)
                ours = extraction.features.values[Layer(stack, index)][row]
                np.testing.assert_allclose(ours, wanted, atol=1e-5 * abs(state).max())  # float32, batched or alone


def test_surprisal_in_a_running_window_is_conditional_on_the_window(decoder):
    encoded = [tokens.encode(context, decoder.tokenizer) for context in contexts.build(CHAPTER, "window", 3)]
    bits = surprisal.per_word(encoded, with_transformers.extract(decoder, encoded, states=False).predictions).bits
    for row, word in enumerate(WORDS):
        before, own = _word_tokens(decoder, _window_before(row), word)
        ids = torch.tensor([[*decoder.prefix, *before, *own]])
        with torch.no_grad():
            logs = decoder.model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        assert bits[row] == pytest.approx(-logs[-len(own) :].sum().item() / np.log(2), abs=1e-4)


def test_mean_pooling_works_across_windows_and_equals_last_for_single_tokens(decoder):
    """A word is pooled in the window that answers for its last token, over its tokens in that window."""
    mean = _extracted(decoder, "corpus", window=40, pooling="mean")[1]
    last = _extracted(decoder, "corpus", window=40)[1]
    single = Stimuli(("a", "b"), ("x", "y"), ("p", "p"))
    encoded = [tokens.encode(context, decoder.tokenizer) for context in contexts.build(single, "passage")]
    layer = Layer("decoder", 2)
    pooled = [
        with_transformers.extract(decoder, encoded, ExtractionSettings(pooling=pooling)).features.values[layer]
        for pooling in ("mean", "last")
    ]
    n_tokens = np.bincount(encoded[0].owners)
    np.testing.assert_allclose(*(matrix[n_tokens == 1] for matrix in pooled), atol=1e-6)
    assert np.isfinite(mean.features.values[layer]).all()
    assert not np.allclose(mean.features.values[layer], last.features.values[layer])


def test_log_probabilities_equal_those_of_the_single_text(loaded):
    encoded, extraction = _extracted(loaded, states=False, decoder_reads="text")
    for context_tokens, logs in zip(encoded, extraction.log_probabilities, strict=True):
        ids = torch.tensor([[*loaded.prefix, *context_tokens.ids]])
        with torch.no_grad():
            if loaded.is_encoder_decoder:
                empty = torch.tensor([[loaded.tokenizer.eos_token_id]])
                logits = loaded.model(input_ids=empty, decoder_input_ids=ids).logits
            else:
                logits = loaded.model(input_ids=ids).logits
        wanted = logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].numpy()
        np.testing.assert_allclose(logs, wanted, atol=1e-5, rtol=1e-6)


def test_batch_size_changes_no_numbers(decoder, monkeypatch):
    together = _extracted(decoder)[1]
    monkeypatch.setattr(with_transformers, "BATCH_TOKENS", 1)
    alone = _extracted(decoder)[1]
    for layer in together.features.layers:
        np.testing.assert_allclose(together.features.values[layer], alone.features.values[layer], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(
        np.concatenate(together.log_probabilities), np.concatenate(alone.log_probabilities), atol=1e-5
    )


def test_a_long_text_is_split_into_windows_that_overlap_by_half_and_begin_with_bos(decoder):
    """Each token is predicted from BOS and at least 3 of the 7 tokens that fit into a window."""
    encoded, extraction = _extracted(decoder, "corpus", window=8)
    ids, logs, (bos,) = encoded[0].ids, extraction.log_probabilities[0], decoder.prefix
    assert len(ids) > 30
    for t in range(len(ids)):
        start = 0 if t < 7 else 4 * ((t - 7) // 4 + 1)
        assert start == 0 or t - start >= 3
        with torch.no_grad():
            scores = decoder.model(input_ids=torch.tensor([[bos, *ids[start : t + 1]]])).logits[0].log_softmax(-1)
        assert abs(logs[t] - scores[t - start, ids[t]].item()) < 1e-5
    assert all(np.isfinite(matrix).all() for matrix in extraction.features.values.values())


def test_a_word_longer_than_the_window_has_a_surprisal_and_a_state(decoder):
    short = replace(decoder, limit=4)
    stimuli = Stimuli(("a", "b"), ("qzjxkwvy" * 4, "end"), ("p", "p"))
    encoded = [tokens.encode(context, short.tokenizer) for context in contexts.build(stimuli, "passage")]
    extraction = with_transformers.extract(short, encoded)
    assert (encoded[0].owners == 0).sum() > short.limit
    assert np.isfinite(extraction.log_probabilities[0]).all()
    assert np.isfinite(extraction.features.values[Layer("decoder", 4)]).all()


def test_states_and_probabilities_can_be_requested_separately(decoder):
    assert _extracted(decoder, states=False)[1].features is None
    assert _extracted(decoder, log_probabilities=False)[1].log_probabilities is None


def test_an_untrained_control_has_other_weights_that_depend_on_its_seed(tmp_path):
    checkpoint = checkpoints.resolve(str(tiny.build("gpt2", tmp_path / "m", SENTENCES, seed=3)))
    trained, untrained, again = (loaded_model.load(checkpoint, untrained_seed=seed).model.get_input_embeddings().weight
                            for seed in (None, 0, 0))  # fmt: skip
    assert trained.shape == untrained.shape
    assert not torch.equal(trained, untrained)
    assert torch.equal(untrained, again)


def test_a_token_without_an_embedding_is_refused(decoder):
    small = replace(decoder, model=type(decoder.model)(replace_vocabulary(decoder.model.config)))
    with pytest.raises(ValueError, match="gives a token with id"):
        small.encode(contexts.build(STIMULI, "corpus")[0])


def replace_vocabulary(config):
    return type(config)(**{**config.to_dict(), "vocab_size": 100})


def _config(family):
    """A small configuration of a family with all its components."""
    from transformers import AutoConfig

    common = {
        "vocab_size": 400, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "intermediate_size": 48, "max_position_embeddings": 128, "initializer_range": 0.3,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    own = {
        "gemma2": {"head_dim": 8}, "gemma3_text": {"head_dim": 8}, "qwen3": {"head_dim": 8},
        "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16}, "mistral": {"sliding_window": 8},
    }  # fmt: skip
    return AutoConfig.for_model(family, **common, **own.get(family, {}))


@pytest.mark.parametrize(
    "family", ["llama", "mistral", "gpt_neox", "opt", "qwen2", "qwen3", "olmo2", "gemma2", "gemma3_text"]
)
def test_states_and_probabilities_of_every_family_of_decoders_equal_transformers(family):
    """Batched and padded, at every layer, compared with transformers' outputs for single texts."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(family)).eval()
    tokenizer = tiny._tokenizer(SENTENCES)
    ours = loaded_model.LoadedModel(model, tokenizer, "decoder", (0,), 128, torch.device("cpu"))
    encoded, extraction = _extracted(ours)
    row = 0
    for context_tokens, logs in zip(encoded, extraction.log_probabilities, strict=True):
        ids = torch.tensor([[0, *context_tokens.ids]])
        with torch.no_grad():
            out = model(input_ids=ids, output_hidden_states=True)
        wanted = out.logits[0, :-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0].numpy()
        np.testing.assert_allclose(logs, wanted, atol=2e-5, rtol=1e-5)
        for last in context_tokens.last:
            for index, state in enumerate(out.hidden_states[:-1]):
                ours_at = extraction.features.values[Layer("decoder", index)][row]
                np.testing.assert_allclose(ours_at, state[0, 1 + last].numpy(), atol=2e-5, rtol=1e-5)
            row += 1


def test_a_tokenizer_with_more_tokens_than_the_model_has_embeddings_is_refused(tmp_path):
    folder = tiny.build("llama", tmp_path / "m", SENTENCES, seed=3)
    tokenizer = tiny._tokenizer([" ".join(SENTENCES), "entirely different words make a larger vocabulary " * 3])
    tokenizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="tokenizer does not fit the model"):
        loaded_model.load(checkpoints.resolve(str(folder)))


def test_a_cut_window_takes_no_prediction_from_among_its_special_tokens():
    at = np.arange(2, 8)
    window = Window(np.arange(8), 0, 5, 2, at, np.zeros(6, dtype=int), n_prefix=2, is_end=True, retokenised=0)
    assert predictions.positions(window).tolist() == [0, 1, 2, 3, 4, 5, 6]
