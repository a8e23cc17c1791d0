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
from harness.records import ExtractionSettings, Predictions, Stimuli, Tokens
from harness.text import contexts, tokens


def _predictions(probabilities):
    predictions = Predictions.unknown(len(probabilities))
    predictions.log_probabilities[:] = np.log(probabilities)
    return predictions


def test_surprisal_of_a_word_is_the_sum_over_its_tokens_in_bits():
    encoded = Tokens(np.arange(4), np.array([0, 0, 1, 2]), np.array([1, 2, 3]), ("a", "b", "c"))
    words = surprisal.per_word([encoded], [_predictions([0.5, 0.25, 0.5, 0.125])])
    assert words.word_ids == ("a", "b", "c")
    np.testing.assert_allclose(words.bits, [3, 1, 3])
    assert words.n_tokens.tolist() == [2, 1, 1]


def test_a_word_without_tokens_is_nan():
    encoded = Tokens(np.arange(1), np.array([1]), np.array([-1, 0]), ("a", "b"))
    assert np.isnan(surprisal.per_word([encoded], [_predictions([0.5])]).bits).tolist() == [True, False]


def test_a_missing_log_probability_is_an_error():
    encoded = Tokens(np.arange(2), np.array([0, 1]), np.array([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="2 tokens but 1 predictions"):
        surprisal.per_word([encoded], [_predictions([1.0])])


@pytest.fixture(scope="module")
def stories(shared):
    return datasets.load("futrell2018-2016", shared / "data")


def _surprisals(dataset, folder, rule):
    model = loaded_model.load(checkpoints.resolve(str(folder)))
    encoded = [tokens.encode(context, model.tokenizer) for context in contexts.build(dataset.stimuli, rule)]
    return surprisal.per_word(encoded, with_transformers.extract(model, encoded, states=False).predictions)


@pytest.mark.parametrize(("model", "rule", "wanted_2016", "wanted_2021"), [
    ("stories260K", "passage", 0.37572, 0.37484), ("stories260K", "corpus", 0.37500, 0.37409),
    pytest.param("babyllama-105", "passage", 0.37993, 0.37883, marks=pytest.mark.slow),
    pytest.param("babyllama-105", "corpus", 0.37914, 0.37806, marks=pytest.mark.slow),
])  # fmt: skip
def test_surprisal_predicts_reading_times_of_both_releases_as_in_known_results(
    stories, shared, model, rule, wanted_2016, wanted_2021
):
    """The known r has BOS in the first window only; here every window begins with it, which moves r by up to 0.0003."""
    bits = _surprisals(stories, shared / "models" / model, rule).bits
    corrected = datasets.load("futrell2018-2021", shared / "data")
    for dataset, wanted in ((stories, wanted_2016), (corrected, wanted_2021)):
        scored = dataset.reading.scored
        r = np.corrcoef(bits[scored], dataset.reading.mean_ms[scored])[0, 1]
        assert r == pytest.approx(wanted, abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["stories260K", "babyllama-105"])
def test_surprisal_equals_a_separate_forward_per_word_if_the_context_fits_the_window(stories, shared, name):
    """The reference uses transformers alone: the story up to the word, summed over the word's tokens."""
    folder = shared / "models" / name
    model = loaded_model.load(checkpoints.resolve(str(folder)))
    reference, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    encoded = [model.encode(context) for context in contexts.build(stories.stimuli, "passage")]
    words = surprisal.per_word(encoded, with_transformers.extract(model, encoded, states=False).predictions)
    bits = dict(zip(words.word_ids, words.bits, strict=True))
    n_compared = 0
    for story in dict.fromkeys(stories.stimuli.passages):
        rows = [row for row, passage in enumerate(stories.stimuli.passages) if passage == story]
        before: list[int] = []
        for k, row in enumerate(rows):
            text = " ".join(stories.stimuli.texts[r] for r in rows[: k + 1])
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) + 1 > reference.config.max_position_embeddings:
                break
            assert ids[: len(before)] == before
            whole = torch.tensor([[tokenizer.bos_token_id, *ids]])
            with torch.no_grad():
                logs = reference(input_ids=whole).logits[0, len(before) : -1].double().log_softmax(-1)
            nats = logs.gather(-1, whole[0, len(before) + 1 :, None]).sum().item()
            assert bits[stories.stimuli.ids[row]] == pytest.approx(-nats / np.log(2), abs=1e-4)
            before, n_compared = ids, n_compared + 1
    assert n_compared > {"stories260K": 1_600, "babyllama-105": 400}[name]


def test_with_bos_in_the_first_window_only_r_equals_the_known_result(stories, shared):
    model = loaded_model.load(checkpoints.resolve(str(shared / "models" / "stories260K")))
    encoded = [model.encode(context) for context in contexts.build(stories.stimuli, "passage")]
    words = surprisal.per_word(
        encoded, with_transformers.extract(model, encoded, ExtractionSettings(bos="text"), states=False).predictions
    )
    scored = stories.reading.scored
    assert np.corrcoef(words.bits[scored], stories.reading.mean_ms[scored])[0, 1] == pytest.approx(0.37572, abs=6e-6)


# --- tiny models ------------------------------------------------------------------------------------------------------

TEXT = "The old bee watched the hive, and the bee in New York saw it was old; nobody in New York moved."


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory):
    return loaded_model.load(
        checkpoints.resolve(str(tiny.build("llama", tmp_path_factory.mktemp("m") / "llama", [TEXT], 3)))
    )


