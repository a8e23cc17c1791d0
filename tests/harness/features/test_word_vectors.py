"""Static word vectors from all common file formats."""

from __future__ import annotations

import gzip
import logging

import numpy as np
import pytest

from harness.features import word_vectors

VECTORS = {"bee": [1, 2, 3], "The": [0, 0, 6], "sang": [3, 0, 0], "don't": [0.5, -1e-3, 0], "it": [9, 9, 9]}


def lines_of(vectors):
    return [" ".join([word, *map(str, vector)]) for word, vector in vectors.items()]


def written(path, lines, end="\n", pack=lambda content: content):
    path.write_bytes(pack("".join(line + end for line in lines).encode()))
    return str(path)


@pytest.fixture
def plain(tmp_path):
    return written(tmp_path / "glove.txt", lines_of(VECTORS))


def test_a_sentence_is_the_mean_over_its_known_words(plain):
    found = word_vectors.embed(["The bee sang zzz.", "qqq", "bee"], plain)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[4 / 3, 2 / 3, 3], [0, 0, 0], [1, 2, 3]], rtol=1e-6)


def test_a_word_is_looked_up_as_shown_then_without_punctuation_then_in_lower_case(tmp_path):
    vectors = {"US": [1, 1], "us": [2, 2], '"us"': [3, 3], "it": [4, 4]}
    path = written(tmp_path / "v.txt", lines_of(vectors))
    np.testing.assert_array_equal(
        word_vectors.embed(["US", '"US,"', '"us"', "Us!", "(It)"], path)[:, 0], [1, 1, 3, 2, 4]
    )


def test_outer_punctuation_is_removed_and_inner_kept():
    assert [word_vectors.bare(word) for word in ("snow.", "“Don't!”", "—", "U.S.", "a-b", "(x)", "dogs'")] == [
        "snow", "Don't", "", "U.S", "a-b", "x", "dogs",
    ]  # fmt: skip


FORMS = {
    "in any order": lambda lines: (lines[::-1], {}),
    "with a header": lambda lines: ([f"{len(lines)} 3", *lines], {}),
    "with spaces at the ends of lines": lambda lines: ([line + " " for line in lines], {}),
    "with lines ended as on Windows": lambda lines: (lines, {"end": "\r\n"}),
    "gzipped": lambda lines: (lines, {"pack": gzip.compress}),
    "gzipped, with a header": lambda lines: ([f"{len(lines)} 3", *lines], {"pack": gzip.compress}),
    "with tokens that hold spaces": lambda lines: ([*lines, ". . . 1 2 3", "bee name@domain.com 4 5 6"], {}),
    "with a byte-order mark": lambda lines: (["\ufeff" + lines[0], *lines[1:]], {}),
    "with a byte-order mark and a header": lambda lines: ([f"\ufeff{len(lines)} 3", *lines], {}),
    "with tabs": lambda lines: ([line.replace(" ", "\t") for line in lines], {}),
    "with a tab after the word": lambda lines: ([line.replace(" ", "\t", 1) for line in lines], {}),
    "with two spaces": lambda lines: ([line.replace(" ", "  ") for line in lines], {}),
    "with other words": lambda lines: (["x 1 1 1", *lines, "bee 7 7 7", "ñandú 1 2 3"], {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_same_words_have_the_same_vectors_whatever_the_form_of_the_file(form, plain, tmp_path):
    lines, how = FORMS[form](lines_of(VECTORS))
    texts = ["The bee sang.", "Don't", "it it sang"]
    other = written(tmp_path / "other", lines, **how)
    np.testing.assert_array_equal(word_vectors.embed(texts, other), word_vectors.embed(texts, plain))
    np.testing.assert_array_equal(word_vectors.read(other, ["bee"])["bee"], [1, 2, 3])


@pytest.mark.parametrize(("lines", "message"), [
    (["bee 1 2 3", "fox 1 2"], "line 2: 2 numbers instead of 3"),
    (["bee 1 2 3", "fox 1 2 3 4"], "line 2: 4 numbers instead of 3"),
    (["2 3", "bee 1 2 3", "fox 1"], "line 3: 1 numbers instead of 3"),
    (["bee 1 2 3", ""], "line 2: 0 numbers instead of 3"),
    (["bee 1 x 3"], "line 1: 'x' is not a finite number"),
    (["bee 1 nan 3"], "line 1: 'nan' is not a finite number"),
    (["5 3", "bee 1 2 3"], "1 vectors, but its header states 5"),
    ([], "first line has no vector"),
    (["<html>"], "first line has no vector"),
    (["fox 1 2 3"], "has none of the 2 words"),
])  # fmt: skip
def test_a_damaged_file_is_refused_by_line(lines, message, tmp_path):
    path = written(tmp_path / "v.txt", lines)
    with pytest.raises(ValueError, match=message):
        word_vectors.embed(["bee sang"], path)


def test_a_word_is_found_in_either_unicode_form(tmp_path):
    path = written(tmp_path / "v.txt", ["cafe\u0301 1 2", "über 3 4", "u\u0308ber 5 6"])
    found = word_vectors.read(path, ["café", "über", "河"])
    assert {word: list(vector) for word, vector in found.items()} == {"café": [1, 2], "über": [3, 4]}


def test_another_encoding_is_refused_and_named(tmp_path):
    (tmp_path / "v.txt").write_bytes("bee 1 2\nnaïve 3 4\n".encode("cp1252"))
    with pytest.raises(ValueError, match="line 2: 'naïve' is Windows-1252; save the file as UTF-8"):
        word_vectors.read(str(tmp_path / "v.txt"), ["naïve"])
    assert list(word_vectors.read(str(tmp_path / "v.txt"), ["bee"])) == ["bee"]
    (tmp_path / "v.txt").write_bytes("bee 1 2\n".encode("utf-16"))
    with pytest.raises(ValueError, match="is UTF-16; save it as UTF-8"):
        word_vectors.read(str(tmp_path / "v.txt"), ["bee"])


def test_a_truncated_gzip_file_is_refused(tmp_path):
    path = written(tmp_path / "v.gz", lines_of(VECTORS) * 50, pack=lambda content: gzip.compress(content)[:-20])
    with pytest.raises(ValueError, match="is truncated"):
        word_vectors.read(path, ["zzz"])


def test_the_number_of_known_words_is_logged_with_a_warning_under_half(plain, caplog):
    with caplog.at_level(logging.INFO):
        word_vectors.embed(["bee sang x"], plain)
        word_vectors.embed(["bee x y"], plain)
    assert [(record.levelname, record.message.split(" ", 2)[2]) for record in caplog.records] == [
        ("INFO", "words=3 known=2"),
        ("WARNING", "words=3 known=1"),
    ]
