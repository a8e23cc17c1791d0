"""`harness tune`: tune a base with and without instructions, or forecast memory, time and cost of that."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import names
from harness.cli.printing import document, show, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from harness.tuning.job import Training, TuningJob
    from harness.tuning.prompts import Arm
    from harness.tuning.recipe import Recipe

_ARMS: dict[str, tuple[Arm, ...]] = {
    "both": ("with instructions", "without instructions"), "with": ("with instructions",),
    "without": ("without instructions",),
}  # fmt: skip
_LR, _LORA_LR = 2e-5, 3e-4  # Stanford Alpaca's; Alpaca-LoRA's
_PRINT_S = 1.0  # seconds between progress lines


def add_options(tune: argparse.ArgumentParser) -> None:
    """Add the options of `tune`; defaults of the training are the paper's."""
    option = tune.add_argument
    option("base", metavar="BASE", help="model to tune: name in the table, Hub id or checkpoint folder")
    option(
        "data", nargs="?", metavar="DATA",
        help="examples in Alpaca's form (instruction, input, output), as JSON lines or a JSON list; or bbh: the "
        "questions of BIG-Bench-Hard in the data root",
    )  # fmt: skip
    option("--out", default="tuned", metavar="DIR", help="folder for checkpoints and losses (default: tuned)")
    option("--arms", choices=tuple(_ARMS), default="both", help="tune with instructions, without, or both (default)")
    option("--seeds", default="0", metavar="LIST", help="comma-separated seeds; one training each (default: 0)")
    _add_recipe(tune)
    _add_workers(tune)
    _add_plan(tune)


def _add_recipe(tune: argparse.ArgumentParser) -> None:
    option = tune.add_argument
    option("--epochs", type=float, default=3.0, metavar="E", help="passes over the examples (default: 3)")
    option("--batch", type=int, default=128, metavar="B", help="examples a step, over all workers (default: 128)")
    option("--micro-batch", type=int, default=4, metavar="M", help="examples a forward pass (default: 4)")
    option("--lr", type=float, metavar="LR", help="highest learning rate (default: 2e-5, with --lora 3e-4)")
    option("--schedule", choices=("cosine", "linear", "constant"), default="cosine", help="(default: cosine)")
    option("--warmup", type=float, default=0.03, metavar="F", help="fraction of the steps (default: 0.03)")
    option("--length", type=int, default=512, metavar="T", help="maximum tokens of an example (default: 512)")
    option(
        "--dtype", choices=("auto", "float32", "bfloat16"), default="auto",
        help="precision of the passes; weights are trained in float32 (default: bfloat16 on GPUs, float32 on CPUs)",
    )  # fmt: skip
    method = tune.add_mutually_exclusive_group()
    method.add_argument("--full", action="store_true", help="train all weights (default)")
    method.add_argument("--lora", action="store_true", help="train LoRA adapters; checkpoints are adapters")
    option("--lora-rank", type=int, default=8, metavar="R", help="(default: 8)")
    option("--lora-alpha", type=float, default=16.0, metavar="A", help="(default: 16)")
    option("--lora-dropout", type=float, default=0.0, metavar="F", help="(default: 0)")
    option(
        "--lora-targets", default="", metavar="LIST",
        help="comma-separated names of layers, or all-linear (default: PEFT's for the family)",
    )  # fmt: skip
    option("--weight-decay", type=float, default=0.0, metavar="W", help="of AdamW (default: 0)")
    option("--clip", type=float, default=1.0, metavar="N", help="maximum norm of the gradient (default: 1)")
    option(
        "--held-out", type=float, default=0.0, metavar="F",
        help="fraction of the examples whose loss is measured and not trained on (default: 0)",
    )  # fmt: skip
    option("--checkpoints", type=int, default=10, metavar="N", help="checkpoints published (default: 10)")
    option("--spacing", choices=("even", "log"), default="even", help="of the checkpoints (default: even)")
    option("--recompute", action="store_true", help="recompute activations in the backward pass: less memory, slower")


