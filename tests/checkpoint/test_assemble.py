from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rbe_cli.checkpoint.assemble import Assembled, assemble
from rbe_cli.checkpoint.checkpoint import LazyTensors
from rbe_cli.checkpoint.checkpoint_tensor import CheckpointTensor
from rbe_cli.errors import CheckpointError
from rbe_cli.model.config import Gpt2Config

Arrays = dict[str, NDArray[np.float32]]


def stored(array: NDArray[Any], dtype: str = "float32") -> CheckpointTensor:
    return CheckpointTensor(array.shape, dtype, lambda: array)


def assembled(
    raw_config: dict[str, Any], arrays: Arrays, *more: tuple[str, CheckpointTensor]
) -> LazyTensors:
    return with_notes(raw_config, arrays, *more).tensors


def with_notes(
    raw_config: dict[str, Any], arrays: Arrays, *more: tuple[str, CheckpointTensor]
) -> Assembled:
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


PREFIXES = [
    "module.",
    "_orig_mod.",
    "_module.",
    "model.",
    "gpt2.",
    "base_model.model.",
    "module._orig_mod.",
    "module._orig_mod.transformer.",
    "model.transformer.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("tied", [True, False])
def test_a_prefix_is_left_out_with_a_note(
    raw_config: dict[str, Any], tensors: Arrays, prefix: str, tied: bool
) -> None:
    """Heads and losses beside the model are left out, but not the language-model head."""
    raw_config["tie_word_embeddings"] = tied
    if not tied:
        tensors["lm_head.weight"] = tensors["wte.weight"] + 1
    wrapper = prefix.removesuffix("transformer.")
    beside = wrapper if wrapper != prefix else wrapper.rpartition(".")[0].rpartition(".")[0]
    head = f"{beside}{'.' if beside and not beside.endswith('.') else ''}lm_head.weight"
    named = {head if n == "lm_head.weight" else prefix + n: own for n, own in tensors.items()}
    loss = ("loss.weight", stored(tensors["ln_f.bias"]))
    found = with_notes(raw_config, named, loss)
    assert_same(found.tensors, tensors)
    assert found.notes == (
        f"the prefix {wrapper!r} of the tensors' names is left out",
        "not used: loss.weight",
    )


def test_wrappers_of_single_layers_are_left_out_with_a_note(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    named = {f"model.{n.replace('h.0.', 'h.0._orig_mod.')}": own for n, own in tensors.items()}
    found = with_notes(raw_config, named)
    assert_same(found.tensors, tensors)
    assert found.notes[1] == "'_orig_mod' inside the tensors' names is left out"


OTHER_HEADS = [
    "v_head.summary.weight",
    "score.weight",
    "classifier.weight",
    "multiple_choice_head.summary.bias",
    "qa_outputs.bias",
    "lm_head.decoder.weight",
]


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_other_heads_are_left_out_with_a_note(
    raw_config: dict[str, Any], tensors: Arrays, prefix: str
) -> None:
    named = {prefix + name: array for name, array in tensors.items()}
    heads = [(name, stored(tensors["ln_f.bias"])) for name in OTHER_HEADS]
    found = with_notes(raw_config, named, *heads)
    assert_same(found.tensors, tensors)
    assert found.notes == (f"not used: {', '.join(OTHER_HEADS)}",)


def test_many_unused_tensors_are_counted(raw_config: dict[str, Any], tensors: Arrays) -> None:
    named = {f"transformer.{name}": array for name, array in tensors.items()}
    heads = [(f"head.{number}", stored(tensors["ln_f.bias"])) for number in range(11)]
    assert with_notes(raw_config, named, *heads).notes[0].endswith("head.7 and 3 more")


@pytest.mark.parametrize(
    "name", ["transformer.h.0.attn.rotary", "transformer.ln_emb.weight", "lm_head.bias", "h.0.x"]
)
def test_an_unknown_tensor_of_the_model_itself_is_refused(
    raw_config: dict[str, Any], tensors: Arrays, name: str
) -> None:
    named = {f"transformer.{own}": array for own, array in tensors.items()}
    with pytest.raises(CheckpointError, match="not part of a GPT-2"):
        assembled(raw_config, named, (name, stored(tensors["ln_f.bias"])))


def test_two_models_under_two_prefixes_are_refused(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    both = {
        prefix + name: array for prefix in ("policy.", "ref.") for name, array in tensors.items()
    }
    with pytest.raises(CheckpointError, match=r"several GPT-2s, under 'policy\.', 'ref\.'"):
        assembled(raw_config, both)


def test_tensors_of_another_architecture_are_named(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    other = {"model.layers.0.self_attn.q_proj.weight": tensors["wte.weight"]}
    with pytest.raises(CheckpointError, match=r"of a GPT-2.*'model\.layers\.0\.self_attn"):
        assembled(raw_config, other)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h.0.attn.c_attn.qweight", "already quantised"),
        ("h.0.mlp.c_fc.SCB", "already quantised"),
        ("h.0.mlp.c_fc.weight.absmax", "already quantised"),
        ("base_model.model.h.0.attn.c_attn.lora_A.weight", "adapter"),
    ],
)
def test_tensors_of_other_kinds_are_named(
    raw_config: dict[str, Any], tensors: Arrays, name: str, message: str
) -> None:
    with pytest.raises(CheckpointError, match=message):
        assembled(raw_config, tensors, (name, stored(tensors["ln_f.bias"])))


def test_linear_layers_stored_the_other_way_round(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    linear = {name for name in tensors if ".c_" in name and name.endswith("weight")}
    named = {name: own.T if name in linear else own for name, own in tensors.items()}
    found = with_notes(raw_config, named)
    assert_same(found.tensors, tensors)
    assert found.notes == ("the linear layers are stored [out, in], and are transposed",)


def test_a_model_without_any_bias_has_zeros(raw_config: dict[str, Any], tensors: Arrays) -> None:
    without = {name: own for name, own in tensors.items() if not name.endswith("bias")}
    found = with_notes(raw_config, without)
    assert found.notes == ("no biases are stored: zeros are used",)
    zeros = {name: np.zeros_like(own) for name, own in tensors.items() if name.endswith("bias")}
    assert_same(found.tensors, tensors | zeros)


def test_a_model_with_biases_in_its_layer_norms_only(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    linear = {name for name in tensors if ".c_" in name and name.endswith("bias")}
    config = Gpt2Config.from_hugging_face(raw_config)
    pairs = [(name, stored(own)) for name, own in tensors.items() if name not in linear]
    with pytest.raises(CheckpointError, match="is missing"):
        assemble(pairs, config)
    found = assemble(pairs, config, has_bias=False)
    assert_same(found.tensors, tensors | {name: np.zeros_like(tensors[name]) for name in linear})
    assert found.notes == ("not all biases are stored: zeros are used",)


def test_biases_that_the_config_asks_for_must_be_there(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    config = Gpt2Config.from_hugging_face(raw_config)
    pairs = [(name, stored(own)) for name, own in tensors.items() if not name.endswith("bias")]
    with pytest.raises(CheckpointError, match=r"bias' \(and 6 more\) is missing"):
        assemble(pairs, config, has_bias=True)


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


def test_a_tied_head_that_differs_is_kept_with_a_note(
    raw_config: dict[str, Any], tensors: Arrays
) -> None:
    """As transformers 5 does."""
    head = tensors["wte.weight"] + 1
    found = with_notes(raw_config, tensors, ("lm_head.weight", stored(head)))
    assert_same(found.tensors, tensors | {"lm_head.weight": head})
    assert not found.config.tie_word_embeddings
    [note] = found.notes
    assert note.startswith("lm_head.weight differs from wte.weight")


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


@pytest.mark.parametrize("name", ["attn.weight", "h.1.ln_1.bias", "h.00.ln_1.bias", "x\x1b[2J"])
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

    def reader(name: str) -> CheckpointTensor:
        def read() -> NDArray[np.float32]:
            reads.append(name)
            return tensors[name]

        return CheckpointTensor(tensors[name].shape, "float32", read)

    pairs = [(name, reader(name)) for name in tensors]
    lazy = assemble(pairs, Gpt2Config.from_hugging_face(raw_config)).tensors
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


def test_a_type_that_no_weight_has_is_named(raw_config: dict[str, Any], tensors: Arrays) -> None:
    array = tensors.pop("wte.weight")
    with pytest.raises(
        CheckpointError, match=r"^tensor 'wte\.weight' is C64, which is none of float64"
    ):
        assembled(raw_config, tensors, ("wte.weight", stored(array, "C64")))


@pytest.mark.parametrize("length", [500, 501])
def test_a_name_of_very_many_characters_is_refused(
    raw_config: dict[str, Any], tensors: Arrays, length: int
) -> None:
    name = "x" * length
    with pytest.raises(CheckpointError) as caught:
        assembled(raw_config, tensors, (name, stored(tensors["ln_f.bias"])))
    assert (f"a name of {length} characters" in str(caught.value)) == (length > 500)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "dtype", ["I8", "U8", "int8", "uint8", "qint8", "quint8", "F8_E4M3", "F8_E5M2"]
)
def test_quantised_weights_are_refused_as_such(
    raw_config: dict[str, Any], tensors: Arrays, dtype: str
) -> None:
    array = tensors.pop("wte.weight")
    fault = f"tensor 'wte.weight' is {dtype}: the checkpoint is already quantised"
    with pytest.raises(CheckpointError, match=fault):
        assembled(raw_config, tensors, ("wte.weight", stored(array, dtype)))
