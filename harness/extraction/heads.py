"""What a model expects next in a text, without the logits of all positions at once.

Positions x vocabulary is the largest thing in a forward pass: 8 thousand tokens of a Llama 3 are 4 GB of float32. The
head is applied to some positions at a time instead, to those alone that are asked for. What a family does to its logits
besides (a soft cap, a scale) is done here too; where the result is not the model's own, its own logits are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.loading.batches import Batches
from harness.loading.blocks import body, call
from harness.loading.loaded_model import LoadedModel

# Bytes of float32 logits that are made at once; as much twice again is at work on them.
LOGIT_BYTES = 128 * 2**20
_TRIAL_TOKENS = 16
# What is said of a position: log-probability and rank of the token that comes, entropy, log-probability of a space.
N_SAID = 4


@dataclass(frozen=True)
class Head:
    """What comes after the last block.

    project: the output embeddings; None where the model's own logits must be taken. soft_cap, scale: of the logits.
    openings: (opening,) the tokens that begin with a space.
    """

    project: Any
    openings: torch.Tensor
    soft_cap: float | None = None
    scale: float = 1.0

    def said(self, final: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """(position, 4) float32, in nats, from (position, hidden) states after the norm.

        Log-probability and rank of the wanted (position,) token, entropy, and log-probability that what comes begins
        with a space (NaN without openings).
        """
        width = self.project.weight.shape[0] if self.project is not None else final.shape[-1]
        size = max(1, LOGIT_BYTES // (4 * int(width)))
        parts = [self._of_some(final[i : i + size], wanted[i : i + size]) for i in range(0, len(wanted), size)]
        return torch.cat(parts) if parts else final.new_zeros((0, N_SAID), dtype=torch.float32)

    def _of_some(self, final: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = (final if self.project is None else self.project(final)) * self.scale
        if self.soft_cap:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        logs = logits.float().log_softmax(-1)
        own = logs.gather(-1, wanted.to(logs.device)[:, None])  # gather and sums are copies: logs is changed below
        rank = (logs > own).sum(-1) + 1
        known = logs[:, self.openings.to(logs.device)]
        space = known.logsumexp(-1) if known.shape[-1] else torch.full_like(own[:, 0], torch.nan)
        # A token that cannot come (-inf) adds nothing to the entropy.
        entropy = -logs.exp().mul_(logs.clamp_min_(torch.finfo(logs.dtype).min)).sum(-1)
        return torch.stack([own[:, 0], rank.float(), entropy, space], dim=-1)


def free_memory(head: Head, reader: LoadedModel, batches: Batches) -> None:
    """Smaller batches where the logits of all their positions are made at once."""
    if head.project is None:
        width = reader.n_embeddings
        batches.budget = min(batches.budget, max(1, LOGIT_BYTES // (4 * width)))


def of(reader: LoadedModel, ids: torch.Tensor) -> Head:
    """The head of a model, tried on the first tokens of (1, token) ids against the model's own logits."""
    model, openings = reader.model, torch.from_numpy(reader.openings)
    own = Head(None, openings)
    project = model.get_output_embeddings()
    if project is None or not hasattr(project, "weight"):
        return own
    config = model.config.get_text_config(decoder=True)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    if getattr(config, "scale_decoder_outputs", False):  # T5, whose head is its embeddings
        scale *= config.d_model**-0.5
    head = Head(project, openings, getattr(config, "final_logit_softcapping", None), scale)
    short = ids[:, : _TRIAL_TOKENS + 1]
    wanted = short[0, 1:]
    with torch.inference_mode():
        said = own.said(forward(reader, short, None, own)[0, :-1], wanted)[:, 0]
        final = forward(reader, short, None, head)[0, :-1]
        if final.shape[-1] != project.weight.shape[-1]:  # the head does more than project
            return own
        found = head.said(final, wanted)[:, 0]
    near = 1e-5 if reader.dtype == "float32" else 1e-2
    return head if torch.allclose(said, found.to(said.device), rtol=near, atol=near) else own


def forward(
    reader: LoadedModel,
    ids: torch.Tensor,
    mask: torch.Tensor | None,
    head: Head | None,
    heard: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """(sequence, token, .) what a head is applied to: states after the final norm, or the model's own logits.

    The decoder of an encoder-decoder reads the ids; heard: the last states of its encoder and their mask, else those of
    an empty source.
    """
    model = reader.model
    whole = head is not None and head.project is None
    if not reader.is_encoder_decoder:
        found = call(model if whole else body(model), input_ids=ids, attention_mask=mask, use_cache=False)
        return found.logits if whole else found.last_hidden_state  # type: ignore[no-any-return]
    states, its_mask = heard or empty_source(reader, len(ids))
    if whole:
        from transformers.modeling_outputs import BaseModelOutput

        encoded: Any = BaseModelOutput(last_hidden_state=states)
        encoded.router_logits = encoded.router_probs = None  # of families with experts
        found = call(
            model, encoder_outputs=encoded, attention_mask=its_mask, decoder_input_ids=ids,
            decoder_attention_mask=mask, use_cache=False,
        )  # fmt: skip
        return found.logits  # type: ignore[no-any-return]
    found = call(
        body(model.get_decoder()), input_ids=ids, attention_mask=mask, encoder_hidden_states=states,
        encoder_attention_mask=its_mask, use_cache=False,
    )  # fmt: skip
    return found.last_hidden_state  # type: ignore[no-any-return]


def empty_source(reader: LoadedModel, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The last states of the encoder for a text without a word, and their mask, `n` times."""
    around = torch.tensor([[*reader.before_source, *reader.suffix]], device=reader.device).repeat(n, 1)
    mask = torch.ones_like(around)
    return call(reader.model.get_encoder(), input_ids=around, attention_mask=mask).last_hidden_state, mask
