"""The input embeddings of a model, averaged over the tokens of each stimulus: what it knows of words without context.

They are a control for the model's layers, from the same tokens. Position embeddings are not included.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from harness.loading.loaded_model import LoadedModel
from harness.records import Floats, Tokens
from harness.text.tokens import prefix_of


def averaged(loaded: LoadedModel, tokens: Sequence[Tokens]) -> Floats | None:
    """Average the input embeddings of each stimulus.

    Args:
        loaded: a loaded model.
        tokens: one per context.

    Returns:
        (stimulus, hidden) float32 in the order of the contexts; a stimulus without a token of its own has the last
        token before it, as in the hidden states, or NaN if there is none. None if the backend does not give access to
        the embeddings (vLLM).
    """
    embeddings = loaded.model.get_input_embeddings()
    if not isinstance(embeddings, torch.nn.Module):
        return None
    own = [_own_ids(encoded, k) for encoded in tokens for k in range(len(encoded.stimulus_ids))]
    used, index = np.unique(np.concatenate([*own, np.zeros(1, dtype=np.int64)]), return_inverse=True)
    with torch.inference_mode():
        found = embeddings(torch.from_numpy(used).to(loaded.device))
        found = found[0] if isinstance(found, tuple) else found  # I-BERT's come with their scale
        vectors = found.float().cpu().numpy()
    out = np.full((len(own), vectors.shape[1]), np.nan, dtype=np.float32)
    ends = np.cumsum([len(ids) for ids in own])
    for row, (ids, end) in enumerate(zip(own, ends, strict=True)):
        if len(ids):
            out[row] = vectors[index[end - len(ids) : end]].mean(axis=0, dtype=np.float64)
    return out


def _own_ids(encoded: Tokens, stimulus: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """(token,) ids of the tokens of a stimulus."""
    ids, positions = prefix_of(encoded, stimulus)
    return ids[positions].astype(np.int64)
