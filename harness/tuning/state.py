"""What a killed training needs to go on: trained weights and AdamW's moments as safetensors, the rest as JSON.

Each worker writes the part of the tensors that it holds. A state is complete once its folder is in place; the one
before is then removed. A training may be resumed with another number of workers. The files have a suffix of their own,
so that no state is taken for a checkpoint.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from harness.tuning.workers import Group, local, rows_of

_STATE = re.compile(r"step-(\d+)")
_RECORD = "state.json"
_MOMENTS = ("exp_avg", "exp_avg_sq")  # names of torch.optim.AdamW


def save(folder: Path, parameters: dict[str, Any], optimizer: Any, group: Group, record: dict[str, Any]) -> None:
    """Write a state and remove earlier ones. All workers must call it.

    Args:
        folder: folder of the states of one training, visible to all workers.
        parameters: name -> trained parameter.
        optimizer: their AdamW.
        group: the workers.
        record: content of the JSON file; `step` names the state.
    """
    final = folder / f"step-{record['step']:06d}"
    staging = folder / f".{final.name}.aside"
    if group.is_first:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
    group.wait()
    n_files = group.n if group.is_sharded else 1
    if group.is_sharded or group.is_first:
        save_file(_tensors(parameters, optimizer), staging / _file_name(group.rank, n_files))
    group.wait()
    if group.is_first:
        (staging / _RECORD).write_text(json.dumps({**record, "n_files": n_files}), encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        staging.replace(final)
        for other in _folders(folder):
            if other != final:
                shutil.rmtree(other)
    group.wait()


def _file_name(rank: int, n: int) -> str:
    return f"part-{rank + 1}-of-{n}.tensors"


def _tensors(parameters: dict[str, Any], optimizer: Any) -> dict[str, torch.Tensor]:
    tensors = {}
    for name, parameter in parameters.items():
        tensors[f"{name}|weight"] = local(parameter).detach().cpu().contiguous()
        for moment in _MOMENTS:
            tensors[f"{name}|{moment}"] = local(optimizer.state[parameter][moment]).cpu().contiguous()
    return tensors


def _folders(folder: Path) -> list[Path]:
    """Complete states, oldest first."""
    return sorted(path for path in folder.glob("step-*") if _STATE.fullmatch(path.name))


def newest(folder: Path) -> dict[str, Any] | None:
    """Record of the newest state; None if there is none."""
    folders = _folders(folder)
    return json.loads((folders[-1] / _RECORD).read_text(encoding="utf-8")) if folders else None


def restore(folder: Path, parameters: dict[str, Any], optimizer: Any, group: Group) -> dict[str, Any] | None:
    """Put the newest state into a model and its optimiser, in place; returns its record, or None if there is none.

    Args:
        folder: as in `save`.
        parameters: as in `save`.
        optimizer: as in `save`.
        group: the workers, whose number may differ.

    Raises:
        ValueError: if the state is of other parameters.
    """
    record = newest(folder)
    if record is None:
        return None
    final, n_files = folder / f"step-{record['step']:06d}", record["n_files"]
    files = [safe_open(final / _file_name(rank, n_files), "pt") for rank in range(n_files)]
    stored = {key.rpartition("|")[0] for key in files[0].keys()}  # noqa: SIM118 - not a mapping
    if stored != set(parameters):
        raise ValueError(f"{final} is the state of another model; delete {folder} to start this training again.")
    for name, parameter in parameters.items():
        first, end = rows_of(parameter, group)
        targets = {"weight": parameter.data} | {moment: torch.zeros_like(parameter.data) for moment in _MOMENTS}
        for key, target in targets.items():
            local(target).copy_(_rows(files, f"{name}|{key}", first, end))
        optimizer.state[parameter] = {
            "step": torch.tensor(float(record["step"])), **{moment: targets[moment] for moment in _MOMENTS}
        }  # fmt: skip
    return record


def _rows(files: Iterable[Any], key: str, first: int, end: int) -> torch.Tensor:
    """Rows of a tensor whose parts follow one another in the files."""
    parts, start = [], 0
    for file in files:
        part = file.get_slice(key)
        if not part.get_shape():
            return part[...]  # type: ignore[no-any-return]
        n_rows = part.get_shape()[0]
        low, high = max(first, start) - start, min(end, start + n_rows) - start
        if low < high:
            parts.append(part[low:high])
        start += n_rows
    return torch.cat(parts) if parts else part[0:0]


def remove(folder: Path) -> None:
    """Remove the states of a training that has ended."""
    shutil.rmtree(folder, ignore_errors=True)
