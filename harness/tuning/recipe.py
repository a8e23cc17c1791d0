"""How a model is tuned: every choice that determines the weights, with the paper's defaults.

Learning rates, batches and checkpoints are functions of the step alone, so a resumed training needs no state of a
scheduler, a sampler or a random generator.

Source: Aw et al. 2023 (arXiv 2312.00575v2), section 4.1 and App. K: Stanford Alpaca's settings; AdamW and clipping are
the defaults of the Hugging Face Trainer that Alpaca used; schedules: `get_scheduler` of transformers.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from harness.protocol import content_hash
from harness.records import Integers
from harness.tuning.prompts import TEMPLATES

Schedule = Literal["cosine", "linear", "constant"]
Spacing = Literal["even", "log"]
TuningDtype = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class Lora:
    """Settings of low-rank adaptation (Hu et al. 2021, arXiv 2106.09685).

    Attributes:
        rank: rank of the update of each weight matrix.
        alpha: the update is scaled by alpha / rank.
        targets: names of the layers that get an adapter; empty for PEFT's choice for the family.
        dropout: fraction of the adapter's inputs that are dropped.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"LoRA with rank {self.rank}, alpha {self.alpha:g} and dropout {self.dropout:g}; wanted rank >= 1, "
                "alpha > 0 and 0 <= dropout < 1."
            )


@dataclass(frozen=True)
class Recipe:
    """How to tune.

    Attributes:
        epochs: passes over the examples; fractions are allowed.
        batch: examples of one step, over all workers.
        micro_batch: examples of one forward pass of one worker.
        lr: highest learning rate.
        schedule: its course after the warm-up.
        warmup: fraction of the steps in which it rises from 0.
        length: maximum number of tokens of an example.
        dtype: precision of forward and backward passes; weights and optimiser states are float32. "auto" is bfloat16 on
            GPUs (the paper's) and float32 on CPUs.
        lora: settings of the adapters; None trains all weights.
        weight_decay: of AdamW.
        clip: maximum norm of the gradient.
        held_out: fraction of the examples that is not trained on and whose loss is measured at each checkpoint.
        n_checkpoints: checkpoints published along the training, the last at its end.
        spacing: "even", or "log": equal ratios of steps.
        recompute: compute activations again in the backward pass, which saves memory.
    """

    epochs: float = 3.0
    batch: int = 128
    micro_batch: int = 4
    lr: float = 2e-5
    schedule: Schedule = "cosine"
    warmup: float = 0.03
    length: int = 512
    dtype: TuningDtype = "auto"
    lora: Lora | None = None
    weight_decay: float = 0.0
    clip: float = 1.0
    held_out: float = 0.0
    n_checkpoints: int = 10
    spacing: Spacing = "even"
    recompute: bool = False

    def __post_init__(self) -> None:
        whole = {"batch": self.batch, "micro-batch": self.micro_batch, "checkpoints": self.n_checkpoints}
        for name, value in whole.items():
            if value < 1:
                raise ValueError(f"--{name} must be 1 or more, not {value}.")
        positive = {"epochs": self.epochs, "lr": self.lr, "clip": self.clip}
        for name, number in positive.items():
            if not (number > 0 and math.isfinite(number)):
                raise ValueError(f"--{name} must be greater than 0, not {number:g}.")
        for name, number in {"warmup": self.warmup, "held-out": self.held_out}.items():
            if not 0 <= number < 1:
                raise ValueError(f"--{name} is a fraction from 0 up to, not including, 1; got {number:g}.")
        if self.length < 2 or self.weight_decay < 0:
            raise ValueError(
                f"--length must be at least 2 and --weight-decay at least 0; got {self.length} and "
                f"{self.weight_decay:g}."
            )

    @property
    def method(self) -> str:
        """The method in words: "full", or "lora rank 8 alpha 16 on q_proj, v_proj"."""
        if self.lora is None:
            return "full"
        targets = f" on {', '.join(self.lora.targets)}" if self.lora.targets else ""
        return f"lora rank {self.lora.rank} alpha {self.lora.alpha:g}{targets}"

    @property
    def hash(self) -> str:
        """12 hex digits over all choices that determine the weights, prompts included."""
        prompts = [[arm, has_input, text] for (arm, has_input), text in TEMPLATES.items()]
        return content_hash([asdict(self), prompts])[:12]

    def n_steps(self, n_examples: int) -> int:
        """Number of steps. Batches run through the epochs; the rest that fills no batch is not trained on.

        52,002 examples, 3 epochs and batches of 128 give 1,218 steps, as in Alpaca's training.

        Raises:
            ValueError: if there are fewer examples than one batch.
        """
        n = int(self.epochs * n_examples) // self.batch
        if n < 1:
            raise ValueError(
                f"{self.epochs:g} epochs of {n_examples} examples do not fill one batch of {self.batch}; give more "
                "--epochs or a smaller --batch."
            )
        return n

    def learning_rate(self, step: int, n_steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        n_warm = math.ceil(self.warmup * n_steps)
        if step < n_warm:
            return self.lr * step / n_warm
        progress = (step - n_warm) / max(1, n_steps - n_warm)
        factors = {"cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress, "constant": 1.0}
        return self.lr * factors[self.schedule]

    def checkpoint_steps(self, n_steps: int) -> list[int]:
        """Numbers of finished steps at which a checkpoint is published, ascending; the last is the end."""
        n = min(self.n_checkpoints, n_steps)
        if self.spacing == "even":
            return sorted({round(n_steps * (k + 1) / n) for k in range(n)})
        return sorted({round(step) for step in np.geomspace(1, n_steps, n)} | {n_steps}) if n > 1 else [n_steps]


def split(n_examples: int, held_out: float) -> tuple[Integers, Integers]:
    """Divide the examples into trained and held-out ones: (places to train on, places held out), both ascending.

    The division depends on nothing but the number of examples, so it is the same for all arms and seeds.
    """
    n_held_out = round(held_out * n_examples)
    places = np.random.default_rng(0).permutation(n_examples)
    return np.sort(places[n_held_out:]), np.sort(places[:n_held_out])


def batch_of(step: int, batch: int, n_examples: int, seed: int) -> Integers:
    """Places of the examples of a step (counted from 0), in their order.

    Each epoch is a permutation of the examples that depends on the seed and the epoch; batches run on from one epoch
    into the next.

    Args:
        step: step, counted from 0.
        batch: examples of one step.
        n_examples: number of examples to train on.
        seed: of the training.
    """
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // n_examples
    orders = {epoch: np.random.default_rng([seed, epoch]).permutation(n_examples) for epoch in set(epochs.tolist())}
    return np.array(
        [orders[epoch][place] for epoch, place in zip(epochs.tolist(), positions % n_examples, strict=True)]
    )


def seed_of(seed: int, step: int, place: int) -> int:
    """Seed of the generator for the random choices (dropout) of one micro-batch, whichever worker computes it."""
    return int(np.random.SeedSequence([seed, step, place]).generate_state(1, np.uint64)[0] >> 1)
