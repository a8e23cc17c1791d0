"""Load a checkpoint's tokenizer as it was published.

transformers chooses a tokenizer class by name, and many classes build their own tokenizer from the vocabulary in the
files. If that differs from the published tokenizer, every later number is wrong without an error. The published file
therefore takes precedence: tokenizer.json as the `tokenizers` library reads it, a SentencePiece model as SentencePiece
reads it. Special tokens and chat template are always those of transformers.

The notes enter the keys of a model's units (`Checkpoint.reading`): changing their wording recomputes stored features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.checkpoints.headers import read_json
from harness.checkpoints.offsets import AlignedTokens, ByteTokens, SentencePieceTokens
from harness.checkpoints.safetensors_file import is_lfs_pointer

# SentencePiece model files used by the families.
SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "spm.model", "sentencepiece.bpe.model", "sentencepiece.model")
# A folder with one of these has a tokenizer.
FILES = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "spm.model",
         "sentencepiece.bpe.model", "sentencepiece.model", "source.spm", "tekken.json", "vocab-src.json",
         "bpe.codes")  # fmt: skip
# Texts for comparing two tokenizers: letters, digits, punctuation, accents, other scripts, spaces, line breaks.
PROBE = (
    "The old bee watched the hive, and the hive watched the bee.",
    "It's 12,345.67 pounds -- don't \"quote\" me (2024-01-31)!\n\nNew line;  two  spaces\tand a tab.",
    "naïve café, Straße, señor, Ångström, 你好世界, こんにちは, Привет мир, مرحبا, 😀 ﬁne ½",
    "unbelievably internationalisation pneumonoultramicroscopicsilicovolcanoconiosis",
)


# A text with more bytes than characters, which identifies byte tokenizers.
_BYTES = "a naïve bee"


@dataclass(frozen=True)
class PublishedTokenizer:
    """A tokenizer as published.

    Attributes:
        tokenizer: transformers tokenizer or a wrapper with the same interface (`SentencePieceTokens`).
        note: sentence on a difference from transformers' own class; "" if there is none.
    """

    tokenizer: Any
    note: str = ""


def load(folder: str | Path, config: Any = None) -> PublishedTokenizer:
    """Load the tokenizer in a checkpoint's folder.

    Args:
        folder: folder with the tokenizer's files.
        config: model configuration, if the folder holds none (an adapter's folder).

    Raises:
        ValueError: if a file is damaged or transformers cannot load it.
    """
    from transformers import AutoTokenizer

    path = Path(folder)
    options = {} if config is None or (path / "config.json").is_file() else {"config": config}
    try:
        chosen = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False, **options)
    except Exception as error:
        raise ValueError(_fault(path) or str(error).strip() or type(error).__name__) from error
    published, name = _published(path, chosen)
    notes = []
    if name and _differ(published, chosen):
        kind = f"the class that transformers chooses ({type(chosen).__name__})"
        notes = [f"{name} is used as published: {kind} gives other tokens for some texts."]
    return PublishedTokenizer(published, " ".join([*notes, *_without_dropout(published)]))


def _published(folder: Path, chosen: Any) -> tuple[Any, str]:
    """Return the tokenizer and the file used instead of transformers' class; "" if that class is used."""
    file = next((folder / name for name in SENTENCEPIECE_FILES if _is_sentencepiece(folder / name)), None)
    if (folder / "tokenizer.json").is_file():
        return _of_json(folder, chosen), "tokenizer.json"
    if file is not None:
        return SentencePieceTokens(chosen, file), file.name
    if getattr(chosen, "is_fast", False):
        return chosen, ""
    if len(chosen(_BYTES, add_special_tokens=False)["input_ids"]) == len(_BYTES.encode()):
        return ByteTokens(chosen), ""
    return AlignedTokens(chosen), ""


def _without_dropout(tokenizer: Any) -> list[str]:
    """Switch off BPE dropout (merges skipped at random, for training); return a note if it was on."""
    model = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    dropout = getattr(model, "dropout", None)
    if not dropout:
        return []
    model.dropout = None  # type: ignore[union-attr]
    return [f"tokenizer.json leaves out {dropout:.0%} of the merges at random, for training: none is left out here."]


# Tokenizer files that are JSON objects.
_JSON = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json")


def _fault(folder: Path) -> str:
    """Say which file of an unloadable tokenizer is damaged or missing; "" if none is."""
    present = [folder / name for name in (*FILES, *_JSON, "merges.txt") if (folder / name).is_file()]
    try:
        for file in present:
            if file.stat().st_size == 0:
                return f"{file.name} is empty; copy it again"
            content = read_json(file, folder.name) if file.name in _JSON else None
            if content is None and is_lfs_pointer(file):
                return f"{file.name} is a Git LFS pointer; run `git lfs pull` in its folder"
            if file.name == "tokenizer.json" and not isinstance((content or {}).get("model"), dict):
                return f"{file.name} has no tokenizer model; copy it again"
    except ValueError as error:
        return str(error).removeprefix(f"{folder.name}: ")
    names = {file.name for file in present}
    if "vocab.json" in names and not names & {"merges.txt", "tokenizer.json"}:
        return "vocab.json is there without merges.txt, which holds its merge rules; copy that file too"
    return ""


def _of_json(folder: Path, chosen: Any) -> Any:
    """Load tokenizer.json unchanged, with the special tokens that transformers' class defines."""
    from transformers import PreTrainedTokenizerFast

    if type(chosen) is PreTrainedTokenizerFast or "__init__" not in type(chosen).__dict__:
        return chosen  # transformers does not rebuild it
    published = PreTrainedTokenizerFast.from_pretrained(str(folder))
    for name in ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"):
        token = getattr(chosen, name)
        if getattr(published, name) is None and token is not None and token in published.get_vocab():
            setattr(published, name, token)
    if not getattr(published, "chat_template", None):
        published.chat_template = getattr(chosen, "chat_template", None)
    return published


def _differ(published: Any, chosen: Any) -> bool:
    """Return whether two tokenizers give different tokens for any of the probe texts."""
    if published is chosen or not getattr(chosen, "is_fast", False):
        return False
    ours, theirs = (
        tokenizer(list(PROBE), add_special_tokens=False, verbose=False) for tokenizer in (published, chosen)
    )
    return list(ours["input_ids"]) != list(theirs["input_ids"])


def _is_sentencepiece(file: Path) -> bool:
    """Return whether a file is a SentencePiece model; Llama 3 and Qwen have published rank tables under such names."""
    if not file.is_file():
        return False
    from sentencepiece import SentencePieceProcessor

    try:
        return bool(SentencePieceProcessor(model_file=str(file)).get_piece_size())
    except (RuntimeError, OSError):
        return False
