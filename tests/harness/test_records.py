import numpy as np
import pytest

from harness.records import Features, Layer, LazyMapping, Responses, Stimuli, indices_of


def test_a_duplicate_id_is_named():
    with pytest.raises(ValueError, match="'a' occurs more than once"):
        Stimuli(("a", "a"), ("x", "y"), ("p", "p"))


def test_an_interrupted_passage_is_named():
    with pytest.raises(ValueError, match="'p' is not contiguous"):
        Stimuli(("a", "b", "c"), ("x", "y", "z"), ("p", "q", "p"))


def test_positions_restart_at_each_passage():
    assert Stimuli(("a", "b", "c"), ("x", "y", "z"), ("p", "p", "q")).positions().tolist() == [0, 1, 0]


def test_a_missing_row_is_named():
    with pytest.raises(ValueError, match=r"1 of 2 ids are missing; the first is 'b'"):
        indices_of(("a", "b"), ("a",), "features")


def test_an_infinite_response_is_named_and_nan_is_allowed():
    values = np.array([[1.0, np.nan], [np.inf, 2.0]], dtype=np.float32)
    arguments = (("r1", "r2"), ("g", "g"), ("g", "g"), ("v1", "v2"), ("s", "s"), ("", ""), "z")
    with pytest.raises(ValueError, match="'v1' has infinite values"):
        Responses(values, *arguments)
    values[1, 0] = 0
    Responses(values, *arguments)


def test_features_whose_rows_do_not_match_their_ids_are_refused():
    with pytest.raises(ValueError, match=r"decoder\.1"):
        Features({Layer("decoder", 1): np.zeros((3, 2))}, ("a", "b"))


def test_lazy_matrices_are_loaded_on_access_and_their_shapes_are_known_before():
    loaded = []

    def make(layer):
        loaded.append(layer)
        return np.zeros((2, 3))

    first, absent = Layer("decoder", 0), Layer("decoder", 1)
    features = Features(LazyMapping({first: (2, 3)}, make), ("a", "b"))
    assert features.layers == (first,) and features.shapes[first] == (2, 3) and not loaded
    assert features.values[first].shape == (2, 3) and loaded == [first]
    with pytest.raises(KeyError):
        features.values[absent]
    with pytest.raises(ValueError, match=r"decoder\.0"):
        Features(LazyMapping({first: (3, 3)}, make), ("a", "b"))