def _words(texts, **more):
    return Stimuli(tuple(map(str, range(len(texts)))), tuple(texts), ("p",) * len(texts), **more)


def _extracted(model, stimuli, rule="passage", single_stimuli=False, **options):
    encoded = [model.encode(context) for context in contexts.build(stimuli, rule)]
    settings = ExtractionSettings(**options)
    predictions = with_transformers.extract(model, encoded, settings, states=False).predictions
    return surprisal.per_word(encoded, predictions, model.word_initial_tokens, single_stimuli=single_stimuli)


def _nats(model, text):
    """Surprisal of a text, tokenised by itself, after BOS."""
    ids = torch.tensor([[*model.prefix, *model.tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logs = model.model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    return -logs.gather(-1, ids[0, 1:, None]).sum().item()


@pytest.fixture(scope="module")
def merging(tmp_path_factory):
    """A Llama whose tokenizer has "New York" and "in New York" as one token each."""
    folder = tiny.build("llama", tmp_path_factory.mktemp("m") / "merging", [TEXT], 3)
    vocabulary = Tokenizer(BPE(unk_token=None))
    vocabulary.pre_tokenizer, vocabulary.decoder = (
        pre_tokenizers.ByteLevel(False, use_regex=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], max_token_length=8)
    vocabulary.train_from_iterator([TEXT.replace("New York", "N")] + [" New York", "e"] * 400, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, bos_token="<s>", eos_token="</s>")
    config = AutoConfig.from_pretrained(folder)
    tokenizer.save_pretrained(folder)
    assert len(tokenizer) <= config.vocab_size
    return loaded_model.load(checkpoints.resolve(str(folder)))


def test_words_that_share_a_token_get_the_difference_of_two_prefixes(merging):
    stimuli = _words(TEXT.split())
    (encoded,) = [merging.encode(context) for context in contexts.build(stimuli, "passage")]
    assert encoded.retokenised, "no token crosses the end of a word"
    surprisals = _extracted(merging, stimuli)
    costs = [_nats(merging, " ".join(stimuli.texts[: k + 1])) for k in range(len(stimuli))]
    np.testing.assert_allclose(surprisals.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)
    assert surprisals.bits.sum() * np.log(2) == pytest.approx(_nats(merging, TEXT), rel=1e-6)
    assert (surprisals.n_tokens > 0).all()


@pytest.mark.parametrize("words", [
    ["well-known", "mother-in-law's", "co-operate"], ["don't", "'tis", "o'clock", "dogs'"],
    ["wait", "—", "what—no", "—", "yes…"], ["naïve", "Žižek", "日本語", "🐝", "e\u0301te\u0301"],
    ["a\u00a0b", "tab\tbed"],
    ["double  space", "in", "a  word"], ["x" * 40, "end"],
])  # fmt: skip
def test_surprisal_of_unusual_words_adds_up_to_that_of_the_text(tiny_llama, words):
    """Each word's surprisal is the difference of two prefixes."""
    surprisals = _extracted(tiny_llama, _words(words))
    costs = [_nats(tiny_llama, " ".join(words[: k + 1])) for k in range(len(words))]
    np.testing.assert_allclose(surprisals.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)


def test_surprisal_adds_up_if_a_token_ends_inside_a_character(tmp_path):
    """One token has the end of a word and two of the three bytes of the next word's only character."""
    text = "他在河边睡觉。"
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("llama", tmp_path / "llama", [text], 3))))
    stimuli = _words(list(text), separator="")
    (encoded,) = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    assert encoded.retokenised, "no token crosses the end of a word"
    surprisals = _extracted(model, stimuli)
    costs = [_nats(model, text[: k + 1]) for k in range(len(text))]
    np.testing.assert_allclose(surprisals.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)


def test_the_tokens_of_a_letter_belong_to_one_word(shared):
    """SentencePiece's byte fallback: a letter outside the vocabulary becomes one token per byte."""
    model = loaded_model.load(checkpoints.resolve(str(shared / "models" / "stories260K")))
    words = ["The", "naïve", "日本語", "bee", "—", "🐝", "ran"]
    surprisals = _extracted(model, _words(words))
    costs = [_nats(model, " ".join(words[: k + 1])) for k in range(len(words))]
    np.testing.assert_allclose(surprisals.bits * np.log(2), np.diff([0, *costs]), rtol=1e-5, atol=1e-4)
    assert surprisals.n_tokens[2] == 1 + 9


