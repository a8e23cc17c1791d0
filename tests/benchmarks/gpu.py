"""The same on one GPU: its peaks, which way to eigenvectors is best there, and the workloads with arrays on it.

One command: `python tests/benchmarks/run.py --only gpu`, meant to take under ten minutes for W1 to W7: peers are left
out once eight have passed, and the table says so. Beside each time stands the floor: the operations of the plain,
unpruned method at the rate of a float64 matrix product measured in the same run.

Host clocks around work that has been waited for; one call to warm up, the best of three after it. For ours and for
torch alone the data lie on the GPU; himalaya and Brain-Score's way take them from the host, as their users give them.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gates
import numpy as np
import ours
import peers
from workloads import ALPHAS, WORKLOADS, Workload, load, make, quick, split, stacked

Array = Any
_REPEATS = 3
_PATIENCE_S = 5.0
_PEERS_UNTIL_S = 480.0
# A Llama of 1.1 billion parameters, as TinyLlama is, but for its small vocabulary and full attention heads.
_SIZES = {"width": 2048, "layers": 22}


def everything(is_quick: bool) -> dict[str, Any]:
    """All rows, or why there are none."""
    from harness.kernels.arrays import gpu_available

    if not gpu_available():
        return {"said": {"rows": [], "not_run": "gpu: not run: no GPU"}}
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    began = time.perf_counter()
    rows = [*_peaks(1024 if is_quick else 8192), *_eigh((64,) if is_quick else (307, 501, 1036), 8)]
    rate = next(row["gflops"] for row in rows if row["precision"] == "float64")
    workloads = [quick(workload) if is_quick else workload for workload in WORKLOADS if workload.name != "wide"]
    for workload in workloads:
        is_late = time.perf_counter() - began > _PEERS_UNTIL_S
        rows += (_long if workload.n > workload.p else _workload)(workload, rate, is_late)
        cupy.get_default_memory_pool().free_all_blocks()
    if time.perf_counter() - began < _PEERS_UNTIL_S:
        rows += _extraction(is_quick)
    return {"said": {"rows": [{"benchmark": "gpu", "machine": name, **row} for row in rows], "not_run": None}}


def torch_plain(
    layers: list[Array], Y: Array, folds: list[tuple[Array, Array]], device: str, dtype: str
) -> dict[str, Array]:
    """What one writes in an afternoon: Gram matrix and eigenvectors in float64, leave-one-out errors of all alphas.

    Args:
        layers, Y: torch tensors on the device.
        folds: (train, test) rows.
        device: torch's.
        dtype: of the side of the neuroids.
    """
    import torch

    kind = getattr(torch, dtype)
    grid = torch.tensor(ALPHAS, device=device, dtype=torch.float64)
    r, alphas = [], []
    for X in layers:
        Z = X.double() - X.double().mean(0)
        K = Z @ Z.T
        for train, test in folds:
            inside, outside = torch.as_tensor(train, device=device), torch.as_tensor(test, device=device)
            within, y = K[inside][:, inside], Y[inside].to(kind)
            means = within.mean(0)
            lam, U = torch.linalg.eigh(within - means - means[:, None] + means.mean())
            y, lam = y - y.mean(0), lam.clip(min=0.0)
            across = K[outside][:, inside] - means
            T, V = ((across - across.mean(1, keepdim=True)) @ U).to(kind), U.to(kind)
            W = V.T @ y
            errors = []
            for alpha in grid:
                kept = alpha / (lam + alpha)
                diagonal = U**2 @ kept - 1 / len(train)
                residual = (V @ (kept.to(kind)[:, None] * W)) / diagonal.to(kind)[:, None]
                errors.append((residual**2).sum(0))
            place = torch.stack(errors).argmin(0)
            predicted = T @ (W / (lam[:, None] + grid[place]).to(kind))
            r.append(_torch_r(predicted.double(), Y[outside].double()))
            alphas.append(grid[place].cpu().numpy())
    return stacked(r, alphas, layers, folds)


def _torch_r(predicted: Array, observed: Array) -> Array:
    """(column,) on the host."""
    p, o = predicted - predicted.mean(0), observed - observed.mean(0)
    return ((p * o).sum(0) / ((p * p).sum(0) * (o * o).sum(0)).sqrt()).cpu().numpy()


def _best(call: Callable[[], Any], wait: Callable[[], None]) -> tuple[float, Any]:
    """Seconds until the GPU has finished, best of three after one to warm up (of one, where that took long); result."""
    begun = time.perf_counter()
    result, took = call(), []
    wait()
    for _ in range(_REPEATS if time.perf_counter() - begun < _PATIENCE_S else 1):
        started = time.perf_counter()
        result = call()
        wait()
        took.append(time.perf_counter() - started)
    return min(took), result


def _wait() -> None:
    import cupy

    cupy.cuda.Device().synchronize()


def _wait_for_torch() -> None:
    import torch

    torch.cuda.synchronize()


def _peaks(n: int) -> list[dict[str, Any]]:
    """Rates of a square product."""
    import cupy

    rows = []
    for dtype in ("float32", "float64"):
        A = cupy.random.default_rng(0).standard_normal((n, n)).astype(dtype)
        seconds, _ = _best(lambda A=A: A @ A, _wait)
        rows.append({
            "workload": "gpu peaks", "subject": f"GEMM {dtype} n={n}", "precision": dtype, "seconds": seconds,
            "gflops": 2e-9 * n**3 / seconds, "n_samples": _REPEATS,
        })  # fmt: skip
    return rows


def _extraction(is_quick: bool) -> list[dict[str, Any]]:
    """One pass over a story against the growing context, and the tokens a second of many stories."""
    import extraction

    if not _torch_has_cuda():
        return []
    rows, text, sizes = [], extraction.story(), extraction.SMALL if is_quick else _SIZES
    for dtype, allowed in (("float32", 1e-4), ("bfloat16", 5e-2)):
        peak = _torch_peak(dtype, 1024 if is_quick else 8192)
        model = extraction.model_of(**sizes, text=text, device="cuda", dtype=dtype)
        said = extraction.compare(model, text, 64, 1, allowed)
        gate = f"{'passed' if said['passed'] else 'FAILED'}: largest difference {said['worst']:.0e}"
        common = {"workload": f"gpu {said['workload']}", "precision": dtype}
        rows += [
            {"workload": "gpu peaks", "subject": "torch GEMM", "precision": dtype, "gflops": peak},
            {**common, "subject": "growing context", "seconds": said["theirs"], "ratio_to_ours": said["ratios"][0],
             "setting": "every 64. word timed, times 64", "gate": gate},
            {**common, "subject": "one pass", "seconds": said["ours"], "ratio_to_ours": 1.0, "gate": gate},
        ]  # fmt: skip
        for copies in (1, 16):
            rate = extraction.many(model, text, copies)
            share = rate * said["flops"] / said["n_tokens"] / 1e9 / peak
            rows.append({**common, "subject": f"states and surprisal of {copies} stories", "gemm_share": share,
                         "setting": f"{rate:.0f} tokens a second"})  # fmt: skip
    return rows


def _torch_peak(dtype: str, n: int) -> float:
    """GFLOP/s of a square product by torch, random data."""
    import torch

    A = torch.randn(n, n, device="cuda", dtype=getattr(torch, dtype))
    seconds, _ = _best(lambda: A @ A, _wait_for_torch)
    return 2e-9 * n**3 / seconds


def _eigh(sizes: tuple[int, ...], stack: int) -> list[dict[str, Any]]:
    """Three ways to the eigenvectors of a stack of matrices: seconds a matrix, and the residual relative to |C|."""
    import cupy

    ways = {
        "cupy.linalg.eigh, one by one": lambda C: [cupy.linalg.eigh(each) for each in C],
        "cupy.linalg.eigh, stacked (Jacobi)": lambda C: list(zip(*cupy.linalg.eigh(C), strict=True)),
        "LAPACK on the host, there and back": lambda C: [
            tuple(cupy.asarray(part) for part in np.linalg.eigh(each)) for each in C.get()
        ],
    }
    rows = []
    for n in sizes:
        B = cupy.random.default_rng(0).standard_normal((stack, n, n))
        C = B @ B.transpose(0, 2, 1)
        for name, way in ways.items():
            seconds, found = _best(lambda way=way, C=C: way(C), _wait)
            residual = max(
                float(abs(each @ U - U * lam).max() / abs(lam).max()) for each, (lam, U) in zip(C, found, strict=True)
            )
            rows.append({
                "workload": f"gpu eigh n={n}", "subject": name, "precision": "float64", "seconds": seconds / stack,
                "n_samples": _REPEATS, "gate": f"{'passed' if residual < 1e-10 else 'FAILED'}: residual {residual:.0e}",
            })  # fmt: skip
    return rows


def _workload(workload: Workload, rate: float, is_late: bool) -> list[dict[str, Any]]:
    """Ours with CuPy, himalaya with torch_cuda, torch alone; those that torch's build has no CUDA for are said to be
    not installed."""
    import cupy

    with tempfile.TemporaryDirectory() as folder:
        make(workload, Path(folder))
        layers, Y = load(Path(folder))
    folds, rows = split(len(Y)), []
    there = ([cupy.asarray(X) for X in layers], cupy.asarray(Y), folds)
    truth: dict[str, tuple[float, dict[str, Array]]] = {}

    def judged(name: str, rule: str, dtype: str, best: tuple[float, dict[str, Array]], allowed: Any) -> dict[str, Any]:
        """One row; ratios are to ours in float64. That a peer rounds too much is no fault of this run."""
        passed, numbers = gates.compare(best[1], truth[rule][1], allowed, gates.gaps_of(layers, Y, rule))
        wrong = "FAILED" if name.startswith("ours") else "not accurate enough"
        return {
            "workload": f"gpu {workload}", "subject": name, "inner_rule": rule, "precision": dtype, "seconds": best[0],
            "against": "ours float64", "ratio_to_ours": best[0] / truth[rule][0], "n_samples": _REPEATS,
            "folds_timed": 5, **_floor(workload, rule, best[0], rate),
            "gate": f"{'passed' if passed else wrong}: {numbers}",
        }  # fmt: skip

    for rule in ("leave-one-out", "inner 5-fold", "one alpha"):
        for precision, allowed in (("float64", gates.SAME), ("mixed", gates.ROUNDED)):
            settings = {"rule": rule, "precision": precision, "threads": 1}
            found = _best(partial(ours.fit, *there, **settings), _wait)
            truth.setdefault(rule, found)
            rows.append(judged(f"ours {precision}", rule, precision, found, allowed))
    del there
    for name, rule, dtype, call in () if is_late else _others(layers, Y, folds):
        rows.append(judged(name, rule, dtype, _best(call, _wait_for_torch), gates.LOOSE))
    if is_late or not _torch_has_cuda():
        why = "not run: eight minutes have passed" if is_late else "not installed"
        rows.append({"workload": f"gpu {workload}", "subject": "torch, himalaya torch_cuda", "gate": why})
    return rows


def _long(workload: Workload, rate: float, is_late: bool) -> list[dict[str, Any]]:
    """Ours with CuPy where rows outnumber features, compared with ours on the host for some neuroids of one fold, and
    himalaya's RidgeCV on the GPU."""
    import cupy

    with tempfile.TemporaryDirectory() as folder:
        make(workload, Path(folder))
        layers, Y = (
            [np.array(X) for X in each] if isinstance(each, list) else np.array(each) for each in load(Path(folder))
        )
    folds, rows, neuroids = split(len(Y)), [], slice(0, 50)
    there = ([cupy.asarray(X) for X in layers], cupy.asarray(Y), folds)
    seconds = {}
    for rule in ("leave-one-out", "inner 5-fold"):
        settings = {"rule": rule, "precision": "float64", "threads": 1}
        best = _best(partial(ours.fit, *there, **settings), _wait)
        host = ours.fit(layers, Y[:, neuroids], folds[:1], **settings, way="primal")
        found = {name: values[:, :1, neuroids] for name, values in best[1].items()}
        passed, numbers = gates.compare(found, host, gates.SAME, gates.gaps_of(layers, Y[:, neuroids], rule))
        seconds[rule] = best[0]
        rows.append({
            "workload": f"gpu {workload}", "subject": "ours float64", "inner_rule": rule, "precision": "float64",
            "seconds": best[0], "folds_timed": 5, **_floor(workload, rule, best[0], rate), "n_samples": _REPEATS,
            "gate": f"{'passed' if passed else 'FAILED'}: {numbers} (50 neuroids, one fold, on the host)",
        })  # fmt: skip
    del there
    cupy.get_default_memory_pool().free_all_blocks()
    if is_late or not _torch_has_cuda() or not importlib.util.find_spec("himalaya"):
        return [*rows, {"workload": f"gpu {workload}", "subject": "himalaya RidgeCV torch_cuda", "gate": "not run"}]
    few = min(workload.v, 2000)  # scaled from these; what does not depend on neuroids is counted too often
    call = partial(peers.himalaya_primal, layers, Y[:, :few], folds[:1], backend="torch_cuda", n_targets_batch=1000)
    took = _best(call, _wait_for_torch)[0] * 5 * workload.v / few
    rows.append({
        "workload": f"gpu {workload}", "subject": "himalaya RidgeCV torch_cuda", "inner_rule": "inner 5-fold",
        "precision": "float32", "seconds": took, "against": "ours float64", "folds_timed": 1, "n_samples": 1,
        "ratio_to_ours": took / seconds["inner 5-fold"], "setting": f"{few:,} of {workload.v:,} neuroids timed",
    })  # fmt: skip
    return rows


