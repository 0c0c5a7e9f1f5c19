import os
import pickle
import tracemalloc
from collections import Counter, OrderedDict, deque
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import NoneType
from typing import Any

import numpy as np
import pytest
from examples import examples
from hypothesis import given
from hypothesis import strategies as st

from rbe_cli.checkpoint.torch_files.restricted_pickle import Inert, load_pickle
from rbe_cli.errors import CheckpointError

NAMES: dict[str, Any] = {"collections OrderedDict": dict, "torch FloatStorage": "float32"}


def load(data: bytes) -> Any:
    return load_pickle(data, NAMES, lambda persistent_id: ("persistent", persistent_id))


def dumps(value: object) -> bytes:
    return pickle.dumps(value, protocol=2)


class Call:
    """Pickles as a call of `function`, as the classic attack does."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


class Settings:
    """What a training script may keep beside its weights."""

    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.text()
    | st.binary()
    | st.floats(allow_nan=False),
    lambda inner: (
        st.tuples(inner)
        | st.tuples(inner, inner, inner, inner)
        | st.lists(inner)
        | st.dictionaries(st.text(), inner)
    ),
)


@given(plain, st.integers(3, 5))
def test_plain_values_come_back(value: object, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol=protocol)) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_other_objects_become_inert(protocol: int) -> None:
    saved = {
        "weights": {"a": 1},
        "settings": Settings(n_layer=2, lr=0.1),
        "sets": ({1, 2}, frozenset({3})),
        "device": {(0, 1): "a key that is a tuple", "kept": [complex(1, 2)]},
        "deque": deque([1, 2], 5),
        "counts": Counter("abca"),
        "path": PurePosixPath("/tmp/x"),
        "time": datetime(2026, 1, 1),
        "numpy": (np.float64(3.5), np.arange(3)),
    }
    loaded = load(pickle.dumps(saved, protocol=protocol))
    assert loaded["weights"] == {"a": 1}
    assert isinstance(loaded["settings"], Inert)
    assert loaded["settings"].name.endswith(" Settings")
    assert loaded["settings"].state == {"n_layer": 2, "lr": 0.1}
    assert list(loaded["device"]) == ["kept"]
    inert = (*loaded["sets"], *loaded["numpy"], *(loaded[n] for n in ("deque", "counts", "path")))
    assert all(isinstance(value, Inert) for value in (*inert, loaded["time"]))


def test_ordered_dicts_come_back_without_their_attributes() -> None:
    state = OrderedDict(a=1, b=(2, 3))
    vars(state)["_metadata"] = {"version": 1}
    assert load(dumps(state)) == {"a": 1, "b": (2, 3)}


def test_shared_values_stay_shared() -> None:
    shared = {"x": 1}
    loaded = load(dumps({"a": shared, "b": shared}))
    assert isinstance(loaded, dict)
    assert loaded["a"] is loaded["b"]


def test_persistent_ids_go_to_the_caller() -> None:
    assert load(b"\x80\x02X\x03\0\0\0keyQ.") == ("persistent", "key")


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (lambda path: Call(os.system, f"touch {path}"), "system"),
        (lambda path: Call(eval, f"open({str(path)!r}, 'w')"), "eval"),
        (lambda path: Call(exec, f"open({str(path)!r}, 'w')"), "exec"),
        (lambda path: Call(open, str(path), "w"), "open"),
        (lambda path: Call(getattr, Call(__import__, "os"), "system"), "getattr"),
        (lambda path: {"weight": (1, Call(os.system, f"touch {path}"))}, "system"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_calls_of_anything_else_are_not_made(
    tmp_path: Path, attack: Any, name: str, protocol: int
) -> None:
    canary = tmp_path / "canary"
    loaded = load(pickle.dumps(attack(canary), protocol=protocol))
    while isinstance(loaded, dict | tuple):
        loaded = loaded["weight"] if isinstance(loaded, dict) else loaded[-1]
    assert isinstance(loaded, Inert)
    assert loaded.name.split()[-1] == name
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        b"torch._utils\n_rebuild_device_tensor_from_numpy",
        b"torch._utils\n_rebuild_tensor_v2.__globals__",
        b"collections\nOrderedDict.update",
        b"collections OrderedDict\n",
        b"Collections\nOrderedDict",
    ],
)
def test_names_must_match_exactly(name: bytes) -> None:
    assert isinstance(load(b"\x80\x02c" + name + b"\n."), Inert)


def test_names_of_protocol_4_are_text() -> None:
    assert load(b"\x80\x04\x8c\x05torch\x8c\x0cFloatStorage\x93.") == "float32"
    inert = load(b"\x80\x04\x8c\x02os\x8c\x06system\x93.")
    assert isinstance(inert, Inert)
    assert inert.name == "os system"
    with pytest.raises(CheckpointError, match="malformed"):
        load(b"\x80\x04}\x8c\x06system\x93.")


@pytest.mark.parametrize(
    ("data", "opcode"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "STRING"),
        (b"(X\1\0\0\0xios\nsystem\n.", "INST"),
        (b"(ccollections\nOrderedDict\no.", "OBJ"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"N2.", "DUP"),
    ],
)
def test_opcodes_that_a_state_dict_does_not_need_are_refused(data: bytes, opcode: str) -> None:
    with pytest.raises(CheckpointError, match=opcode):
        load(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x02N", id="no STOP"),
        pytest.param(b".", id="STOP with an empty stack"),
        pytest.param(b"h\0.", id="an unset memo"),
        pytest.param(b"q\0.", id="memo of an empty stack"),
        pytest.param(b"t.", id="TUPLE without a mark"),
        pytest.param(b"N\x86.", id="TUPLE2 of one value"),
        pytest.param(b"N(N\x86.", id="TUPLE2 across a mark"),
        pytest.param(b"N(NNu.", id="items of None"),
        pytest.param(b"}(Nu.", id="a key without a value"),
        pytest.param(b"N)a.", id="an item of None"),
        pytest.param(b"](Nu.", id="a key without a value, of a list"),
        pytest.param(b"](NNu.", id="keys of a list"),
        pytest.param(b"NN\x86NR.", id="a call of a tuple"),
        pytest.param(b"X\1\0\0\0aX\1\0\0\0bR.", id="a call of a string"),
        pytest.param(b"ctorch\nFloatStorage\n)R.", id="a call of a constant"),
        pytest.param(b"X\xff\xff\xff\x7fab.", id="a string longer than the pickle"),
    ],
)
def test_malformed_pickles_are_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError, match="malformed"):
        load(data)


def test_attributes_are_set_on_nothing() -> None:
    with pytest.raises(CheckpointError, match="attributes"):
        load(b"ccollections\nOrderedDict\n}X\1\0\0\0aK\1sb.")


def test_a_huge_memo_index_costs_nothing() -> None:
    assert load(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff.") is None


def test_a_tuple_that_doubles_itself_is_never_walked() -> None:
    doublings = b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(200))
    value = b")" + doublings
    assert isinstance(load(value + b"."), tuple)
    assert load(b"}(" + value + b"Nu.") == {}


def test_keys_that_are_not_text_are_dropped() -> None:
    # Multiples of the modulus of Python's hash would make a dict of n numbers take n**2 steps.
    modulus = (1 << 61) - 1
    assert load(dumps({modulus * n: n for n in range(100)} | {"kept": 1, 2.5: 2})) == {"kept": 1}


def test_numbers_of_many_digits_are_refused() -> None:
    assert load(dumps(2**2000)) == 2**2000
    with pytest.raises(CheckpointError, match="LONG4"):
        load(dumps(2**3000))


MANY = b"(" + b"N" * 100_000 + b"tq\0"
BOMBS = [
    pytest.param(b"N" * 300_000, id="many values"),
    pytest.param(b"](" + b"N" * 300_000 + b"e", id="many items"),
    pytest.param(b"(" * 300_000, id="many marks"),
    pytest.param(b"}q\0" + b"h\0" * 300_000, id="many reads of the memo"),
    pytest.param(MANY + b"ccollections\nOrderedDict\nh\0\x85R" * 1000, id="long arguments"),
    pytest.param(MANY + b"ccollections\nOrderedDict\nh\0R" * 1000, id="many arguments"),
    pytest.param(MANY + b"ccollections\nOrderedDict\nh\0\x85\x85R" * 1000, id="nested"),
    pytest.param(
        b"X" + (1 << 20).to_bytes(4, "little") + b"x" * (1 << 20) + b"q\0" + b"h\0h\0\x93" * 9999,
        id="long names",
    ),
]


@pytest.mark.parametrize("body", BOMBS)
def test_the_steps_of_a_pickle_are_bounded(body: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"too many steps|malformed"):
            load(b"\x80\x02" + body + b".")
        assert tracemalloc.get_traced_memory()[1] < 80e6
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=60))
@examples(300)
def test_random_bytes_never_escape_the_error_tree(data: bytes) -> None:
    with suppress(CheckpointError):
        plain_types = NoneType, bool, int, float, str, bytes, bytearray
        assert isinstance(load(data), (*plain_types, tuple, dict, list, Inert))


class Keywords:
    """Pickles as a call of a constructor with named arguments."""

    def __getnewargs_ex__(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (1,), {"a": 2}

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> "Keywords":
        return super().__new__(cls)


def test_a_constructor_with_named_arguments_is_inert() -> None:
    found = load(pickle.dumps(Keywords(), protocol=4))
    assert isinstance(found, Inert)
    assert found.name.endswith(" Keywords")


def test_attributes_go_to_the_object_that_they_belong_to() -> None:
    found = load(dumps([Settings(a=1), {"b": Settings(c=Settings(d=2))}]))
    assert found[0].state == {"a": 1}
    assert found[1]["b"].state["c"].state == {"d": 2}


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_sets_are_inert(protocol: int) -> None:
    found = load(pickle.dumps([{1, 2}, frozenset((1, 2)), 7], protocol))
    assert [type(own) for own in found] == [Inert, Inert, int]
    for own, kind in zip(found, ("set", "frozenset"), strict=False):
        assert own.name in (f"builtins {kind}", f"__builtin__ {kind}")


def test_what_lies_above_a_mark_is_dropped() -> None:
    assert load(b"\x80\x02K\x07(K\x01K\x021.") == 7


def test_attributes_of_a_dict_are_dropped() -> None:
    assert load(b"\x80\x02]}}X\x01\x00\x00\x00aK\x01sba.") == [{}]
    with pytest.raises(CheckpointError, match="sets attributes of an object: refused"):
        load(b"\x80\x02}K\x07}X\x01\x00\x00\x00aK\x01sb.")