@pytest.mark.parametrize("bos", ["window", "text", "none"])
def test_windows_of_a_long_text_begin_with_bos_as_requested(tiny_llama, bos):
    """One word is longer than the window. Each token is predicted from the tokens in its window."""
    words, size = ["bee" * 30, *TEXT.split()], 12
    stimuli = _words(words)
    surprisals = _extracted(replace(tiny_llama, limit=size), stimuli, bos=bos)
    (encoded,) = [tiny_llama.encode(context) for context in contexts.build(stimuli, "passage")]
    n_text = size - (bos != "none")
    nats = np.zeros(len(words))
    for start, end, first in tokens.windows(len(encoded.ids), n_text):
        prefix = tiny_llama.prefix if bos == "window" or (bos == "text" and not start) else ()
        ids = torch.tensor([[*prefix, *encoded.ids[start:end]]])
        with torch.no_grad():
            logs = tiny_llama.model(input_ids=ids).logits[0].log_softmax(-1)
        for t in range(first, end):
            at = t - start + len(prefix) - 1
            nats[encoded.owners[t]] -= logs[at, encoded.ids[t]].item() if at >= 0 else np.nan
    np.testing.assert_allclose(surprisals.bits * np.log(2), nats, rtol=1e-5, atol=1e-4)
    assert np.isnan(surprisals.bits[0]) == (bos == "none")
    assert np.isfinite(surprisals.bits[1:]).all()


def test_contexts_can_start_at_each_sentence(tiny_llama):
    words = TEXT.split()
    stimuli = _words(words, sentences=tuple("a" * 7 + "b" * (len(words) - 7)))
    surprisals = _extracted(tiny_llama, stimuli, "sentence")
    assert surprisals.bits[7] * np.log(2) == pytest.approx(_nats(tiny_llama, words[7]), abs=1e-4)
    assert surprisals.bits[3] == pytest.approx(_extracted(tiny_llama, stimuli).bits[3], abs=1e-5)
    with pytest.raises(ValueError, match="have no sentences"):
        contexts.build(_words(words), "sentence")


def test_the_space_correction_excludes_longer_words(tmp_path):
    """The tokens of "in" also begin "into", "inn" ...; the corrected value is that of "in" followed by a space."""
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("gpt2", tmp_path / "m", [TEXT], 3))))
    context, word = "The old bee watched", "in"
    plain = _extracted(model, _words([*context.split(), word]))
    ids = [*model.prefix, *model.tokenizer(f"{context} {word}", add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        logs = model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    n_own = int(plain.n_tokens[-1])
    p_space_before = logs[-1 - n_own].exp()[model.word_initial_tokens].sum().item()
    p_space_after = logs[-1].exp()[model.word_initial_tokens].sum().item()
    corrected = 2.0 ** -(plain.bits[-1] + plain.space_bits[-1])
    assert corrected == pytest.approx(2.0 ** -plain.bits[-1] * p_space_after / p_space_before, rel=1e-4)
    assert 0 < p_space_before < 1
    pieces = [model.tokenizer.decode([i]) for i in model.word_initial_tokens]
    assert all(piece[:1].isspace() or piece == model.tokenizer.eos_token for piece in pieces)
    others = set(range(len(model.tokenizer))) - set(map(int, model.word_initial_tokens))
    assert not any(model.tokenizer.decode([i]).startswith((" ", "\n", "\t", "\r")) for i in others)


def test_both_decoder_inputs_of_t5_equal_transformers(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("t5", tmp_path / "m", [TEXT], 3))))
    stimuli = _words(TEXT.split())
    (encoded,) = [model.encode(context) for context in contexts.build(stimuli, "passage")]
    eos, start = model.tokenizer.eos_token_id, model.prefix[0]
    text = _extracted(model, stimuli, decoder_reads="text")
    alone = _extracted(model, stimuli, decoder_reads="stimulus", single_stimuli=True)
    for k in range(len(stimuli)):
        at = np.flatnonzero(encoded.owners == k)
        for words, source, target in (
            (text, [eos], [start, *encoded.ids[: at[-1] + 1]]),
            (alone, [*encoded.ids[: at[0]], eos], [start, *encoded.ids[at]]),
        ):
            target = torch.tensor([list(map(int, target))])
            with torch.no_grad():
                logs = model.model(input_ids=torch.tensor([list(map(int, source))]), decoder_input_ids=target).logits[0]
            logs = logs.log_softmax(-1)
            own = [-logs[i - 1, target[0, i]].item() for i in range(len(target[0]) - len(at), len(target[0]))]
            before = logs[len(target[0]) - len(at) - 1]
            assert words.bits[k] == pytest.approx(sum(own) / np.log(2), abs=1e-4)
            assert words.entropy_bits[k] == pytest.approx(-(before.exp() * before).sum().item() / np.log(2), abs=1e-4)
    assert not np.allclose(text.bits[1:], alone.bits[1:], atol=0.1)


def test_the_error_for_a_word_too_long_for_t5s_decoder_names_it(tmp_path):
    model = loaded_model.load(checkpoints.resolve(str(tiny.build("t5", tmp_path / "m", [TEXT], 3))))
    with pytest.raises(ValueError, match="stimulus '1' has 91 tokens, but the decoder takes at most 39"):
        _extracted(
            replace(model, limit=40), _words(["a", "zq" * 45, "b"]), decoder_reads="stimulus", single_stimuli=True
        )
