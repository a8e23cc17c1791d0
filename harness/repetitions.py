"""Recognise texts that were presented more than once.

If presentations of one text are in training and in test rows, features that only identify the text predict the
responses that they have in common: with 90 sentences presented three times and responses unrelated to the features, r
is about 0.26 instead of 0. Rows with the same text therefore share a group.

Two texts are the same if they have the same letters and digits in the same order (`words_of`): case, punctuation,
spaces and other Unicode forms do not count. Presentations are averaged only if the texts are the same up to case,
spaces, surrounding quotation marks and a final full stop (`text_of`), because a comma or a question mark can be what an
experiment varies.

Method: harness/scoring/README.md#repeated-texts.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

_QUOTATION_MARKS = "\"'`«»‹›„“”‟‘’‚‛「」『』〝〞〟"
_FULL_STOPS = ".。｡।"
# Before NFKC, which turns the acute accent that some keyboards give for an apostrophe into a space.
_ONE_FORM = str.maketrans(dict.fromkeys("‐‑‒–—―−", "-") | dict.fromkeys("‘’‛´`", "'") | dict.fromkeys("“”‟", '"'))
# Shorter phrases recur in any running text ("he smiled", "and then"), so they are repetitions only where a stimulus is
# a passage by itself, or where the recording is a list of words or phrases (`is_list`).
MIN_WORDS_IN_PASSAGE = 4
# In running text about half of all words (and more of all phrases) occur once, in a list that is repeated none.
_MOST_SINGLE_IN_LIST = 0.1


def text_of(text: str) -> str:
    """A text without differences that do not make another stimulus.

    NFKC, case folded, single spaces, without zero-width characters, surrounding quotation marks and final full stops.
    """
    normal = unicodedata.normalize("NFKC", text.translate(_ONE_FORM)).translate(_ONE_FORM)
    visible = "".join(sign for sign in normal if unicodedata.category(sign) != "Cf")
    folded = unicodedata.normalize("NFKC", visible.casefold())
    joined = " ".join(folded.split())
    bare = joined.lstrip(_QUOTATION_MARKS + " ").rstrip(_QUOTATION_MARKS + _FULL_STOPS + " ")
    return bare or joined


def words_of(text: str) -> str:
    """The words of a text in order, without case and punctuation; `text_of` for a text of punctuation only."""
    bare = text_of(text)
    return " ".join(_without_punctuation(bare).split()) or bare


def _without_punctuation(text: str) -> str:
    """Replace punctuation by spaces; signs that are read aloud (such as % and &) stay."""
    return "".join(
        " " if sign not in "%&#@" and unicodedata.category(sign)[0] == "P" else sign for sign in text.replace("`", " ")
    )


def of_stimuli(texts: Sequence[str], passages: Sequence[str], separator: str = " ") -> tuple[str, ...]:
    """Label stimuli with the same text.

    Args:
        texts: (stimulus,) sentences, phrases or words.
        passages: (stimulus,) the passage of each. In a passage of several stimuli, a text of fewer than
            `MIN_WORDS_IN_PASSAGE` words is a repetition only if the whole passage is repeated, or in a list
            (`is_list`).
        separator: what stands between the stimuli.

    Returns:
        (stimulus,) a label in common to stimuli whose text, without spaces, occurs more than once, else "".
    """
    size, told_again = Counter(passages), of_passages(texts, passages, separator)
    words, is_in_list = [words_of(text) for text in texts], is_list(texts, passages, separator)
    labels, position = [], Counter[str]()
    for key, passage in zip(words, passages, strict=True):
        counts = size[passage] == 1 or is_in_list or n_words(key) >= MIN_WORDS_IN_PASSAGE
        same_place = f"{told_again[passage]} {position[passage]}" if passage in told_again else ""
        labels.append(_joined(key) if counts else same_place)
        position[passage] += 1
    count = Counter(labels)
    return tuple(label if count[label] > 1 else "" for label in labels)


def is_list(texts: Sequence[str], passages: Sequence[str], separator: str = " ") -> bool:
    """Whether the stimuli are a list of words or phrases that is presented repeatedly, and not a running text.

    At most a tenth of the texts occur once. A passage that is repeated as a whole counts once.
    """
    told_again = of_passages(texts, passages, separator)
    first_told = [
        text for text, passage in zip(texts, passages, strict=True) if told_again.get(passage, passage) == passage
    ]
    count = Counter(_joined(words_of(text)) for text in first_told)
    n_single = sum(n == 1 for n in count.values())
    return n_single <= _MOST_SINGLE_IN_LIST * len(count)


def of_passages(texts: Sequence[str], passages: Sequence[str], separator: str) -> dict[str, str]:
    """Find passages with the same text.

    Args:
        texts: (stimulus,) words, or fragments of a text.
        passages: (stimulus,) the passage of each.
        separator: what stands between the stimuli.

    Returns:
        Passage -> a label that it has in common with the passages of the same text; only for passages that occur more
        than once and have at least `MIN_WORDS_IN_PASSAGE` words.
    """
    parts: dict[str, list[str]] = {}
    for text, passage in zip(texts, passages, strict=True):
        parts.setdefault(passage, []).append(text)
    words = {passage: words_of(separator.join(of_passage)) for passage, of_passage in parts.items()}
    keys = {passage: _joined(text) for passage, text in words.items()}
    count, first = Counter(keys.values()), {key: passage for passage, key in reversed(keys.items())}
    return {
        passage: first[key]
        for passage, key in keys.items()
        if count[key] > 1 and n_words(words[passage]) >= MIN_WORDS_IN_PASSAGE
    }


def _joined(words: str) -> str:
    """Words without the spaces between them, so that "ice cream", "icecream" and "ice-cream" are the same."""
    return words.replace(" ", "")


def n_words(words: str) -> int:
    """Number of words in the result of `words_of`; two characters of Chinese, Japanese or Korean count as one."""
    n_wide = sum(unicodedata.east_asian_width(sign) == "W" for sign in words)
    return len(words.split()) if n_wide < 2 else max(len(words.split()), n_wide // 2)


def merged(groups: Sequence[str], labels: Sequence[str]) -> tuple[str, ...]:
    """Merge groups that share a label.

    Args:
        groups: (row,) groups that must not be divided between training and test rows.
        labels: (row,) text of each row; "" for a text that is presented once.

    Returns:
        (row,) groups; a merged group has the name of the first of its groups in order of the rows.
    """
    parent = {group: group for group in groups}

    def root(group: str) -> str:
        while parent[group] != group:
            parent[group] = group = parent[parent[group]]
        return group

    rank = {group: k for k, group in enumerate(dict.fromkeys(groups))}
    first: dict[str, str] = {}
    for group, label in zip(groups, labels, strict=True):
        if label:
            earlier, later = sorted((root(first.setdefault(label, group)), root(group)), key=rank.__getitem__)
            parent[later] = earlier
    return tuple(map(root, groups))


def are_fragments(texts: Sequence[str], separator: str) -> bool:
    """Whether stimuli are pieces of a running text: they contain the spaces that join them."""
    return not separator and any(re.match(r"\s|.*\s$", text, re.DOTALL) for text in texts)
