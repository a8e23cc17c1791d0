"""The bodies of the commands about jobs on a Ray cluster: `harness submit`, `status`, `cancel`; and their options."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.cli.printing import document, show

# Options of `run` that name places: a job runs elsewhere, where only whole paths mean the same.
_PLACES = ("models", "vectors", "corpus", "out", "data_root")
# Options of `run` that a job is given, in the order of its command line.
_ONCE = (
    "models",
    "dtype",
    "backend",
    "protocol",
    "vectors",
    "corpus",
    "out",
    "device",
    "usd_per_gpu_hour",
    "data_root",
)
_REPEATED = ("model", "dataset")
_FLAGS = ("allow_pickle", "unpinned", "no_untrained", "keep_going", "shuffled", "chat_template")


def add_address(command: argparse.ArgumentParser) -> None:
    """Which cluster."""
    command.add_argument(
        "--address", metavar="URL", help="its dashboard (default: RAY_API_SERVER_ADDRESS, or http://127.0.0.1:8265)"
    )


def add_submission(command: argparse.ArgumentParser) -> None:
    """The options of `submit` beside those of `run`."""
    add_address(command)
    command.add_argument(
        "--working-dir", default=".", metavar="DIR", help="whose code is sent, if the program lies in it (default: .)"
    )
    command.add_argument(
        "--send", action="append", metavar="PATH", help="send also this file or folder of --working-dir; repeatable"
    )
    command.add_argument("--limit-mb", type=float, default=50, metavar="MB", help="send no more (default: 50)")
    command.add_argument("--env", action="append", metavar="NAME=VALUE", help="of the job; no secrets; repeatable")
    command.add_argument("--no-follow", action="store_true", help="return as soon as the job is submitted")


def submit(arguments: argparse.Namespace) -> int:
    """Run a spec as a job of a cluster, follow its log, and return its exit status."""
    from harness.cluster.jobs import Jobs, command_of, require_no_secrets

    _make_whole(arguments)
    env = dict(_variable(said) for said in arguments.env or ())
    require_no_secrets(env)
    name, why = _name(arguments)
    jobs = Jobs(arguments.address)
    there = jobs.find(name)
    if not why and _is_done(arguments.out, name):
        state = "done"
    else:
        command = command_of("harness.jobs.evaluate", run_arguments(arguments))
        limit = int(arguments.limit_mb * 2**20)
        state = jobs.submit(name, command, Path(arguments.working_dir), env, limit, arguments.send or ())
    said = {"submitted": "is submitted", "running": "was submitted before, and runs", "done": "is done already"}[state]
    print(f"job {name} {said} ({jobs.address}){why}", file=sys.stderr)
    status = 0
    if state != "done" and not arguments.no_follow:
        try:
            status = jobs.follow(name, lambda text: print(text, end="", file=sys.stderr, flush=True))
        except KeyboardInterrupt:
            print(
                f"\nthe job goes on: `harness status {name}` shows it, `harness cancel {name}` ends it", file=sys.stderr
            )
            return 1
    by_the_store = {"job": name, "status": "SUCCEEDED", "exit_status": 0}  # of a job that the cluster has forgotten
    row: dict[str, Any] = {"run": name, "submitted": state == "submitted"}
    row |= jobs.rows(name)[0] if there or state != "done" else by_the_store
    if arguments.json:
        document(row)
    else:
        print(f"job {name}: {row['status'].lower()}, exit status {status}")
    return status


def _is_done(out: str, run: str) -> bool:
    """Whether the store, where it can be seen from here, holds the tables of a finished run."""
    from harness.storage import tables

    try:
        return tables.holds(out, run)
    except (OSError, ImportError, ValueError):  # seen by the nodes alone
        return False


def _make_whole(arguments: argparse.Namespace) -> None:
    for name in _PLACES:
        given = getattr(arguments, name)
        if given and "://" not in given:
            setattr(arguments, name, str(Path(given).absolute()))
    if arguments.model:
        arguments.model = [str(Path(name).absolute()) if Path(name).is_dir() else name for name in arguments.model]
    if not Path(arguments.working_dir).is_dir():
        raise ValueError(f"--working-dir {arguments.working_dir} is no folder.")


def _variable(said: str) -> tuple[str, str]:
    name, sign, value = said.partition("=")
    if not (name and sign):
        raise ValueError(f"--env {said!r} is not NAME=VALUE.")
    return name, value


def run_arguments(arguments: argparse.Namespace) -> list[str]:
    """What `harness run` is given elsewhere to do what it would do here."""
    found = [arguments.spec]
    for name in _REPEATED:
        for value in getattr(arguments, name) or ():
            found += [f"--{name}", value]
    for name in _ONCE:
        if value := getattr(arguments, name):
            found += [f"--{name.replace('_', '-')}", str(value)]
    return found + [f"--{name.replace('_', '-')}" for name in _FLAGS if getattr(arguments, name)]


def _name(arguments: argparse.Namespace) -> tuple[str, str]:
    """The run's name, and why it is another one where the run cannot be planned here."""
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
    plan = make_workload(
        spec, arguments.out, arguments.data_root, pinned=not arguments.unpinned, allow_pickle=arguments.allow_pickle
    )
    if not plan.failures:
        return plan.run, ""
    if not arguments.keep_going:
        require_known(plan)
    what = [asdict(spec), arguments.out, arguments.data_root]
    failure = plan.failures[0]
    return f"{spec.name}-{content_hash(what)[:8]}", (
        f"; named by what was asked for, since the run cannot be planned here ({failure.model or failure.dataset}: "
        f"{failure.message.splitlines()[0]})"
    )


