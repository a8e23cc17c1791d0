"""Tokenizer wrappers that add character offsets, or split text as the tokenizer's own library does.

Each wraps a transformers tokenizer and keeps its special tokens, ids and chat template.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any


class _WithOffsets:
    """A transformers tokenizer with its own text splitting; everything else is delegated to the wrapped tokenizer."""

    is_fast = True

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __call__(self, text: str | list[str], add_special_tokens: bool = False, **_: Any) -> dict[str, Any]:
        """Tokenise one or several texts; character offsets are given only without special tokens."""
        if add_special_tokens:
            return {"input_ids": self._tokenizer(text, add_special_tokens=True)["input_ids"]}
        is_single = isinstance(text, str)
        encoded = [self._tokens(single) for single in ([text] if isinstance(text, str) else text)]
        ids, offsets = [tokens[0] for tokens in encoded], [tokens[1] for tokens in encoded]
        return {"input_ids": ids[0] if is_single else ids, "offset_mapping": offsets[0] if is_single else offsets}

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return token ids and character spans (first, end) of a text; each span covers at least one character."""
        raise NotImplementedError


class ByteTokens(_WithOffsets):
    """A tokenizer whose tokens are the bytes of a text (ByT5)."""

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        starts = _character_of_byte(text)[:-1]
        return list(ids), [(start, start + 1) for start in starts]


class SentencePieceTokens(_WithOffsets):
    """A tokenizer that splits text with its SentencePiece model.

    The ids are those of transformers, because some families number them differently.
    """

    def __init__(self, tokenizer: Any, file: Path) -> None:
        super().__init__(tokenizer)
        self._file = file

    @cached_property
    def model(self) -> Any:
        """The SentencePiece model."""
        from sentencepiece import SentencePieceProcessor

        return SentencePieceProcessor(model_file=str(self._file))

    def normalize(self, text: str) -> str:
        """Return the text as SentencePiece normalises it, with plain spaces."""
        return str(self.model.normalize(text)).replace("\u2581", " ")

    @cached_property
    def _added(self) -> re.Pattern[str]:
        """Pattern of tokens that transformers splits off before SentencePiece runs: added tokens and control tokens."""
        tests = (self.model.is_control, self.model.is_unknown)
        tokens = [
            token for token in self._tokenizer.get_added_vocab()
            if token and any(test(self.model.piece_to_id(token)) for test in tests)
        ]  # fmt: skip
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self._added.search(text):
            return self._around_added(text)
        pieces = self.model.encode(text, return_type="proto").pieces
        names = [self.model.id_to_piece(piece.id) for piece in pieces]  # the unknown token by name, not by its text
        character = _character_of_byte(text)
        starts = [character[piece.begin] for piece in pieces]
        ends = [max(character[piece.end], start + 1) for piece, start in zip(pieces, starts, strict=True)]
        return list(self._tokenizer.convert_tokens_to_ids(names)), list(zip(starts, ends, strict=True))

    def _around_added(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise a text with added tokens by transformers, if both agree on the text between those tokens."""
        between = [segment.strip() for segment in self._added.split(text) if segment.strip()]
        if not getattr(self._tokenizer, "is_fast", False) or any(
            list(self._tokenizer(segment, add_special_tokens=False)["input_ids"]) != self._tokens(segment)[0]
            for segment in between
        ):
            token = self._added.findall(text)[0]
            raise ValueError(
                f"the text contains {token!r}, a token added beside {self._file.name}, which would split it into "
                "several tokens; save the tokenizer as tokenizer.json (AutoTokenizer ... save_pretrained) in the "
                "model's folder."
            )
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(encoded["input_ids"]), [tuple(span) for span in encoded["offset_mapping"]]


class AlignedTokens(_WithOffsets):
    """A pure-Python tokenizer (CTRL, BERTweet), which gives no offsets: tokens are matched to the text in order.

    A token matches exactly or in lower case.
    """

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        pieces = self._tokenizer.tokenize(text)
        return list(self._tokenizer.convert_tokens_to_ids(pieces)), list(self._spans(text, pieces))

    def _spans(self, text: str, pieces: list[str]) -> Iterator[tuple[int, int]]:
        """Yield the character span (first, end) of each token; the unknown token covers its word.

        Raises:
            ValueError: if a token does not match the text.
        """
        lower, position = text.lower() if len(text.lower()) == len(text) else text, 0
        for piece in pieces:
            characters = piece.replace("@@", "").replace("</w>", "").removeprefix("##").strip("\u2581 ") or piece
            while position < len(text) and text[position].isspace() and not text.startswith(characters, position):
                position += 1
            if piece == self._tokenizer.unk_token:
                characters = re.match(r"\S*", text[position:])[0]  # type: ignore[index]
            if not text.startswith(characters, position) and not lower.startswith(characters.lower(), position):
                raise ValueError(
                    f"its pure-Python tokenizer ({type(self._tokenizer).__name__}) gives the token {piece!r} where the "
                    f"text has {text[position : position + 20]!r}, so tokens cannot be assigned to words: save a fast "
                    "tokenizer (tokenizer.json) with the model."
                )
            yield position, max(position + len(characters), position + 1)
            position += len(characters)


def _character_of_byte(text: str) -> list[int]:
    """Return, for each byte of the UTF-8 text and for its end, the index of the character it belongs to."""
    characters = [number for number, character in enumerate(text) for _ in character.encode()]
    return [*characters, len(text)]
