"""Word frequencies by language: Zipf frequencies of the library wordfreq.

English is assumed if no language is stated. Chinese, Japanese and Korean need a tokenizer (extra `cjk`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

from harness.records import Floats

ENGLISH = "en"
# Languages whose word list has another code.
_LISTED_AS = {"bs": "sh", "hr": "sh", "sr": "sh", "no": "nb", "tl": "fil", "cmn": "zh"}


def zipf_frequencies(words: Sequence[str], language: str = "") -> Floats:
    """Zipf frequencies of words.

    Args:
        words: with or without outer punctuation, in upper or lower case.
        language: BCP 47 code; "" is English.

    Returns:
        (word,) float64 log10 of the frequency per billion words, 0 for unknown words.

    Raises:
        ValueError: if wordfreq has no list for the language.
        ModuleNotFoundError: if the tokenizer for the language is not installed.

    Source: the library wordfreq, whose lists are frozen (Speer 2022).
    """
    from wordfreq import zipf_frequency

    code = word_list(language)
    try:
        frequency_of = {word: zipf_frequency(word, code) for word in set(words)}
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"word frequencies of {code!r} need {error.name}: pip install 'brain-alignment-harness[cjk]'."
        ) from None
    return np.array([frequency_of[word] for word in words], dtype=np.float64)


def has_frequencies(language: str = "") -> bool:
    """Whether there are word frequencies for the language, and its tokenizer is installed."""
    try:
        zipf_frequencies(["a"], language)
    except (ValueError, ModuleNotFoundError):
        return False
    return True


@cache  # wordfreq searches its folder at each call
def word_list(language: str) -> str:
    """Code of wordfreq's list for a language; ValueError lists the available languages if there is none."""
    from wordfreq import available_languages

    base = (language or ENGLISH).lower().partition("-")[0]
    code, available = _LISTED_AS.get(base, base), available_languages("best")
    if code not in available:
        raise ValueError(
            f"wordfreq has no word frequencies of language {language!r}; it has {', '.join(sorted(available))}."
        )
    return code


def require_language(code: str) -> str:
    """Standardise a BCP 47 language code; ValueError if it is invalid."""
    import langcodes

    if not langcodes.tag_is_valid(code):
        raise ValueError(f"{code!r} is not a BCP 47 language code; use en, de, zh or pt-BR, for example.")
    return langcodes.standardize_tag(code)


def is_english(language: str) -> bool:
    """Whether a language is English, stated or assumed."""
    return language.lower().partition("-")[0] in {"", ENGLISH}


def language_label(language: str) -> str:
    """Language code for display, with a note if it was assumed."""
    return language or "en (English, assumed since none is stated)"
