"""`harness submit`, `status`, `cancel`, `manifest` and `preempt`: jobs on a Ray cluster."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from harness.cli.printing import answer, document, show, shown

# Options of `run` that hold paths; they are made absolute, because the job runs in another working directory.
_PATHS = ("models", "vectors", "corpus", "conditions", "localiser", "out", "data_root")
# Options of `run` that are passed on to a job, in the order of its command line.
_ONCE = (
    "models", "dtype", "backend", "protocol", "vectors", "corpus", "conditions", "localiser", "random_draws", "out",
    "device", "usd_per_gpu_hour", "data_root",
)  # fmt: skip
_REPEATED = ("model", "dataset", "control", "keep", "condition", "localise")
_FLAGS = ("allow_pickle", "unpinned", "no_untrained", "keep_going", "shuffled", "chat_template")


def add_address(command: argparse.ArgumentParser) -> None:
    """Add the option that selects the cluster."""
    default = "RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265"
    command.add_argument("--address", metavar="URL", help=f"dashboard of the cluster (default: {default})")


def add_submission(command: argparse.ArgumentParser) -> None:
    """Add the options of `submit` that `run` does not have."""
    add_address(command)
    option = command.add_argument
    option(
        "--working-dir", default=".", metavar="DIR", help="folder of this program's source code to send (default: .)"
    )
    option("--send", action="append", metavar="PATH", help="also send this file or folder of --working-dir; repeatable")
    option("--limit-mb", type=float, default=50, metavar="MB", help="upload size limit (default: 50)")
    option(
        "--env", action="append", metavar="NAME=VALUE", help="environment variable of the job; no secrets; repeatable"
    )
    option("--no-follow", action="store_true", help="return without following the log of the job")
    option("--slurm", action="store_true", help="submit to Slurm, by sbatch, instead of a running Ray cluster")
    option("--nodes", type=int, default=1, metavar="N", help="with --slurm: number of nodes (default: 1)")
    option(
        "--sbatch", action="append", default=[], metavar="OPTION",
        help="with --slurm: option of sbatch, such as --sbatch=--gpus-per-node=4; repeatable",
    )  # fmt: skip
    option("--print", action="store_true", help="with --slurm: print the script instead of submitting it")


def submit(arguments: argparse.Namespace) -> int:
    """Submit a run as a job, follow its log and return its exit status."""
    from harness.cluster.jobs import Jobs, command_of, require_no_secrets

    _make_paths_absolute(arguments)
    env = dict(_variable(assignment) for assignment in arguments.env or ())
    if arguments.slurm:
        return _submit_to_slurm(arguments, env)
    if arguments.sbatch or arguments.print or arguments.nodes != 1:
        raise ValueError("--nodes, --sbatch and --print are options of a Slurm job; give also --slurm.")
    require_no_secrets(env)
    name, note = _name(arguments)
    jobs = Jobs(arguments.address)
    previous = jobs.find(name)
    if not note and _is_done(arguments.out, name):
        state = "done"
    else:
        command = command_of("harness.jobs.evaluate", run_arguments(arguments))
        limit = int(arguments.limit_mb * 2**20)
        state = jobs.submit(name, command, Path(arguments.working_dir), env, limit, arguments.send or ())
    description = {"submitted": "submitted", "running": "is already running", "done": "is already done"}[state]
    print(f"job {name} {description} ({jobs.address}){note}", file=sys.stderr)
    status = 0
    if state != "done" and not arguments.no_follow:
        try:
            status = jobs.follow(name, lambda text: print(text, end="", file=sys.stderr, flush=True))
        except KeyboardInterrupt:
            print(
                f"\nthe job is still running: `harness status {name}` shows it, `harness cancel {name}` cancels it",
                file=sys.stderr,
            )
            return 1
    stored = {"job": name, "status": "SUCCEEDED", "exit_status": 0}  # done, and no longer listed by the cluster
    row: dict[str, Any] = {"run": name, "submitted": state == "submitted"}
    row |= jobs.rows(name)[0] if previous or state != "done" else stored
    answer(arguments, row, f"job {name}: {row['status'].lower()}, exit status {status}")
    return status


def _submit_to_slurm(arguments: argparse.Namespace, env: dict[str, str]) -> int:
    """Submit a run to Slurm, unless it is queued or done, or print its script."""
    from harness.cluster import slurm

    if arguments.address:
        raise ValueError("--address is a running Ray cluster; a Slurm job starts its own: leave --address out.")
    if arguments.nodes < 1:
        raise ValueError(f"--nodes {arguments.nodes}: wanted at least 1.")
    name, note = _name(arguments)
    folder = Path(arguments.working_dir).absolute()
    logs = folder if "://" in arguments.out else Path(arguments.out) / "slurm"
    log = logs / f"{name}-%j.log"
    script = slurm.script_of(name, run_arguments(arguments), folder, str(log), arguments.nodes, arguments.sbatch, env)
    if arguments.print:
        print(script, end="")
        return 0
    state, job = "done" if not note and _is_done(arguments.out, name) else "queued", slurm.find(name)
    if state != "done" and job is None:
        logs.mkdir(parents=True, exist_ok=True)
        state, job = "submitted", slurm.submit(script)
    row = {"run": name, "job": job or "", "state": state, "log": str(log).replace("%j", job or "*")}
    words = {"done": "is already done", "queued": "is already queued", "submitted": "submitted"}[state]
    follow = "" if state == "done" else f"; its log: tail -F {row['log']}; `scancel {job}` ends it"
    answer(arguments, row, f"{name} {words}{f' as job {job}' if job else ''}{note}{follow}")
    return 0


def _is_done(out: str, run: str) -> bool:
    """Whether OUT, if it can be read from here, holds the tables of this run, finished."""
    from harness.storage import tables

    try:
        return tables.holds(out, run)
    except (OSError, ImportError, ValueError):  # only the nodes can read OUT
        return False


def _make_paths_absolute(arguments: argparse.Namespace) -> None:
    for name in _PATHS:
        path = getattr(arguments, name)
        if path and "://" not in path:
            setattr(arguments, name, str(Path(path).absolute()))
    if arguments.model:
        arguments.model = [str(Path(name).absolute()) if Path(name).is_dir() else name for name in arguments.model]
    if not Path(arguments.working_dir).is_dir():
        raise ValueError(f"--working-dir {arguments.working_dir} is not a folder.")


def _variable(assignment: str) -> tuple[str, str]:
    name, sign, value = assignment.partition("=")
    if not (name and sign):
        raise ValueError(f"--env {assignment!r} is not of the form NAME=VALUE.")
    return name, value


def run_arguments(arguments: argparse.Namespace) -> list[str]:
    """Arguments with which `harness run` does the same run on the cluster."""
    command = [arguments.spec]
    for name in _REPEATED:
        for value in getattr(arguments, name) or ():
            command += [f"--{name}", value]
    for name in _ONCE:
        if value := getattr(arguments, name):
            command += [f"--{name.replace('_', '-')}", str(value)]
    return command + [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(arguments, name)]


def _name(arguments: argparse.Namespace) -> tuple[str, str]:
    """The run id and a note for the user.

    If models or recordings can be read only on the cluster, the run id cannot be computed here; the name is then a
    hash of the arguments, and the note says why. Otherwise the note is empty.
    """
    from harness.cli import run_commands
    from harness.protocol import content_hash
    from harness.runs.workload import make_workload, require_known
    from harness.units import quickstart

    spec = run_commands.spec_of(arguments)
    if any(name.startswith("synthetic") for name in spec.datasets):
        folder = quickstart.folder_of(arguments.out)
        if not quickstart.is_built(folder):
            print("building three tiny models and a recording with a known answer ...", file=sys.stderr)
            quickstart.build(str(folder), spec.seed)
    workload = make_workload(
        spec, arguments.out, arguments.data_root, pinned=not arguments.unpinned, allow_pickle=arguments.allow_pickle
    )
    if not workload.failures:
        return workload.run, ""
    if not arguments.keep_going:
        require_known(workload)
    key = [spec.content, arguments.out, arguments.data_root]
    failure = workload.failures[0]
    return f"{spec.name}-{content_hash(key)[:8]}", (
        f"; named by its arguments, because the run cannot be planned here ({failure.model or failure.dataset}: "
        f"{failure.message.splitlines()[0]})"
    )


def add_manifest(command: argparse.ArgumentParser) -> None:
    """Add the options of `manifest`; those of `run` apply to the RayJob."""
    option = command.add_argument
    option(
        "--cluster", metavar="FILE", help="cluster file of the node types (default: ./cluster.yaml or the shipped one)"
    )
    option("--image", required=True, metavar="IMAGE", help="container image, preferably with a digest")
    option("--watch", default="", metavar="SOURCE", help="what to watch (default: the first --model)")
    option("--schedule", default="0 * * * *", metavar="CRON", help="cron schedule (default: hourly)")
    option("--storage", default="", metavar="CLAIM", help="volume claim with data and weights; mounted at /mnt/shared")
    option(
        "--redis", default="", metavar="HOST:PORT", help="Redis server that keeps the cluster's state without its head"
    )


def manifest(arguments: argparse.Namespace) -> int:
    """Print KubeRay manifests with the node types of the cluster file."""
    from harness.cli import run_commands
    from harness.cluster import kuberay, machines

    spec = run_commands.spec_of(arguments)
    for name in arguments.model or ():
        if Path(name).is_dir() and not Path(name).is_absolute():
            raise ValueError(
                f"--model {name} is a relative path to a folder, which the nodes would take for a Hub id; give its "
                "absolute path on the shared volume."
            )
    evaluate = run_arguments(arguments)
    source = arguments.watch or (arguments.model or spec.models)[0]
    without_models = argparse.Namespace(**{**vars(arguments), "model": None})
    watch = [source, "--once", "--spec", arguments.spec, *run_arguments(without_models)[1:]]
    file = str(machines.cluster_file(arguments.cluster))
    documents = kuberay.manifests(
        file, arguments.image, evaluate, watch, arguments.schedule, arguments.storage, arguments.redis
    )
    answer(arguments, documents, kuberay.as_text(documents).removesuffix("\n"))
    return 0


def preempt(arguments: argparse.Namespace) -> int:
    """Wait on a spot machine for its preemption notice, then drain its Ray node."""
    from harness.cluster import preemption

    preemption.watch(arguments.address, arguments.node_id)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """List the jobs of a cluster, or show one."""
    from harness.cluster.jobs import Jobs

    rows = Jobs(arguments.address).rows(arguments.job)
    if arguments.json:
        document(rows[0] if arguments.job else rows)
    elif arguments.job:
        print("\n".join(f"{key:<12} {shown(value)}" for key, value in rows[0].items()))
    elif rows:
        names = ("job", "status", "started", "seconds", "exit_status")
        show([{name: shown(row[name]) for name in names} for row in rows], as_json=False)
    else:
        print("no jobs")
    return 0


def cancel(arguments: argparse.Namespace) -> int:
    """Cancel a job; exit status 1 if it has not ended."""
    from harness.cluster.jobs import ENDED, Jobs

    state = Jobs(arguments.address).cancel(arguments.job)
    answer(arguments, {"job": arguments.job, "status": state}, f"job {arguments.job}: {state.lower()}")
    return int(state not in ENDED)
