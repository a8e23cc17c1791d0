"""Runs as jobs of Slurm: the script for `sbatch`, and its submission.

The job has the name of its run. Slurm queues it again when its nodes are taken away, and it queues itself again before
its time limit (`harness/jobs/slurm.py`); the run goes on with the units that are not stored.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.cluster.jobs import require_no_secrets

# Before the time limit, to finish units in progress (15 s), write the tables and queue the job again.
NOTICE_S = 180
# Options of sbatch that the script sets itself.
_OWN = ("job-name", "J", "ntasks-per-node", "requeue", "no-requeue", "signal", "nodes", "N", "ntasks", "n")


def script_of(
    job: str, arguments: Sequence[str], folder: Path, log: str, nodes: int = 1, options: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
) -> str:  # fmt: skip
    """A batch script that runs a spec on the nodes that Slurm gives it.

    Args:
        job: name of the run.
        arguments: arguments of `harness run`.
        folder: working directory; the nodes must see it, this Python and all paths of the arguments.
        log: file for the output, %j for Slurm's number of the job.
        nodes: number of nodes.
        options: further options of sbatch, such as "--partition=gpu".
        env: environment variables of the job.

    Raises:
        ValueError: if an option is not of the form --NAME or --NAME=VALUE, or is one that the script sets itself; if a
            variable looks like a secret.
    """
    require_no_secrets(env or {})
    own = [
        f"--job-name={job}", f"--nodes={nodes}", "--ntasks-per-node=1", "--requeue", "--open-mode=append",
        f"--signal=B:USR1@{NOTICE_S}", f"--output={_quoted(log)}",
    ]  # fmt: skip
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in (*own, *map(_checked, options)))]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in (env or {}).items()]
    command = [sys.executable, "-u", "-m", "harness.jobs.slurm", *arguments]
    return "\n".join([*lines, f"cd {shlex.quote(str(folder))} || exit", f"exec {shlex.join(command)}", ""])


def _quoted(path: str) -> str:
    """A path as sbatch reads it in a script: in double quotes if it has a space."""
    return f'"{path}"' if " " in path else path


def _checked(option: str) -> str:
    """An option of sbatch in the form that a script takes."""
    name = re.split(r"[=\s]", option.lstrip("-"))[0]
    if not option.startswith("-") or not name or "\n" in option:
        raise ValueError(f"--sbatch {option!r}: wanted an option of sbatch, such as --sbatch=--partition=gpu.")
    if name in _OWN:
        raise ValueError(f"--sbatch {option!r}: the script sets --{name} itself (`harness submit --slurm --print`).")
    return option


def find(job: str) -> str | None:
    """Number of the user's queued or running job of this name; None if there is none."""
    numbers = _slurm(["squeue", "--me", "--noheader", f"--name={job}", "--format=%i"]).split()
    return numbers[0] if numbers else None


def submit(script: str) -> str:
    """Hand a script to sbatch; returns the number of the job."""
    return _slurm(["sbatch", "--parsable"], script).strip().partition(";")[0]


def _slurm(command: list[str], standard_input: str | None = None) -> str:
    """What a command of Slurm prints; OSError with its message if it fails or does not exist."""
    try:
        done = subprocess.run(command, input=standard_input, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise OSError(
            f"{command[0]} is not installed: run this on a login node of the cluster, or write the script with --print."
        ) from None
    if done.returncode:
        message = " ".join(done.stderr.split()) or f"exit status {done.returncode}"
        raise OSError(f"Slurm refused the job ({message}); change its options by --sbatch.")
    return done.stdout
