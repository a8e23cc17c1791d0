"""MMLU and BBH of one model, by lm-evaluation-harness in a process of its own.

It loads the model itself and leaves nothing behind in ours; what comes back is its file of results, which is read like
anybody else's (`properties.py`).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from harness.checkpoints.checkpoints import Checkpoint, require_planned
from harness.knowledge.questions import N_SHOTS, PREFIX, Benchmark, Task, write_tasks

# Tokens of an answer at most: the longest of BBH's answers are a line of words. A model's window is short of them.
MOST_ANSWER_TOKENS = 64
_CUT = re.compile(r"Left truncation applied|exceeds model's maximum length")
_SAID = 2000  # letters of what it printed last that stand in an error


class LmEvalRun(NamedTuple):
    """results: the content of its file; tasks: the questions; cut: whether prompts were too long for the model."""

    results: dict[str, Any]
    tasks: list[Task]
    cut: bool


def run(
    checkpoint: Checkpoint, benchmark: Benchmark, root: Path, device: str, batch: str, limit: int | None
) -> LmEvalRun:
    """Evaluate one model on one benchmark, few-shot.

    MMLU is by the likelihood of the four letters, BBH by greedy answers, bbh-choice by the likelihood of those offered.

    Args:
        checkpoint: of the table, the Hub, or a folder.
        benchmark: which.
        root: the data root.
        device: "cpu" or "cuda".
        batch: prompts at once, or "auto".
        limit: questions of each task at most; None is all.

    Raises:
        ValueError: if the weights are published as a difference, which lm-evaluation-harness cannot add; or if the
            checkpoint has changed since it was resolved.
        FileNotFoundError: if there are no questions under the root.
        RuntimeError: if lm-evaluation-harness fails; with what it said last.
    """
    if checkpoint.base_folder or checkpoint.base_hub_id or checkpoint.adapter:
        form = "an adapter of" if checkpoint.adapter else "a difference to"
        raise ValueError(
            f"{checkpoint.name} is published as {form} its base; save the merged model as a folder, and evaluate that."
        )
    require_planned(checkpoint)
    with tempfile.TemporaryDirectory(prefix="harness-questions-") as folder:
        tasks = write_tasks(benchmark, root, Path(folder))
        command = [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", _weights(checkpoint),
            "--tasks", ",".join(f"{PREFIX}{benchmark}_{task.name}" for task in tasks), "--include_path", folder,
            "--num_fewshot", str(N_SHOTS[benchmark]), "--batch_size", batch, "--device", device,
            *(["--gen_kwargs", f"max_gen_toks={MOST_ANSWER_TOKENS}"] if benchmark == "bbh" else []),
            "--output_path", f"{folder}/results",
            *(["--limit", str(limit)] if limit else []),
        ]  # fmt: skip
        said, cut = _follow(command, offline=not checkpoint.hub_id)
        found = sorted(Path(folder, "results").rglob("results_*.json"))
        if not found:
            raise RuntimeError(f"lm-evaluation-harness gave no results for {checkpoint.name}. It said last:\n{said}")
        require_planned(checkpoint)  # nor changed while it was read
        return LmEvalRun(json.loads(found[-1].read_text(encoding="utf-8")), tasks, cut)


def _weights(checkpoint: Checkpoint) -> str:
    place = checkpoint.hub_id or str(Path(checkpoint.folder).absolute())
    if "," in place:
        raise ValueError(f"{place}: lm-evaluation-harness takes no comma in a path; give the folder another name.")
    revision = f",revision={checkpoint.revision}" if checkpoint.hub_id else ""
    return f"pretrained={place}{revision},trust_remote_code=False"


def _follow(command: list[str], offline: bool) -> tuple[str, bool]:
    """Run it: the last of what it said, and whether a prompt was cut. Its progress is shown on a terminal."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    said, cut = "", False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            if _CUT.search(line):
                cut = True
                continue
            said = (said + line)[-_SAID:]
            if sys.stderr.isatty():
                sys.stderr.write(line)
    if process.returncode:
        raise RuntimeError(f"lm-evaluation-harness ended with status {process.returncode}. It said last:\n{said}")
    return said, cut
