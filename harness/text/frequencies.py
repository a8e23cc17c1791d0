"""How frequent words are in their language: Zipf frequencies of the library wordfreq, and which languages it has.

Where no language is stated it is English. Chinese, Japanese and Korean need a tokenizer (extra `cjk`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from harness.records import Floats

ENGLISH = "en"
# Languages whose words stand in the list of another code.
_LISTED_AS = {"bs": "sh", "hr": "sh", "sr": "sh", "no": "nb", "tl": "fil", "cmn": "zh"}


def zipf_frequencies(words: Sequence[str], language: str = "") -> Floats:
    """(word,) float64 log10 of the frequency per thousand million words, 0 for an unknown word.

    Args:
        words: with or without outer punctuation, in any case.
        language: BCP 47; "" is English.

    Raises:
        ValueError: if wordfreq has no list of the language.
        ModuleNotFoundError: if its tokenizer of the language is not installed.

    Source: the library wordfreq, whose lists are frozen (Speer 2022).
    """
    from wordfreq import zipf_frequency

    code = word_list(language)
    try:
        known = {word: zipf_frequency(word, code) for word in set(words)}
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"word frequencies of {code!r} need {error.name}: pip install 'brain-alignment-harness[cjk]'."
        ) from None
    return np.array([known[word] for word in words], dtype=np.float64)


def word_list(language: str) -> str:
    """The code of wordfreq's list of a language; ValueError where it has none, with those that it has."""
    from wordfreq import available_languages

    base = (language or ENGLISH).lower().partition("-")[0]
    code, known = _LISTED_AS.get(base, base), available_languages("best")
    if code not in known:
        raise ValueError(
            f"wordfreq has no word frequencies of language {language!r}; it has {', '.join(sorted(known))}."
        )
    return code


def require_language(code: str) -> str:
    """The code in its usual form; ValueError where it is not one of BCP 47."""
    import langcodes

    if not langcodes.tag_is_valid(code):
        raise ValueError(f"{code!r} is not a BCP 47 language code; write en, de, zh, pt-BR or the like.")
    return langcodes.standardize_tag(code)


def is_english(language: str) -> bool:
    """Whether a language is English, stated or not."""
    return language.lower().partition("-")[0] in {"", ENGLISH}


def in_words(language: str) -> str:
    """A language for the reader: its code, and whether it was only assumed."""
    return language or "en (English, assumed since none is stated)"
