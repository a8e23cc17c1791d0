"""Steps, learning rates, order and checkpoints, against transformers and plain counting."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import get_scheduler

from harness.tuning import recipe
from harness.tuning.recipe import Lora, Recipe


def test_alpaca_takes_1218_steps():
    """52,002 examples, 3 epochs, batch 128: the count of the Hugging Face Trainer on 4 GPUs of 4 examples each."""
    per_epoch = -(-52002 // (4 * 4)) // 8
    assert Recipe().n_steps(52002) == 3 * per_epoch == 1218


@pytest.mark.parametrize(
    ("schedule", "name"), [("cosine", "cosine"), ("linear", "linear"), ("constant", "constant_with_warmup")]
)
@pytest.mark.parametrize(("n_steps", "warmup"), [(1218, 0.03), (7, 0.3), (5, 0.0)])
def test_learning_rates_are_those_of_transformers(schedule, name, n_steps, warmup):
    settings = Recipe(lr=2e-5, schedule=schedule, warmup=warmup)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2e-5)
    scheduler = get_scheduler(name, optimizer, int(np.ceil(warmup * n_steps)), n_steps)
    for step in range(n_steps):
        assert settings.learning_rate(step, n_steps) == pytest.approx(scheduler.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        scheduler.step()


def test_each_epoch_has_each_example_once():
    order = np.concatenate([recipe.batch_of(step, 8, 20, seed=3) for step in range(5)])
    assert sorted(order[:20]) == sorted(order[20:]) == list(range(20))
    assert list(order[:20]) != list(order[20:])
    other_seed = np.concatenate([recipe.batch_of(step, 8, 20, seed=4) for step in range(5)])
    assert list(order) != list(other_seed)


def test_checkpoints_are_spread_and_the_last_is_the_end():
    assert Recipe(n_checkpoints=4).checkpoint_steps(100) == [25, 50, 75, 100]
    assert Recipe(n_checkpoints=3, spacing="log").checkpoint_steps(100) == [1, 10, 100]
    assert Recipe(n_checkpoints=50).checkpoint_steps(3) == [1, 2, 3]
    assert Recipe(n_checkpoints=1, spacing="log").checkpoint_steps(9) == [9]


def test_held_out_examples_are_not_trained_on():
    trained, held_out = recipe.split(50, 0.1)
    assert len(held_out) == 5
    assert sorted([*trained, *held_out]) == list(range(50))
    assert len(recipe.split(50, 0.0)[1]) == 0


def test_micro_batches_have_seeds_of_their_own():
    seeds = {recipe.seed_of(seed, step, place) for seed in range(3) for step in range(5) for place in range(4)}
    assert len(seeds) == 60


def test_every_choice_changes_the_hash():
    base = Recipe()
    others = [
        {"epochs": 2.0}, {"batch": 64}, {"lr": 1e-4}, {"schedule": "linear"}, {"lora": Lora()}, {"held_out": 0.1},
        {"lora": Lora(rank=4)},
    ]  # fmt: skip
    assert len({base.hash, *(dataclasses.replace(base, **other).hash for other in others)}) == 8


@pytest.mark.parametrize(("choice", "message"), [
    ({"epochs": 0}, "--epochs"), ({"batch": 0}, "--batch"), ({"lr": float("nan")}, "--lr"),
    ({"warmup": 1.0}, "--warmup"),
    ({"held_out": -0.1}, "--held-out"), ({"length": 1}, "--length"), ({"n_checkpoints": 0}, "--checkpoints"),
])  # fmt: skip
def test_impossible_choices_are_refused(choice, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**choice)


def test_a_training_shorter_than_a_batch_is_refused():
    with pytest.raises(ValueError, match="do not fill one batch"):
        Recipe(epochs=0.1).n_steps(100)
    with pytest.raises(ValueError, match="rank"):
        Lora(rank=0)
