"""Cached properties of a tokenizer that are needed for every text; listing a vocabulary of 100,000 tokens is slow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

# Pre-tokenizers that split a text at spaces and drop them, so that decoding cannot restore the original spaces.
_DROP_SPACES = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "CharDelimiterSplit"})
_KEEP_SPACES = frozenset({"ByteLevel", "Metaspace"})


@dataclass(frozen=True)
class TokenizerFacts:
    """Properties of one tokenizer.

    Attributes:
        unknown: ids of unknown tokens, its own and those of its SentencePiece model.
        added: ids of added and special tokens -> their text.
        takes_spaces: ids of added tokens that absorb the spaces after them (`rstrip`).
        keeps_spaces: whether spaces are part of the tokens.
    """

    unknown: frozenset[int]
    added: dict[int, str]
    takes_spaces: frozenset[int]
    keeps_spaces: bool


_cache: WeakKeyDictionary[Any, tuple[int, TokenizerFacts]] = WeakKeyDictionary()


def of(tokenizer: Any) -> TokenizerFacts:
    """Properties of a tokenizer; computed again if tokens were added since."""
    try:
        size = len(tokenizer)
        cached_size, facts = _cache.get(tokenizer, (-1, None))
        if facts is None or cached_size != size:
            facts = _facts_of(tokenizer)
            _cache[tokenizer] = (size, facts)
    except TypeError:  # without a length, or without weak references
        return _facts_of(tokenizer)
    return facts


def _facts_of(tokenizer: Any) -> TokenizerFacts:
    vocabulary = tokenizer.get_vocab()
    unknown = {tokenizer.unk_token_id, *(vocabulary.get(name) for name in ("<unk>", "[UNK]"))}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return TokenizerFacts(
        unknown=frozenset(token for token in unknown if token is not None),
        added={token_id: str(token) for token_id, token in added.items()},
        takes_spaces=frozenset(token_id for token_id, token in added.items() if getattr(token, "rstrip", False)),
        keeps_spaces=_keeps_spaces(tokenizer),
    )


def _keeps_spaces(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(tokenizer, "normalize") or backend is None or backend.pre_tokenizer is None:
        return True
    kinds = _kinds(json.loads(backend.pre_tokenizer.__getstate__()))
    return bool(kinds & _KEEP_SPACES) or not kinds & _DROP_SPACES


def _kinds(pre_tokenizer: dict[str, Any]) -> set[str]:
    """Types of a pre-tokenizer and of the pre-tokenizers it consists of."""
    return {pre_tokenizer["type"]}.union(*map(_kinds, pre_tokenizer.get("pretokenizers", ())))
