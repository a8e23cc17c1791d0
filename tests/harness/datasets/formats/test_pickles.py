"""Pickles are read as data: arrays and dictionaries come back, code is refused and not run."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from harness.datasets.formats import pickles

CONTENT = {"F": {"all": np.array([True, False, True]), "IFG": np.arange(3.0)}}


class _Call:
    """A pickle of this calls whatever it is given."""

    def __init__(self, function, *arguments):
        self.how = function, arguments

    def __reduce__(self):
        return self.how


def _assert_content(found):
    assert list(found) == ["F"]
    np.testing.assert_array_equal(found["F"]["all"], CONTENT["F"]["all"])
    np.testing.assert_array_equal(found["F"]["IFG"], CONTENT["F"]["IFG"])
    assert found["F"]["all"].dtype == bool


def test_a_dictionary_saved_as_an_array_comes_back(tmp_path):
    np.save(tmp_path / "a.npy", CONTENT)
    _assert_content(pickles.load(tmp_path / "a.npy"))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_a_bare_pickle_of_every_protocol_comes_back(tmp_path, protocol):
    (tmp_path / "a").write_bytes(pickle.dumps(CONTENT, protocol))
    _assert_content(pickles.load(tmp_path / "a"))


def test_a_pickle_of_python_2_and_an_older_numpy_comes_back(tmp_path):
    """As Python 2 wrote np.array([True, False, True]): names of strings of bytes, the old place of NumPy's function."""
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
def test_code_is_refused_by_name_and_not_run(tmp_path, call, name, protocol):
    mark = tmp_path / "mark"
    for path, content in (("bare", pickle.dumps({"F": call(mark)}, protocol)), ("array.npy", None)):
        if content is None:
            np.save(tmp_path / path, {"F": call(mark)})
        else:
            (tmp_path / path).write_bytes(content)
        with pytest.raises(ValueError, match=rf"wants to call \S*{name}, which is no array.*not run"):
            pickles.load(tmp_path / path)
    assert not mark.exists()
    pickle.loads((tmp_path / "bare").read_bytes())  # noqa: S301 - what would have happened
    assert mark.exists() or (tmp_path / "mark.npy").exists()


def test_no_other_codec_is_called(tmp_path):
    (tmp_path / "a").write_bytes(b"c_codecs\nencode\n(Vtext\nVzlib_codec\ntR.")
    with pytest.raises(ValueError, match="zlib_codec"):
        pickles.load(tmp_path / "a")


def test_an_array_that_is_not_pickled_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npy is no pickle .* an array of float64"):
        pickles.load(tmp_path / "a.npy")
