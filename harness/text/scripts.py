"""Detection of scripts written without spaces between words, which cannot be split into words by spaces."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Kana, Han, Thai, Lao, Tibetan, Myanmar, Khmer; Korean has spaces.
_WITHOUT_SPACES = re.compile(
    "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
    "\u0e00-\u0e7f\u0e80-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff]"
)


def is_unspaced_script(texts: Iterable[str]) -> bool:
    """Whether more than half of the letters of the texts belong to scripts without spaces."""
    joined = "".join(texts)
    n_without = len(_WITHOUT_SPACES.findall(joined))
    return n_without > 0 and 2 * n_without > sum(map(str.isalpha, joined))
