"""Examples as token ids: the loss is on the response alone, and both arms train on the same examples.

As in Stanford Alpaca's train.py, the prompt's length is that of the prompt tokenised by itself, the response ends with
the end-of-sequence token, and what exceeds the maximum length is cut off. Unlike there, batches are padded without a
new token: padded positions are masked, so that the vocabulary stays the base's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.records import Integers
from harness.tuning.examples import Example
from harness.tuning.prompts import ARMS, Arm, prompt

IGNORED = -100  # label of a token that is not in the loss; torch's default ignore_index


@dataclass(frozen=True)
class Tokenized:
    """One example as token ids.

    Attributes:
        ids: (token,) prompt and response, with the model's prefix and the end-of-sequence token.
        n_prompt: tokens of the prefix and the prompt, which are not in the loss.
        was_cut: whether the example was longer than the maximum length.
    """

    ids: Integers
    n_prompt: int
    was_cut: bool

    @property
    def n_response(self) -> int:
        """Number of tokens in the loss."""
        return len(self.ids) - self.n_prompt

    @property
    def labels(self) -> Integers:
        """(token,) the ids, with IGNORED at the prompt."""
        return np.where(np.arange(len(self.ids)) < self.n_prompt, IGNORED, self.ids)


@dataclass(frozen=True)
class Corpus:
    """The examples of both arms, in the order of the file, and what was left out.

    Attributes:
        by_arm: arm -> (example,) tokenised; the same examples at the same places.
        n_without_response: examples left out of both arms, because with the instruction the prompt alone fills the
            maximum length.
    """

    by_arm: dict[Arm, list[Tokenized]]
    n_without_response: int

    def n_cut(self, arm: Arm) -> int:
        """Number of examples whose end was cut off."""
        return sum(example.was_cut for example in self.by_arm[arm])


def of_examples(examples: Sequence[Example], tokenizer: Any, prefix: Sequence[int], length: int) -> Corpus:
    """Tokenise the examples for both arms.

    Args:
        examples: in the order of the file.
        tokenizer: fast tokenizer of the base.
        prefix: ids that the base puts before a text, such as BOS.
        length: maximum number of tokens.

    Raises:
        ValueError: if no example has a response within the maximum length.
    """
    by_arm = {arm: _tokenized(examples, arm, tokenizer, prefix, length) for arm in ARMS}
    kept = [place for place in range(len(examples)) if all(by_arm[arm][place].n_response > 0 for arm in ARMS)]
    if not kept:
        raise ValueError(
            f"each of the {len(examples)} prompts is longer than {length} tokens, which leaves no response to learn; "
            "increase --length or shorten the examples."
        )
    return Corpus({arm: [by_arm[arm][place] for place in kept] for arm in ARMS}, len(examples) - len(kept))


def _tokenized(
    examples: Sequence[Example], arm: Arm, tokenizer: Any, prefix: Sequence[int], length: int
) -> list[Tokenized]:
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    prompts = [prompt(example, arm) for example in examples]
    prompt_ids = _ids(tokenizer, prompts)
    all_ids = _ids(tokenizer, [text + example.output for text, example in zip(prompts, examples, strict=True)])
    return [
        _cut([*prefix, *ids, *end], len(prefix) + len(before), length)
        for before, ids in zip(prompt_ids, all_ids, strict=True)
    ]


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return ids


def _cut(ids: list[int], n_prompt: int, length: int) -> Tokenized:
    return Tokenized(np.array(ids[:length], dtype=np.int64), min(n_prompt, length, len(ids)), len(ids) > length)


def padded(examples: Sequence[Tokenized]) -> tuple[Integers, Integers, Integers]:
    """Put examples into one rectangle, padded on the right.

    Returns:
        ids, labels and attention mask, each (example, token); padded ids are 0, their labels IGNORED, their mask 0.
    """
    width = max(len(example.ids) for example in examples)
    ids, mask = np.zeros((2, len(examples), width), dtype=np.int64)
    labels = np.full((len(examples), width), IGNORED, dtype=np.int64)
    for row, example in enumerate(examples):
        n = len(example.ids)
        ids[row, :n], labels[row, :n], mask[row, :n] = example.ids, example.labels, 1
    return ids, labels, mask
