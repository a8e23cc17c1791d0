"""The Dockerfile: it is sent what it copies and nothing else, and installs what the lock and the Makefile say."""

import fnmatch
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def instructions():
    """(instruction, arguments) of each line; a backslash continues a line."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def is_sent(path):
    """Whether .dockerignore lets a file through to the builder: the last pattern that matches it decides."""
    sent = True
    for pattern in (ROOT / ".dockerignore").read_text().splitlines():
        if not pattern or pattern.startswith("#"):
            continue
        kept, glob = pattern.startswith("!"), pattern.removeprefix("!").removeprefix("**/")
        parts = Path(path).parts
        prefixes = ["/".join(parts[:k]) for k in range(1, len(parts) + 1)]
        if any(fnmatch.fnmatch(name, glob) for name in ([*prefixes, *parts] if "**/" in pattern else prefixes)):
            sent = kept
    return sent


def pip_installs():
    """The options and requirements of each `pip install`, in order."""
    commands = "; ".join(arguments for name, arguments in instructions() if name == "RUN")
    return [shlex.split(command) for command in re.findall(r"pip install ([^;&]*)", commands)]


def tracked():
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def test_what_is_copied_exists_and_is_sent():
    copied = [shlex.split(arguments) for name, arguments in instructions() if name == "COPY"]
    of_context = [source for words in copied if not words[0].startswith("--from") for source in words[:-1]]
    assert of_context == [".", ".ci/constraints.txt"]
    for source in of_context[1:]:
        assert (ROOT / source).is_file()
        assert is_sent(source)


def test_all_of_the_program_is_sent_and_nothing_else():
    wanted = [path for path in tracked() if path.startswith(("harness/", "kernels/", "jobs/"))]
    wanted += ["pyproject.toml", "README.md", ".ci/constraints.txt"]
    assert [path for path in tracked() if is_sent(path)] == sorted(wanted)


@pytest.mark.parametrize("path", [
    ".git/config", ".env", "results/tables/x.parquet", "data/x.csv", ".venv/bin/python", "tests/conftest.py",
    "harness/api/__pycache__/x.pyc", "models.lock",
])  # fmt: skip
def test_data_results_and_secrets_are_not_sent(path):
    assert not is_sent(path)


def test_everything_installed_from_an_index_is_locked_and_torch_comes_first_as_in_the_makefile():
    of_index = [words for words in pip_installs() if "--no-deps" not in words]
    assert all(words[:2] == ["--constraint", "/opt/constraints.txt"] for words in of_index)
    assert [words[2] for words in of_index] == ["torch", "torch", "--requirement"]
    makefile = (ROOT / "Makefile").read_text()
    assert re.findall(r"pip install --quiet --constraint \.ci/constraints\.txt (\S+)", makefile)[0] == "torch"
    assert "cupy-cuda13x==" in (ROOT / ".ci" / "constraints.txt").read_text()


def test_the_requirements_are_those_of_pyproject(tmp_path):
    """The Python in the Dockerfile writes them, by device."""
    runs = " ".join(arguments for name, arguments in instructions() if name == "RUN")
    (code,) = re.findall(r"python -c '([^']*)'", runs)
    (tmp_path / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    code = "\n".join(part.strip() for part in code.replace("/requirements/", "").split(";"))
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (tmp_path / "cpu.txt").read_text().splitlines() == project["dependencies"]
    gpu = project["optional-dependencies"]["gpu"]
    assert (tmp_path / "cuda.txt").read_text().splitlines() == [*project["dependencies"], *gpu]


def test_it_does_not_run_as_root_and_starts_the_command():
    last = dict(instructions())
    assert last["USER"] == "1000"
    assert last["ENTRYPOINT"] == '["harness"]'
