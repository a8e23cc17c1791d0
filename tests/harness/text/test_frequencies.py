"""Word frequencies by language, and scripts without spaces."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from harness.text import frequencies, scripts


def test_english_is_assumed_and_other_languages_have_their_own_lists():
    words = ["der", "the", "Haus.", "zzxqjv"]
    np.testing.assert_array_equal(frequencies.zipf_frequencies(words), frequencies.zipf_frequencies(words, "en-US"))
    german = frequencies.zipf_frequencies(words, "de-AT")
    assert german[0] > 7
    assert german[2] > 5
    assert german[3] == 0


@pytest.mark.parametrize(
    ("language", "code"), [("", "en"), ("pt-BR", "pt"), ("hr", "sh"), ("no", "nb"), ("zh-Hant", "zh"), ("EN-gb", "en")]
)
def test_a_regional_variant_uses_the_list_of_its_base_language(language, code):
    assert frequencies.word_list(language) == code


@pytest.mark.parametrize("language", ["eu", "gsw", "yue", "nn"])
def test_a_related_language_is_not_substituted(language):
    with pytest.raises(ValueError, match=f"no word frequencies of language '{language}'"):
        frequencies.word_list(language)


@pytest.mark.skipif(importlib.util.find_spec("jieba") is not None, reason="the tokenizer is installed")
def test_a_missing_tokenizer_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"word frequencies of 'zh' need jieba: pip install '.*\[cjk\]'"):
        frequencies.zipf_frequencies(["他"], "zh")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("他在河边", True), ("戦場のヴァルキュリア", True), ("ชายชรา", True), ("ລາວ", True), ("ភាសា", True),
        ("မြန်မာ", True), ("나는 학교에", False), ("Привет", False), ("हिन्दी", False), ("Senjō no 戦場", False),
        ("12 3!", False), ("", False),
    ],
)  # fmt: skip
def test_scripts_without_spaces_are_detected(text, expected):
    assert scripts.is_unspaced_script([text]) is expected
