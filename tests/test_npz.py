"""Files of NumPy arrays by name."""

import numpy as np
import pytest

from landmarks_jax.system.errors import DataError
from landmarks_jax.system.npz import read_npz, write_npz

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(["x", "yz"]), "c": np.array(2.5)}


def test_arrays_come_back(tmp_path):
    path = tmp_path / "new" / "x.npz"
    write_npz(path, DataError, **ARRAYS | {"c": 2.5})
    arrays = read_npz(path)
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert [file.name for file in path.parent.iterdir()] == ["x.npz"]
    with pytest.raises(DataError, match=r"y\.npz: cannot be written"):
        write_npz(path / "y.npz", DataError, **ARRAYS)


def test_damage_is_a_value_error(tmp_path):
    path = tmp_path / "x.npz"
    with pytest.raises(ValueError, match="No such file"):
        read_npz(path)
    write_npz(path, DataError, **ARRAYS)
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", ARRAYS["a"])
    np.savez(tmp_path / "objects.npz", a=np.array([{}]))
    others = [(tmp_path / name).read_bytes() for name in ("one.npy", "objects.npz")]
    for data in (*others, *(whole[:end] for end in range(0, len(whole), 7))):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r".") as error:
            read_npz(path)
        assert "\n" not in str(error.value)
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            read_npz(path)
        except ValueError as error:
            assert "\n" not in str(error)  # noqa: PT017
