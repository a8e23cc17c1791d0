"""Pickles are read as data: arrays and dictionaries are loaded, code is rejected and not executed."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from harness.datasets.formats import pickles

CONTENT = {"F": {"all": np.array([True, False, True]), "IFG": np.arange(3.0)}}


class _Call:
    """Unpickling this calls the given function."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def _assert_content(loaded):
    assert list(loaded) == ["F"]
    np.testing.assert_array_equal(loaded["F"]["all"], CONTENT["F"]["all"])
    np.testing.assert_array_equal(loaded["F"]["IFG"], CONTENT["F"]["IFG"])
    assert loaded["F"]["all"].dtype == bool


def test_a_dictionary_saved_as_an_array_is_loaded(tmp_path):
    np.save(tmp_path / "a.npy", CONTENT)
    _assert_content(pickles.load(tmp_path / "a.npy"))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_bare_pickle_of_every_protocol_is_loaded(tmp_path, protocol):
    (tmp_path / "a").write_bytes(pickle.dumps(CONTENT, protocol))
    _assert_content(pickles.load(tmp_path / "a"))


def test_a_pickle_of_python_2_and_an_older_numpy_is_loaded(tmp_path):
    """np.array([True, False, True]) as pickled by Python 2: byte strings, the old module of NumPy's function."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I3\ntcnumpy\ndtype\n(S'b1'\nI0\nI1\n"
        b"tR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nS'\\x01\\x00\\x01'\ntb"
    )
    (tmp_path / "a").write_bytes(b"(dS'F'\n(dS'all'\n" + array + b"ss.")
    np.testing.assert_array_equal(pickles.load(tmp_path / "a")["F"]["all"], [True, False, True])


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda mark: _Call(os.system, f"touch {mark}"), r"(posix|nt)\.system"),
        (lambda mark: _Call(eval, f"open({str(mark)!r}, 'w')"), "eval"),
        (lambda mark: _Call(np.save, str(mark), np.zeros(1)), "save"),
        (lambda mark: _Call(open, str(mark), "w"), "open"),
    ],
    ids=["os.system", "eval", "numpy.save", "open"],
)
def test_code_is_rejected_by_name_and_not_executed(tmp_path, call, name, protocol):
    mark = tmp_path / "mark"
    for path, content in (("bare", pickle.dumps({"F": call(mark)}, protocol)), ("array.npy", None)):
        if content is None:
            np.save(tmp_path / path, {"F": call(mark)})
        else:
            (tmp_path / path).write_bytes(content)
        with pytest.raises(ValueError, match=rf"calls \S*{name}, which is not an array.*not executed"):
            pickles.load(tmp_path / path)
    assert not mark.exists()
    pickle.loads((tmp_path / "bare").read_bytes())  # noqa: S301 - shows what the pickle would have done
    assert mark.exists() or (tmp_path / "mark.npy").exists()


def test_no_other_codec_is_used(tmp_path):
    (tmp_path / "a").write_bytes(b"c_codecs\nencode\n(Vtext\nVzlib_codec\ntR.")
    with pytest.raises(ValueError, match="zlib_codec"):
        pickles.load(tmp_path / "a")


def test_an_array_that_is_not_pickled_is_rejected(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npy is not a pickle .* an array of float64"):
        pickles.load(tmp_path / "a.npy")
