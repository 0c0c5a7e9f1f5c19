from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbe_cli.checkpoint.assemble import assemble
from rbe_cli.checkpoint.checkpoint import LazyTensors
from rbe_cli.checkpoint.config import Gpt2Config
from rbe_cli.checkpoint.stored_tensor import StoredTensor
from rbe_cli.errors import CheckpointError

Arrays = dict[str, NDArray[np.float32]]


def stored(array: NDArray[Any], dtype: str = "float32") -> StoredTensor:
    return StoredTensor(array.shape, dtype, lambda: array)


def assembled(
    raw_config: dict[str, Any], arrays: Arrays, *more: tuple[str, StoredTensor]
) -> LazyTensors:
    pairs = [(name, stored(array)) for name, array in arrays.items()]
    return assemble([*pairs, *more], Gpt2Config.from_hugging_face(raw_config))


def assert_same(actual: LazyTensors, expected: Arrays) -> None:
    assert list(actual) == list(expected)
    for name, array in expected.items():
        np.testing.assert_array_equal(actual[name], array)


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_names_become_canonical(raw_config: dict[str, Any], tensors: Arrays, prefix: str) -> None:
    backwards = {prefix + name: tensors[name] for name in reversed(tensors)}
    assert_same(assembled(raw_config, backwards), tensors)


def test_mask_buffers_are_ignored(raw_config: dict[str, Any], tensors: Arrays) -> None:
    mask = stored(np.ones((1, 1, 4, 4), dtype=np.bool_), "bool")
    masks = [("transformer.h.0.attn.bias", mask), ("h.0.attn.masked_bias", mask)]
    assert_same(assembled(raw_config, tensors, *masks), tensors)


def test_a_tied_head_equal_to_the_embedding_is_dropped(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    head = ("lm_head.weight", stored(tensors["wte.weight"].copy()))
    assert_same(assembled(raw_config, tensors, head), tensors)


def test_a_tied_head_with_the_same_nan_is_dropped(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    tensors["wte.weight"][0, 0] = np.nan
    lazy = assembled(raw_config, tensors, ("lm_head.weight", stored(tensors["wte.weight"])))
    with pytest.raises(CheckpointError, match=r"wte\.weight holds NaN"):
        lazy["wte.weight"]


def test_a_tied_head_stands_for_an_embedding_that_is_not_stored(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    without = {name: array for name, array in tensors.items() if name != "wte.weight"}
    head = ("lm_head.weight", stored(tensors["wte.weight"]))
    assert_same(assembled(raw_config, without, head), tensors)


def test_a_tied_head_that_differs_is_refused(raw_config: dict[str, Any], tensors: Arrays) -> None:
    head = ("lm_head.weight", stored(tensors["wte.weight"] + 1))
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' differs"):
        assembled(raw_config, tensors, head)


def test_a_tied_head_of_another_shape_is_refused(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    head = ("lm_head.weight", stored(tensors["wte.weight"].T))
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' has shape \[4, 6\]"):
        assembled(raw_config, tensors, head)


def test_a_separate_head_is_kept(raw_config: dict[str, Any], tensors: Arrays) -> None:
    raw_config["tie_word_embeddings"] = False
    tensors["lm_head.weight"] = tensors["wte.weight"] + 1
    assert_same(assembled(raw_config, tensors), tensors)


def test_a_separate_head_must_be_there(raw_config: dict[str, Any], tensors: Arrays) -> None:
    raw_config["tie_word_embeddings"] = False
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' is missing"):
        assembled(raw_config, tensors)


def test_every_tensor_must_be_there(raw_config: dict[str, Any], tensors: Arrays) -> None:
    for name in tensors:
        rest = {other: array for other, array in tensors.items() if other != name}
        with pytest.raises(CheckpointError, match=f"tensor '{name}' is missing"):
            assembled(raw_config, rest)


@pytest.mark.parametrize("name", ["score.weight", "h.1.ln_1.bias", "h.00.ln_1.bias", "x\x1b[2J"])
def test_no_other_tensor_may_be_there(
    raw_config: dict[str, Any], tensors: Arrays, name: str
) -> None:
    with pytest.raises(CheckpointError, match="not part of") as caught:
        assembled(raw_config, tensors, (name, stored(tensors["ln_f.bias"])))
    assert repr(name) in str(caught.value)


def test_further_faults_are_counted(raw_config: dict[str, Any], tensors: Arrays) -> None:
    rest = {"wte.weight": tensors["wte.weight"]}
    with pytest.raises(CheckpointError, match=r"'wpe.weight' \(and 14 more\) is missing"):
        assembled(raw_config, rest)


@pytest.mark.parametrize("name", ["ln_f.bias", "transformer.ln_f.bias"])
def test_a_tensor_stored_twice_is_refused(
    raw_config: dict[str, Any], tensors: Arrays, name: str
) -> None:
    with pytest.raises(CheckpointError, match=r"'ln_f\.bias' is stored twice"):
        assembled(raw_config, tensors, (name, stored(tensors["ln_f.bias"])))


def test_every_shape_must_be_right(raw_config: dict[str, Any], tensors: Arrays) -> None:
    for name, array in tensors.items():
        wrong = tensors | {name: array[..., None]}
        with pytest.raises(CheckpointError, match=f"tensor '{name}' has shape"):
            assembled(raw_config, wrong)


def test_integer_weights_are_refused(raw_config: dict[str, Any], tensors: Arrays) -> None:
    bias = tensors.pop("ln_f.bias")
    with pytest.raises(CheckpointError, match=r"'ln_f\.bias' is I8"):
        assembled(raw_config, tensors, ("ln_f.bias", stored(bias, "I8")))


def test_tensors_are_read_only_when_asked_for(raw_config: dict[str, Any], tensors: Arrays) -> None:
    reads: list[str] = []

    def reader(name: str) -> StoredTensor:
        def read() -> NDArray[np.float32]:
            reads.append(name)
            return tensors[name]

        return StoredTensor(tensors[name].shape, "float32", read)

    lazy = assemble(
        [(name, reader(name)) for name in tensors], Gpt2Config.from_hugging_face(raw_config)
    )
    assert reads == []
    assert lazy["ln_f.bias"].shape == (4,)
    assert reads == ["ln_f.bias"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused_on_access(
    raw_config: dict[str, Any], tensors: Arrays, value: float
) -> None:
    tensors["wpe.weight"][1, 2] = value
    lazy = assembled(raw_config, tensors)
    assert lazy["wte.weight"].shape == (6, 4)
    with pytest.raises(CheckpointError, match=r"wpe\.weight"):
        lazy["wpe.weight"]
