"""A checkpoint's folder -> its tokenizer, as it was published.

transformers chooses a tokenizer class by name and, for many classes, builds a tokenizer of its own from the vocabulary
in the files. Where that is another tokenizer than the published one, every number after it is wrong without a message.
So the published file decides: tokenizer.json as the `tokenizers` library reads it, a SentencePiece model as
SentencePiece itself reads it. Special tokens and the chat template are always those of transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

# Files that hold a SentencePiece model, by family.
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model", "sentencepiece.model")
# Any of these makes a tokenizer; the first that is there names it in messages and in the hash of an architecture.
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "spm.model",
         "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "tekken.json", "vocab-src.json",
         "bpe.codes")  # fmt: skip
# Texts on which two tokenizers are compared: letters, digits, marks, accents, other scripts, spaces, line breaks.
PROBE = (
    "The old bee watched the hive, and the hive watched the bee.",
    "It's 12,345.67 pounds -- don't \"quote\" me (2024-01-31)!\n\nNew line;  two  spaces\tand a tab.",
    "naïve café, Straße, señor, Ångström, 你好世界, こんにちは, Привет мир, مرحبا, 😀 ﬁne ½",
    "unbelievably internationalisation pneumonoultramicroscopicsilicovolcanoconiosis",
)


# Has more bytes than characters.
_BYTES = "a naïve bee"


@dataclass(frozen=True)
class PublishedTokenizer:
    """A tokenizer and what was done to have it as published.

    tokenizer: of transformers, or of the same use (`SentencePieceTokens`). note: a sentence where transformers' own
    class would give other tokens; else "".
    """

    tokenizer: Any
    note: str = ""


def load(folder: str | Path, config: Any = None) -> PublishedTokenizer:
    """The tokenizer of a checkpoint's folder.

    Args:
        folder: with the tokenizer's files.
        config: of the model, where the folder holds none (an adapter's).

    Raises:
        ValueError: if transformers cannot read it, or it is one of Python alone, which tells no character offsets.
    """
    from transformers import AutoTokenizer

    path = Path(folder)
    of_model = {} if config is None or (path / "config.json").is_file() else {"config": config}
    chosen = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, **of_model)
    file = next((path / name for name in SENTENCEPIECE_FILES if _is_sentencepiece(path / name)), None)
    if (path / "tokenizer.json").is_file():
        published, name = _of_json(path, chosen), "tokenizer.json"
    elif file is not None:
        published, name = SentencePieceTokens(chosen, file), file.name
    else:
        published, name = chosen, ""
    if name:
        return PublishedTokenizer(published, _replaced(chosen, name) if _differ(published, chosen) else "")
    if getattr(chosen, "is_fast", False):
        return PublishedTokenizer(chosen)
    if len(chosen(_BYTES, add_special_tokens=False)["input_ids"]) == len(_BYTES.encode()):
        return PublishedTokenizer(ByteTokens(chosen))
    raise ValueError(
        f"its tokenizer ({type(chosen).__name__}) is one of Python alone and tells no character offsets, without which "
        "tokens cannot be put on words; save a fast one (tokenizer.json) with the model."
    )


def _of_json(folder: Path, chosen: Any) -> Any:
    """tokenizer.json as it is, with the special tokens that transformers' class knows."""
    from transformers import PreTrainedTokenizerFast

    if type(chosen) is PreTrainedTokenizerFast or "__init__" not in type(chosen).__dict__:
        return chosen  # transformers builds nothing of its own
    published = PreTrainedTokenizerFast.from_pretrained(str(folder))
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        token = getattr(chosen, name)
        if getattr(published, name) is None and token is not None and token in published.get_vocab():
            setattr(published, name, token)
    if not getattr(published, "chat_template", None):
        published.chat_template = getattr(chosen, "chat_template", None)
    return published


def _differ(published: Any, chosen: Any) -> bool:
    """Whether two tokenizers give other tokens for any text of the probe."""
    if published is chosen or not getattr(chosen, "is_fast", False):
        return False
    ours, theirs = (each(list(PROBE), add_special_tokens=False, verbose=False) for each in (published, chosen))
    return list(ours["input_ids"]) != list(theirs["input_ids"])


def _replaced(chosen: Any, file: str) -> str:
    return (
        f"{file} is used as published: the class that transformers chooses ({type(chosen).__name__}) gives other "
        "tokens for some texts."
    )


def _is_sentencepiece(file: Path) -> bool:
    """Whether a file is a SentencePiece model; Llama 3 and Qwen have published tables of ranks under such names."""
    if not file.is_file():
        return False
    from sentencepiece import SentencePieceProcessor

    try:
        return bool(SentencePieceProcessor(model_file=str(file)).get_piece_size())
    except (RuntimeError, OSError):
        return False


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
    def _added(self) -> tuple[str, ...]:
        """The tokens that were added beside the SentencePiece model, which does not know them."""
        unknown = self.model.unk_id()
        return tuple(
            token
            for token in self._tokenizer.get_added_vocab()
            if self.model.piece_to_id(token) == unknown and token != self.model.id_to_piece(unknown)
        )

    def _require_no_added(self, text: str) -> None:
        """Raise where a text holds an added token: SentencePiece would split it into other tokens."""
        for token in self._added:
            if token in text:
                raise ValueError(
                    f"the text holds {token!r}, a token that was added beside {self._file.name}, which would cut it "
                    "into others; save the tokenizer as tokenizer.json (AutoTokenizer ... save_pretrained) in the "
                    "model's folder."
                )

    def _tokens(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        self._require_no_added(text)
        pieces = self.model.encode(text, return_type="proto").pieces
        names = [self.model.id_to_piece(piece.id) for piece in pieces]  # the unknown token by its name, not its text
        character = _characters(text)
        starts = [character[piece.begin] for piece in pieces]
        ends = [max(character[piece.end], start + 1) for piece, start in zip(pieces, starts, strict=True)]
        return list(self._tokenizer.convert_tokens_to_ids(names)), list(zip(starts, ends, strict=True))


def _characters(text: str) -> list[int]:
    """Offset in bytes of the text in UTF-8, its end included -> the character that has begun there."""
    characters = [number for number, character in enumerate(text) for _ in character.encode()]
    return [*characters, len(text)]
