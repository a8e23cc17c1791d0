"""The trigram model against a slow implementation, nltk, and a text with known values."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from harness.features import ngram
from harness.records import Stimuli


def passages(seed=0, n=60):
    """Words with Zipfian frequencies and dependencies between neighbours."""
    rng = np.random.default_rng(seed)
    ranks = np.minimum(rng.zipf(1.5, (n, 20)), 40)
    ranks[:, 1::2] = (ranks[:, ::2] * 3 + rng.integers(0, 3, (n, 10))) % 40
    return [[f"w{rank}" for rank in row[: rng.integers(1, 20)]] for row in ranks]


def padded(words):
    return ["<s>", "<s>", *words]


def slow(corpus, discounts):
    """Interpolated Kneser-Ney, by the formula, with dictionaries."""
    counts = {3: Counter(), 2: Counter(), 1: Counter()}
    for words in corpus:
        text = padded(words)
        counts[3].update(tuple(text[i : i + 3]) for i in range(len(words)))
    for n in (2, 1):
        counts[n].update(gram[1:] for gram in counts[n + 1])
    followers = {n: defaultdict(list) for n in counts}
    for n, table in counts.items():
        for gram, count in table.items():
            followers[n][gram[:-1]].append(count)
    n_words = len({word for words in corpus for word in words} | {ngram.UNKNOWN})

    def p(word, context):
        if context is None:
            return 1 / n_words
        n, counted = len(context) + 1, followers[len(context) + 1][context]
        shorter = p(word, context[1:] if context else None)
        if not counted:
            return shorter
        taken = [discounts[n - 1][min(count, 3) - 1] for count in counted]
        count = counts[n][(*context, word)]
        kept = count - discounts[n - 1][min(count, 3) - 1] if count else 0
        return (kept + sum(taken) * shorter) / sum(counted)

    return p


DISCOUNTS = ((0.3, 0.4, 0.5), (0.6, 1.1, 1.4), (0.7, 1.2, 1.6))


def test_bits_equal_a_slow_implementation():
    corpus, held_out = passages(), [*passages(1, 10), ["w1", "never", "w3", "w9"], []]
    p = slow(corpus, DISCOUNTS)
    found = ngram.train(corpus, DISCOUNTS).bits(held_out)
    threes = [padded(words)[i : i + 3] for words in held_out for i in range(len(words))]
    wanted = [p(word, tuple(before)) for *before, word in threes]
    np.testing.assert_allclose(2**-found, wanted, rtol=1e-10)


def test_a_single_discount_equals_nltk_kneser_ney():
    """nltk does not discount unigrams, so it has no probability for the unknown word."""
    lm = pytest.importorskip("nltk.lm")
    corpus = passages()
    theirs = lm.KneserNeyInterpolated(3, discount=0.4)
    ends = [(padded(words), i + 3) for words in corpus for i in range(len(words))]
    grams = [[tuple(words[end - n : end]) for words, end in ends for n in (1, 2, 3)]]
    theirs.fit(grams, sorted({word for words in corpus for word in words}))
    ours = ngram.train(corpus, ((0, 0, 0), (0.4,) * 3, (0.4,) * 3))
    words = padded(passages(1, 1)[0] + corpus[3])
    words = [word for word in words if word in theirs.vocab or word == "<s>"]
    wanted = [theirs.score(c, (a, b)) for a, b, c in zip(words, words[1:], words[2:], strict=False)]
    assert len(wanted) > 10
    np.testing.assert_allclose(2 ** -ours.bits([words[2:]]), wanted, rtol=1e-10)


@pytest.mark.parametrize("discounts", [None, DISCOUNTS])
@pytest.mark.parametrize("context", ["<s> <s>", "<s> w1", "w1 w3", "w2 w38", "never w1", "w1 never"])
def test_probabilities_including_the_unknown_word_sum_to_1(context, discounts):
    model = ngram.train([*passages(), ["w1", ngram.UNKNOWN, "w2"]], discounts)
    before = [0 if word == "<s>" else model.ids.get(word, 1) for word in context.split()]
    p = model.probabilities(np.array([[*before, word] for word in model.ids.values()]))
    assert (p > 0).all()
    assert p.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("marked", [[], [["w1", ngram.UNKNOWN]] * 50], ids=["plain", "with unknown words marked"])
def test_the_unknown_word_is_less_likely_than_any_known_one(marked):
    model = ngram.train(passages(n=400) + marked)
    for before in (0, model.ids["w1"]):
        p = model.probabilities(np.array([[0, before, word] for word in model.ids.values()]))
        assert p[0] < p[1:].min()


def test_discounts_are_chen_and_goodmans_and_a_fallback_where_the_corpus_is_too_small():
    counts = np.repeat([1, 2, 3, 4, 9], [40, 10, 5, 2, 1])
    y = 40 / 60
    assert ngram._discounts(counts) == pytest.approx((1 - 2 * y / 4, 2 - 3 * y / 2, 3 - 4 * y * 2 / 5))
    assert ngram._discounts(np.array([1, 1, 2])) == (0.5, 1.0, 1.5)


def test_frequent_sequences_have_low_surprisal(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("The bee sang a song.\n" * 50 + "A fox slept in the snow.\n" * 2)
    words = ("The", "bee", "sang", "a", "fox")
    stimuli = Stimuli(tuple("abcde"), words, ("p",) * 5)
    bits = ngram.bits_of(stimuli, str(path))
    np.testing.assert_array_equal(bits[:, 0], bits[:, 1])
    assert (bits[:4, 0] < 0.3).all()
    assert bits[4, 0] > 4


def test_a_sentence_has_the_sum_and_the_mean_of_its_words_in_their_passage(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(" ".join(words) for words in passages()))
    shown = ("w1 w3, W4.", "— w2", "…", "w1 w3")
    sentences = Stimuli(tuple("abcd"), shown, ("p", "p", "q", "q"))
    each = ngram.train(ngram.corpus(str(path))).bits([["w1", "w3", "w4", "w2"], ["w1", "w3"]])
    total = [each[:3].sum(), each[3], 0, each[4:].sum()]
    np.testing.assert_allclose(ngram.bits_of(sentences, str(path)), np.c_[total, total / np.array([3, 1, 1, 2])])


def test_context_restarts_at_each_passage():
    model = ngram.train(passages())
    one, other = passages(1, 2)
    np.testing.assert_array_equal(model.bits([one, other]), np.concatenate([model.bits([one]), model.bits([other])]))


def test_wikitext_is_read_as_running_text(tmp_path):
    path = tmp_path / "wiki.txt"
    path.write_text(
        " = A Heading = \n \n He did n't see the guest @-@ star 's 1 @,@ 000 <unk> , \" cats ' \" .\n = = Sub = = \n"
    )
    assert [words for words in ngram.corpus(str(path)) if words] == [
        ["he", "didn't", "see", "the", "guest-star's", "1,000", "<unk>", "cats"]
    ]


def test_an_invalid_corpus_is_refused(tmp_path):
    path = tmp_path / "corpus.txt"
    stimuli = Stimuli(("a",), ("bee",), ("p",))
    path.write_bytes(b"one two\n\xff\xfe three\n")
    with pytest.raises(ValueError, match=r"corpus\.txt, line 2: byte 0xFF is not UTF-8; .* Save it as UTF-8"):
        ngram.bits_of(stimuli, str(path))
    for content, message in (("", "has 0 different words"), ("one two\n", "has none of the 1 words")):
        path.write_text(content)
        with pytest.raises(ValueError, match=message):
            ngram.bits_of(stimuli, str(path))
