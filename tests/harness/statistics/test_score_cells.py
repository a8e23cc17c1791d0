"""Files of scores in the formats that programs and users write."""

from __future__ import annotations

import json

import fsspec
import pytest

from harness.cli import commands
from harness.models import sizes
from harness.statistics import score_files

TABLE = """model,base,n_parameters,pereira2018_r,MMLU
small,,1100000000,0.21,0.3
small-chat,small,1100000000,0.23,0.31
big,,7000000000,0.31,0.4
big-chat,big,7000000000,0.3,0.42
"""


def read(folder, content, name="scores.csv", **options):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return score_files.read(str(path), **options)


def continental(text):
    return text.replace(",", ";").replace("0.", "0,")


def with_index(text):
    head, *rows = text.splitlines()
    return "\n".join([f'"",{head}', *(f'"{k}",{row}' for k, row in enumerate(rows))])


def as_json(text):
    head, *rows = [line.split(",") for line in text.splitlines()]
    numbers = {"n_parameters", "pereira2018_r", "MMLU"}
    return json.dumps([
        {name: float(cell) if name in numbers else cell or None for name, cell in zip(head, row, strict=True)}
        for row in rows
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("scores.csv", TABLE),
        ("scores.csv", TABLE.encode("utf-16")),
        ("scores.csv", TABLE.encode("utf-8-sig")),
        ("scores.csv", continental(TABLE)),
        ("scores.csv", TABLE.replace(",", "\t")),
        ("scores.txt", TABLE),
        ("scores.csv", with_index(TABLE)),
        ("scores.csv", TABLE.replace("model,base", "X,model,base").replace("small,,", "1,small,,")
         .replace("small-chat", "2,small-chat").replace("big,,", "3,big,,").replace("big-chat", "4,big-chat")),
        ("scores.csv", TABLE.replace("0.4\n", "0.4,\n")),
        ("scores.csv", TABLE.replace("7000000000", "7B").replace("1100000000", "1.1B")),
        ("scores.csv", TABLE.replace("7000000000", "7B")),
        ("scores.csv", TABLE.replace("7000000000", '"7,000,000,000"').replace("1100000000", '"1,100,000,000"')),
        ("scores.csv", TABLE.replace("7000000000", "7e9").replace("1100000000", "1100M")),
        ("scores.csv", TABLE.replace("big,7", "Big ,7").replace(",small,", ",SMALL,")),
        ("scores.json", as_json(TABLE)),
        ("scores.json", as_json(TABLE).encode("utf-8-sig")),
    ],
)  # fmt: skip
def test_every_format_gives_the_same_scores_pairs_and_sizes(tmp_path, name, content):
    scores = read(tmp_path, content, name)
    assert scores.models["base"].to_dict() == {"small": "", "small-chat": "small", "big": "", "big-chat": "big"}
    assert scores.models["n_parameters"].tolist() == [1.1e9, 1.1e9, 7e9, 7e9]
    assert scores.rows.set_index("model")["score"].to_dict() == {
        "small": 0.21, "small-chat": 0.23, "big": 0.31, "big-chat": 0.3,
    }  # fmt: skip
    assert scores.properties == ("n_parameters", "MMLU")


@pytest.mark.parametrize("name", ["NA", "None", "nan", "null", "7", "007"])
def test_a_model_name_may_look_like_a_missing_value(tmp_path, name):
    scores = read(tmp_path, TABLE.replace("small,,", f"{name},,").replace(",small,", f",{name},"))
    assert scores.models["base"]["small-chat"] == name
    assert name in scores.models.index


def test_na_means_no_base_unless_a_model_has_that_name(tmp_path):
    scores = read(tmp_path, TABLE.replace(",,", ",NA,"))
    assert scores.models["base"].to_dict()["small"] == ""
    assert any("base NA is read as no base" in note for note in scores.notes)


def test_two_unicode_forms_of_a_name_are_one_model(tmp_path):
    text = "model,base,dataset,r\ncaf\u00e9,,x,.1\ncafe\u0301,,y,.3\nchat,cafe\u0301,x,.2\n"
    scores = read(tmp_path, text)
    assert scores.models["base"].to_dict() == {"caf\u00e9": "", "chat": "caf\u00e9"}
    assert any("written in two Unicode forms" in note for note in scores.notes)


