"""The pages: their commands and Python run, their links lead somewhere, and README.md is short."""

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness.checkpoints import checkpoints
from harness.cli import run_commands
from harness.cli.commands import main, parser

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "harness" / "README.md",
    *sorted(ROOT.glob("harness/*/README.md")),
    ROOT / "kernels" / "README.md",
]
ROOMS = sorted(path.parent for path in ROOT.glob("harness/*/__init__.py") if not path.parent.is_symlink())


def blocks(page, kind):
    """Fenced blocks of a kind, with the page's name."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def name(page):
    return str(page.relative_to(ROOT).parent)


def lines(kind):
    """(page, line) of all shell lines of a kind; a backslash continues a line, # begins a comment."""
    for page in PAGES:
        for block in blocks(page, kind):
            for line in block.replace("\\\n", " ").splitlines():
                command = line.partition(" #")[0].strip()
                if command and not command.startswith("#"):
                    yield pytest.param(command, id=f"{name(page)}: {command}")


@pytest.fixture(scope="module")
def folder(finished_quickstart, tmp_path_factory):
    """What the pages' commands find: a finished quickstart, words, scores, a recording, a file of models."""
    made = tmp_path_factory.mktemp("pages")
    finished_quickstart.copy_to(made / "results")
    sentence = "The old dog slept by the fire while the children played outside in the cold snow ."
    (made / "words.csv").write_text("\n".join(["word", *sentence.split()]) + "\n")
    bases = [f"m{k},,{10 ** (6 + k)},0.{10 + k}" for k in range(4)]
    tuned = [f"m{k}-tuned,m{k},{10 ** (6 + k)},0.{12 + k * k}" for k in range(4)]
    (made / "scores.csv").write_text("\n".join(["model,base,n_parameters,tuckute2024_r", *bases, *tuned]) + "\n")
    own = made / "mylab"
    own.mkdir()
    ids = [f"s{k}" for k in range(30)]
    (own / "stimuli.csv").write_text("stimulus_id,text,passage\n" + "".join(
        f"{i},Sentence number {k} is about topic {k // 5}.,p{k // 5}\n" for k, i in enumerate(ids)))  # fmt: skip
    (own / "responses.csv").write_text("row_id,v0,v1\n" + "".join(
        f"{i},{(k * 7) % 11 / 10},{(k * 5) % 13 / 10}\n" for k, i in enumerate(ids)))  # fmt: skip
    (made / "models.toml").write_text('[my-model]\nfolder = "results/quickstart/tiny-gpt2"\n')
    return made


@pytest.mark.ray
@pytest.mark.parametrize("command", lines("sh"))
def test_a_command_runs(command, folder, monkeypatch):
    """Plain commands in this process, which has imported everything; others in a shell."""
    monkeypatch.chdir(folder)
    words = shlex.split(command)
    if words[0] == "harness" and not {"|", ">", "&&", ";"} & set(words):
        assert main(words[1:]) == 0
        return
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], env=environment, timeout=300, check=True)


@pytest.mark.parametrize("command", lines("sh parsed"))
def test_a_command_that_needs_a_cluster_or_a_network_parses(command, tmp_path, monkeypatch):
    (tmp_path / "mylab").mkdir()  # the reader's own recording
    monkeypatch.chdir(tmp_path)
    for part in re.split(r"\s(?:\||&&|;)\s", command):
        words = [word for word in shlex.split(part) if not re.fullmatch(r"[A-Z_]+=\S*", word)]
        if words[0] == "harness":
            output = io.StringIO()
            with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
                try:
                    arguments = parser().parse_args(words[1 : words.index(">")] if ">" in words else words[1:])
                except SystemExit as ended:
                    assert ended.code == 0, output.getvalue()
                    continue
            if words[1] in ("run", "submit"):
                run_commands.spec_of(arguments)
            for model in getattr(arguments, "model", None) or ():
                if not model.isupper() and not model.startswith(("./", "/")):  # no placeholder, no folder of the reader
                    checkpoints.require_known(model)


@pytest.mark.ray
@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file() and blocks(page, "python")], ids=name)
def test_python_runs(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})  # noqa: S102 - our own pages


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_every_room_has_a_page(room):
    assert (room / "README.md").is_file()


@pytest.mark.parametrize("page", [page for page in PAGES if page.is_file()], ids=name)
def test_links_lead_somewhere(page):
    for text, target in re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, heading = target.partition("#")
        to = (page.parent / file).resolve() if file else page
        assert to.exists(), f"[{text}]({target})"
        if heading:
            headings = re.findall(r"^#+ (.*)$", to.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in headings}
            assert heading in slugs, f"[{text}]({target})"


def test_the_first_page_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.encode()) <= 10_000
    assert all(len(line) <= 120 for line in text.splitlines())