def _floor(workload: Workload, rule: str, seconds: float, rate: float) -> dict[str, Any]:
    """Columns that set a time beside that of its operations at the rate (GFLOP/s) of a matrix product."""
    floor = workload.flops(rule) / (rate * 1e9)
    return {"gemm_share": floor / seconds, "setting": f"floor {floor:.3f} s; {seconds / floor:.1f} times the floor"}


def _torch_has_cuda() -> bool:
    import torch

    return bool(torch.cuda.is_available())


def _others(layers: list[Array], Y: Array, folds: Any) -> list[tuple[str, str, str, Callable[[], dict[str, Array]]]]:
    """(name, rule, precision, call) of the peers that can use this GPU."""
    if not _torch_has_cuda():
        return []
    import torch

    there = [torch.from_numpy(X).cuda() for X in layers], torch.from_numpy(Y).cuda()
    found = [
        (f"torch alone {dtype}", "leave-one-out", dtype, partial(torch_plain, *there, folds, "cuda", dtype))
        for dtype in ("float64", "float32")
    ]
    by_svd = partial(peers.brain_score, layers, Y, folds, "svd", "cuda")
    found.append(("Brain-Score's way, torch svd", "one alpha", "float64", by_svd))
    for dtype in ("float64", "float32") if importlib.util.find_spec("himalaya") else ():
        settings = {"backend": "torch_cuda", "dtype": dtype, "n_targets_batch": 5000}
        call = partial(peers.himalaya, layers, Y, folds, **settings)
        found.append(("himalaya KernelRidgeCV torch_cuda", "inner 5-fold", dtype, call))
    return found