def test_a_subject_may_be_called_na(tmp_path):
    text = "model,dataset,subject,r\n" + "".join(f"{m},x,{s},.{k}\n" for k, (m, s) in
           enumerate((m, s) for m in "ab" for s in ("NA", "s2")))  # fmt: skip
    assert set(read(tmp_path, text).by_subject["subject"]) == {"NA", "s2"}


def test_dates_versions_and_hashes_are_text_and_not_used(tmp_path):
    rows = TABLE.splitlines()
    extra = [",released,version,revision", *(f",2024-01-0{k},0.4.{k},a{k}b2" for k in range(1, 5))]
    scores = read(tmp_path, "\n".join(row + more for row, more in zip(rows, extra, strict=True)))
    assert scores.properties == ("n_parameters", "MMLU")
    assert any("not numbers: released, version, revision" in note for note in scores.notes)


def test_matched_names_and_unused_columns_are_noted(tmp_path):
    text = TABLE.replace(",small,", ",Small,").replace("MMLU", "lab").replace("0.3\n", "A\n").replace("0.31\n", "A\n")
    text = text.replace("0.4\n", "B\n").replace("0.42\n", "B\n")
    notes = " ".join(read(tmp_path, text).notes)
    assert "base 'Small' is matched to the model 'small', from which it differs in capital letters" in notes
    assert "not used because they are not numbers: lab" in notes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TABLE.replace("7000000000", "7 or 8B"), r"line 4, column 'n_parameters' \(model big\) is '7 or 8B'"),
        (
            TABLE.replace("0.42", "0.42*"),
            r"line 5, column 'MMLU' \(model big-chat\) is '0\.42\*'; write a finite number",
        ),
        (TABLE.replace("0.31,0.4", '"0,31",0.4'), "line 4, column 'pereira2018_r' .* is '0,31', but .* is '0.21'"),
        (TABLE.replace("7000000000", '"7,000"').replace("1100000000", '"1,100"'), "'1,100': its comma may separate"),
        (TABLE.replace("7000000000", '"1,100M"'), "line 4, column 'n_parameters': '1,100M': its comma may set off"),
        (TABLE.replace("big-chat,big", ",big"), "line 5, column 'model' is empty"),
        (
            TABLE.replace("small", "kleïn").encode("cp1252"),
            "line 2, column 'model': byte 0xEF .*--encoding windows-1252",
        ),
        (
            TABLE + "extra,,1,0.1,0.2\nExtra,,1,0.1,0.2\nz,EXTRA,1,.1,.2\n",
            "base 'EXTRA' is not the exact name of a model; it could be extra or",
        ),
        ("model,dataset,r\na,,.1\n", "line 2, column 'dataset' is empty"),
        ("model,dataset,subject,r\na,x,,.1\n", "line 2, column 'subject' is empty"),
    ],
)
def test_unreadable_cells_are_refused_with_line_and_column(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, content)


def test_a_file_may_be_given_as_a_url(tmp_path):
    fsspec.filesystem("memory").pipe_file("/scores.csv", TABLE.encode("utf-16"))
    assert len(score_files.read("memory://scores.csv").models) == 4


def test_the_command_accepts_an_encoding(tmp_path, capsys):
    path = tmp_path / "scores.csv"
    path.write_bytes(TABLE.replace("small", "kleïn").encode("cp1252"))
    assert commands.main(["analyse", str(path)]) == 2
    assert commands.main(["analyse", str(path), "--encoding", "windows-1252"]) == 0
    assert "4 models" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "expected"),
    [("7B", 7e9), ("350M", 3.5e8), ("1.3b", 1.3e9), ("1,3B", 1.3e9), ("124 m", 1.24e8), ("70k", 7e4), ("1T", 1e12),
     ("7 billion", 7e9), ("350 million parameters", 3.5e8), ("2 Mrd", 2e9)],
)  # fmt: skip
def test_sizes_may_have_suffixes_or_words(text, expected):
    assert sizes.has_suffix(text)
    assert sizes.read(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["7BB", "B7", "7B-chat", "", "1e9x", "seven"])
def test_text_that_is_not_a_size_is_refused(text):
    assert not sizes.has_suffix(text)
    with pytest.raises(ValueError, match="is not a size"):
        sizes.read(text)
