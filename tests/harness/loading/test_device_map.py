"""A model's modules are assigned to devices before its weights are loaded."""

import itertools
import os

import numpy as np
import pytest
import torch

from harness.checkpoints import checkpoints
from harness.extraction import with_transformers
from harness.loading import architectures, blocks, device_map, loaded_model, trained
from harness.loading.device_map import ModulePart
from harness.models import tiny
from harness.records import Stimuli
from harness.text import contexts

TEXT = ("The old bee watched the hive.", "Nobody moved, slowly.", "A king hid the snow.")


@pytest.fixture(scope="module", params=sorted(tiny.FAMILIES))
def checkpoint(request, tmp_path_factory):
    folder = tiny.build(request.param, tmp_path_factory.mktemp("models") / "m", TEXT, seed=0)
    return checkpoints.resolve(str(folder))


def _parts(checkpoint):
    meta_model = architectures.read(checkpoint.folder).meta_model("float32")
    return meta_model, device_map.parts_of(meta_model, lambda _module, _name, tensor: tensor.numel() * 4)


def _holder(name, placed):
    """Names of the parts that a tensor or module belongs to."""
    return [part for part in placed if name == part or name.startswith(f"{part}.")]


def test_every_weight_is_in_one_part_and_counted_once(checkpoint):
    meta_model, parts = _parts(checkpoint)
    placed = device_map.spread(parts, [10**9] * 3)
    names = [name for name, _ in [*meta_model.named_parameters(remove_duplicate=False), *meta_model.named_buffers()]]
    assert len(placed) == len(parts) > tiny.BLOCKS
    assert all(len(_holder(name, placed)) == 1 for name in names)
    own = [*meta_model.parameters(), *meta_model.buffers()]
    assert sum(part.n_bytes for part in parts) == 4 * sum(tensor.numel() for tensor in own)


def test_tied_weights_are_on_one_gpu_and_no_block_is_divided(checkpoint):
    meta_model, parts = _parts(checkpoint)
    placed = device_map.spread(parts, [10**9] * 3)
    owners: dict[int, set[int]] = {}
    for name, weight in meta_model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(weight), set()).add(placed[_holder(name, placed)[0]])
    assert owners
    assert all(len(gpus) == 1 for gpus in owners.values())
    stacks = ["encoder", "decoder"] if meta_model.config.is_encoder_decoder else ["decoder"]
    lists = [blocks.blocks_of(meta_model, stack).modules for stack in stacks]
    names = [
        name
        for name, module in meta_model.named_modules()
        if any(module is block for listed in lists for block in listed)
    ]
    assert len(set(placed.values())) == 3
    assert len(names) == tiny.BLOCKS * len(stacks)
    assert set(names) <= set(placed)


def test_embeddings_are_first_and_blocks_follow_in_order(checkpoint):
    _, parts = _parts(checkpoint)
    placed = device_map.spread(parts, [10**9] * 4)
    in_order = [placed[part.name] for part in parts if not part.tied_to]
    assert in_order == sorted(in_order)
    assert in_order[0] == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_cut_minimises_the_load_of_the_fullest_gpu(seed):
    generator = np.random.default_rng(seed)
    parts = [ModulePart(str(k), int(size)) for k, size in enumerate(generator.integers(0, 50, 9))]
    free = [int(size) for size in generator.integers(150, 400, 3)]

    def fullest(placed):
        return max(sum(p.n_bytes for p in parts if placed[p.name] == gpu) / free[gpu] for gpu in range(3))

    cuts = itertools.combinations_with_replacement(range(len(parts) + 1), 2)
    best = min(fullest({p.name: (k >= first) + (k >= second) for k, p in enumerate(parts)}) for first, second in cuts)
    assert fullest(device_map.spread(parts, free)) == best


def test_70b_parameters_fit_on_two_gpus_of_80_gb_but_not_on_one():
    """Llama 70B in bfloat16: 80 blocks of 1.71 GB, embeddings and head of 2.1 GB each."""
    blocks = [ModulePart(f"model.layers.{k}", 1_711_000_000) for k in range(80)]
    parts = [ModulePart("model.embed_tokens", 2_101_000_000), *blocks, ModulePart("lm_head", 2_101_000_000)]
    placed = device_map.spread(parts, [76 * 10**9] * 2)
    on = [sum(p.n_bytes for p in parts if placed[p.name] == gpu) for gpu in range(2)]
    assert abs(on[0] - on[1]) <= 1_711_000_000
    with pytest.raises(ValueError, match=r"141\.1 GB of weights do not fit on 1 GPUs with 76\.0 GB free"):
        device_map.spread(parts, [76 * 10**9])


def test_parts_are_refused_if_only_their_sum_would_fit():
    with pytest.raises(ValueError, match="do not fit on 2 GPUs"):
        device_map.spread([ModulePart("a", 10), ModulePart("b", 10), ModulePart("c", 10)], [16, 16])


@pytest.fixture
def two_devices(monkeypatch):
    """Let accelerate take "cpu:1" and "cpu:2" for two devices, without moving tensors."""
    if os.environ.get("CI") != "true":
        pytest.importorskip("accelerate")
    import accelerate.hooks

    monkeypatch.setattr(accelerate.hooks, "set_module_tensor_to_device", lambda *_, **__: None)


def test_a_model_on_two_devices_gives_the_numbers_of_one_device(checkpoint, two_devices):
    architecture = architectures.read(checkpoint.folder)
    meta_model, parts = _parts(checkpoint)
    where = {name: f"cpu:{gpu + 1}" for name, gpu in device_map.spread(parts, [10**9] * 2).items()}
    whole, cut = loaded_model.load(checkpoint), trained.load(architecture, meta_model, checkpoint, "float32", where)
    hooked = {name for name, module in cut.named_modules() if hasattr(module, "_hf_hook")}
    assert len(hooked) > tiny.BLOCKS
    ids = torch.arange(4, 14)[None]
    more = {"decoder_input_ids": ids} if whole.stack == "encoder-decoder" else {}
    with torch.inference_mode():
        ours, theirs = (model(input_ids=ids, **more)[0] for model in (cut, whole.model))
    assert torch.equal(ours, theirs)


def test_an_untrained_control_on_two_devices_has_the_weights_of_one_device(checkpoint, two_devices):
    architecture = architectures.read(checkpoint.folder)
    where = {name: f"cpu:{gpu + 1}" for name, gpu in device_map.spread(_parts(checkpoint)[1], [10**9] * 2).items()}
    cut = loaded_model._untrained(architecture, 5, "float32", where)
    whole = loaded_model.load(checkpoint, untrained_seed=5).model
    assert sum(hasattr(module, "_hf_hook") for module in cut.modules()) > tiny.BLOCKS
    assert all(weight.equal(other) for weight, other in zip(cut.parameters(), whole.parameters(), strict=True))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_give_the_states_of_one(checkpoint):
    on_one, on_two = (loaded_model.load(checkpoint, "cuda", n_gpus=n) for n in (1, 2))
    if on_one.stack == "encoder":
        pytest.skip("no log-probabilities")
    assert len({weight.device for weight in on_two.model.parameters()}) == 2
    stimuli = Stimuli(("a", "b", "c"), TEXT, ("p", "p", "q"))
    encoded = [on_one.encode(context) for context in contexts.build(stimuli, "passage")]
    extractions = [with_transformers.extract(model, encoded) for model in (on_one, on_two)]
    for layer, matrix in extractions[0].features.values.items():
        np.testing.assert_allclose(extractions[1].features.values[layer], matrix, atol=1e-5)
