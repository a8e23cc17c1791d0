"""Delimited files as written by people and programs: read correctly, or rejected with a message and line number."""

from __future__ import annotations

import gzip

import numpy as np
import pandas as pd
import pytest

from harness.delimited import form, table
from harness.delimited.encodings import TextSource

WANTED = ("word", "stimulus_id", "model")


def read(path, content, encoding=None, multiline=("text",)):
    data = content if isinstance(content, bytes) else content.encode()
    path.write_bytes(data)
    return table.read(TextSource(str(path), encoding), WANTED, multiline)


def rows(content):
    return [list(content.frame.columns), *content.frame.to_numpy().tolist()]


PLAIN = [["word", "passage"], ["The", "one"], ["old", "two"]]


@pytest.mark.parametrize(
    "content",
    [
        "word,passage\nThe,one\nold,two\n",
        "word,passage\nThe,one\nold,two",
        "word;passage\nThe;one\nold;two\n",
        "word\tpassage\nThe\tone\nold\ttwo\n",
        "word|passage\nThe|one\nold|two\n",
        "word,passage\r\nThe,one\r\nold,two\r\n",
        "word,passage\rThe,one\rold,two\r",
        "word,passage\n\nThe,one\n\n\nold,two\n\n",
        "word,passage\nThe,one\nold,two\n,\n,\n",
        "word,passage,\nThe,one,\nold,two,\n",
        "word,passage,,\nThe,one,,\nold,two,,\n",
        "word,passage\nThe,one,\nold,two,\n",
        "word,passage\nThe,one,,,\nold,two\n",
        "word;passage\nThe;one;\nold;two;\n",
        "sep=;\nword;passage\nThe;one\nold;two\n",
        '"sep=;"\nword;passage\nThe;one\nold;two\n',
        "sep=\t\nword\tpassage\nThe\tone\nold\ttwo\n",
        '"word","passage"\n"The","one"\n"old","two"\n',
        "word, passage\nThe, one\nold, two\n",
        'word, passage\n"The", "one"\nold, two\n',
        ",word,passage\n0,The,one\n1,old,two\n",
        '"","word","passage"\n"1","The","one"\n"2","old","two"\n',
        '"word","passage"\n"1","The","one"\n"2","old","two"\n',
        '"word" "passage"\n"1" "The" "one"\n"2" "old" "two"\n',
        '"";"word";"passage"\n"1";"The";"one"\n"2";"old";"two"\n',
        "word\tpassage\n1\tThe\tone\n2\told\ttwo\n",
        "Unnamed: 0,word,passage\n0,The,one\n1,old,two\n",
        "word,,passage\nThe,,one\nold,,two\n",
    ],
)
def test_all_forms_of_a_table_give_the_same_cells(tmp_path, content):
    assert rows(read(tmp_path / "t.csv", content)) == PLAIN


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_an_encoding_declared_by_the_file_is_used(tmp_path, encoding):
    content = "word,passage\nnaïve,eins\nüber,日本\n".encode(encoding)
    assert rows(read(tmp_path / "t.csv", content))[1:] == [["naïve", "eins"], ["über", "日本"]]


def test_utf_16_of_either_byte_order_and_gzip_are_detected(tmp_path):
    text = "word,passage\nnaïve,eins\n"
    for content in (b"\xfe\xff" + text.encode("utf-16-be"), gzip.compress(text.encode())):
        assert rows(read(tmp_path / "t.csv", content))[1] == ["naïve", "eins"]


def test_a_named_encoding_applies_to_files_that_declare_none(tmp_path):
    text = "word,passage\nnaïve,eins\n"
    for name in ("windows-1252", "cp1252", "latin-1"):
        assert rows(read(tmp_path / "t.csv", text.encode("cp1252"), name))[1] == ["naïve", "eins"]
    assert rows(read(tmp_path / "t.csv", text.encode("utf-8-sig"), "cp1252"))[1] == ["naïve", "eins"]
    assert rows(read(tmp_path / "t.csv", "word\n河边\n".encode("gb18030"), "gb18030"))[1] == ["河边"]


def test_an_invalid_byte_is_reported_with_its_column_and_its_windows_1252_character(tmp_path):
    content = "word,passage\nThe,one\nnaïve,two\n".encode("cp1252")
    with pytest.raises(ValueError, match=r"t\.csv, line 3, column 'word': byte 0xEF is not UTF-8") as error:
        read(tmp_path / "t.csv", content)
    assert "in Windows-1252 it would be 'ï'" in str(error.value)
    assert "--encoding windows-1252" in str(error.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('word\tpassage\n"Stop\tone\nthe\tone\ncar!"\tone\n', ['"Stop', "the", 'car!"']),
        ('word,passage\n"Stop,one\nthe,one\ncar!",one\n', ['"Stop', "the", 'car!"']),
        ('word\tpassage\n6\'2"\tone\n"Yes\tone\n', ["6'2\"", '"Yes']),
        ('word,passage\n",one\nHello,one\n",one\n', ['"', "Hello", '"']),
        ('word\n"\nHello\n"\n', ['"', "Hello", '"']),
        ('word\tpassage\n"Stop\tone\n"No"\tone\nx\tone\n', ['"Stop', '"No"', "x"]),
        ('word,passage\n"""Stop""",one\n"a, b",one\n', ['"Stop"', "a, b"]),
        ('word,passage\n"She \\"yes\\" x",one\nold,one\n', ['She "yes" x', "old"]),
        ('word;passage\n"\\"No.\\"";one\n"x";one\n', ['"No."', "x"]),
        ("word,passage\n'tis,one\nNo',one\n", ["'tis", "No'"]),
        ("word\nHowever,\nthe\nred,\nfox\n", ["However,", "the", "red,", "fox"]),
        ("word\n10,000\nmen.\n", ["10,000", "men."]),
        ("word\nNA\nnull\nNone\nnan\n", ["NA", "null", "None", "nan"]),
        ("word,passage\nThe\x0c,one\nold\u2028x,one\n", ["The\x0c", "old\u2028x"]),
    ],
)
def test_quotes_and_separators_that_are_part_of_a_word_are_kept(tmp_path, content, words):
    assert list(read(tmp_path / "t.csv", content).frame["word"]) == words


