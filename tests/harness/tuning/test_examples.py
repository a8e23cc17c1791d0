"""Examples in Alpaca's form: what is read, and what is refused with its line."""

import json

import pytest

from harness.tuning import examples
from harness.tuning.examples import Example

ROWS = [
    {"instruction": "Add.", "input": "1 and 2", "output": "3"},
    {"instruction": "Greet.", "output": "Hello\u2028there."},
    {"instruction": "Name one.", "input": None, "output": "One.", "text": "ignored"},
]
READ = [Example("Add.", "1 and 2", "3"), Example("Greet.", "", "Hello\u2028there."), Example("Name one.", "", "One.")]


@pytest.mark.parametrize("text", [
    json.dumps(ROWS), json.dumps(ROWS, indent=2), "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS),
    "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS)) + "\n\n",
], ids=["list", "indented list", "lines", "lines with BOM, CRLF and blank lines"])  # fmt: skip
def test_lists_and_lines_are_read_alike(text, tmp_path):
    file = tmp_path / "examples.json"
    file.write_text(text, encoding="utf-8", newline="")
    assert examples.read(file) == READ


@pytest.mark.parametrize(("text", "message"), [
    ('{"instruction": "a", "output": "b"}\n{"instruction": "a"}', "line 2: no field 'output'"),
    ('{"instruction": "a", "output": "b"}\n\n{"instruction": ', "line 3: not valid JSON"),
    ('{"instruction": "a", "output": 3}', "line 1: 'output' must be text, not int"),
    ('{"instruction": "a", "output": "  "}', "line 1: 'output' is empty"),
    ('["a"]', "example 1: wanted an object"),
    ('[{"instruction": "a", "output": "b"}, {"output": "b"}]', "example 2: no field 'instruction'"),
    ('[{"instruction": "a",\n "output"]', "line 2: not valid JSON"),
    ("\n", "holds no examples"),
])  # fmt: skip
def test_a_bad_example_is_named_by_its_line(text, message, tmp_path):
    file = tmp_path / "examples.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        examples.read(file)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not a file"):
        examples.read(tmp_path / "absent.json")
    (tmp_path / "latin.json").write_bytes(b'[{"instruction": "caf\xe9", "output": "b"}]')
    with pytest.raises(ValueError, match="not UTF-8"):
        examples.read(tmp_path / "latin.json")


def test_bbh_questions_become_examples_and_survive_writing(shared, tmp_path):
    rows = examples.of_bbh(shared / "data" / "bbh" / "bbh")
    assert len(rows) == 6511
    assert rows[0] == Example(
        "Evaluate the result of a random Boolean expression.", "not ( True ) and ( True ) is", "False"
    )
    assert all(row.instruction and row.input and row.output for row in rows)
    assert examples.write(rows, tmp_path / "bbh.jsonl") == 6511
    assert examples.read(tmp_path / "bbh.jsonl") == rows


def test_other_folders_are_not_bbh(tmp_path):
    with pytest.raises(FileNotFoundError, match="BIG-Bench-Hard"):
        examples.of_bbh(tmp_path)
    (tmp_path / "snarks.json").write_text("{}")
    with pytest.raises(ValueError, match=r"snarks.json is not a task"):
        examples.of_bbh(tmp_path)
    (tmp_path / "cooking.json").write_text("{}")
    with pytest.raises(ValueError, match=r"cooking.json is not one of the 27 tasks"):
        examples.of_bbh(tmp_path)
