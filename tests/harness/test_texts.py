"""Bits per word of a user's own text."""

import pytest

from harness import texts, tiny


@pytest.fixture
def words(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("The old bee watched the hive.")
    return str(file)


def test_a_word_has_bits_and_the_precision_they_were_computed_in(tmp_path, words):
    models = [str(tiny.build(family, tmp_path / family, ["the old bee"], seed=0)) for family in ("llama", "t5")]
    found = texts.surprisals(words, models, "passage")
    assert list(found.model) == ["llama"] * 6 + ["t5"] * 6
    assert set(found["dtype"]) == {"float32"}
    assert (found.surprisal_bits > 0).all()


def test_an_encoder_has_no_surprisal(tmp_path, words):
    model = tiny.build("bert", tmp_path / "bert", ["the old bee"], seed=0)
    with pytest.raises(ValueError, match="bert is an encoder, which gives no probabilities"):
        texts.surprisals(words, [str(model)], "passage")