def test_a_text_may_contain_a_line_break_if_no_other_reading_fits(tmp_path):
    content = 'stimulus_id,text\ns0,"The dog\nwas, yes, old."\ns1,x\n'
    result = read(tmp_path / "t.csv", content)
    assert list(result.frame["text"]) == ["The dog\nwas, yes, old.", "x"]
    assert list(result.lines) == [2, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("word,passage\nThe,one,\nold,one,x\n", r"line 3: 3 cells where the header names 2 \(word, passage\)"),
        ("word,passage\nThe\nold,one\n", r"line 2: 1 cell where the header names 2 .*column 'passage' is missing"),
        ("word\nThe,\nold,\n", "line 2: every row ends in a comma but the header does not"),
        ("word\nThe,one\nold,two\n", "line 2: 2 cells where the header names 1"),
        ("word\nThe,one\nold\n", "line 2: 'The,one' where the header names one column"),
        ("word\nThe\tone\nold\n", r"line 2: 'The\\tone' where the header names one column"),
        ("stimulus_id\ttext\n1\tThe dog\t.3\n2\tx\t.5\n", "line 2: 3 cells where the header names 2"),
        ("stimulus_id,text\n1,The dog, old.\n2,A cat, grey.\n", "line 2: 3 cells .*column 3 would be ' old.'"),
        ("word,passage\n1,The,\n2,old,\n", "line 2: rows end in a separator .* write the table without row names"),
        ('stimulus_id,text\ns0,"The dog\nwas, old."\ns1,x\n', "line 2: quotes may enclose cells or be part"),
        ('word,passage\n"The","one"\n"old","one\n"dog","one"\n', "line 3: a quote opens a cell and is not closed"),
        ('"word","passage"\n"The","one"\n"old","one\n', "line 3: a quote opens a cell and is not closed"),
        ('word\tpassage\n6\'2"\tone\n"No"\tone\n', "line 2: quotes may enclose cells or be part of the text"),
        ("word,passage,word\nThe,one,x\n", "line 1: column 'word' appears more than once"),
        ("word,,passage\nThe,x,one\n", "line 2: column 2 has no name, but contains 'x'"),
        ("", "is empty"),
        ("word\nThe\0\n", "line 2: a zero byte"),
        (b"PK\x03\x04abc", "is an Excel workbook"),
        ("<!DOCTYPE html>", "is a web page"),
    ],
)
def test_a_malformed_or_ambiguous_file_is_rejected_with_its_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "t.csv", content)


def test_a_wrong_or_unknown_encoding_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"t\.csv is UTF-8, not cp1252 as stated"):
        read(tmp_path / "t.csv", "word\nnaïve\n", "cp1252")
    with pytest.raises(ValueError, match=r"encoding 'window-1252' is unknown; use a name such as windows-1252"):
        read(tmp_path / "t.csv", "word\nx\n", "window-1252")
    with pytest.raises(ValueError, match=r"t\.csv, line 3: byte 0x81 is not cp1252 as stated"):
        read(tmp_path / "t.csv", b"word\nx\n\x81\n", "cp1252")
    with pytest.raises(ValueError, match="the compression is damaged"):
        read(tmp_path / "t.csv", gzip.compress(b"word\nx\n" * 99)[:-9])


@pytest.mark.parametrize("content", ["word\n{}", '"word"\n{}', "word,passage,\n{}"])
def test_line_numbers_are_correct_in_long_files(tmp_path, content):
    """Without quotes, with quotes, and row by row."""
    n = 120_000
    line = {"word\n{}": "w{}", '"word"\n{}': '"w{}"', "word,passage,\n{}": "w{},p,"}[content]
    result = read(tmp_path / "t.csv", content.format("".join(f"{line.format(k)}\n" for k in range(n))))
    assert list(result.frame["word"]) == [f"w{k}" for k in range(n)]
    assert list(result.lines) == list(range(2, n + 2))


def test_a_plain_file_gives_the_cells_that_pandas_reads(tmp_path):
    rng = np.random.default_rng(0)
    words = rng.choice(["a", "NA", "", " x", "y ", "ü", "a b", "1e5", "'"], (5_000, 3))
    pd.DataFrame(words, columns=["word", "b", "c"]).to_csv(tmp_path / "t.csv", index=False)
    detected = form.detect(TextSource(str(tmp_path / "t.csv")), WANTED)
    theirs = pd.read_csv(tmp_path / "t.csv", dtype=str, keep_default_na=False)
    parts = [part.frame for part in table.stream(TextSource(str(tmp_path / "t.csv")), detected)]
    filled = (theirs != "").any(axis=1)
    ours = pd.concat(parts, ignore_index=True)
    assert ours[(ours != "").any(axis=1)].to_numpy().tolist() == theirs[filled].to_numpy().tolist()
