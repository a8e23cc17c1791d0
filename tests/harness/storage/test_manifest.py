"""Manifests: a flipped bit is found, and earlier versions are read."""

import json

import pytest

from harness.storage import inventory, manifest
from harness.storage.store import Store

CONTENT = {
    "kind": "scores", "key": "k", "created": "2026-11-29T12:00:00+00:00", "parity_nats": 1.5e-07,
    "note": "ünï", "n": None,
    "files": {"a.bin": {"bytes": 3, "sha256": "ab" * 32, "stamp": "1.0"}},
}  # fmt: skip


def test_a_manifest_is_read_as_it_was_written():
    encoded = manifest.encode(CONTENT)
    assert manifest.decode(encoded) == CONTENT
    assert manifest.encode(manifest.decode(encoded)) == encoded


def test_every_flipped_bit_is_found_or_changes_nothing():
    encoded = manifest.encode(CONTENT)
    for k in range(len(encoded)):
        for bit in range(8):
            damaged = bytearray(encoded)
            damaged[k] ^= 1 << bit
            try:
                decoded = manifest.decode(bytes(damaged))
            except ValueError:
                continue
            assert decoded == CONTENT  # \u00fc and \u00FC are the same letter


def test_a_manifest_of_an_earlier_version_has_no_checksum():
    assert manifest.decode(json.dumps(CONTENT).encode()) == CONTENT


@pytest.mark.parametrize("out", ["{tmp_path}", "memory://{tmp_path.name}"])
def test_a_damaged_manifest_is_named_and_its_unit_written_again(out, tmp_path):
    store = Store(out.format(tmp_path=tmp_path))

    def put():
        facts = {"schema": inventory.SCHEMAS["scores"], "n_tokens": 5}
        store.put("scores", "k", lambda folder: (folder / "a.bin").write_bytes(b"abc"), facts)

    put()
    path = f"{store.folder('scores', 'k')}/{manifest.MANIFEST}"
    store.fs.pipe_file(path, store.fs.cat_file(path).replace(b'"n_tokens": 5', b'"n_tokens": 7'))
    assert [unit.state for unit in inventory.ls(store)] == ["damaged"]
    _, _, (fault,) = inventory.verify(store)
    assert str(fault).startswith("scores unit k: manifest.json is corrupt")
    assert not store.has("scores", "k")
    assert not store.fs.exists(path)
    put()
    assert store.manifest("scores", "k")["n_tokens"] == 5
