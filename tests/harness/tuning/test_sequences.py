"""Token ids and labels, against Stanford Alpaca's way of making them."""

import numpy as np
import pytest
import torch

from harness.tuning import prompts, sequences, training
from harness.tuning.examples import Example
from tests.harness.tuning.conftest import ALONE

WITH, WITHOUT = prompts.ARMS
EXAMPLES = [
    Example("Say {hello} to her.", "Lily", "Hello, Lily."), Example("Tell a story.", "", "Once there was a cat. " * 9),
]  # fmt: skip


def stanford(texts, tokenizer, length):
    """Their preprocessing in its own terms: the source and the whole are tokenised, the source's labels masked."""
    made = []
    for source, target in texts:
        whole, before = (
            [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]][:length]
            for text in (source + target + tokenizer.eos_token, source)
        )
        labels = torch.tensor(whole)
        labels[: len(before)] = -100
        made.append((whole, labels.tolist()))
    return made


@pytest.mark.parametrize("length", [512, 160])
def test_ids_and_labels_are_alpacas(length, tokenizer):
    corpus = sequences.of_examples(EXAMPLES, tokenizer, (tokenizer.bos_token_id,), length)
    for arm in prompts.ARMS:
        texts = [(prompts.prompt(example, arm), example.output) for example in EXAMPLES]
        expected = stanford(texts, tokenizer, length)
        assert [(list(example.ids), list(example.labels)) for example in corpus.by_arm[arm]] == expected
        assert all(labels[-1] != -100 for _, labels in expected)
    assert corpus.n_cut(WITH) == (1 if length == 160 else 0)


def test_the_prompts_are_alpacas():
    assert prompts.prompt(EXAMPLES[0], WITH).endswith(
        "\n\n### Instruction:\nSay {hello} to her.\n\n### Input:\nLily\n\n### Response:"
    )
    assert prompts.prompt(EXAMPLES[1], WITH) == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nTell a story.\n\n### Response:"
    )


def test_without_instructions_nothing_of_them_is_left():
    assert [prompts.prompt(example, WITHOUT) for example in EXAMPLES] == [
        "### Input:\nLily\n\n### Response:", "### Response:"
    ]  # fmt: skip


def test_examples_that_one_arm_cannot_learn_are_left_out_of_both(tokenizer):
    long = Example("Repeat. " * 90, "", "Yes.")
    corpus = sequences.of_examples([long, *EXAMPLES], tokenizer, (1,), 400)
    assert corpus.n_without_response == 1
    assert [len(corpus.by_arm[arm]) for arm in prompts.ARMS] == [2, 2]
    outputs = [tokenizer.decode(corpus.by_arm[arm][0].ids[corpus.by_arm[arm][0].n_prompt :]) for arm in prompts.ARMS]
    assert outputs == ["Hello, Lily.</s>"] * 2
    with pytest.raises(ValueError, match="increase --length"):
        sequences.of_examples([long], tokenizer, (1,), 100)


def test_the_loss_is_on_responses_alone(tokenizer, stories):
    """Summed over a padded micro-batch = each example by itself, from log-softmax in float64."""
    from harness.loading import loaded_model

    model = loaded_model.load(stories).model
    batch = sequences.of_examples(EXAMPLES, tokenizer, (1,), 512).by_arm[WITH]
    with torch.no_grad():
        loss = training.summed_loss(model, batch, ALONE, torch.float32).item()
        expected = 0.0
        for example in batch:
            logits = model(torch.from_numpy(example.ids)[None]).logits[0].double().numpy()
            logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            expected -= sum(logs[t - 1, example.ids[t]] for t in range(example.n_prompt, len(example.ids)))
    assert loss == pytest.approx(expected, rel=1e-5)
