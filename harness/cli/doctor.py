"""`harness doctor`: check libraries, GPU, disk and data, importing as little as possible."""

from __future__ import annotations

import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any


def examine(data_root: str) -> list[dict[str, Any]]:
    """Check each component of this machine.

    Args:
        data_root: folder of the data sets.

    Returns:
        One row per component: what, state, detail. "absent" disables a feature; "broken" prevents any run.
    """
    return [
        *(_library(name) for name in ("torch", "transformers", "ray", "pyarrow")), _gpu(), _cupy(),
        _extra("vllm", "runs decoders of 30 billion parameters or more", "; transformers runs every model"),
        _extra("lm_eval", "MMLU and BBH, with `harness properties`",
               " (extra `knowledge`); MMLU and BBH cannot be measured"), _disk(), *_data(data_root),
    ]  # fmt: skip


def has_cuda() -> bool:
    """Whether torch finds a CUDA GPU."""
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
        return _row("GPU", "absent", "torch finds none: models and ridge regression run on the CPU")
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return _row("GPU", "works", ", ".join(names))


def _cupy() -> dict[str, Any]:
    if find_spec("cupy") is None:
        return _row("cupy", "absent", "not installed (extra `gpu`); the kernels run on NumPy")
    import cupy

    if not cupy.cuda.is_available():
        return _row("cupy", "absent", "installed, but there is no CUDA driver")
    return _row("cupy", "works", f"{cupy.__version__}: the kernels accept CuPy arrays; a run scores on the CPU")


def _extra(name: str, use: str, without: str) -> dict[str, Any]:
    if find_spec(name) is None:
        return _row(name, "absent", f"not installed{without}")
    return _row(name, "works", f"{version(name)}: {use}")


def _disk() -> dict[str, Any]:
    free = shutil.disk_usage(".").free / 2**30
    return _row("disk", "works" if free > 1 else "broken", f"{free:.0f} GiB free in the current folder")


def _data(root: str) -> list[dict[str, Any]]:
    from harness import datasets

    rows = []
    for entry in datasets.every():
        name = entry.name
        if entry.files:
            missing = datasets.missing(name, root)
            hint = f"{len(missing)} of {len(entry.files)} files missing under {root}: harness fetch {name}"
            detail = hint if missing else f"under {root}"
            rows.append(_row(f"data set {name}", "absent" if missing else "works", detail))
    return rows