def add_manifest(command: argparse.ArgumentParser) -> None:
    """The options of `manifest` beside those of `run`, which are of the RayJob."""
    command.add_argument(
        "--cluster", metavar="FILE", help="node types (default: ./cluster.yaml, or the one that is shipped)"
    )
    command.add_argument("--image", required=True, metavar="IMAGE", help="with Ray and this project, better by digest")
    command.add_argument("--watch", default="", metavar="SOURCE", help="of the RayCronJob; default: as --model")
    command.add_argument("--schedule", default="0 * * * *", metavar="CRON", help="of the watch (default: each hour)")
    command.add_argument("--storage", default="", metavar="CLAIM", help="volume with data and weights, at /mnt/shared")


def manifest(arguments: argparse.Namespace) -> int:
    """Print manifests for KubeRay, of the node types that `harness plan` plans for."""
    from harness.cli import run_commands
    from harness.cluster import kuberay, machines

    spec = run_commands.spec_of(arguments)
    for name in arguments.model or ():
        if Path(name).is_dir() and not Path(name).is_absolute():
            raise ValueError(
                f"--model {name} is a folder of this machine, and would be one of the Hub on another; give "
                "its whole path on the volume that the nodes see."
            )
    evaluate = run_arguments(arguments)
    source = arguments.watch or (arguments.model or spec.models)[0]
    of_run = [part for part in evaluate[1:] if part not in ("--model", *(arguments.model or ()))]
    watch = [source, "--once", "--spec", arguments.spec, *of_run]
    documents = kuberay.manifests(
        str(machines.cluster_file(arguments.cluster)),
        arguments.image,
        evaluate,
        watch,
        arguments.schedule,
        arguments.storage,
    )
    if arguments.json:
        document(documents)
    else:
        print(kuberay.as_text(documents), end="")
    return 0


def preempt(arguments: argparse.Namespace) -> int:
    """Wait on a spot machine for the notice that it is taken away, and hand it on to Ray."""
    from harness.cluster import preemption

    preemption.watch(arguments.address, arguments.node_id)
    return 0


def status(arguments: argparse.Namespace) -> int:
    """The jobs of a cluster, or one of them."""
    from harness.cluster.jobs import Jobs

    rows = Jobs(arguments.address).rows(arguments.job)
    if arguments.json:
        document(rows[0] if arguments.job else rows)
    elif arguments.job:
        print("\n".join(f"{key:<12} {'' if value is None else value}" for key, value in rows[0].items()))
    elif rows:
        names = ("job", "status", "started", "seconds", "exit_status")
        show([{name: _shown(row[name]) for name in names} for row in rows], as_json=False)
    else:
        print("no jobs")
    return 0


def _shown(value: Any) -> Any:
    return "" if value is None else value


def cancel(arguments: argparse.Namespace) -> int:
    """End a job; 1 where it has not ended."""
    from harness.cluster.jobs import ENDED, Jobs

    found = Jobs(arguments.address).cancel(arguments.job)
    if arguments.json:
        document({"job": arguments.job, "status": found})
    else:
        print(f"job {arguments.job}: {found.lower()}")
    return int(found not in ENDED)
