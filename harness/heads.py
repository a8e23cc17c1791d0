"""The log-probabilities of a text's tokens, without the logits of all positions at once.

Positions x vocabulary is the largest thing in a forward pass: 8 thousand tokens of a Llama 3 are 4 GB of float32. The
head is applied to some positions at a time instead, to those alone that are asked for. What a family does to its logits
besides (a soft cap, a scale) is done here too; where the result is not the model's own, its own logits are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from harness.reader import Reader

# Bytes of float32 logits that are made at once.
LOGIT_BYTES = 256 * 2**20
_TRIAL_TOKENS = 16


@dataclass(frozen=True)
class Head:
    """What comes after the last block.

    project: the output embeddings; None where the model's own logits must be taken. soft_cap, scale: of the logits.
    """

    project: Any
    soft_cap: float | None = None
    scale: float = 1.0

    def log_probabilities(self, final: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """(position,) float32 nats of the wanted (position,) tokens, from (position, hidden) states after the norm."""
        width = self.project.weight.shape[0] if self.project is not None else final.shape[-1]
        size = max(1, LOGIT_BYTES // (4 * int(width)))
        parts = [self._of_some(final[i : i + size], wanted[i : i + size]) for i in range(0, len(wanted), size)]
        return torch.cat(parts) if parts else final.new_zeros(0, dtype=torch.float32)

    def _of_some(self, final: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        logits = (final if self.project is None else self.project(final)) * self.scale
        if self.soft_cap:
            logits = torch.tanh(logits / self.soft_cap) * self.soft_cap
        logits, wanted = logits.float(), wanted.to(logits.device)
        return logits.gather(-1, wanted[:, None])[:, 0] - torch.logsumexp(logits, dim=-1)


def of(reader: Reader, ids: torch.Tensor) -> Head:
    """The head of a model, tried on the first tokens of (1, token) ids against the model's own logits."""
    model, own = reader.model, Head(None)
    project = model.get_output_embeddings()
    if project is None or not hasattr(project, "weight"):
        return own
    config = model.config.get_text_config(decoder=True)
    scale = float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)
    if getattr(config, "scale_decoder_outputs", False):  # T5, whose head is its embeddings
        scale *= config.d_model**-0.5
    head = Head(project, getattr(config, "final_logit_softcapping", None), scale)
    short = ids[:, : _TRIAL_TOKENS + 1]
    wanted = short[0, 1:]
    with torch.inference_mode():
        said = own.log_probabilities(forward(reader, short, None, own)[0, :-1], wanted)
        found = head.log_probabilities(forward(reader, short, None, head)[0, :-1], wanted)
    near = 1e-5 if reader.dtype == "float32" else 1e-2
    return head if torch.allclose(said, found.to(said.device), rtol=near, atol=near) else own


def forward(reader: Reader, ids: torch.Tensor, mask: torch.Tensor | None, head: Head | None) -> torch.Tensor:
    """(sequence, token, .) what a head is applied to: states after the final norm, or the model's own logits.

    T5's decoder reads the ids with an empty source.
    """
    if head is not None and head.project is None:
        if reader.is_encoder_decoder:
            options = {"input_ids": _empty(reader, ids), "decoder_input_ids": ids, "decoder_attention_mask": mask}
        else:
            options = {"input_ids": ids, "attention_mask": mask}
        logits: torch.Tensor = reader.model(**options, use_cache=False).logits
        return logits
    if reader.is_encoder_decoder:
        memory = reader.model.encoder(input_ids=_empty(reader, ids)).last_hidden_state
        found = reader.model.decoder(
            input_ids=ids, attention_mask=mask, encoder_hidden_states=memory, use_cache=False
        )  # fmt: skip
    else:
        found = reader.model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    states: torch.Tensor = found.last_hidden_state
    return states


def _empty(reader: Reader, ids: torch.Tensor) -> torch.Tensor:
    return torch.full((len(ids), 1), reader.tokenizer.eos_token_id, device=ids.device)
