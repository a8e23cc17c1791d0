"""A vLLM connector that pools hidden states, so that only one vector per layer and stimulus leaves the device.

vLLM keeps the states of the requested layers beside its key-value cache. Its own connector writes all of them to disk,
every token of every layer (1.3 MB per token for a 70B model). This connector receives the positions of the stimuli with
each request, and writes one float32 vector per stimulus and layer to a file in a private folder.

vLLM loads this module by name in each of its processes. With tensor parallelism all processes hold the same states, and
the first one writes them.
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
    """A request whose states are to be pooled.

    Attributes:
        at: positions of its prompt.
        place: the row of each position.
        n_rows: number of rows.
        adds_up: whether to sum the positions of a row instead of averaging them.
    """

    at: list[int] = field(default_factory=list)
    place: list[int] = field(default_factory=list)
    n_rows: int = 0
    adds_up: bool = False


class PooledStates(ExampleHiddenStatesConnector):
    """Pools the states of finished requests and writes them to files."""

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """In the scheduler: queue a request for pooling; its blocks are kept until then."""
        kept, params = super().request_finished(request, block_ids)
        pending = self._pending_saves.pop(request.request_id, None)
        pool = (request.kv_transfer_params or {}).get("pool")
        if pending is None or pool is None:
            return False, None
        self._pending_saves[request.request_id] = PooledSave(
            pending.req_id, pending.filename, pending.token_ids, pending.block_ids, **pool
        )
        return kept, params

    def get_finished(self, finished_req_ids: set[str]) -> tuple[set[str] | None, set[str] | None]:  # noqa: ARG002
        """In a worker: pool and write the queued requests, which releases their blocks."""
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
        """Do nothing: files appear only when complete."""

    def pooled(self, pending: PooledSave) -> torch.Tensor:
        """Pool to (layer, row, hidden) float32, on the device."""
        cache = self._kv_cache
        if cache is None:
            raise RuntimeError("vLLM has not registered a cache of hidden states; is this version of vLLM supported?")
        positions = torch.tensor(pending.at, dtype=torch.long, device=cache.device)
        row_index = torch.tensor(pending.place, dtype=torch.long, device=cache.device)
        blocks = torch.tensor(pending.block_ids, dtype=torch.long, device=cache.device)
        block_size = cache.shape[2]  # cache: (block, layer, position in block, hidden)
        states = cache[blocks[positions // block_size], :, positions % block_size].float()
        sums = states.new_zeros((pending.n_rows, *states.shape[1:])).index_add_(0, row_index, states)
        if not pending.adds_up:
            sums /= torch.bincount(row_index, minlength=pending.n_rows).to(sums)[:, None, None]
        return sums.transpose(0, 1).contiguous()

    def _write(self, pending: PooledSave, states: torch.Tensor) -> None:
        """Write to a temporary file and rename it: a file with the final name is complete."""
        temporary = Path(f"{pending.filename}.aside")
        save_file({"states": states.cpu()}, temporary)
        temporary.replace(pending.filename)
