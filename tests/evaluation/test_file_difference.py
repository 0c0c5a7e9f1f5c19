"""Differences of files whose tensors are stored exactly, against plain numpy."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import random_tensors, rotated_tensors, small_config

from rbe_cli.codec.ectcq.head_bases import decorrelate
from rbe_cli.codec.vectors import dense_tensor
from rbe_cli.container.header import Provenance
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.container.writer import write_container
from rbe_cli.errors import ChecksumError
from rbe_cli.evaluation.file_difference import AttentionDifference, Change, Difference, difference
from rbe_cli.model.tensor_names import ROTATION, stored_shapes, tensor_shapes
from rbe_cli.progress import no_progress

CONFIG = small_config(n_layer=2)


@pytest.fixture
def write(tmp_path: Path) -> Iterator[Callable[..., Container]]:
    """Writes a file of these tensors in float32, and opens it."""
    opened: list[Container] = []

    def file(name: str, tensors: dict[str, Any], config: Any = CONFIG, **extra: Any) -> Container:
        path = tmp_path / name
        provenance = Provenance(name, "xxh3:0", "0", extra.pop("preset", None), "none", 0, extra)
        stored = [
            StoredTensor(own, shape, "float32", dense_tensor.encode(tensors[own], "float32"))
            for own, shape in stored_shapes(config).items()
            if own in tensors
        ]
        write_container(
            path, config=config, tensors=stored, tokenizer_json=None, provenance=provenance
        )
        opened.append(Container.open(path))
        return opened[-1]

    yield file
    for container in opened:
        container.close()


def by_name(found: Difference) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in found.tensors}


def test_errors_are_relative_to_the_other_file(write: Callable[..., Container]) -> None:
    ours, theirs = random_tensors(CONFIG, 0), random_tensors(CONFIG, 1)
    found = difference(write("a", ours), write("b", theirs), no_progress)
    assert list(by_name(found)) == [tensor.name for tensor in found.tensors]
    assert set(by_name(found)) == set(tensor_shapes(CONFIG))
    for name, own in by_name(found).items():
        change = np.linalg.norm(ours[name].astype(float) - theirs[name])
        assert own.relative_error == pytest.approx(change / np.linalg.norm(theirs[name]), rel=1e-6)
        assert own.shape == own.other_shape == theirs[name].shape
        assert (own.codec, own.bits_per_weight) == (own.other_codec, 32)


def test_products_of_the_attention_are_compared_head_by_head(
    write: Callable[..., Container],
) -> None:
    both = random_tensors(CONFIG, 0), random_tensors(CONFIG, 1)
    found = difference(write("a", both[0]), write("b", both[1]), no_progress)
    d, width = CONFIG.n_embd, CONFIG.head_dim
    for own in found.attention:
        scores, values = [], []
        for tensors in both:
            prefix = f"h.{own.layer}.attn."
            weight = np.vstack([tensors[prefix + "c_attn.weight"], tensors[prefix + "c_attn.bias"]])
            q, k, v = (weight[:, i * d : (i + 1) * d].astype(float) for i in range(3))
            out = tensors[prefix + "c_proj.weight"].astype(float)
            heads = [slice(h * width, (h + 1) * width) for h in range(CONFIG.n_head)]
            scores.append(np.stack([q[:, head] @ k[:-1, head].T for head in heads]))
            values.append(np.stack([v[:, head] @ out[head] for head in heads]))
        for error, (x, y) in ((own.scores, scores), (own.values, values)):
            assert error == pytest.approx(np.linalg.norm(x - y) / np.linalg.norm(y))
    assert [own.layer for own in found.attention] == [0, 1]


@pytest.mark.parametrize("both", [False, True])
def test_a_rotated_stream_is_the_same_function(write: Callable[..., Container], both: bool) -> None:
    tensors = random_tensors(CONFIG)
    rotated = write("a", rotated_tensors(tensors, CONFIG)[0])
    other = rotated_tensors(tensors, CONFIG, seed=1)[0] if both else tensors
    found = difference(rotated, write("b", other), no_progress)
    for name, own in by_name(found).items():
        if name != ROTATION:
            assert own.relative_error < 1e-5
    assert (by_name(found)[ROTATION].relative_error is None) == (not both)
    assert all(max(own.scores, own.values) < 1e-5 for own in found.attention)


def test_other_bases_of_the_heads_are_the_same_function(write: Callable[..., Container]) -> None:
    tensors = random_tensors(CONFIG)
    names = [f"h.1.attn.{part}" for part in ("c_attn.weight", "c_attn.bias", "c_proj.weight")]
    changed = decorrelate(*(tensors[name] for name in names), CONFIG.n_head)
    other = tensors | dict(zip(names, changed, strict=True))
    found = difference(write("a", tensors), write("b", other), no_progress)
    for name, own in by_name(found).items():
        assert (own.relative_error > 0.3) if name in names else (own.relative_error == 0)
    assert found.attention[0] == AttentionDifference(0, 0.0, 0.0)
    assert found.attention[1].scores < 1e-6
    assert found.attention[1].values < 1e-6


def test_a_bias_of_the_keys_changes_no_attention(write: Callable[..., Container]) -> None:
    tensors = random_tensors(CONFIG)
    bias = tensors["h.0.attn.c_attn.bias"].copy()
    bias[CONFIG.n_embd : 2 * CONFIG.n_embd] += 1
    other = tensors | {"h.0.attn.c_attn.bias": bias}
    found = difference(write("a", tensors), write("b", other), no_progress)
    assert by_name(found)["h.0.attn.c_attn.bias"].relative_error > 0.1
    assert found.attention[0] == AttentionDifference(0, 0.0, 0.0)


def test_a_file_does_not_differ_from_itself(write: Callable[..., Container]) -> None:
    file = write("a", random_tensors(CONFIG))
    found = difference(file, file, no_progress)
    assert (found.config, found.provenance) == ([], [])
    assert {own.relative_error for own in found.tensors} == {0.0}
    assert {(own.scores, own.values) for own in found.attention} == {(0.0, 0.0)}
    assert [(own.this == own.other) for own in found.sizes] == [True] * 3


def test_what_differs_of_config_and_origin_is_named(write: Callable[..., Container]) -> None:
    other = small_config(n_layer=2, activation_function="relu", eos_token_id=7)
    tensors = random_tensors(CONFIG)
    found = difference(
        write("a", tensors, preset="tiny"), write("b", tensors, other, quality=1), no_progress
    )
    assert {change.key for change in found.config} >= {"activation_function"}
    assert Change("activation_function", "gelu_new", "relu") in found.config
    assert found.provenance == [
        Change("source", "a", "b"),
        Change("preset", "tiny", None),
        Change("extra", {}, {"quality": 1}),
    ]


def test_other_depths_and_widths_are_compared_as_far_as_it_goes(
    write: Callable[..., Container],
) -> None:
    deep, wide = small_config(n_layer=3), small_config(n_layer=2, n_embd=45)
    this = write("a", random_tensors(CONFIG))
    found = difference(this, write("b", random_tensors(deep), deep), no_progress)
    extra = [own for own in found.tensors if own.shape is None]
    assert {own.name.split(".")[1] for own in extra} == {"2"}
    assert all(own.relative_error is None and own.other_codec == "float32" for own in extra)
    assert by_name(found)["h.1.ln_1.bias"].relative_error is not None
    assert [own.layer for own in found.attention] == [0, 1]

    found = difference(this, write("c", random_tensors(wide), wide), no_progress)
    assert found.attention == []
    assert by_name(found)["wte.weight"].relative_error is None
    assert by_name(found)["wte.weight"].other_shape == (211, 45)
    assert by_name(found)["h.0.mlp.c_fc.bias"].relative_error > 0  # 77 in both


def test_tensors_of_zeros_have_no_relative_error(write: Callable[..., Container]) -> None:
    tensors = random_tensors(CONFIG)
    zeros = {name: np.zeros_like(own) for name, own in tensors.items()}
    found = difference(write("a", tensors), write("b", zeros), no_progress)
    assert {own.relative_error for own in found.tensors} == {None}
    assert {own.scores for own in found.attention} == {None}
    back = difference(write("c", zeros), write("d", tensors), no_progress)
    assert {own.relative_error for own in back.tensors} == {1.0}


def test_damage_is_found(write: Callable[..., Container], tmp_path: Path) -> None:
    file = write("a", random_tensors(CONFIG))
    content = bytearray((tmp_path / "a").read_bytes())
    content[file.layout.sections["h.1.mlp.c_fc.weight"].offset] ^= 1
    (tmp_path / "b").write_bytes(content)
    with (
        Container.open(tmp_path / "b") as other,
        pytest.raises(ChecksumError, match=r"h\.1\.mlp\.c_fc"),
    ):
        difference(file, other, no_progress)
