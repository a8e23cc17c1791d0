"""Measure MMLU or BBH for one model by running lm-evaluation-harness in a separate process.

That process loads the model itself. Its results file is read back and converted to rows by `benchmark_scores.py`.
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

from harness.checkpoints.checkpoints import Checkpoint, require_unchanged
from harness.knowledge.questions import N_SHOTS, PREFIX, Benchmark, Task, write_tasks

# Maximum answer length in tokens. BBH answers are at most one line of words; a larger limit would shorten the prompts.
MOST_ANSWER_TOKENS = 64
_CUT = re.compile(r"Left truncation applied|exceeds model's maximum length")
_OUTPUT_TAIL = 2000  # characters of its last output shown in an error


class LmEvalRun(NamedTuple):
    """Result of a run.

    Attributes:
        results: contents of the results file.
        tasks: the tasks with their questions.
        truncated: whether prompts were too long for the model and were truncated.
    """

    results: dict[str, Any]
    tasks: list[Task]
    truncated: bool


def run(
    checkpoint: Checkpoint, benchmark: Benchmark, root: Path, device: str, batch: str, limit: int | None
) -> LmEvalRun:
    """Evaluate one model on one benchmark, few-shot.

    MMLU is scored by the likelihood of the four letters, BBH by greedy answers, bbh-choice by the likelihood of the
    offered answers.

    Args:
        checkpoint: model from the table, the Hub or a folder.
        benchmark: benchmark to run.
        root: the data root.
        device: "cpu" or "cuda".
        batch: prompts per batch, or "auto".
        limit: maximum number of questions per task; None for all.

    Raises:
        ValueError: if the weights are a delta or an adapter, which lm-evaluation-harness cannot combine with a base; or
            if the checkpoint has changed since it was resolved.
        FileNotFoundError: if there are no questions under the root.
        RuntimeError: if lm-evaluation-harness fails; the message ends with its last output.
    """
    if checkpoint.base_folder or checkpoint.base_hub_id or checkpoint.adapter:
        form = "an adapter of" if checkpoint.adapter else "a delta to"
        raise ValueError(
            f"{checkpoint.name} is published as {form} its base; save the merged model as a folder and evaluate that."
        )
    require_unchanged(checkpoint)
    with tempfile.TemporaryDirectory(prefix="harness-questions-") as folder:
        tasks = write_tasks(benchmark, root, Path(folder))
        command = [
            sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--model_args", _model_arguments(checkpoint),
            "--tasks", ",".join(f"{PREFIX}{benchmark}_{task.name}" for task in tasks), "--include_path", folder,
            "--num_fewshot", str(N_SHOTS[benchmark]), "--batch_size", batch, "--device", device,
            *(["--gen_kwargs", f"max_gen_toks={MOST_ANSWER_TOKENS}"] if benchmark == "bbh" else []),
            "--output_path", f"{folder}/results",
            *(["--limit", str(limit)] if limit else []),
        ]  # fmt: skip
        output, truncated = _run_process(command, offline=not checkpoint.hub_id)
        files = sorted(Path(folder, "results").rglob("results_*.json"))
        if not files:
            raise RuntimeError(
                f"lm-evaluation-harness gave no results for {checkpoint.name}. Its last output:\n{output}"
            )
        require_unchanged(checkpoint)  # must not have changed during the run either
        return LmEvalRun(json.loads(files[-1].read_text(encoding="utf-8")), tasks, truncated)


def _model_arguments(checkpoint: Checkpoint) -> str:
    location = checkpoint.hub_id or str(Path(checkpoint.folder).absolute())
    if "," in location:
        raise ValueError(f"{location}: lm-evaluation-harness takes no comma in a path; rename the folder.")
    revision = f",revision={checkpoint.revision}" if checkpoint.hub_id else ""
    return f"pretrained={location}{revision},trust_remote_code=False"


def _run_process(command: list[str], offline: bool) -> tuple[str, bool]:
    """Run a command; return its last output and whether a prompt was truncated. Output is also shown on a terminal."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_DATASETS_OFFLINE": "1"}
    environment |= {"HF_HUB_OFFLINE": "1"} if offline else {}
    output, truncated = "", False
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, errors="replace"
    ) as process:
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        for line in process.stdout:
            if _CUT.search(line):
                truncated = True
                continue
            output = (output + line)[-_OUTPUT_TAIL:]
            if sys.stderr.isatty():
                sys.stderr.write(line)
    if process.returncode:
        raise RuntimeError(f"lm-evaluation-harness ended with status {process.returncode}. Its last output:\n{output}")
    return output, truncated
