"""Stimuli after a prompt: states and surprisals of their own tokens, given the prompt, as transformers gives them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.datasets.synthetic import PAPER
from harness.extraction import backends, extracted_text
from harness.models import tiny
from harness.records import Layer, Stimuli
from harness.text import contexts, tokens
from harness.variants import Condition

SENTENCES = (
    "The old bee watched the hive.",
    "Nobody moved.",
    "A king and a fox hid the golden snow, slowly.",
    "Every oak near the moss carried a rose.",
    "When the fox left, the quiet owl found another path.",
)
PROMPT = "Please read this sentence carefully: "
STIMULI = Stimuli(tuple("abcde"), SENTENCES, ("p", "p", "p", "q", "q"), sentences=(0, 1, 1, 0, 0))
CAREFUL = Condition("careful", PROMPT)
RULES = {
    "none": [(), (), (), (), ()],
    "sentence": [(), (), (1,), (), (3,)],
    "passage": [(), (0,), (0, 1), (), (3,)],
    "corpus": [(), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)],
    "window": [(), (0,), (1,), (), (3,)],
}


def built(family, folder):
    tiny.build(family, folder / family, [*SENTENCES, PROMPT], seed=3)
    return backends.load("transformers", checkpoints.resolve(str(folder / family)), "cpu")


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def decoder(request, tmp_path_factory):
    return built(request.param, tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return built("t5", tmp_path_factory.mktemp("models"))


def extracted(model, rule="none", condition=CAREFUL, stimuli=STIMULI, surprisals=True, **protocol):
    settings = replace(PAPER, context=rule, context_words=int(rule == "window"), **protocol)
    texts = contexts.build(stimuli, rule, settings.context_words)
    return extracted_text.extract(model, texts, settings, states=True, surprisals=surprisals, condition=condition)


def ids_of(model, text):
    return model.loaded.tokenizer(text, add_special_tokens=False)["input_ids"]


def hidden(model, ids, stack="decoder", **more):
    """(token, hidden) states of each layer but the last, which transformers gives after the final norm."""
    with torch.no_grad():
        out = model.loaded.model(input_ids=torch.tensor([ids]), output_hidden_states=True, **more)
    name = "hidden_states" if "hidden_states" in out else f"{stack}_hidden_states"
    return [state[0].numpy() for state in out[name][:-1]], out.logits[0].log_softmax(-1).numpy()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_the_tokens_of_a_stimulus_alone_are_pooled_after_the_prompt(decoder, rule, pooling):
    found = extracted(decoder, rule, pooling=pooling)
    begin = list(decoder.loaded.prefix)
    for row, before in enumerate(RULES[rule]):
        text_before = PROMPT + "".join(f"{SENTENCES[k]} " for k in before)
        text = text_before + SENTENCES[row]
        n_own = len(ids_of(decoder, text)) - len(ids_of(decoder, text_before.rstrip()))
        states, logs = hidden(decoder, begin + ids_of(decoder, text))
        for layer, state in enumerate(states):
            wanted = state[-1] if pooling == "last" else state[-n_own:].mean(axis=0)
            np.testing.assert_allclose(found.features.values[Layer("decoder", layer)][row], wanted, atol=1e-4)
        own = (begin + ids_of(decoder, text))[-n_own:]
        nats = -sum(logs[k - n_own - 1, token] for k, token in enumerate(own))
        assert found.words.bits[row] == pytest.approx(nats / np.log(2), abs=1e-4)
        assert found.words.n_tokens[row] == n_own
    assert found.facts["parity_stimuli"] == 4
    assert found.facts["parity_states"] < 1e-4


def test_a_prompt_changes_states_and_surprisals(decoder):
    with_prompt, without = extracted(decoder), extracted(decoder, condition=None)
    layer = Layer("decoder", 2)
    assert np.abs(with_prompt.features.values[layer] - without.features.values[layer]).max() > 0.01
    assert np.abs(with_prompt.words.bits - without.words.bits).max() > 0.01


def test_the_prompt_stands_in_every_window_of_a_long_text(decoder):
    words = [word for sentence in SENTENCES for word in sentence.split()] * 3
    stimuli = Stimuli(tuple(map(str, range(len(words)))), tuple(words), ("p",) * len(words))
    found = extracted(decoder, "passage", stimuli=stimuli, window=48, pooling="last")
    loaded, prompt = decoder.loaded, ids_of(decoder, PROMPT.rstrip())
    whole = ids_of(decoder, PROMPT + " ".join(words))
    assert whole[: len(prompt)] == prompt
    text = whole[len(prompt) :]
    size = 48 - len(prompt) - len(loaded.prefix)
    step = round(size / 2)
    ends = np.cumsum([len(ids_of(decoder, f" {word}")) for word in words])
    assert ends[-1] == len(text) > 2 * size
    for row, end in enumerate(ends):
        start = 0 if end <= size else -(-(end - size) // step) * step  # the first window that holds the word
        states, _ = hidden(decoder, [*loaded.prefix, *prompt, *text[start:end]])
        np.testing.assert_allclose(found.features.values[Layer("decoder", 3)][row], states[3][-1], atol=1e-4)
    assert found.facts["n_windows"] > 2


def test_a_stimulus_that_merges_with_the_prompt_is_tokenised_by_itself():
    """Some tokenizers have the token '"The'; the tokens of the stimulus must be its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {letter: k for k, letter in enumerate(sorted(letters))}
    for piece in ("Th", "The", '"The', "e.", 'e."'):
        vocabulary[piece] = len(vocabulary)
    inner = Tokenizer(models.BPE(vocabulary, [("T", "h"), ("Th", "e"), ('"', "The"), ("e", "."), ("e.", '"')]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert tokenizer.tokenize('"The bee.') == ['"The', "Ġ", "b", "e", "e."]
    (context,) = contexts.build(Stimuli(("a",), ("The bee.",), ("p",)), "none")
    encoded = tokens.encode(contexts.prompted(context, Condition("quoted", 'Read: "')), tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(encoded.ids.tolist())
    assert pieces == [*"Read:", "Ġ", '"', "The", "Ġ", "b", "e", "e."]
    assert encoded.n_prompt == 7
    assert encoded.owners.tolist() == [-1] * 7 + [0] * 5
    assert encoded.last.tolist() == [11]


@pytest.mark.parametrize("end", ["\n", " ", ":\n\n", "  ", ""])
def test_no_token_of_the_prompt_belongs_to_a_stimulus(decoder, end):
    (context,) = contexts.build(Stimuli(("a", "b"), ("The bee", "moved."), ("p", "p")), "passage")
    condition = Condition("x", f"Read this{end or ':'}")
    encoded = decoder.loaded.encode(contexts.prompted(context, condition))
    text = decoder.loaded.tokenizer.decode(encoded.ids[encoded.owners >= 0].tolist())
    assert text.strip(" ") == "The bee moved."
    assert (encoded.owners[: encoded.n_prompt] == -1).all()
    assert (encoded.owners[encoded.n_prompt :] >= 0).all()


@pytest.mark.parametrize("after", ["", " Is it true?"])
def test_an_encoder_reads_the_prompt_around_the_text_so_far(t5, after):
    found = extracted(t5, "passage", Condition("x", PROMPT, after), surprisals=False, decoder_reads="stimulus")
    end, rest = [t5.loaded.tokenizer.eos_token_id], ids_of(t5, after) if after else []
    for row, before in enumerate(RULES["passage"]):
        so_far = PROMPT + "".join(f"{SENTENCES[k]} " for k in before)
        text, own = ids_of(t5, so_far + SENTENCES[row]), ids_of(t5, f" {SENTENCES[row]}")
        start = torch.tensor([[2, *own]])
        encoder, _ = hidden(t5, text + rest + end, "encoder", decoder_input_ids=start)
        decoder, _ = hidden(t5, ids_of(t5, so_far.rstrip()) + rest + end, "decoder", decoder_input_ids=start)
        for index in range(4):
            ours = found.features.values
            np.testing.assert_allclose(ours[Layer("encoder", index)][row], encoder[index][len(text) - 1], atol=1e-4)
            np.testing.assert_allclose(ours[Layer("decoder", index)][row], decoder[index][-1], atol=1e-4)


def test_a_source_that_is_too_long_keeps_its_prompt(t5):
    short = {"surprisals": False, "window": 24, "decoder_reads": "nothing"}
    found = extracted(t5, "passage", Condition("x", PROMPT, " Yes?"), **short)
    prompt, rest = ids_of(t5, PROMPT.rstrip()), ids_of(t5, " Yes?")
    text = ids_of(t5, PROMPT + " ".join(SENTENCES[:3]))
    n_left = 24 - 1 - len(prompt) - len(rest)
    assert len(text) - len(prompt) > n_left > 0
    source = [*prompt, *text[-n_left:], *rest, t5.loaded.tokenizer.eos_token_id]
    states, _ = hidden(t5, source, "encoder", decoder_input_ids=torch.tensor([[2]]))
    for index, state in enumerate(states):
        ours = found.features.values[Layer("encoder", index)][2]
        np.testing.assert_allclose(ours, state[len(prompt) + n_left - 1], atol=1e-4)
    with pytest.raises(ValueError, match="leaves no room in a window"):
        extracted(t5, "passage", Condition("x", PROMPT * 9), **short)


def test_a_decoder_that_reads_the_text_reads_the_prompt_first(t5):
    found = extracted(t5, "none", decoder_reads="text")
    text = ids_of(t5, PROMPT + SENTENCES[0])
    states, logs = hidden(t5, [1], decoder_input_ids=torch.tensor([[2, *text]]))
    np.testing.assert_allclose(found.features.values[Layer("decoder", 2)][0], states[2][-1], atol=1e-4)
    n_own = len(text) - len(ids_of(t5, PROMPT.rstrip()))
    nats = -sum(logs[len(text) - n_own + k, token] for k, token in enumerate(text[-n_own:]))
    assert found.words.bits[0] == pytest.approx(nats / np.log(2), abs=1e-4)


def test_a_decoder_that_reads_the_stimulus_alone_has_the_prompt_in_its_encoder(t5):
    found = extracted(t5, "none", decoder_reads="stimulus")
    own, end = ids_of(t5, f" {SENTENCES[3]}"), t5.loaded.tokenizer.eos_token_id
    source = [*ids_of(t5, PROMPT.rstrip()), end]
    _, logs = hidden(t5, source, decoder_input_ids=torch.tensor([[2, *own]]))
    nats = -sum(logs[k, token] for k, token in enumerate(own))
    assert found.words.bits[3] == pytest.approx(nats / np.log(2), abs=1e-4)


def test_a_prompt_that_the_tokenizer_does_not_know_is_refused(shared):
    model = backends.load("transformers", checkpoints.resolve(str(shared / "models" / "babyllama-105")), "cpu")
    with pytest.raises(ValueError, match="of the prompt '日本語' to its unknown token"):
        extracted(model, condition=Condition("x", "日本語"))


def test_brainscores_encoding_has_no_prompts(decoder):
    with pytest.raises(ValueError, match="has no prompts"):
        extracted(decoder, encoding="brainscore", bos="none")


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_real_models_after_a_prompt(shared, name):
    model = backends.load("transformers", checkpoints.resolve(str(shared / "models" / name)), "cpu")
    found = extracted(model, "none")
    for row, sentence in enumerate(SENTENCES[:2]):
        text, prompt = ids_of(model, PROMPT + sentence), ids_of(model, PROMPT.rstrip())
        assert text[: len(prompt)] == prompt
        begin = list(model.loaded.prefix)
        states, logs = hidden(model, begin + text)
        np.testing.assert_allclose(found.features.values[Layer("decoder", 1)][row], states[1][-1], atol=1e-4)
        n = len(begin) + len(prompt)
        nats = -sum(logs[n - 1 + k, token] for k, token in enumerate(text[len(prompt) :]))
        assert found.words.bits[row] == pytest.approx(nats / np.log(2), abs=1e-3)
