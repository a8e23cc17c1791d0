"""The benchmark runs, in miniature, and what it writes can be read. No time is looked at."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).resolve().parent
NAMED = {
    "benchmark", "workload", "subject", "seconds", "ratio_to_ours", "ratio_low", "ratio_high", "peak_bytes", "machine",
    "threads", "inner_rule", "gemm_share", "n_dropped", "gate",
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """The gates, which everybody must pass, and one workload; the others differ in size and take longer to import."""
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--only", "gates,wide,gpu"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False), folder


@pytest.fixture
def rows(done):
    return json.loads((done[1] / "benchmarks.json").read_text())


def test_it_ends_well(done):
    assert done[0].returncode == 0, done[0].stdout + done[0].stderr


def test_every_row_has_the_named_columns(rows):
    assert rows
    assert all(row.keys() >= NAMED for row in rows)


def test_all_gates_opened(rows):
    gates = [row["gate"] for row in rows if row["gate"]]
    assert sum(gate.startswith("passed") for gate in gates) > 20
    assert not [gate for gate in gates if gate.startswith("FAILED")]


def test_ours_and_theirs_are_timed_side_by_side(rows):
    timed = {row["subject"]: row for row in rows if row["benchmark"] == "ridge" and row["seconds"]}
    there = {"ours mixed", *(["himalaya KernelRidgeCV"] if importlib.util.find_spec("himalaya") else [])}
    assert timed.keys() == there
    assert all(row["ratio_to_ours"] > 0 and row["peak_bytes"] >= 0 for row in timed.values())


def test_what_could_not_run_is_said(done):
    assert "gpu" in done[0].stdout


def test_extraction_is_timed_and_grows(tmp_path):
    command = [sys.executable, str(HERE / "run.py"), "--quick", "--only", "extraction"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    rows = json.loads((tmp_path / "benchmarks.json").read_text())
    assert sum(row["exponent"] is not None for row in rows) == 3


def test_pereira_goes_from_its_file_to_its_scores(tmp_path):
    """As well as through the gate: Brain-Score's way gives the same alpha and the same r."""
    command = [sys.executable, str(HERE / "pereira.py"), "--quick", "--without-ceilings", "--out", "pereira.json"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    rows = json.loads((tmp_path / "pereira.json").read_text())
    assert {row["what"].split(",")[0] for row in rows} == {
        "load", "score", "unique variance", "ours", "Brain-Score's way"
    }  # fmt: skip
    assert all(row["seconds"] > 0 for row in rows)
    assert all(row["what"] in run.stdout for row in rows)
