"""Contrast texts of the localiser: read from a user's or a published file, or made up."""

import numpy as np
import pytest

from harness.text import localiser_texts
from harness.text.frequencies import zipf_frequencies


def test_the_built_in_texts_have_the_published_numbers_and_no_known_non_word():
    contrast = localiser_texts.built_in()
    sentences, non_words = contrast.texts[:240], contrast.texts[240:]
    assert contrast.is_sentence == (True,) * 240 + (False,) * 240
    assert len(set(sentences)) == len(set(non_words)) == 240
    assert {len(text.split()) for text in contrast.texts} == {12}
    made_up = sorted({word for text in non_words for word in text.split()})
    assert (zipf_frequencies(made_up) < 1.5).all()
    assert not set(made_up) & {word for text in sentences for word in text.split()}
    for sentence, non_word in zip(sentences, non_words, strict=True):
        assert [max(4, len(word)) for word in sentence.split()] == [len(word) for word in non_word.split()]
    assert np.mean(zipf_frequencies(" ".join(sentences).split())) > 4
    assert localiser_texts.built_in() == contrast
    assert localiser_texts.built_in(1).hash != contrast.hash
    assert contrast.hash == "2b0a7c25d544"  # the same on every machine


def test_a_file_of_a_user_is_read(tmp_path):
    (tmp_path / "own.tsv").write_text(
        "condition\ttext\nsentence\tthe  bee flew\nNon-words\tree bom\nS\tit rained\nnonword\tcy hus\n"
    )
    contrast = localiser_texts.load(str(tmp_path / "own.tsv"))
    assert contrast.texts == ("the bee flew", "ree bom", "it rained", "cy hus")
    assert contrast.is_sentence == (True, False, True, False)
    assert contrast.name == "own.tsv"


def test_a_folder_of_the_published_form_is_read_in_lower_case(tmp_path):
    header = ",".join(f"stim{k}" for k in range(1, 15))
    for k, letter in enumerate("AB"):
        rows = [f"{n}," + ",".join([f"{letter}{n}"] * 12) + f",{'SN'[n % 2]}" for n in range(2)]
        (tmp_path / f"langloc_fmri_run{k + 1}_stim_set1.csv").write_text("\n".join([header, *rows]) + "\n")
    contrast = localiser_texts.load(str(tmp_path))
    assert contrast.texts == tuple(" ".join([word] * 12) for word in ("a0", "a1", "b0", "b1"))
    assert contrast.is_sentence == (True, False, True, False)


@pytest.mark.parametrize(("content", "message"), [
    ("text,label\na b,S\n", "wanted are text and condition"),
    ("text,condition\na b,S\nc d,X\n", r"own.csv, line 3, column 'condition' is 'X'; write sentence or non-word"),
    ("text,condition\na b,S\n ,N\n", "line 3 has no text"),
    ("text,condition\na b,S\nc d,S\ne f,N\n", "2 sentences and 1 lists of non-words"),
])  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused(content, message, tmp_path):
    (tmp_path / "own.csv").write_text(content)
    with pytest.raises(ValueError, match=message):
        localiser_texts.load(str(tmp_path / "own.csv"))


def test_a_missing_file_and_an_empty_folder_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="--localiser"):
        localiser_texts.load(str(tmp_path / "none.csv"))
    with pytest.raises(ValueError, match=r"holds no .csv or .tsv"):
        localiser_texts.load(str(tmp_path))
