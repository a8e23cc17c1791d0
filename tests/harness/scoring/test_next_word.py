"""Next-token prediction equals a plain forward pass over the text."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness import datasets
from harness.records import Surprisals
from harness.runs import pipeline
from harness.runs.pipeline import RunOptions
from harness.scoring import next_word
from harness.spec import EvaluationSpec
from harness.storage import tables

pytestmark = pytest.mark.ray

TEXT = " \n = The bee = \n \n The old bee watched the hive . Nobody moved . \n \n = = Its life = = \n It was old . \n"


def test_loss_perplexity_and_accuracy_of_known_numbers():
    none = np.full(3, np.nan)
    words = Surprisals(
        ("a", "b", "c"), np.array([2.0, 4.0, np.nan]), np.array([1, 2, 1]), none, none, none, np.array([1.0, 0.0, 1.0])
    )
    found = next_word.score(words, ["ab", "cd é", "left out"], "\n")
    assert found.loss_nats == pytest.approx(6 * np.log(2) / 3)
    assert found.perplexity == pytest.approx(4)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.bits_per_byte == pytest.approx(6 / (3 + 6))
    assert found.word_perplexity == pytest.approx(4)
    assert (found.n_tokens, found.n_words, found.n_bytes, found.n_missing) == (3, 3, 9, 1)


def test_a_run_over_a_text_equals_a_plain_forward_and_stores_model_properties(shared, tmp_path):
    (tmp_path / "wikitext2").mkdir()
    (tmp_path / "wikitext2" / "wiki.test.txt").write_text(TEXT)
    folder = shared / "models" / "stories260K"
    spec = EvaluationSpec("own", (str(folder), str(shared / "models" / "t5-wikitext")), ("wikitext2",), variants=())
    outcome = pipeline.run(spec, str(tmp_path / "out"), RunOptions(str(tmp_path), pinned=False))
    assert not outcome.failures
    row = tables.read(str(tmp_path / "out"), "next_word_scores", outcome.run).set_index("model").loc["stories260K"]
    slow, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = "\n".join(line.strip() for line in TEXT.splitlines() if line.strip())
    ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        logits = slow(input_ids=ids).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:]).item()
    assert row.n_tokens == ids.shape[1] - 1
    assert row.loss_nats == pytest.approx(loss, rel=1e-5)
    assert row.accuracy == pytest.approx((logits.argmax(-1) == ids[0, 1:]).float().mean().item(), abs=1e-6)
    assert row.bits_per_byte == pytest.approx(loss * row.n_tokens / np.log(2) / (len(text) + 1), rel=1e-5)
    properties = tables.read(str(tmp_path / "out"), "model_properties", outcome.run).set_index("model")
    assert properties.next_word_loss["stories260K"] == row.loss_nats
    assert set(properties.next_word_text) == {"wikitext2"}


def test_the_articles_of_the_real_text(shared):
    dataset = datasets.load("wikitext2", shared / "data")
    assert len(dataset.stimuli) == 2_891
    assert len(set(dataset.stimuli.passages)) == 62
    assert sum(len(text.split()) for text in dataset.stimuli.texts) == 241_211
