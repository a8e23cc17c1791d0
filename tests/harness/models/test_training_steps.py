"""The place of a checkpoint in a training, from names as they are published."""

import pytest

from harness.models.training_steps import of_name

STEP = 1024 * 2048  # tokens of a step of every Pythia


@pytest.mark.parametrize(("name", "expected"), [
    ("pythia-1b@step1000", ("pythia-1b", None, 1000, 1000 * STEP)),
    ("EleutherAI/pythia-410m-deduped@step0", ("EleutherAI/pythia-410m-deduped", None, 0, 0)),
    ("EleutherAI/pythia-1.4b-v0@step1000", ("EleutherAI/pythia-1.4b-v0", None, 1000, None)),
    ("pythia-14m-seed3@step64", ("pythia-14m", 3, 64, 64 * STEP)),
    ("olmo-2-1b@stage1-step140000-tokens294B", ("olmo-2-1b@stage1", None, 140_000, 294 * 10**9)),
    ("olmo-2-7b@step150-tokens1B", ("olmo-2-7b", None, 150, 10**9)),
    ("allenai/OLMo-2-1124-7B@stage2-ingredient1-step11931-tokens50B",
     ("allenai/OLMo-2-1124-7B@stage2-ingredient1", None, 11_931, 50 * 10**9)),
    ("allenai/OLMo-1B@step20000-tokens84B", ("allenai/OLMo-1B", None, 20_000, 84 * 10**9)),
    ("runs/tuned/checkpoint-105", ("runs/tuned", None, 105, None)),
    ("mine-seed-2@checkpoint-105", ("mine", 2, 105, None)),
    ("olmo@step_000500", ("olmo", None, 500, None)),
    ("m-2000steps", ("m", None, 2000, None)),
    ("m@step10-tokens1.5M", ("m", None, 10, 1_500_000)),
])  # fmt: skip
def test_published_names_state_training_seed_step_and_tokens(name, expected):
    assert of_name(name) == expected


@pytest.mark.parametrize("name", ["llama-7b", "gpt2", "t5-v1_1-xl", "m@main", "pythia-1b", "olmo-2-1b-instruct"])
def test_other_names_state_none(name):
    assert of_name(name) is None
