"""Publish a checkpoint: a folder that `harness run`, `harness watch` and transformers open.

Full fine-tuning gives a whole model with the precision and tensor names of the base's files, its configuration and its
tokenizer; LoRA gives a PEFT adapter that names its base. Beside either lies training.json. The folder is moved into
place when it is complete, with a file COMPLETE, so that a watcher need not wait.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file

from harness.checkpoints import adapter_config, training_records
from harness.checkpoints.checkpoints import Checkpoint
from harness.checkpoints.headers import read_json
from harness.checkpoints.training_records import TrainingRecord
from harness.loading import trained
from harness.tuning.job import MARKER
from harness.tuning.workers import Group, whole

_SUFFIXES = frozenset((".json", ".model", ".txt", ".jinja"))
# JSON files beside a model that do not describe its configuration or tokenizer.
_NOT_COPIED = (".index.json", "training.json", "adapter_config.json", "trainer_state.json", "_results.json")


def publish(folder: Path, staging: Path, model: Any, base: Checkpoint, group: Group, record: TrainingRecord) -> None:
    """Write a checkpoint; does nothing if it is there. All workers must call it.

    Args:
        folder: where it is published.
        staging: folder on the same filesystem for the files until they are complete; it is replaced.
        model: transformers or PEFT model in training.
        base: the base, with its weights on this machine.
        group: the workers.
        record: content of training.json.
    """
    if group.total([(folder / MARKER).is_file()])[0]:  # the workers decide together
        return
    is_adapter = hasattr(model, "peft_config")
    tensors = _gathered(model.named_parameters(), is_adapter, group, _stored_dtype(base))
    if not is_adapter:
        tensors |= _gathered(_saved_buffers(model), False, group, None)
    if group.is_first:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        if is_adapter:
            _write_adapter(staging, model, tensors, base)
        else:
            save_torch_state_dict(trained.under_stored_names(model, tensors), staging)
            _copy_small_files(staging, model, base)
        (staging / training_records.FILE).write_text(json.dumps(asdict(record), indent=1), encoding="utf-8")
        (staging / MARKER).touch()
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        staging.replace(folder)
    group.wait()


def _gathered(
    named: Iterable[tuple[str, Any]], only_trained: bool, group: Group, dtype: torch.dtype | None
) -> dict[str, torch.Tensor]:
    """Whole tensors by name, on the first worker; {} on the others, which take part in gathering."""
    tensors = {}
    for name, tensor in named:
        if only_trained and not tensor.requires_grad:
            continue
        full = whole(tensor)
        if group.is_first:
            tensors[name] = full.to(dtype) if dtype and not only_trained and full.is_floating_point() else full
    return tensors


def _saved_buffers(model: Any) -> Iterable[tuple[str, Any]]:
    """Buffers that belong to the model's files."""
    kept = set(model.state_dict().keys())
    return [(name, buffer) for name, buffer in model.named_buffers() if name in kept]


def _stored_dtype(base: Checkpoint) -> torch.dtype | None:
    """Precision of the base's files, as its configuration states it; None if it does not."""
    config = read_json(Path(base.config_folder) / "config.json", base.name)
    stated = str(config.get("dtype") or config.get("torch_dtype") or "").removeprefix("torch.")
    return getattr(torch, stated) if stated in {"float32", "bfloat16", "float16"} else None


def _copy_small_files(staging: Path, model: Any, base: Checkpoint) -> None:
    """Copy the base's configuration and tokenizer; a configuration of more than this model is written anew."""
    for folder in dict.fromkeys((base.config_folder, base.tokenizer_folder)):
        for file in sorted(Path(folder).iterdir()):
            if file.suffix in _SUFFIXES and not file.name.endswith(_NOT_COPIED) and file.is_file():
                shutil.copyfile(file, staging / file.name)
    stored = read_json(staging / "config.json", base.name)
    if stored.get("model_type") != model.config.model_type or "transformers_weights" in stored:
        model.config.save_pretrained(staging)


def _write_adapter(staging: Path, model: Any, tensors: dict[str, torch.Tensor], base: Checkpoint) -> None:
    """Write adapter_model.safetensors and adapter_config.json in PEFT's form, with sorted lists."""
    from peft import get_peft_model_state_dict

    adapter = get_peft_model_state_dict(model, state_dict=tensors, save_embedding_layers=False)
    save_file({name: tensor.contiguous() for name, tensor in adapter.items()}, staging / adapter_config.WEIGHTS)
    settings = model.peft_config["default"].to_dict() | {
        "base_model_name_or_path": base.hub_id or base.folder, "revision": base.revision if base.hub_id else None,
        "inference_mode": True,
    }  # fmt: skip
    settings = {key: _plain(value) for key, value in settings.items()}
    (staging / adapter_config.CONFIG).write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


def _plain(value: Any) -> Any:
    """A setting as JSON has it; sets are sorted, so that equal settings give equal files."""
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    return getattr(value, "value", value)
