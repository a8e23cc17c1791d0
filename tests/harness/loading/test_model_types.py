"""Every text model type of transformers is supported, or refused with a reason; compared with transformers alone.

The models are built and saved without the harness, in the form in which such models are published: no BOS where the
family has none. The reference is loaded again by transformers' own classes.
"""

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing

from harness.checkpoints import checkpoints, model_configs
from harness.extraction import backends
from harness.models.model_table import MODELS
from harness.protocol import FoldRule, Protocol, Regression
from harness.records import Stimuli
from harness.storage.store import Store
from harness.text import contexts
from harness.units.feature_units import FeatureSource, FeatureUnit, stored_features
from tests.harness.loading import model_types
from tests.harness.loading.model_types import BOTH, DECODER, ENCODER

pytestmark = pytest.mark.slow

SENTENCES = ("The old bee watched the hive.", "Nobody moved.", "A king and a fox hid the golden snow, slowly.")
STIMULI = Stimuli(tuple("abc"), SENTENCES, tuple("ppq"))
PROTOCOL = Protocol("strict", "passage", FoldRule("grouped", n=5), Regression("ols"), "max")
# Types that this test cannot build, with the reason. Unsupported types are in model_configs.UNSUPPORTED.
NOT_BUILT = {"gemma3n": "its vision tower needs timm and pillow, which are not installed"}
CASES = [case for case in model_types.cases() if case[0] not in {*NOT_BUILT, *model_configs.UNSUPPORTED}]


@pytest.fixture(autouse=True)
def _one_thread():
    """One thread is fastest for tiny matrices."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


def extracted(name, stack, folder):
    """The loaded model, encoded contexts, and the features, surprisals and manifest of its unit."""
    checkpoint = checkpoints.resolve(str(folder))
    assert checkpoint.stack == stack
    model, store = backends.load("transformers", checkpoint, "cpu"), Store(str(folder.parent / "out"))
    source = FeatureSource(checkpoint.name, "model", checkpoint.revision, 0, checkpoint)
    unit = FeatureUnit(source, STIMULI, PROTOCOL, states=True, surprisals=stack != ENCODER)
    unit.run(model, store)
    encoded = [model.loaded.encode(context) for context in contexts.build(STIMULI, PROTOCOL.context)]
    return model.loaded, encoded, *stored_features(unit, store), store.manifest("features", unit.key)


def bits(model, ids, own, **more):
    """Surprisal of some tokens by one forward of the whole text; NaN for a first token without BOS."""
    with torch.no_grad():
        logits = model(**more or {"input_ids": torch.tensor([ids])}).logits[0]
    logs = logits.double().log_softmax(-1)
    return sum(-logs[at - 1, ids[at]].item() if at else np.nan for at in own) / np.log(2)


def expected_bits(loaded, model, encoded):
    for text in encoded:
        for k, last in enumerate(text.last):
            own = np.flatnonzero(text.owners == k)
            if loaded.stack == DECODER:
                ids, n = [*loaded.prefix, *map(int, text.ids)], len(loaded.prefix)
                yield bits(model, ids, [n + at for at in own])
                continue
            before = text.ids[: text.last[k - 1] + 1] if k else text.ids[:0]
            source = [*loaded.source_prefix, *map(int, before), *loaded.suffix]
            ids, n = [*loaded.prefix, *map(int, text.ids[own])], len(loaded.prefix)
            given = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([ids])}
            masks = {key.replace("input_ids", "attention_mask"): torch.ones_like(part) for key, part in given.items()}
            yield bits(model, ids, [n + at for at in range(len(own))], **given, **masks)
            assert last >= 0


@pytest.mark.parametrize(("name", "stack"), [case for case in CASES if case[1] != ENCODER])
def test_surprisals_equal_a_forward_by_transformers_alone(name, stack, tmp_path):
    folder = model_types.build(name, stack, tmp_path / "m", SENTENCES * 20)
    loaded, encoded, features, words, facts = extracted(name, stack, folder)
    auto = "AutoModelForSeq2SeqLM" if stack == BOTH else model_types.auto_of_decoder(name)
    model = getattr(transformers, auto).from_pretrained(folder, dtype="float32").eval()
    np.testing.assert_allclose(words.bits, list(expected_bits(loaded, model, encoded)), rtol=1e-4, atol=5e-4)
    if loaded.prefix:
        assert np.isfinite(words.bits).all()
    else:  # the first token of a text has no prediction
        assert np.isnan(words.bits).tolist() == [True, False, True]
    stacks = {layer.stack for layer in features.values}
    assert stacks == ({DECODER} if stack == DECODER else {DECODER, ENCODER})
    assert all(np.isfinite(matrix).all() for matrix in features.values.values())
    assert len(features.values) > len(stacks)
    assert facts["parity_states"] < 1e-5


def test_the_surprisal_of_bart_whose_decoder_starts_with_two_tokens(tmp_path):
    """As published: the tokenizer puts <s> and </s> around a text, and the decoder reads </s> <s> first."""
    folder = model_types.build("bart", BOTH, tmp_path / "m", SENTENCES * 20)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    tokenizer.save(str(folder / "tokenizer.json"))
    loaded, encoded, _, words, facts = extracted("bart", BOTH, folder)
    assert len(loaded.prefix) == 2
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype="float32").eval()
    np.testing.assert_allclose(words.bits, list(expected_bits(loaded, model, encoded)), rtol=1e-4, atol=5e-4)
    assert facts["parity_nats"] < 1e-4


@pytest.mark.parametrize("name", [name for name, stack in CASES if stack == ENCODER])
def test_states_of_an_encoder_equal_a_forward_by_transformers_alone(name, tmp_path):
    folder = model_types.build(name, ENCODER, tmp_path / "m", SENTENCES * 20)
    loaded, encoded, features, _, facts = extracted(name, ENCODER, folder)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype="float32").eval().base_model
    ids = [*loaded.prefix, *map(int, encoded[-1].ids), *loaded.suffix]
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
    at = len(loaded.prefix) + int(encoded[-1].last[-1])
    for layer in list(features.values)[:-1]:
        ours = features.values[layer][-1]
        differences = [np.abs(ours - state[0, at].numpy()).max() for state in states if state.shape[1] == len(ids)]
        assert min(differences) < 1e-4 * np.abs(ours).max(), layer
    assert facts["parity_states"] < 1e-5


@pytest.mark.parametrize("name", sorted(model_configs.UNSUPPORTED))
def test_unsupported_types_are_refused_with_the_reason(name):
    config = type("Config", (), {"model_type": name})()
    with pytest.raises(ValueError, match=f"'{name}' is not supported: "):
        model_configs.from_transformers(config)


def test_every_family_of_the_model_table_is_supported():
    assert {(entry.family, entry.stack) for entry in MODELS.values()} <= set(CASES)


def test_the_lists_of_unsupported_types_name_existing_types():
    """So that the lists are kept up to date with transformers."""
    known = {name for name, _ in model_types.cases()}
    assert set(model_configs.UNSUPPORTED) <= known
    assert set(NOT_BUILT) <= known
    assert len(CASES) > 240
