"""Compute next-token statistics from a model's final states, without logits for all positions at once.

Position x vocabulary is the largest array of a forward pass: 8 thousand tokens of a Llama 3 take 4 GB in float32. The
output head is applied to a few positions at a time, and only to those needed. What a family does to its logits besides
(a soft cap, a scale) is repeated here; where the result differs from the model's own logits, those are used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from harness.loading.batches import Batches, padded
from harness.loading.blocks import body, call
from harness.loading.loaded_model import LoadedModel
from harness.records import Integers

# Bytes of float32 logits computed at once; working copies take twice as much again.
LOGIT_BYTES = 128 * 2**20
_TRIAL_TOKENS = 16
# Per position: log-probability and rank of the next token, entropy, log-probability of a word-initial token.
N_STATISTICS = 4


@dataclass(frozen=True)
class Head:
    """The operations after the last block.

    Attributes:
        project: the output embeddings; None if the model's own logits must be used.
        word_initial: (token,) ids of the word-initial tokens.
        soft_cap, scale: applied to the logits.
    """

    project: Any
    word_initial: torch.Tensor
    soft_cap: float | None = None
    scale: float = 1.0

    def statistics(self, final: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        """Compute next-token statistics in nats.

        Args:
            final: (position, hidden) states after the final norm, or (position, vocabulary) logits without `project`.
            next_ids: (position,) the token that follows each position.

        Returns:
            (position, 4) float32: log-probability and rank of the next token, entropy, and log-probability of a
            word-initial token (NaN if there are none).
        """
        width = self.project.weight.shape[0] if self.project is not None else final.shape[-1]
        size = max(1, LOGIT_BYTES // (4 * int(width)))
        chunks = [self._chunk(final[i : i + size], next_ids[i : i + size]) for i in range(0, len(next_ids), size)]
        return torch.cat(chunks) if chunks else final.new_zeros((0, N_STATISTICS), dtype=torch.float32)

    def _chunk(self, final: torch.Tensor, next_ids: torch.Tensor) -> torch.Tensor:
        logits = (final if self.project is None else self.project(final)) * self.scale
        if self.soft_cap:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        logs = logits.float().log_softmax(-1)
        next_logs = logs.gather(-1, next_ids.to(logs.device)[:, None])  # a copy, as are the sums: logs changes below
        rank = (logs > next_logs).sum(-1) + 1
        word_initial = logs[:, self.word_initial.to(logs.device)]
        has_word_initial = word_initial.shape[-1] > 0
        space = word_initial.logsumexp(-1) if has_word_initial else torch.full_like(next_logs[:, 0], torch.nan)
        # A token of probability 0 (-inf) adds nothing to the entropy.
        entropy = -logs.exp().mul_(logs.clamp_min_(torch.finfo(logs.dtype).min)).sum(-1)
        return torch.stack([next_logs[:, 0], rank.float(), entropy, space], dim=-1)


def head_for(rows: Iterable[Integers], loaded: LoadedModel, batches: Batches) -> Head:
    """Find the head for these sequences of ids; if it computes all logits at once, batches get smaller."""
    head = head_of(loaded, padded([max(rows, key=len)], loaded.device)[0])
    if head.project is None:
        batches.budget = min(batches.budget, max(1, LOGIT_BYTES // (4 * loaded.n_embeddings)))
    return head


def head_of(loaded: LoadedModel, ids: torch.Tensor) -> Head:
    """Find a model's head, and verify it on the first tokens of (1, token) ids against the model's own logits."""
    model, word_initial = loaded.model, torch.from_numpy(loaded.word_initial_tokens)
    own_logits = Head(None, word_initial)
    project = model.get_output_embeddings()
    if project is None or not hasattr(project, "weight"):
        return own_logits
    config = model.config.get_text_config(decoder=True)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    if getattr(config, "scale_decoder_outputs", False):  # T5 with tied embeddings
        scale *= config.d_model**-0.5
    head = Head(project, word_initial, getattr(config, "final_logit_softcapping", None), scale)
    trial_ids = ids[:, : _TRIAL_TOKENS + 1]
    next_ids = trial_ids[0, 1:]
    with torch.inference_mode():
        expected = own_logits.statistics(forward(loaded, trial_ids, None, own_logits)[0, :-1], next_ids)[:, 0]
        final = forward(loaded, trial_ids, None, head)[0, :-1]
        if final.shape[-1] != project.weight.shape[-1]:  # the model's head does more than project
            return own_logits
        actual = head.statistics(final, next_ids)[:, 0]
    tolerance = 1e-5 if loaded.dtype == "float32" else 1e-2
    is_equal = torch.allclose(expected, actual.to(expected.device), rtol=tolerance, atol=tolerance)
    return head if is_equal else own_logits


def forward(
    loaded: LoadedModel, ids: torch.Tensor, mask: torch.Tensor | None, head: Head | None,
    encoder_outputs: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:  # fmt: skip
    """Run a decoder, or an encoder-decoder's decoder.

    Args:
        loaded: the model.
        ids: (sequence, token) ids; of an encoder-decoder the decoder_input_ids.
        mask: (sequence, token) attention mask.
        head: decides what is returned.
        encoder_outputs: last hidden states of the encoder and their mask; None for those of an empty source.

    Returns:
        (sequence, token, hidden) states after the final norm; the model's own logits if the head has no `project`.
    """
    model = loaded.model
    with_logits = head is not None and head.project is None
    if not loaded.is_encoder_decoder:
        output = call(model if with_logits else body(model), input_ids=ids, attention_mask=mask, use_cache=False)
        return output.logits if with_logits else output.last_hidden_state  # type: ignore[no-any-return]
    encoder_states, encoder_mask = encoder_outputs or empty_source(loaded, len(ids))
    if with_logits:
        from transformers.modeling_outputs import BaseModelOutput

        encoded: Any = BaseModelOutput(last_hidden_state=encoder_states)
        encoded.router_logits = encoded.router_probs = None  # read by families with experts
        output = call(
            model, encoder_outputs=encoded, attention_mask=encoder_mask, decoder_input_ids=ids,
            decoder_attention_mask=mask, use_cache=False,
        )  # fmt: skip
        return output.logits  # type: ignore[no-any-return]
    output = call(
        body(model.get_decoder()), input_ids=ids, attention_mask=mask, encoder_hidden_states=encoder_states,
        encoder_attention_mask=encoder_mask, use_cache=False,
    )  # fmt: skip
    return output.last_hidden_state  # type: ignore[no-any-return]


def empty_source(loaded: LoadedModel, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The encoder's last hidden states for a text without words, and their mask, repeated `n` times."""
    special_ids = torch.tensor([[*loaded.before_source, *loaded.suffix]], device=loaded.device).repeat(n, 1)
    mask = torch.ones_like(special_ids)
    return call(loaded.model.get_encoder(), input_ids=special_ids, attention_mask=mask).last_hidden_state, mask
