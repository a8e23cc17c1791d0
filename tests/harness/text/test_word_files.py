"""Words of a user's text: the same from every file format, or an error that names the line."""

from __future__ import annotations

import gzip
import json
import logging
from dataclasses import replace

import pandas as pd
import pytest

from harness.cli import commands
from harness.datasets.entry import checksum_of
from harness.models import tiny
from harness.storage.store import Store
from harness.text.word_files import TextOptions
from harness.units import corpora

WORDS = ["The", "old", "dog", "slept."]


def words_of(path, rule="passage", **options):
    shards = corpora.shards_of(str(path), rule, None, TextOptions(**options))
    return [word for shard in shards for word in shard.own()]


def write(folder, name, content):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder / name


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "word,passage\nThe,one\nold,one\ndog,one\nslept.,two\n"),
        ("a.csv", "word,passage\nThe,one,\nold,one,\ndog,one,\nslept.,two,\n"),
        ("a.csv", "word,passage\nThe,one,\nold,one\ndog,one\nslept.,two\n"),
        ("a.csv", "word;passage\nThe;one\nold;one\ndog;one\nslept.;two\n"),
        ("a.csv", "word\tpassage\nThe\tone\nold\tone\ndog\tone\nslept.\ttwo\n"),
        ("a.tsv", '"word"\t"passage"\n"The"\t"one"\n"old"\t"one"\n"dog"\t"one"\n"slept."\t"two"\n'),
        ("a.tab", "word\tpassage\nThe\tone\nold\tone\ndog\tone\nslept.\ttwo\n"),
        ("a.csv", '"","word","passage"\n"1","The","one"\n"2","old","one"\n"3","dog","one"\n"4","slept.","two"\n'),
        ("a.csv", "word,passage\rThe,one\rold,one\rdog,one\rslept.,two"),
        ("a.csv", "word, passage\nThe, one\nold, one\ndog, one\nslept., two\n"),
        ("a.csv", "word,passage\nThe,one\nold,one\ndog,one\nslept.,two\n".encode("utf-16")),
        ("a.csv.gz", gzip.compress(b"word,passage\nThe,one\nold,one\ndog,one\nslept.,two\n", mtime=0)),
    ],
)
def test_every_file_format_gives_the_same_words_and_passages(tmp_path, name, content):
    words = words_of(write(tmp_path, name, content))
    assert [word.word for word in words] == WORDS
    assert [word.passage for word in words] == ["one", "one", "one", "two"]
    assert corpora.name_of(str(tmp_path / name)) == "a"


def test_unpaired_quotes_are_part_of_the_words_with_a_note(tmp_path, caplog):
    path = write(tmp_path, "a.csv", 'word,passage\n"Stop,one\nthe,one\ncar!",one\nshe,one\n')
    with caplog.at_level(logging.WARNING):
        corpora.check(str(path))
    assert [word.word for word in words_of(path)] == ['"Stop', "the", 'car!"', "she"]
    assert "a.csv: quotes belong to the text, because one in line 2" in caplog.text


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_plain_text_may_state_its_encoding_or_get_it_as_an_option(tmp_path, encoding):
    path = write(tmp_path, "a.txt", "naïve bee — NA\n".encode(encoding))
    assert [word.word for word in words_of(path)] == ["naïve", "bee", "—", "NA"]
    path = write(tmp_path, "b.txt", "naïve bee".encode("cp1252"))
    assert [word.word for word in words_of(path, encoding="windows-1252")] == ["naïve", "bee"]


def test_words_are_joined_by_the_given_joiner(tmp_path):
    path = write(tmp_path, "a.csv", "word\n他\n在\n河\n边\n。\n她\n")
    (shard,) = corpora.shards_of(str(path), "passage", None, TextOptions(joiner=""))
    (context,) = shard.contexts()
    assert context.text == "他在河边。她"
    assert context.spans.tolist() == [[k, k + 1] for k in range(6)]
    assert [word.sentence for word in shard.own()] == ["1"] * 5 + ["2"]
    plain = write(tmp_path, "b.txt", "他 在 河 边 。 她")
    assert [word.word for word in words_of(plain, joiner="")] == list("他在河边。她")


def test_the_joiner_is_stored_with_the_shards_and_changes_the_corpus_key(tmp_path):
    store = Store(str(tmp_path / "out"))
    path = str(write(tmp_path, "a.csv", "word\nred\nfox\n"))
    plain, joined = (corpora.put(path, "passage", store, None, TextOptions(joiner=joiner)) for joiner in (None, "-"))
    assert plain.key == corpora.put(path, "passage", store, None, TextOptions(joiner=" ")).key != joined.key
    assert plain.version != joined.version  # it names the run, and stands in its rows
    texts = [corpora.read(corpus.shards[0], store).contexts()[0].text for corpus in (plain, joined)]
    assert texts == ["red fox", "red-fox"]


