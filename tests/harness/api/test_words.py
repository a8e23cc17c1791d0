"""`harness.surprisal`, against a plain forward pass."""

import numpy as np
import pandas as pd
import pytest
import torch

from harness import surprisal

TEXT = "The dog sees the old river. The teacher follows the house."


def test_each_word_has_the_surprisal_of_its_tokens(folder, in_memory):
    model, tokenizer = in_memory
    found = surprisal(TEXT, str(folder))
    assert list(found["word"]) == TEXT.split()
    ids = [model.config.bos_token_id, *tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    with torch.no_grad():
        log_probabilities = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), dim=-1)
    total = -sum(log_probabilities[k, ids[k + 1]].item() for k in range(len(ids) - 1)) / np.log(2)
    assert found["surprisal_bits"].sum() == pytest.approx(total, rel=1e-4)


def test_text_words_and_a_model_in_memory_give_the_same(folder, in_memory):
    of_text = surprisal(TEXT, str(folder))
    of_words = surprisal(TEXT.split(), in_memory)
    np.testing.assert_allclose(of_text["surprisal_bits"], of_words["surprisal_bits"], rtol=1e-5)
    both = surprisal(pd.DataFrame({"word": TEXT.split()}), [str(folder), {"again": in_memory}])
    assert list(both["model"].unique()) == ["tiny-own", "again"]


@pytest.mark.parametrize(("text", "message"), [
    (" ", "the text is empty"), ([], "there are no words"), (["The", " dog"], "space"),
])  # fmt: skip
def test_bad_texts_are_named(text, message, folder):
    with pytest.raises(ValueError, match=message):
        surprisal(text, str(folder))
