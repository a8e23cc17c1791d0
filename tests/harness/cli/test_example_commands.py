"""`harness examples`."""

import json
from importlib import resources

from harness.cli.commands import main

NAMES = ["base_and_tuned.ipynb", "own_recording.ipynb", "surprisal_and_reading_times.ipynb"]


def test_notebooks_are_listed_with_their_titles(capsys):
    assert main(["examples", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["notebook"] for row in rows] == NAMES
    assert rows[1]["title"] == "Does a language model predict my recording?"


def test_notebooks_are_copied_and_never_replaced(tmp_path, capsys):
    folder = tmp_path / "new" / "mine"
    assert main(["examples", str(folder)]) == 0
    assert sorted(path.name for path in folder.iterdir()) == NAMES
    for name in NAMES:
        assert (folder / name).read_bytes() == (resources.files("harness.examples") / name).read_bytes()
    (folder / NAMES[0]).unlink()
    (folder / NAMES[1]).write_text("changed")
    assert main(["examples", str(folder)]) == 2
    assert "own_recording.ipynb exists and may have been changed" in capsys.readouterr().err
    assert (folder / NAMES[1]).read_text() == "changed"
    assert not (folder / NAMES[0]).exists(), "nothing is half-written"
