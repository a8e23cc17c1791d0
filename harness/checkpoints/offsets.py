"""Character offsets for tokenizers that give none, or whose own library splits a text differently than transformers.

Each wraps a tokenizer of transformers, whose special tokens, ids and chat template are kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any


class _WithOffsets:
    """A tokenizer of transformers with other rules for splitting a text; the rest is its own."""

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
        """Tokens of a text or of several, with their characters where there are no special tokens around them."""
        if add_special_tokens:
            return {"input_ids": self._tokenizer(text, add_special_tokens=True)["input_ids"]}
        one = isinstance(text, str)
        made = [self._tokens(part) for part in ([text] if isinstance(text, str) else text)]
        ids, offsets = [part[0] for part in made], [part[1] for part in made]
        return {"input_ids": ids[0] if one else ids, "offset_mapping": offsets[0] if one else offsets}

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Ids and characters (first, end) of the tokens of a text; a token always covers a character or more."""
        raise NotImplementedError


class ByteTokens(_WithOffsets):
    """A tokenizer whose tokens are the bytes of a text (ByT5)."""

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        starts = _characters(text)[:-1]
        return list(ids), [(start, start + 1) for start in starts]


class SentencePieceTokens(_WithOffsets):
    """A tokenizer whose tokens come from its SentencePiece model.

    SentencePiece cuts the text; the ids are transformers', which some families count from another number.
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
        """The text as SentencePiece sees it, with plain spaces."""
        return str(self.model.normalize(text)).replace("\u2581", " ")

    @cached_property
    def _added(self) -> re.Pattern[str]:
        """The tokens that transformers splits off before SentencePiece runs: added tokens and control tokens."""
        is_foreign = (self.model.is_control, self.model.is_unknown)
        tokens = [
            token for token in self._tokenizer.get_added_vocab()
            if token and any(test(self.model.piece_to_id(token)) for test in is_foreign)
        ]  # fmt: skip
        return re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))) or r"(?!)")

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        if self._added.search(text):
            return self._around_added(text)
        pieces = self.model.encode(text, return_type="proto").pieces
        names = [self.model.id_to_piece(piece.id) for piece in pieces]  # the unknown token by its name, not its text
        character = _characters(text)
        starts = [character[piece.begin] for piece in pieces]
        ends = [max(character[piece.end], start + 1) for piece, start in zip(pieces, starts, strict=True)]
        return list(self._tokenizer.convert_tokens_to_ids(names)), list(zip(starts, ends, strict=True))

    def _around_added(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Tokenise a text with added tokens by transformers, if it agrees with SentencePiece on the text between."""
        between = [part.strip() for part in self._added.split(text) if part.strip()]
        if not getattr(self._tokenizer, "is_fast", False) or any(
            list(self._tokenizer(part, add_special_tokens=False)["input_ids"]) != self._tokens(part)[0]
            for part in between
        ):
            token = self._added.findall(text)[0]
            raise ValueError(
                f"the text holds {token!r}, a token that was added beside {self._file.name}, which would cut it "
                "into others; save the tokenizer as tokenizer.json (AutoTokenizer ... save_pretrained) in the "
                "model's folder."
            )
        made = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(made["input_ids"]), [tuple(span) for span in made["offset_mapping"]]


class AlignedTokens(_WithOffsets):
    """A pure-Python tokenizer (CTRL, BERTweet), which gives no offsets: its tokens are aligned with the text.

    Each token is matched after the one before it, exactly or in lower case.
    """

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        pieces = self._tokenizer.tokenize(text)
        return list(self._tokenizer.convert_tokens_to_ids(pieces)), list(self._places(text, pieces))

    def _places(self, text: str, pieces: list[str]) -> Iterator[tuple[int, int]]:
        """Yield (first, end) characters of each token; the unknown token covers its word. ValueError on a mismatch."""
        lower, at = text.lower() if len(text.lower()) == len(text) else text, 0
        for piece in pieces:
            letters = piece.replace("@@", "").replace("</w>", "").removeprefix("##").strip("\u2581 ") or piece
            while at < len(text) and text[at].isspace() and not text.startswith(letters, at):
                at += 1
            if piece == self._tokenizer.unk_token:
                letters = re.match(r"\S*", text[at:])[0]  # type: ignore[index]
            if not text.startswith(letters, at) and not lower.startswith(letters.lower(), at):
                raise ValueError(
                    f"its pure-Python tokenizer ({type(self._tokenizer).__name__}) gives the token {piece!r} where the "
                    f"text has {text[at : at + 20]!r}, so tokens cannot be assigned to words: save a fast tokenizer "
                    "(tokenizer.json) with the model."
                )
            yield at, max(at + len(letters), at + 1)
            at += len(letters)


def _characters(text: str) -> list[int]:
    """Offset in bytes of the text in UTF-8, its end included -> the character that has begun there."""
    characters = [number for number, character in enumerate(text) for _ in character.encode()]
    return [*characters, len(text)]