def test_a_plain_corpus_keeps_the_key_of_the_first_versions_unless_its_words_differ(tmp_path):
    """An existing OUT may hold shards with these keys: the same content must have the same key."""
    store = Store(str(tmp_path / "out"))

    def key(name, content, **options):
        return corpora.put(str(write(tmp_path, name, content)), "passage", store, None, TextOptions(**options))

    def before(corpus):
        made_of = [1, corpus.version, "passage", 20_000, 2_048, 5_000]
        return corpora.content_hash(made_of)[:24]

    for name, content in (("a.csv", "word,passage\nHe,p\nleft.,p\n"), ("b.txt", "He left. She"),
                          ("c.csv", 'word\n"a, b"\n'), ("d.csv", "word,sentence\nfine.”,1\nHe,1\n")):  # fmt: skip
        corpus = key(name, content)
        assert corpus.key == before(corpus)
    for name, content in (("e.csv", "word,passage\nHe,p,\n"), ("f.csv", "word\nfine.”\nHe\n"), ("g.txt", "Dr. Smith")):
        file = write(tmp_path, name, content)
        corpus = key(name, content)
        assert corpus.version != checksum_of(file, "sha256").removeprefix("sha256:")[:16]
        assert corpus.key != before(replace(corpus, version=checksum_of(file, "sha256").removeprefix("sha256:")[:16]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "word,passage\nThe,one\nold\n", "a.csv, line 3: 1 cell where the header names 2"),
        ("a.csv", "word\nThe,\nold,\n", "line 2: every row ends in a comma"),
        ("a.csv", "word,passage\nThe,one\nold,\n", "a.csv, line 3, column 'passage' is empty; fill it"),
        (
            "a.csv",
            "word,passage\nThe,a\nold,b\ndog,a\n",
            "line 4, column 'passage': passage 'a' is not contiguous",
        ),
        (
            "a.csv",
            'word,passage\n"The\ndog",one\n"x",one\n',
            "line 2, column 'word': word 1 .* contains a line break",
        ),
        ("a.csv", "word,Passage\nThe,one\n", "column 'Passage' is not known; is it 'passage'?"),
        ("a.csv", b"word\nna\xefve\n", "line 2, column 'word': byte 0xEF is not UTF-8|line 2: byte 0xEF is not UTF-8"),
        ("a.txt", b"The old\nna\xefve bee", "line 2: byte 0xEF is not UTF-8; in Windows-1252 it would be 'ï'"),
        ("a.txt", "word\tpassage\nThe\tone\n", "looks like a table"),
        ("a.txt", '"word" "passage"\n"1" "The" "one"\n', "looks like a table"),  # R's write.table
        ("a.txt", "word      passage\nThe       one\n", "looks like a table"),
        ("a.txt", "word\nThe\nold\n", "looks like a table"),
        ("a.csv", "word\nThe\n#NAME?\n", "line 3, column 'word': word 2 .* is a spreadsheet error"),
        ("a.txt", "他在河边睡觉。", "'他在河边睡觉。' is in a script without spaces"),
        ("a.txt", "ชายชรานอนหลับ", "is in a script without spaces"),
        ("a.csv", "word\n他\n在\n", 'line 2, column .word.: .他. is in a script without spaces .*--joiner ""'),
        ("a.csv", b"PK\x03\x04", "is an Excel workbook"),
        ("a.txt", b"PK\x03\x04", "is an Excel workbook"),
    ],
)
def test_errors_in_a_file_name_line_and_column(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        words_of(write(tmp_path, name, content))


def test_a_null_in_parquet_is_a_missing_word(tmp_path):
    pd.DataFrame({"word": ["The", None, "None"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet, row 2, column 'word': word 2 \(''\) has no text"):
        words_of(tmp_path / "a.parquet")
    pd.DataFrame({"word": ["The", "None", "nan"]}).to_parquet(tmp_path / "a.parquet")
    assert [word.word for word in words_of(tmp_path / "a.parquet")] == ["The", "None", "nan"]


def test_an_english_text_may_hold_words_of_other_scripts(tmp_path):
    path = write(tmp_path, "a.txt", "Senjō no Valkyria ( Japanese : 戦場のヴァルキュリア3 ) is 北京")
    assert [word.word for word in words_of(path)][-1] == "北京"


def test_joiner_and_language_change_the_text_given_to_a_model(tmp_path, capsys):
    model = str(tiny.build("llama", tmp_path / "llama", ["他在河边睡觉。"], seed=0))
    path = str(write(tmp_path, "a.csv", "word\n他\n在\n河\n。\n"))
    assert commands.main(["surprisal", path, "--model", model]) == 2
    assert "--joiner" in capsys.readouterr().err
    found = {}
    for joiner in ("", " "):
        assert (
            commands.main(["surprisal", path, "--model", model, "--joiner", joiner, "--language", "zh", "--json"]) == 0
        )
        found[joiner] = json.loads(capsys.readouterr().out)
    assert [row["word"] for row in found[""]] == ["他", "在", "河", "。"]
    assert all(row["corrected_bits"] is None for row in found[""])  # no space ends a word
    assert all(row["corrected_bits"] > 0 for row in found[" "])
    assert [row["surprisal_bits"] for row in found[""]] != [row["surprisal_bits"] for row in found[" "]]
    assert commands.main(["surprisal", path, "--model", model, "--language", "chinese"]) == 2
    assert "'chinese' is not a BCP 47 language code" in capsys.readouterr().err
