from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from harness import datasets
from harness.checkpoints import checkpoints
from harness.extraction import surprisal, with_transformers
from harness.loading import loaded_model
from harness.models import tiny
from harness.records import Predictions, Stimuli, Tokens
from harness.text import contexts, tokens


def _said(probabilities):
    said = Predictions.unknown(len(probabilities))
    said.log_probabilities[:] = np.log(probabilities)
    return said


def test_a_word_gets_the_sum_over_its_tokens_in_bits():
    read = Tokens(np.arange(4), np.array([0, 0, 1, 2]), np.array([1, 2, 3]), ("a", "b", "c"))
    found = surprisal.per_word([read], [_said([0.5, 0.25, 0.5, 0.125])])
    assert found.word_ids == ("a", "b", "c")
    np.testing.assert_allclose(found.bits, [3, 1, 3])
    assert found.n_tokens.tolist() == [2, 1, 1]


def test_a_word_without_a_token_is_not_measurable():
    read = Tokens(np.arange(1), np.array([1]), np.array([-1, 0]), ("a", "b"))
    assert np.isnan(surprisal.per_word([read], [_said([0.5])]).bits).tolist() == [True, False]


def test_a_missing_log_probability_is_an_error():
    read = Tokens(np.arange(2), np.array([0, 1]), np.array([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="2 tokens but 1 predictions"):
        surprisal.per_word([read], [_said([1.0])])


@pytest.fixture(scope="module")
def stories(shared):
    return datasets.load("futrell2018-2016", shared / "data")


def _bits(dataset, folder, rule):
    model = loaded_model.load(checkpoints.resolve(str(folder)))
    encoded = [tokens.encode(context, model.tokenizer) for context in contexts.build(dataset.stimuli, rule)]
    return surprisal.per_word(encoded, with_transformers.extract(model, encoded, states=False).predictions)


@pytest.mark.parametrize(("model", "rule", "wanted_2016", "wanted_2021"), [
    ("stories260K", "passage", 0.37572, 0.37484), ("stories260K", "corpus", 0.37500, 0.37409),
    ("babyllama-105", "passage", 0.37993, 0.37883), ("babyllama-105", "corpus", 0.37914, 0.37806),
])  # fmt: skip
def test_surprisal_predicts_the_reading_times_of_both_releases_as_known(
    stories, shared, model, rule, wanted_2016, wanted_2021
):
    """Known with BOS in the first window alone; here every window begins with it, which moves r by up to .0003."""
    bits = _bits(stories, shared / "models" / model, rule).bits
    corrected = datasets.load("futrell2018-2021", shared / "data")
    for dataset, wanted in ((stories, wanted_2016), (corrected, wanted_2021)):
        scored = dataset.reading.scored
        r = np.corrcoef(bits[scored], dataset.reading.mean_ms[scored])[0, 1]
        assert r == pytest.approx(wanted, abs=5e-4)


@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_every_word_whose_context_fits_the_window_equals_a_forward_of_its_own(stories, shared, name):
    """The slow way, with transformers and its tokenizer alone: the story up to the word, its last tokens summed."""
    folder = shared / "models" / name
    model = loaded_model.load(checkpoints.resolve(str(folder)))
    slow, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoded = [model.encode(context) for context in contexts.build(stories.stimuli, "passage")]
    found = surprisal.per_word(encoded, with_transformers.extract(model, encoded, states=False).predictions)
    bits = dict(zip(found.word_ids, found.bits, strict=True))
    n_compared = 0
    for story in dict.fromkeys(stories.stimuli.passages):
        rows = [row for row, passage in enumerate(stories.stimuli.passages) if passage == story]
        before: list[int] = []
        for k, row in enumerate(rows):
            text = " ".join(stories.stimuli.texts[r] for r in rows[: k + 1])
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) + 1 > slow.config.max_position_embeddings:
                break
            assert ids[: len(before)] == before
            whole = torch.tensor([[tokenizer.bos_token_id, *ids]])
            with torch.no_grad():
                logs = slow(input_ids=whole).logits[0, len(before) : -1].double().log_softmax(-1)
            nats = logs.gather(-1, whole[0, len(before) + 1 :, None]).sum().item()
            assert bits[stories.stimuli.ids[row]] == pytest.approx(-nats / np.log(2), abs=1e-4)
            before, n_compared = ids, n_compared + 1
    assert n_compared > {"stories260K": 1_600, "babyllama-105": 400}[name]


def test_with_bos_in_the_first_window_alone_the_known_answer_is_met_to_its_last_digit(stories, shared):
    model = loaded_model.load(checkpoints.resolve(str(shared / "models" / "stories260K")))
    encoded = [model.encode(context) for context in contexts.build(stories.stimuli, "passage")]
    found = surprisal.per_word(encoded, with_transformers.extract(model, encoded, states=False, bos="text").predictions)
    scored = stories.reading.scored
    assert np.corrcoef(found.bits[scored], stories.reading.mean_ms[scored])[0, 1] == pytest.approx(0.37572, abs=6e-6)


# --- tiny models ------------------------------------------------------------------------------------------------------

TEXT = "The old bee watched the hive, and the bee in New York saw it was old; nobody in New York moved."


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    return loaded_model.load(
        checkpoints.resolve(str(tiny.build("llama", tmp_path_factory.mktemp("m") / "llama", [TEXT], 3)))
    )


def _words(texts, **more):
    return Stimuli(tuple(map(str, range(len(texts)))), tuple(texts), ("p",) * len(texts), **more)


def _read(model, stimuli, rule="passage", alone=False, **how):
    encoded = [model.encode(context) for context in contexts.build(stimuli, rule)]
    said = with_transformers.extract(model, encoded, states=False, **how).predictions
    return surprisal.per_word(encoded, said, model.openings, alone=alone)


def _nats(model, text):
    """What the tokens of a text, tokenised by itself, cost after BOS."""
    ids = torch.tensor([[*model.prefix, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logs = model.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return -logs.gather(-1, ids[0, 1:, None]).sum().item()


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    """A Llama whose tokenizer holds "New York" and "in New York" as one token each."""
    folder = tiny.build("llama", tmp_path_factory.mktemp("m") / "merging", [TEXT], 3)
    vocabulary = Tokenizer(BPE(unk_token=None))
    vocabulary.pre_tokenizer, vocabulary.decoder = (
        pre_tokenizers.ByteLevel(False, use_regex=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], max_token_length=8)
    vocabulary.train_from_iterator([TEXT.replace("New York", "N")] + [" New York", "e"] * 400, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=vocabulary, bos_token="<s>", eos_token="</s>")
    config = AutoConfig.from_pretrained(folder)
    made.save_pretrained(folder)
    assert len(made) <= config.vocab_size
    return loaded_model.load(checkpoints.resolve(str(folder)))


def test_words_that_share_a_token_get_the_text_up_to_them_less_the_text_before_them(merging):
    stimuli = _words(TEXT.split())
    (read,) = [merging.encode(context) for context in contexts.build(stimuli, "passage")]
    assert read.apart, "the tokenizer merges over the end of no word"
    found = _read(merging, stimuli)
    costs = [_nats(merging, " ".join(stimuli.texts[: k + 1])) for k in range(len(stimuli))]
    np.testing.assert_allclose(found.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)
    assert found.bits.sum() * np.log(2) == pytest.approx(_nats(merging, TEXT), rel=1e-6)
    assert (found.n_tokens > 0).all()


@pytest.mark.parametrize("words", [
    ["well-known", "mother-in-law's", "co-operate"], ["don't", "'tis", "o'clock", "dogs'"],
    ["wait", "—", "what—no", "—", "yes…"], ["naïve", "Žižek", "日本語", "🐝", "e\u0301te\u0301"],
    ["a\u00a0b", "tab\tbed"],
    ["double  space", "in", "a  word"], ["x" * 40, "end"],
])  # fmt: skip
def test_words_of_every_kind_are_cut_from_the_whole_without_loss(tiny_llama, words):
    """Whatever the letters, the words' bits add up to those of the text, and each is the difference of two texts."""
    found = _read(tiny_llama, _words(words))
    costs = [_nats(tiny_llama, " ".join(words[: k + 1])) for k in range(len(words))]
    np.testing.assert_allclose(found.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)


def test_words_joined_without_spaces_are_cut_within_a_character_without_loss(tmp_path):
    """A token of bytes holds one word's end and two of the three bytes of the next one's only character."""
    text = "他在河边睡觉。"
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("llama", tmp_path / "llama", [text], 3))))
    stimuli = _words(list(text), separator="")
    (read,) = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    assert read.apart, "no token reaches past the end of a word"
    found = _read(model, stimuli)
    costs = [_nats(model, text[: k + 1]) for k in range(len(text))]
    np.testing.assert_allclose(found.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)


def test_letters_that_are_several_tokens_are_one_words(shared):
    """SentencePiece's byte fallback: a letter that the vocabulary lacks is as many tokens as it has bytes."""
    model = loaded_model.load(checkpoints.resolve(str(shared / "models" / "stories260K")))
    words = ["The", "naïve", "日本語", "bee", "—", "🐝", "ran"]
    found = _read(model, _words(words))
    costs = [_nats(model, " ".join(words[: k + 1])) for k in range(len(words))]
    np.testing.assert_allclose(found.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)
    assert found.n_tokens[2] == 1 + 9


@pytest.mark.parametrize("bos", ["window", "text", "none"])
def test_windows_past_the_limit_begin_as_the_policy_says(tiny_llama, bos):
    """A word longer than the window, and a story longer than any: each token after what its window holds."""
    words, size = ["bee" * 30, *TEXT.split()], 12
    stimuli = _words(words)
    found = _read(replace(tiny_llama, limit=size), stimuli, bos=bos)
    (read,) = [tiny_llama.encode(context) for context in contexts.build(stimuli, "passage")]
    room = size - (bos != "none")
    nats = np.zeros(len(words))
    for start, end, first in tokens.windows(len(read.ids), room):
        prefix = tiny_llama.prefix if bos == "window" or (bos == "text" and not start) else ()
        ids = torch.tensor([[*prefix, *read.ids[start:end]]])
        with torch.no_grad():
            logs = tiny_llama.model(input_ids=ids).logits[0].log_softmax(-1)
        for t in range(first, end):
            at = t - start + len(prefix) - 1
            nats[read.owners[t]] -= logs[at, read.ids[t]].item() if at >= 0 else np.nan
    np.testing.assert_allclose(found.bits * np.log(2), nats, rtol=1e-5, atol=1e-4)
    assert np.isnan(found.bits[0]) == (bos == "none")
    assert np.isfinite(found.bits[1:]).all()


def test_contexts_that_start_afresh_at_each_sentence(tiny_llama):
    words = TEXT.split()
    stimuli = _words(words, sentences=tuple("a" * 7 + "b" * (len(words) - 7)))
    found = _read(tiny_llama, stimuli, "sentence")
    assert found.bits[7] * np.log(2) == pytest.approx(_nats(tiny_llama, words[7]), abs=1e-4)
    assert found.bits[3] == pytest.approx(_read(tiny_llama, stimuli).bits[3], abs=1e-5)
    with pytest.raises(ValueError, match="have no sentences"):
        contexts.build(_words(words), "sentence")


def test_with_the_correction_words_that_begin_alike_share_their_probability(tmp_path):
    """The tokens of "in" stand for "in", "into", "inn" ...: corrected, for the word that a space follows."""
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("gpt2", tmp_path / "m", [TEXT], 3))))
    context, word = "The old bee watched", "in"
    plain = _read(model, _words([*context.split(), word]))
    ids = [*model.prefix, *model.tokenizer(f"{context} {word}", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logs = model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    n_own = int(plain.n_tokens[-1])
    p_space_before = logs[-1 - n_own].exp()[model.openings].sum().item()
    p_space_after = logs[-1].exp()[model.openings].sum().item()
    corrected = 2.0 ** -(plain.bits[-1] + plain.space_bits[-1])
    assert corrected == pytest.approx(2.0 ** -plain.bits[-1] * p_space_after / p_space_before, rel=1e-4)
    assert 0 < p_space_before < 1
    pieces = [model.tokenizer.decode([i]) for i in model.openings]
    assert all(piece[:1].isspace() or piece == model.tokenizer.eos_token for piece in pieces)
    others = set(range(len(model.tokenizer))) - set(map(int, model.openings))
    assert not any(model.tokenizer.decode([i]).startswith((" ", "\n", "\t", "\r")) for i in others)


def test_t5_gives_two_readings_and_both_are_its_own(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("t5", tmp_path / "m", [TEXT], 3))))
    stimuli = _words(TEXT.split())
    (read,) = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    eos, start = model.tokenizer.eos_token_id, model.prefix[0]
    text = _read(model, stimuli, decoder_reads="text")
    alone = _read(model, stimuli, decoder_reads="stimulus", alone=True)
    for k in range(len(stimuli)):
        at = np.flatnonzero(read.owners == k)
        for found, source, target in (
            (text, [eos], [start, *read.ids[: at[-1] + 1]]),
            (alone, [*read.ids[: at[0]], eos], [start, *read.ids[at]]),
        ):
            target = torch.tensor([list(map(int, target))])
            with torch.no_grad():
                logs = model.model(input_ids=torch.tensor([list(map(int, source))]), decoder_input_ids=target).logits[0]
            logs = logs.log_softmax(-1)
            own = [-logs[i - 1, target[0, i]].item() for i in range(len(target[0]) - len(at), len(target[0]))]
            before = logs[len(target[0]) - len(at) - 1]
            assert found.bits[k] == pytest.approx(sum(own) / np.log(2), abs=1e-4)
            assert found.entropy_bits[k] == pytest.approx(-(before.exp() * before).sum().item() / np.log(2), abs=1e-4)
    assert not np.allclose(text.bits[1:], alone.bits[1:], atol=0.1)


def test_t5_says_which_word_is_too_long_for_its_decoder(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("t5", tmp_path / "m", [TEXT], 3))))
    with pytest.raises(ValueError, match="stimulus '1' has 91 tokens, but the decoder reads 39 at once"):
        _read(replace(model, limit=40), _words(["a", "zq" * 45, "b"]), decoder_reads="stimulus", alone=True)
