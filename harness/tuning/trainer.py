"""Run the trainings of a job on Ray Train: workers with a process group, restarted from their states if one is lost.

One TorchTrainer trains all arms and seeds one after another, so the libraries are loaded once. All state lies in the
job's folder and not with Ray, so a job that was killed as a whole resumes in the same way as one that lost a worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.runs import ray_session
from harness.tuning import examples, losses
from harness.tuning.job import Training, TuningJob

logger = logging.getLogger(__name__)

MAX_FAILURES = 3  # lost workers after which a job gives up
_POLL_S = 1.0
_START_S = "600"  # how long workers may take to start; Ray Train's default of 60 s is short on a busy machine
_LOCK_S = 300.0  # how long a new worker waits for the end of one that was lost


def tune(
    job: TuningJob, address: str | None = None, on_step: Callable[[Training, dict[str, Any]], None] | None = None,
    max_failures: int = MAX_FAILURES,
) -> None:  # fmt: skip
    """Train what is not finished yet.

    Args:
        job: what to train.
        address: Ray cluster to join; None starts a local Ray.
        on_step: called with each new line of losses while the training runs.
        max_failures: lost workers that are replaced.

    Raises:
        ValueError: if the folder holds other trainings, the cluster has too few CPUs or GPUs, or a training fails.
        RuntimeError: if Ray cannot be started or more workers were lost.
    """
    job = replace(job, out=str(Path(job.out).absolute()), data=str(Path(job.data).absolute()))  # workers run elsewhere
    job.claim_folder()
    if not job.unfinished:
        _remove_states(job)  # of a command that was killed at its end, or whose workers went on to it
        return
    _error_file(job).unlink(missing_ok=True)
    with _sigterm_interrupts():
        ray_session.start(address)
        if address:
            ray_session.require_visible(Path(job.out), job.out)
        _require_resources(job)
        _train(job, on_step, max_failures, is_local=not address)
    _remove_states(job)


def _remove_states(job: TuningJob) -> None:
    """Remove what finished trainings leave; states of others, such as other seeds in the same folder, are kept."""
    for training in set(job.trainings) - set(job.unfinished):
        shutil.rmtree(job.states_of(training), ignore_errors=True)
        shutil.rmtree(job.staging_of(training), ignore_errors=True)
    if not any((Path(job.out) / ".state").glob("*/step-*")):
        shutil.rmtree(Path(job.out) / ".state", ignore_errors=True)


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the trainings as Ctrl-C does; Ray's own handler aborts the process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _train(
    job: TuningJob, on_step: Callable[[Training, dict[str, Any]], None] | None, max_failures: int, *, is_local: bool
) -> None:  # fmt: skip
    """Train, and report the lines of losses meanwhile."""
    over = threading.Event()
    watching = threading.Thread(target=_follow, args=(job, over, on_step), daemon=True)
    watching.start()
    try:
        _fit(job, max_failures, is_local=is_local)
    finally:
        over.set()
        watching.join()
        shutil.rmtree(_ray_folder(job), ignore_errors=True)


def _ray_folder(job: TuningJob) -> Path:
    """Ray Train's own records, which nothing reads."""
    return Path(job.out) / ".state" / f"ray-{os.getpid()}"


def _error_file(job: TuningJob) -> Path:
    """File in which this command's workers state an error that would come again if they were restarted."""
    return Path(job.out) / ".state" / f"error-{socket.gethostname()}-{os.getpid()}.txt"


def _require_resources(job: TuningJob) -> None:
    n_cpus, n_gpus = ray_session.resources()
    available, name = (n_gpus, "GPUs") if job.use_gpu else (n_cpus, "CPU cores")
    if job.n_workers > available:
        raise ValueError(
            f"{job.n_workers} workers need {job.n_workers} {name}, and the cluster has {available}; give fewer, or a "
            "larger cluster by --address."
        )


def _fit(job: TuningJob, max_failures: int, *, is_local: bool) -> None:
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", _START_S)
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    from harness.tuning.one_machine import OneMachine

    backend = "nccl" if job.use_gpu else "gloo"
    trainer = TorchTrainer(
        _work,
        train_loop_config={"job": job, "error_file": _error_file(job)},
        scaling_config=ScalingConfig(num_workers=job.n_workers, use_gpu=job.use_gpu),
        run_config=RunConfig(
            name="train", storage_path=str(_ray_folder(job)), failure_config=FailureConfig(max_failures=max_failures)
        ),
        torch_config=OneMachine(backend, folder=str(_ray_folder(job))) if is_local else TorchConfig(backend),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if not _error_file(job).is_file():
            raise RuntimeError(f"the training failed: {' '.join(str(error).split())[:500]}") from error
    if _error_file(job).is_file():
        raise ValueError(_error_file(job).read_text(encoding="utf-8"))


def _work(config: dict[str, Any]) -> None:
    """One worker. After an error of the job itself, the group that replaces this one ends at once."""
    error_file: Path = config["error_file"]
    if error_file.is_file():
        return
    try:
        _train_unfinished(config["job"])
    except (ValueError, FileNotFoundError) as error:
        error_file.write_text(str(error), encoding="utf-8")
        raise


def _train_unfinished(job: TuningJob) -> None:
    """Train all unfinished trainings, one after another."""
    import ray.train
    import ray.train.torch
    from filelock import FileLock, Timeout

    from harness.checkpoints import checkpoints
    from harness.loading import architectures
    from harness.tuning import sequences, training
    from harness.tuning.workers import Group

    context = ray.train.get_context()
    group = Group(
        context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device(), job.is_sharded
    )  # fmt: skip
    lock = FileLock(Path(job.out) / ".state" / "lock", timeout=_LOCK_S)
    try:
        if group.is_first:
            lock.acquire()
    except Timeout as error:
        raise ValueError(
            f"another `harness tune` is running in {job.out}; wait for it, or give another --out."
        ) from error
    group.wait()
    base = checkpoints.with_weights(job.base, job.allow_pickle)
    architecture = architectures.read(base.config_folder, base.name, base.tokenizer_folder)
    corpus = sequences.of_examples(
        examples.read(Path(job.data)), architecture.tokenizer, architecture.special.prefix, job.recipe.length
    )  # fmt: skip
    for unfinished in job.unfinished:
        training.train(job, unfinished, corpus, group)
    lock.release()


def _follow(job: TuningJob, over: threading.Event, on_step: Callable[[Training, dict[str, Any]], None] | None) -> None:
    """Report new lines of losses until the trainings are over."""
    reported = {
        training: max((row["step"] for row in losses.read(job.folder_of(training))), default=0)
        for training in job.trainings
    }
    is_over = on_step is None
    while not is_over:
        is_over = over.wait(_POLL_S)
        for training in job.trainings:
            for row in losses.read(job.folder_of(training)):
                if row["step"] > reported[training] and on_step:
                    on_step(training, row)
                    reported[training] = row["step"]