def _add_workers(tune: argparse.ArgumentParser) -> None:
    option = tune.add_argument
    how_many = tune.add_mutually_exclusive_group()
    how_many.add_argument("--workers", type=int, metavar="N", help="data-parallel workers on CPUs (default: 1)")
    how_many.add_argument("--gpus", type=int, metavar="N", help="data-parallel workers with one GPU each")
    option("--fsdp", action="store_true", help="divide every weight among the workers, for models beyond one GPU")
    option(
        "--save-every",
        type=int,
        default=0,
        metavar="N",
        help="steps between states for resuming (default: checkpoints)",
    )
    option("--max-failures", type=int, default=3, metavar="N", help="lost workers that are replaced (default: 3)")
    option("--address", metavar="ADDR", help="address of a Ray cluster, or auto (default: a local Ray)")


def _add_plan(tune: argparse.ArgumentParser) -> None:
    option = tune.add_argument
    option("--plan", action="store_true", help="forecast memory, time and cost with --gpus; trains nothing")
    option("--gpu-memory-gb", type=float, default=80.0, metavar="M", help="plan: memory of a GPU (default: 80)")
    option("--gpu-tflops", type=float, default=150.0, metavar="R", help="plan: sustained TFLOP/s (default: 150)")
    option("--link-gb-s", type=float, default=100.0, metavar="R", help="plan: rate between GPUs (default: 100)")
    option("--storage-gb-s", type=float, default=1.0, metavar="R", help="plan: rate of the storage (default: 1)")
    option("--usd-per-gpu-hour", type=float, metavar="USD", help="plan: GPU price; adds the cost")
    option("--examples", type=int, default=52002, metavar="N", help="plan without DATA: examples (default: Alpaca's)")
    option(
        "--tokens-per-example", type=float, metavar="T",
        help="plan without DATA: mean tokens with padding (default: --length, the most possible)",
    )  # fmt: skip


def tune(arguments: argparse.Namespace) -> int:
    """Tune, or forecast; exit status 1 if a forecast training does not fit."""
    from harness.cli.run_commands import own_models

    own_models(arguments)
    if arguments.plan:
        return _plan(arguments)
    if not arguments.data:
        raise ValueError("no examples: give a file in Alpaca's form, or bbh with --data-root.")
    from harness.tuning import trainer

    job = _job(arguments)
    started = time.monotonic()
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints warnings to stdout
        trainer.tune(job, arguments.address, _progress(job), arguments.max_failures)
    rows = [row for training in job.trainings for row in _rows(job, training)]
    if arguments.json:
        document({"out": job.out, "seconds": time.monotonic() - started, "checkpoints": rows})
        return 0
    show([{key: shown(value) for key, value in row.items()} for row in rows], as_json=False)
    print(f"\n{_examples_line(job)}")
    print(
        f"{len(rows)} checkpoints in {job.out}; losses of every step are in {job.out}/*/losses.jsonl. Score them "
        f"with `harness watch {job.out} --model {arguments.base}`"
    )
    return 0


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """The recipe that the options describe."""
    from harness.tuning.recipe import Lora, Recipe

    targets = tuple(name.strip() for name in arguments.lora_targets.split(",") if name.strip())
    lora = Lora(arguments.lora_rank, arguments.lora_alpha, targets, arguments.lora_dropout) if arguments.lora else None
    lr = arguments.lr if arguments.lr is not None else (_LORA_LR if lora else _LR)
    return Recipe(
        arguments.epochs, arguments.batch, arguments.micro_batch, lr, arguments.schedule, arguments.warmup,
        arguments.length, arguments.dtype, lora, arguments.weight_decay, arguments.clip, arguments.held_out,
        arguments.checkpoints, arguments.spacing, arguments.recompute,
    )  # fmt: skip


def _job(arguments: argparse.Namespace) -> TuningJob:
    from harness.checkpoints import checkpoints
    from harness.tuning import examples
    from harness.tuning.job import TuningJob

    recipe = recipe_of(arguments)
    out = str(Path(arguments.out).absolute())
    if "://" in arguments.out:
        raise ValueError(f"--out {arguments.out} is a URL; give a folder that all workers see.")
    base = checkpoints.resolve(arguments.base, allow_pickle=arguments.allow_pickle)
    data = _data_file(arguments, Path(out))
    examples.read(data)  # errors before any worker starts
    return TuningJob(
        base, str(data.absolute()), examples.sha256_of(data), out, recipe, _ARMS[arguments.arms],
        _seeds(arguments.seeds), arguments.gpus or arguments.workers or 1, use_gpu=bool(arguments.gpus),
        is_sharded=arguments.fsdp, save_every=arguments.save_every, allow_pickle=arguments.allow_pickle,
    )  # fmt: skip


