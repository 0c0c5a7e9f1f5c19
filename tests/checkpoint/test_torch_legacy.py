"""Files of `torch.save` before PyTorch 1.6."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch_files import (
    GOLDEN,
    LEGACY_FOUR,
    LEGACY_GOLDEN,
    legacy_tensor,
    listed,
    write_legacy,
)

from rbe_cli.checkpoint.checkpoint_tensor import RAW_TYPES
from rbe_cli.errors import CheckpointError


def test_the_form_before_pytorch_1_6_holds_the_same() -> None:
    legacy, newer = listed(LEGACY_GOLDEN), listed(GOLDEN)
    assert list(legacy) == list(newer)
    for name, stored in newer.items():
        assert (legacy[name].shape, legacy[name].dtype) == (stored.shape, stored.dtype)
        if stored.dtype in RAW_TYPES:
            np.testing.assert_array_equal(legacy[name].read(), stored.read())


@pytest.mark.parametrize("protocol", [2, 4])
def test_a_legacy_file_of_two_tensors_in_one_storage(tmp_path: Path, protocol: int) -> None:
    state = {"a": legacy_tensor(key="7"), "b": legacy_tensor((2,), (2,), 1, key="7")}
    stored = listed(write_legacy(tmp_path / "x.bin", state, LEGACY_FOUR, protocol=protocol))
    assert stored["a"].read().tolist() == [0, 1, 2, 3]
    assert stored["b"].read().tolist() == [1, 3]


def test_a_legacy_file_of_python_2(tmp_path: Path) -> None:
    """Python 2 pickled names as byte strings, and ordered dicts as lists of pairs."""
    pair = b"](U\x01a" + legacy_tensor(key="7") + b"e"
    state = b"ccollections\nOrderedDict\n](" + pair + b"e\x85R"
    assert listed(write_legacy(tmp_path / "x.bin", state, LEGACY_FOUR))["a"].shape == (4,)


@pytest.mark.parametrize(
    ("state", "storages", "changes", "message"),
    [
        ({"a": 1}, LEGACY_FOUR, {"version": 1000}, "no header"),
        ({"a": 1}, LEGACY_FOUR, {"machine": {"little_endian": False}}, "little-endian"),
        ({"a": 1}, LEGACY_FOUR, {"machine": None}, "no header"),
        ({"a": 1}, LEGACY_FOUR, {"keys": {"7": 1}}, "list of storages"),
        ({"a": 1}, LEGACY_FOUR, {"keys": ["7"]}, "unknown type"),
        ({"a": 1}, LEGACY_FOUR, {"keys": [["7"]]}, "unknown type"),
        ("a", LEGACY_FOUR, {"keys": ["7", "7"]}, "one twice"),
        ("a", LEGACY_FOUR, {"keys": []}, "a storage is missing"),
        ("a", {"7": bytes(12)}, {}, "another size"),
        ("a", {"7": bytes(20)}, {}, "another size"),
    ],
)
def test_malformed_legacy_files_are_refused(
    tmp_path: Path, state: Any, storages: Any, changes: dict[str, Any], message: str
) -> None:
    state = {"a": legacy_tensor(key="7")} if state == "a" else state
    path = write_legacy(tmp_path / "bad.bin", state, storages, **changes)
    with pytest.raises(CheckpointError, match=rf"bad\.bin: .*{message}"):
        listed(path)


def test_every_truncation_of_a_legacy_file_is_noticed(tmp_path: Path) -> None:
    whole = LEGACY_GOLDEN.read_bytes()
    path = tmp_path / "bad.bin"
    for end in range(14, len(whole), 7):
        path.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"bad\.bin"):
            listed(path)


def test_a_legacy_view_of_a_storage_is_refused(tmp_path: Path) -> None:
    state = {"a": legacy_tensor(key="7", view=("0", 0, 2))}
    with pytest.raises(CheckpointError, match=r"views of storages, as PyTorch before 0\.4"):
        listed(write_legacy(tmp_path / "bad.bin", state, LEGACY_FOUR))
