"""What `harness tune` is asked to do: base, examples, arms, seeds, workers, and where everything is stored.

In the folder OUT: `tuning.json` (base, hash of the examples, recipe); for each training a folder such as
`BASE-with-instructions-seed0` with `losses.jsonl` (a line a step) and checkpoints `step-000040`; and `.state`, with the
states of unfinished trainings and files that are being written.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints import training_records
from harness.checkpoints.checkpoints import Checkpoint
from harness.checkpoints.headers import read_json
from harness.tuning.prompts import Arm
from harness.tuning.recipe import Recipe

FILE = "tuning.json"
MARKER = "COMPLETE"  # written into a checkpoint's folder last


@dataclass(frozen=True)
class Training:
    """One training of a job."""

    arm: Arm
    seed: int

    def name(self, base_name: str) -> str:
        """Name of the training's folder."""
        return f"{base_name}-{self.arm.replace(' ', '-')}-seed{self.seed}"


@dataclass(frozen=True)
class TuningJob:
    """All trainings of one base on one file of examples.

    Attributes:
        base: the base model, resolved.
        data: file of examples.
        data_sha256: hash of its bytes.
        out: folder for the checkpoints, visible to all workers at this path.
        recipe: how to tune.
        arms, seeds: each arm is trained with each seed.
        n_workers: data-parallel workers.
        use_gpu: whether each worker has a GPU.
        is_sharded: whether each weight is divided among the workers.
        save_every: steps between states for resuming, besides those at checkpoints; 0 for none.
        allow_pickle: whether the base may have pickled weights.
    """

    base: Checkpoint
    data: str
    data_sha256: str
    out: str
    recipe: Recipe
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...] = (0,)
    n_workers: int = 1
    use_gpu: bool = False
    is_sharded: bool = False
    save_every: int = 0
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        _require_trainable(self.base, self.recipe)
        n_micro = -(-self.recipe.batch // self.recipe.micro_batch)
        if self.n_workers < 1 or self.n_workers > n_micro:
            raise ValueError(
                f"{self.n_workers} workers cannot share a batch of {self.recipe.batch} in micro-batches of "
                f"{self.recipe.micro_batch}; give 1 to {n_micro} workers, or a smaller --micro-batch."
            )
        if not self.arms or not self.seeds or len(set(self.seeds)) < len(self.seeds) or min(self.seeds) < 0:
            raise ValueError(
                f"seeds {self.seeds} and arms {self.arms}: give at least one of each, none twice, none < 0."
            )
        if self.save_every < 0:
            raise ValueError(f"--save-every must be 0 or more, not {self.save_every}.")

    @property
    def base_name(self) -> str:
        """Name of the base in the tables, usable in a folder's name."""
        return self.base.name.replace("/", "--")

    @property
    def trainings(self) -> list[Training]:
        """All trainings: seed by seed, so that both arms of a seed are finished early."""
        return [Training(arm, seed) for seed in self.seeds for arm in self.arms]

    @property
    def unfinished(self) -> list[Training]:
        """The trainings without a last checkpoint."""
        return [training for training in self.trainings if not self.is_finished(training)]

    def folder_of(self, training: Training) -> Path:
        """Folder of a training's checkpoints and losses."""
        return Path(self.out) / training.name(self.base_name)

    def checkpoint_of(self, training: Training, step: int) -> Path:
        """Folder of one checkpoint."""
        return self.folder_of(training) / f"step-{step:06d}"

    def states_of(self, training: Training) -> Path:
        """Folder of a training's states."""
        return Path(self.out) / ".state" / training.name(self.base_name)

    def staging_of(self, training: Training) -> Path:
        """Folder in which a checkpoint is written."""
        return Path(self.out) / ".state" / f"{training.name(self.base_name)}.aside"

    def checkpoints_of(self, training: Training) -> Iterator[tuple[Path, training_records.TrainingRecord]]:
        """Published checkpoints of a training with their records, in the order of their steps."""
        for folder in sorted(self.folder_of(training).glob("step-*")):
            record = training_records.read(folder, folder.name) if (folder / MARKER).is_file() else None
            if record:
                yield folder, record

    def is_finished(self, training: Training) -> bool:
        """Whether the last checkpoint of a training is there."""
        return any(record.step == record.n_steps for _, record in self.checkpoints_of(training))

    def claim_folder(self) -> None:
        """Write what is tuned how into the folder, or compare it with what is there.

        Raises:
            ValueError: if the folder holds checkpoints of another base, other examples or another recipe.
        """
        folder, content = Path(self.out), self._content()
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / FILE).is_file():
            _require_same(folder, read_json(folder / FILE, str(folder)), content)
            return
        staging = folder / f".{FILE}.aside"
        staging.write_text(json.dumps(content, indent=1), encoding="utf-8")
        staging.replace(folder / FILE)

    def _content(self) -> dict[str, Any]:
        content = {
            "base": self.base.name, "base_revision": self.base.revision, "data_sha256": self.data_sha256,
            "recipe": self.recipe.hash, "settings": asdict(self.recipe),
        }  # fmt: skip
        return json.loads(json.dumps(content))  # type: ignore[no-any-return]


def _require_trainable(base: Checkpoint, recipe: Recipe) -> None:
    """Raise if a base cannot be tuned."""
    if base.stack != "decoder":
        raise ValueError(f"{base.name} is an {base.stack}; only decoders (GPT-2, LLaMA and similar) can be tuned here.")
    if base.quantization:
        raise ValueError(f"{base.name}: its weights are quantised ({base.quantization}); give the model before that.")
    if recipe.lora and base.base_folder:
        raise ValueError(f"{base.name} is an adapter or a delta; tune it with --full, or merge it first for --lora.")
    if base.context_size and recipe.length > base.context_size:
        raise ValueError(
            f"--length {recipe.length} exceeds the {base.context_size} tokens that {base.name} can read; give "
            f"--length {base.context_size} or less."
        )


def _require_same(folder: Path, stored: dict[str, Any], content: dict[str, Any]) -> None:
    settings, own = stored.get("settings") or {}, content["settings"]
    differing = [
        f"{key} {settings.get(key)!r} (now {own.get(key)!r})" for key in own if settings.get(key) != own.get(key)
    ] + [
        f"{key} {stored.get(key)!r} (now {content[key]!r})"
        for key in ("base", "base_revision", "data_sha256") if stored.get(key) != content[key]
    ]  # fmt: skip
    if not differing and stored.get("recipe") != content["recipe"]:
        differing = ["prompts of another version of this program"]
    if differing:
        raise ValueError(f"{folder} holds checkpoints tuned with {'; '.join(differing)}. Give another --out.")
