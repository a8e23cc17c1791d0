"""What is asked of a tokenizer for every text, found out once: a vocabulary of 100,000 tokens takes a while to list."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

# Pre-tokenizers that cut a text at spaces and drop them, so that decoded words stand apart in another way.
_DROP_SPACES = frozenset({"BertPreTokenizer", "Whitespace", "WhitespaceSplit", "CharDelimiterSplit"})
_KEEP_SPACES = frozenset({"ByteLevel", "Metaspace"})


@dataclass(frozen=True)
class TokenizerFacts:
    """Of one tokenizer.

    unknown: ids that stand for what it does not know, its own and its SentencePiece model's. added: ids of added and
    special tokens -> their text. takes_spaces: those of them that take the spaces after them with them. keeps_spaces:
    whether spaces are part of the tokens.
    """

    unknown: frozenset[int]
    added: dict[int, str]
    takes_spaces: frozenset[int]
    keeps_spaces: bool


_known: WeakKeyDictionary[Any, tuple[int, TokenizerFacts]] = WeakKeyDictionary()


def of(tokenizer: Any) -> TokenizerFacts:
    """The facts of a tokenizer, found out again where tokens were added since."""
    try:
        size = len(tokenizer)
        held, found = _known.get(tokenizer, (-1, None))
        if found is None or held != size:
            found = _found(tokenizer)
            _known[tokenizer] = (size, found)
    except TypeError:  # one that has no length, or cannot be remembered
        return _found(tokenizer)
    return found


def _found(tokenizer: Any) -> TokenizerFacts:
    vocabulary = tokenizer.get_vocab()
    unknown = {tokenizer.unk_token_id, *(vocabulary.get(name) for name in ("<unk>", "[UNK]"))}
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return TokenizerFacts(
        unknown=frozenset(token for token in unknown if token is not None),
        added={token: str(how) for token, how in added.items()},
        takes_spaces=frozenset(token for token, how in added.items() if getattr(how, "rstrip", False)),
        keeps_spaces=_keeps_spaces(tokenizer),
    )


def _keeps_spaces(tokenizer: Any) -> bool:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if hasattr(tokenizer, "normalize") or backend is None or backend.pre_tokenizer is None:
        return True
    kinds = _kinds(json.loads(backend.pre_tokenizer.__getstate__()))
    return bool(kinds & _KEEP_SPACES) or not kinds & _DROP_SPACES


def _kinds(part: dict[str, Any]) -> set[str]:
    return {part["type"]}.union(*map(_kinds, part.get("pretokenizers", ())))