def _data_file(arguments: argparse.Namespace, out: Path) -> Path:
    """The file of examples; the questions of BIG-Bench-Hard are written into OUT/bbh.jsonl first."""
    from harness.tuning import examples

    if arguments.data != "bbh" or Path(arguments.data).exists():
        return Path(arguments.data)
    rows = examples.of_bbh(_bbh_folder(arguments))
    out.mkdir(parents=True, exist_ok=True)
    examples.write(rows, out / "bbh.jsonl")
    return out / "bbh.jsonl"


def _bbh_folder(arguments: argparse.Namespace) -> Path:
    if not arguments.data_root:
        raise ValueError("bbh needs --data-root, the folder that holds bbh/bbh, or HARNESS_DATA.")
    return Path(arguments.data_root) / "bbh" / "bbh"


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ValueError(f"--seeds {text!r} is not a list of whole numbers such as 0,1,2.") from error


def _progress(job: TuningJob) -> Callable[[Training, dict[str, Any]], None]:
    """Print a line to stderr for each step, at most one a second and always the last of a training."""
    last, started = [0.0], time.monotonic()

    def report(training: Training, row: dict[str, Any]) -> None:
        is_end = row["step"] == row["n_steps"] or "held_out_loss" in row
        if time.monotonic() - last[0] < _PRINT_S and not is_end:
            return
        last[0] = time.monotonic()
        held_out = f" held-out {row['held_out_loss']:.4f}" if "held_out_loss" in row else ""
        print(
            f"{names.printable(training.name(job.base_name))} step {row['step']}/{row['n_steps']} epoch "
            f"{row['epochs']:.2f} loss {row['loss']:.4f}{held_out} lr {row['learning_rate']:.2e} "
            f"({time.monotonic() - started:.0f} s)",
            file=sys.stderr, flush=True,
        )  # fmt: skip

    return report


def _examples_line(job: TuningJob) -> str:
    """How many examples were used, left out and cut off, in a sentence."""
    *_, (_, record) = (found for training in job.trainings for found in job.checkpoints_of(training))
    length = job.recipe.length
    return (
        f"trained on {record.n_examples:,} examples; {record.n_left_out:,} were left out of both arms, since their "
        f"prompt fills {length} tokens with the instruction; {record.n_cut:,} were cut off there in the last training."
    )


def _rows(job: TuningJob, training: Training) -> list[dict[str, Any]]:
    """One row for each checkpoint: loss is the mean over the steps since the checkpoint before."""
    from harness.tuning import losses

    lines, before, rows = losses.read(job.folder_of(training)), 0, []
    for folder, record in job.checkpoints_of(training):
        since = [line["loss"] for line in lines if before < line["step"] <= record.step]
        at_step: dict[str, Any] = next((line for line in lines if line["step"] == record.step), {})
        rows.append({
            "arm": record.arm, "seed": record.seed, "step": record.step, "epochs": round(record.epochs, 3),
            "tokens": record.tokens, "loss": sum(since) / len(since) if since else None,
            "held_out_loss": at_step.get("held_out_loss"), "folder": str(folder),
        })  # fmt: skip
        before = record.step
    return rows


def _plan(arguments: argparse.Namespace) -> int:
    """Forecast one training and all of them; exit status 1 if it does not fit."""
    from harness.tuning import forecast

    recipe, shape = recipe_of(arguments), forecast.shape_of(arguments.base)
    rates = (arguments.gpu_memory_gb, arguments.gpu_tflops, arguments.link_gb_s, arguments.storage_gb_s)
    if min(rates) <= 0 or (arguments.gpus is not None and arguments.gpus < 1):
        raise ValueError("a plan needs 1 or more --gpus, and memory and rates greater than 0.")
    machines = forecast.Machines(
        arguments.gpus or 1, rates[0] * 1e9, rates[1] * 1e12, rates[2] * 1e9, rates[3] * 1e9,
        arguments.usd_per_gpu_hour,
    )  # fmt: skip
    n_examples, tokens = _sizes(arguments, recipe)
    made = forecast.make(shape, recipe, machines, arguments.fsdp, n_examples, tokens)
    n_trainings = len(_ARMS[arguments.arms]) * len(_seeds(arguments.seeds))
    content = _forecast_content(made, machines, n_trainings) | {
        "base": shape.name, "n_parameters": shape.n_parameters, "is_counted": shape.is_counted, "method": recipe.method,
        "n_examples": n_examples, "tokens_per_example": tokens, "is_sharded": arguments.fsdp,
    }  # fmt: skip
    if arguments.json:
        document(content)
    else:
        print("\n".join(_plan_lines(content, machines)))
    return int(not content["fits"])


