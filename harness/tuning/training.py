"""One training: steps, losses, checkpoints along the way, and a state from which a killed training goes on.

The loss of a step is the sum over the response tokens of the whole batch, divided by their number, whichever worker
and micro-batch they are in. (The Hugging Face Trainer of Alpaca's time averaged the means of micro-batches, which gives
short responses more weight.)
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from harness.checkpoints import checkpoints
from harness.checkpoints.checkpoints import Checkpoint
from harness.checkpoints.training_records import TrainingRecord
from harness.loading import blocks, loaded_model
from harness.tuning import adaptation, losses, publish, recipe, sequences, state, workers
from harness.tuning.job import Training, TuningJob
from harness.tuning.sequences import Corpus, Tokenized
from harness.tuning.workers import Group

logger = logging.getLogger(__name__)


@dataclass
class _Run:
    """A training in progress.

    Attributes:
        job, training, group: what is trained, and by whom.
        model: in training mode.
        base: with its weights on this machine.
        optimizer: AdamW of the trained parameters.
        examples, held_out: tokenised, in the arm's form.
        n_left_out: examples without a response within the maximum length.
        tokens, response_tokens: seen so far.
    """

    job: TuningJob
    training: Training
    group: Group
    model: Any
    base: Checkpoint
    optimizer: Any
    examples: Sequence[Tokenized]
    held_out: Sequence[Tokenized]
    n_left_out: int
    tokens: int = 0
    response_tokens: int = 0

    @property
    def n_steps(self) -> int:
        return self.job.recipe.n_steps(len(self.examples))

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.job, self.group)


def compute_dtype(job: TuningJob, group: Group) -> torch.dtype:
    """Precision of forward and backward passes: the asked one, or bfloat16 on a GPU and float32 on a CPU."""
    if job.recipe.dtype == "auto":
        return torch.float32 if group.device.type == "cpu" else torch.bfloat16
    return getattr(torch, job.recipe.dtype)  # type: ignore[no-any-return]


def train(job: TuningJob, training: Training, corpus: Corpus, group: Group) -> None:
    """Train one arm with one seed to its end, from its newest state. All workers must call it.

    Raises:
        ValueError: if the base cannot be loaded or adapted, or a loss or gradient is not finite.
    """
    run = _start(job, training, corpus, group)
    states = job.states_of(training)
    record = state.restore(states, adaptation.trained(run.model), run.optimizer, group)
    first = 0
    if record:
        first, run.tokens, run.response_tokens = (record[key] for key in ("step", "tokens", "response_tokens"))
    if group.is_first:
        losses.cut(job.folder_of(training), first)
    group.wait()
    logger.info("training=%s steps=%d from=%d", training.name(job.base_name), run.n_steps, first)
    published = set(job.recipe.checkpoint_steps(run.n_steps))
    for step in range(first, run.n_steps):
        _advance(run, step, is_checkpoint=step + 1 in published)
        if step + 1 in published:
            publish.publish(
                job.checkpoint_of(training, step + 1), job.staging_of(training), run.model, run.base, group,
                _record(run, step + 1),
            )  # fmt: skip
        is_saved = step + 1 in published or (job.save_every and (step + 1) % job.save_every == 0)
        if is_saved and step + 1 < run.n_steps:
            _save_state(run, step + 1)
    if group.is_first:
        state.remove(states)
    group.wait()


def _start(job: TuningJob, training: Training, corpus: Corpus, group: Group) -> _Run:
    """Load the base and make the optimiser."""
    base = checkpoints.with_weights(job.base, job.allow_pickle)
    model = _distributed(job, base, training.seed, group)
    parameters = list(adaptation.trained(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=job.recipe.lr, weight_decay=job.recipe.weight_decay)
    tokenized = corpus.by_arm[training.arm]
    train_places, held_out_places = recipe.split(len(tokenized), job.recipe.held_out)
    examples, held_out = ([tokenized[place] for place in places] for places in (train_places, held_out_places))
    return _Run(job, training, group, model, base, optimizer, examples, held_out, corpus.n_without_response)


def _distributed(job: TuningJob, base: Checkpoint, seed: int, group: Group) -> Any:
    """The model in training mode on the workers. Sharded workers of one machine load it one after another."""
    dtype = compute_dtype(job, group)
    weights_dtype: Any = "bfloat16" if job.recipe.lora and dtype == torch.bfloat16 else "float32"
    turns = range(group.n) if group.is_sharded else (group.rank,)
    model: Any = None
    for turn in turns:
        if turn == group.rank:
            device = "cpu" if group.is_sharded else str(group.device)
            model = loaded_model.load(base, device, dtype=weights_dtype, allow_pickle=job.allow_pickle).model
            layers = blocks.blocks_of(model, "decoder").modules
            model.config.use_cache = False
            model = adaptation.adapt(model, job.recipe.lora, seed, base.name)
            if job.recipe.recompute:
                model.gradient_checkpointing_enable({"use_reentrant": False})
            model = workers.distribute(model, layers, group, dtype)
        if group.is_sharded:
            group.wait()
    return model


def _advance(run: _Run, step: int, *, is_checkpoint: bool) -> None:
    """Make one step (counted from 0) and write its line; at a checkpoint also measure the held-out loss."""
    settings, places = run.job.recipe, _batch_places(run, step)
    batch = [run.examples[place] for place in places]
    loss = _gradients(run, batch, step)
    parameters = list(adaptation.trained(run.model).values())
    workers.sum_gradients(parameters, run.group)
    norm = float(workers.whole(torch.nn.utils.clip_grad_norm_(parameters, settings.clip)))
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise ValueError(
            f"{run.training.name(run.job.base_name)}: step {step + 1} has loss {loss} and gradient norm {norm}; use a "
            "lower --lr, or --dtype float32. The checkpoints before it are kept."
        )
    for group in run.optimizer.param_groups:
        group["lr"] = settings.learning_rate(step, run.n_steps)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.tokens += sum(len(example.ids) for example in batch)
    run.response_tokens += sum(example.n_response for example in batch)
    row = {
        "arm": run.training.arm, "seed": run.training.seed, "step": step + 1, "n_steps": run.n_steps,
        "epochs": (step + 1) * settings.batch / len(run.examples), "loss": loss,
        "learning_rate": settings.learning_rate(step, run.n_steps), "gradient_norm": norm,
        "tokens": run.tokens, "response_tokens": run.response_tokens,
    }  # fmt: skip
    if is_checkpoint and run.held_out:
        row["held_out_loss"] = held_out_loss(run.model, run.held_out, settings.micro_batch, run.group, run.dtype)
    if run.group.is_first:
        losses.add(run.job.folder_of(run.training), row)


def _batch_places(run: _Run, step: int) -> list[int]:
    return recipe.batch_of(step, run.job.recipe.batch, len(run.examples), run.training.seed).tolist()  # type: ignore[no-any-return]


def _gradients(run: _Run, batch: Sequence[Tokenized], step: int) -> float:
    """Add this worker's gradients of a batch to the parameters; returns the loss of the whole batch.

    Sharded workers must make equally many passes, so one without a micro-batch repeats another's with weight 0.
    """
    group, n_response = run.group, sum(example.n_response for example in batch)
    chunks = _chunks(batch, run.job.recipe.micro_batch)
    loss = 0.0
    for number in range(-(-len(chunks) // group.n)):
        place = group.rank + number * group.n
        if place >= len(chunks) and not group.is_sharded:
            break
        torch.manual_seed(recipe.seed_of(run.training.seed, step, place))
        part = summed_loss(run.model, chunks[place % len(chunks)], group, run.dtype) / n_response
        part = part if place < len(chunks) else part * 0.0
        (part * workers.scale_of(group)).backward()
        loss += part.item()
    return group.total([loss])[0]


def _chunks(examples: Sequence[Tokenized], size: int) -> list[Sequence[Tokenized]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def summed_loss(model: Any, examples: Sequence[Tokenized], group: Group, dtype: torch.dtype) -> torch.Tensor:
    """Cross-entropy of the response tokens, summed over a micro-batch, in nats, computed in float32.

    Args:
        model: a decoder.
        examples: the micro-batch.
        group: for the device.
        dtype: precision of the forward pass.
    """
    ids, labels, mask = (torch.from_numpy(array).to(group.device) for array in sequences.padded(examples))
    with workers.autocast(group, dtype):
        logits = model(input_ids=ids, attention_mask=mask).logits
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), labels[:, 1:].flatten(), ignore_index=sequences.IGNORED, reduction="sum"
    )


def held_out_loss(
    model: Any, examples: Sequence[Tokenized], micro_batch: int, group: Group, dtype: torch.dtype
) -> float:
    """Loss per response token of examples that are not trained on. All workers must call it."""
    chunks, loss = _chunks(examples, micro_batch), 0.0
    model.eval()
    with torch.no_grad():
        for number in range(-(-len(chunks) // group.n)):
            place = group.rank + number * group.n
            if place < len(chunks) or group.is_sharded:
                part = summed_loss(model, chunks[place % len(chunks)], group, dtype).item()
                loss += part if place < len(chunks) else 0.0
    model.train()
    workers.reshard(model, group)
    return group.total([loss])[0] / sum(example.n_response for example in examples)


def _record(run: _Run, step: int) -> TrainingRecord:
    settings = run.job.recipe
    return TrainingRecord(
        parent=run.job.base.name, parent_revision=run.base.revision, arm=run.training.arm, seed=run.training.seed,
        step=step, n_steps=run.n_steps, epochs=step * settings.batch / len(run.examples), tokens=run.tokens,
        response_tokens=run.response_tokens, method=settings.method, data=Path(run.job.data).name,
        data_sha256=run.job.data_sha256, n_examples=len(run.examples), n_left_out=run.n_left_out,
        n_cut=sum(example.was_cut for example in run.examples), recipe=settings.hash,
        settings=asdict(settings) | {"dtype": str(run.dtype).removeprefix("torch.")},
    )  # fmt: skip


def _save_state(run: _Run, step: int) -> None:
    content = {"step": step, "tokens": run.tokens, "response_tokens": run.response_tokens}
    state.save(
        run.job.states_of(run.training), adaptation.trained(run.model), run.optimizer, run.group, content
    )  # fmt: skip
