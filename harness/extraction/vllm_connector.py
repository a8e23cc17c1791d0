"""vLLM's door to its hidden states, with pooling: only the vectors of the stimuli leave the device.

vLLM keeps the states of the layers asked for beside its key-value cache. Its own connector writes all of them to disk,
every token by every layer (1.3 MB a token of a 70B). This one is told with each request which positions are a
stimulus's, and writes one vector a stimulus and layer, in float32, to a file in a private folder.

Loaded by vLLM, by its name, in each of its processes; with tensor parallelism all of them hold the same states and the
first one writes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from vllm.distributed.kv_transfer.kv_connector.v1.example_hidden_states_connector import (
    ExampleHiddenStatesConnector,
    ExampleHiddenStatesConnectorMetadata,
    PendingSave,
)


@dataclass
class PooledSave(PendingSave):
    """A request whose states are to be pooled: positions at[i] of its prompt into row place[i] of n_rows."""

    at: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    n_rows: int = 0
    adds_up: bool = False


class PooledStates(ExampleHiddenStatesConnector):
    """Pools the states of finished requests and writes them."""

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """In the scheduler: remember what is to be pooled; the request's blocks are kept until it is done."""
        kept, params = super().request_finished(request, block_ids)
        pending = self._pending_saves.pop(request.request_id, None)
        asked = (request.kv_transfer_params or {}).get("pool")
        if pending is None or asked is None:
            return False, None
        self._pending_saves[request.request_id] = PooledSave(
            pending.req_id, pending.filename, pending.token_ids, pending.block_ids, **asked
        )
        return kept, params

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:  # noqa: ARG002
        """In a worker: pool and write what the scheduler sent; then its blocks are free."""
        done = set()
        if self.has_connector_metadata():
            metadata = self._get_connector_metadata()
            if isinstance(metadata, ExampleHiddenStatesConnectorMetadata):
                for pending in metadata.pending_saves:
                    if self._is_tp_rank_zero and isinstance(pending, PooledSave):
                        self._write(pending, self.pooled(pending))
                    done.add(pending.req_id)
        return (done or None) if self._is_tp_rank_zero else None, None

    def wait_for_save(self) -> None:
        """No file is made before its content is there."""

    def pooled(self, pending: PooledSave) -> torch.Tensor:
        """(layer, row, hidden) float32, on the device."""
        cache = self._kv_cache
        if cache is None:
            raise RuntimeError("vLLM has registered no cache of hidden states.")
        at = torch.tensor(pending.at, dtype=torch.long, device=cache.device)
        place = torch.tensor(pending.place, dtype=torch.long, device=cache.device)
        blocks = torch.tensor(pending.block_ids, dtype=torch.long, device=cache.device)
        size = cache.shape[2]  # cache: (block, layer, place in it, hidden)
        states = cache[blocks[at // size], :, at % size].float()
        sums = states.new_zeros((pending.n_rows, *states.shape[1:])).index_add_(0, place, states)
        if not pending.adds_up:
            sums /= torch.bincount(place, minlength=pending.n_rows).to(sums)[:, None, None]
        return sums.transpose(0, 1).contiguous()

    def _write(self, pending: PooledSave, states: torch.Tensor) -> None:
        """Aside, then in one step: a file that is there is whole."""
        save_file({"states": states.cpu()}, f"{pending.filename}.aside")
        Path(f"{pending.filename}.aside").replace(pending.filename)