def _sizes(arguments: argparse.Namespace, recipe: Recipe) -> tuple[int, float]:
    """(examples, tokens of one with padding): of the data file and the base's tokenizer, else as given."""
    if not arguments.data:
        if arguments.examples < 1 or (arguments.tokens_per_example or 1) <= 0:
            raise ValueError("--examples and --tokens-per-example must be greater than 0.")
        return arguments.examples, arguments.tokens_per_example or float(recipe.length)
    from harness.loading import architectures
    from harness.tuning import examples, forecast

    is_bbh = arguments.data == "bbh" and not Path("bbh").exists()
    rows = examples.of_bbh(_bbh_folder(arguments)) if is_bbh else examples.read(Path(arguments.data))
    if not (Path(arguments.base) / "config.json").is_file():
        return len(rows), arguments.tokens_per_example or float(recipe.length)
    architecture = architectures.read(arguments.base)
    return forecast.count(rows, architecture.tokenizer, architecture.special.prefix, recipe)


def _forecast_content(made: Any, machines: Any, n_trainings: int) -> dict[str, Any]:
    parts = ("weights", "gradients", "optimizer", "gathered", "activations")
    usd = made.usd(machines)
    return {
        "memory_gb": {name: getattr(made, name) / 1e9 for name in parts} | {"total": made.memory / 1e9},
        "fits": made.fits(machines), "n_trained": made.n_trained, "n_steps": made.n_steps, "n_tokens": made.n_tokens,
        "hours": {
            "compute": made.compute_s / 3600, "communication": made.communication_s / 3600,
            "writing": made.writing_s / 3600, "total": made.seconds / 3600,
        },
        "usd": usd, "n_trainings": n_trainings, "all_hours": n_trainings * made.seconds / 3600,
        "all_usd": None if usd is None else n_trainings * usd,
        "checkpoint_gb": made.checkpoint_bytes / 1e9, "state_gb": made.state_bytes / 1e9,
    }  # fmt: skip


def _plan_lines(content: dict[str, Any], machines: Any) -> list[str]:
    from harness.cluster.placement import RESERVED

    memory, hours = content["memory_gb"], content["hours"]
    source = "counted from config.json" if content["is_counted"] else "nominal size; width and MLP estimated from it"
    how = "FSDP" if content["is_sharded"] else "replicated"
    limit = (1 - RESERVED) * machines.gpu_bytes / 1e9
    costs = "" if content["usd"] is None else f", {content['usd']:.2f} USD"
    all_costs = "" if content["all_usd"] is None else f", {content['all_usd']:.2f} USD"
    return [
        f"{content['base']}: {content['n_parameters']:,.0f} parameters ({source}), {content['method']}, "
        f"{content['n_trained']:,.0f} trained, on {machines.n_gpus} GPUs of {machines.gpu_bytes / 1e9:g} GB ({how})",
        *(f"  {name:<12}{value:9.2f} GB of each GPU" for name, value in memory.items()),
        f"  {'fits' if content['fits'] else 'DOES NOT FIT'}: {limit:.1f} GB can be used",
        f"{content['n_examples']:,} examples of {content['tokens_per_example']:.0f} tokens with padding: "
        f"{content['n_steps']:,} steps, {content['n_tokens'] / 1e6:,.1f} million tokens",
        *(f"  {name:<14}{value:7.2f} h" for name, value in hours.items()),
        f"one training: {hours['total']:.2f} h{costs}; all {content['n_trainings']}: {content['all_hours']:.2f} h"
        f"{all_costs}; a checkpoint {content['checkpoint_gb']:.2f} GB, a state {content['state_gb']:.2f} GB",
        f"assumed: {machines.flops / 1e12:g} TFLOP/s, {machines.link_bytes_s / 1e9:g} GB/s between GPUs, "
        f"{machines.storage_bytes_s / 1e9:g} GB/s to storage; communication overlaps with computation",
    ]
