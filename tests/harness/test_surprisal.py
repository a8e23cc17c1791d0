import numpy as np
import pytest
import torch

from harness import checkpoints, contexts, datasets, extract, reader, surprisal, tokens
from harness.records import Tokens


def test_a_word_gets_the_sum_over_its_tokens_in_bits():
    read = Tokens(np.arange(4), np.array([0, 0, 1, 2]), np.array([1, 2, 3]), ("a", "b", "c"))
    found = surprisal.per_word([read], [np.log([0.5, 0.25, 0.5, 0.125])])
    assert found.word_ids == ("a", "b", "c")
    np.testing.assert_allclose(found.bits, [3, 1, 3])
    assert found.n_tokens.tolist() == [2, 1, 1]


def test_a_word_without_a_token_is_not_measurable():
    read = Tokens(np.arange(1), np.array([1]), np.array([-1, 0]), ("a", "b"))
    assert np.isnan(surprisal.per_word([read], [np.log([0.5])]).bits).tolist() == [True, False]


def test_a_missing_log_probability_is_an_error():
    read = Tokens(np.arange(2), np.array([0, 1]), np.array([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="2 tokens but 1 log-probabilities"):
        surprisal.per_word([read], [np.zeros(1)])


@pytest.fixture(scope="module")
def stories(shared):
    return datasets.load("futrell2018-2016", shared / "data")


def _bits(dataset, folder, rule):
    model = reader.load(checkpoints.resolve(str(folder)))
    encoded = [tokens.encode(context, model.tokenizer) for context in contexts.build(dataset.stimuli, rule)]
    return surprisal.per_word(encoded, extract.extract(model, encoded, states=False).log_probabilities)


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


def test_surprisal_equals_a_forward_per_word_where_the_context_fits_the_window(stories, shared):
    """The slow way, one word after another: each word's tokens after everything before them in the story."""
    model = reader.load(checkpoints.resolve(str(shared / "models" / "stories260K")))
    context = contexts.build(stories.stimuli, "passage")[3]
    read = tokens.encode(context, model.tokenizer)
    found = surprisal.per_word([read], extract.extract(model, [read], states=False).log_probabilities)
    for word in range(0, 120, 7):
        at = np.flatnonzero(read.owners == word)
        ids = [*model.prefix, *read.ids[: at[-1] + 1]]
        assert len(ids) <= model.limit
        with torch.no_grad():
            scores = model.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
        bits = -sum(scores[len(model.prefix) + t - 1, read.ids[t]].item() for t in at) / np.log(2)
        assert found.bits[word] == pytest.approx(bits, abs=1e-4)
