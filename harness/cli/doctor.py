"""What works on this machine: libraries, GPU, disk, data. Loads nothing heavier than it must to know."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any


def examine(data_root: str) -> list[dict[str, Any]]:
    """One row per thing: what, state ("works", "absent", "broken"), detail. "absent" limits, "broken" prevents."""
    return [*(_library(name) for name in ("torch", "transformers", "ray", "pyarrow")), _gpu(), _cupy(), _vllm(),
            _lm_eval(), _disk(), *_data(data_root)]  # fmt: skip


def has_cuda() -> bool:
    """Whether torch sees a GPU."""
    import torch

    return bool(torch.cuda.is_available())


def _row(what: str, state: str, detail: str) -> dict[str, Any]:
    return {"what": what, "state": state, "detail": detail}


def _library(name: str) -> dict[str, Any]:
    try:
        return _row(name, "works", version(name))
    except PackageNotFoundError:
        return _row(name, "broken", f"not installed: pip install {name}")


def _gpu() -> dict[str, Any]:
    import torch

    if not has_cuda():
        return _row("GPU", "absent", "torch sees none: models are read and ridge is computed on the CPU")
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return _row("GPU", "works", ", ".join(names))


def _cupy() -> dict[str, Any]:
    if find_spec("cupy") is None:
        return _row("cupy", "absent", "the kernels run on NumPy; extra `gpu`")
    import cupy

    if not cupy.cuda.is_available():
        return _row("cupy", "absent", "installed, but without a driver")
    return _row("cupy", "works", f"{cupy.__version__}: the kernels take its arrays; a run scores on the CPU")


def _vllm() -> dict[str, Any]:
    if find_spec("vllm") is None:
        return _row("vllm", "absent", "not installed; transformers reads every model")
    return _row("vllm", "works", f"{version('vllm')}: decoders of 30 billion parameters and more, or --backend vllm")


def _lm_eval() -> dict[str, Any]:
    if find_spec("lm_eval") is None:
        return _row("lm_eval", "absent", "no MMLU and BBH measured here; extra `knowledge`")
    return _row("lm_eval", "works", f"{version('lm_eval')}: MMLU and BBH, `harness properties`")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(".").free / 2**30
    return _row("disk", "works" if free > 1 else "broken", f"{free:.0f} GiB free here")


def _data(root: str) -> list[dict[str, Any]]:
    from harness import datasets

    rows = []
    for name, entry in datasets.DATASETS.items():
        if entry.files:
            missing = datasets.missing(name, root)
            lacks = f"{len(missing)} of {len(entry.files)} files are not under {root}: harness fetch {name}"
            detail = lacks if missing else f"under {root}"
            rows.append(_row(f"data set {name}", "absent" if missing else "works", detail))
    return rows
