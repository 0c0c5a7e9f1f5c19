"""GGUF files as llama.cpp reads and quantises them (fixtures/make_gguf_fixtures.py)."""

import dataclasses
import struct
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from reference_gpt2 import gpt2
from small_models import float64, relative_error
from tokenizers import Tokenizer

from rbe_cli.checkpoint.gguf.gguf_file import read_gguf
from rbe_cli.checkpoint.gguf.gguf_tokenizer import read_tokenizer
from rbe_cli.checkpoint.gguf.gguf_writer import write_gguf
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.errors import CheckpointError, NotFoundError, UsageError
from rbe_cli.model.tensor_names import is_matrix
from rbe_cli.progress import no_progress

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.append(str(FIXTURES))

from gguf_models import FORMS, TEXTS, TOKENS, gguf_model  # noqa: E402

EXPECTED = np.load(FIXTURES / "gguf_expected.npz")
FILES = ("tied", "untied", "scaled", "q8_0", "q4_0")


def centred(logits):
    return logits - logits.mean(axis=-1, keepdims=True)


def opened(name):
    return open_checkpoint(str(FIXTURES / f"{name}.gguf"))


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_computes_the_same(name):
    checkpoint = opened(name)
    logits = gpt2(TOKENS, float64(checkpoint.tensors), checkpoint.config)
    # llama.cpp looks GELU up in a table of float16, and rounds activations to 8 bits where
    # weights are quantised.
    limit = 0.02 if name.startswith("q") else 2e-3
    assert relative_error(centred(logits), centred(EXPECTED[f"{name} logits"])) < limit


@pytest.mark.parametrize("name", FILES)
def test_llama_cpp_gives_the_same_tokens(name):
    tokenizer = Tokenizer.from_buffer(opened(name).tokenizer_json)
    for index, text in enumerate(TEXTS):
        ids = tokenizer.encode(text).ids
        assert ids == EXPECTED[f"{name} text {index}"].tolist()
        assert ids[0] == 0 or name != "scaled"
        assert tokenizer.decode(ids, skip_special_tokens=False).endswith(text)


@pytest.mark.parametrize("form", FORMS)
def test_a_model_comes_back_as_it_was(form):
    original, found = gguf_model(form), opened(form)
    changes = {"activation_function": "gelu_new", "scale_attn_weights": True}
    changes["scale_attn_by_inverse_layer_idx"] = False
    expected = {**{key: getattr(original.config, key) for key in FORMS["untied"]}, **changes}
    assert {key: getattr(found.config, key) for key in expected} == expected
    for name, tensor in original.tensors.items():
        if form == "scaled" and "c_attn" in name:
            continue  # the scaling is part of the weights there
        stored = tensor.astype(np.float16) if is_matrix(name) and "wpe" not in name else tensor
        np.testing.assert_array_equal(found.tensors[name], stored)
    ours, theirs = (Tokenizer.from_buffer(own.tokenizer_json) for own in (original, found))
    assert theirs.get_vocab() == ours.get_vocab()
    special = {id: own.special for id, own in ours.get_added_tokens_decoder().items()}
    assert {i: o.special for i, o in theirs.get_added_tokens_decoder().items()} == special
    assert found.notes == ()


def test_a_head_that_is_stored_but_equal_is_tied(tmp_path):
    model = gguf_model("untied")
    tensors = {**model.tensors, "lm_head.weight": model.tensors["wte.weight"]}
    write_gguf(
        tmp_path / "x.gguf", dataclasses.replace(model, tensors=tensors), "float16", no_progress
    )
    assert "output.weight" in read_gguf(tmp_path / "x.gguf").tensors
    found = open_checkpoint(str(tmp_path / "x.gguf"))
    assert found.config.tie_word_embeddings
    assert "lm_head.weight" not in found.tensors
    assert found.notes == ()


def test_what_is_quantised_is_said():
    [note] = opened("q4_0").notes
    assert "q4_0.gguf is quantised already (Q4_0" in note


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("form", FORMS)
def test_there_and_back_again_is_the_same_file(tmp_path, form, dtype):
    write_gguf(tmp_path / "once.gguf", opened(form), dtype, no_progress)
    again = open_checkpoint(str(tmp_path / "once.gguf"))
    write_gguf(tmp_path / "twice.gguf", again, dtype, no_progress)
    assert (tmp_path / "twice.gguf").read_bytes() == (tmp_path / "once.gguf").read_bytes()
    if dtype == "float16":
        assert (FIXTURES / f"{form}.gguf").read_bytes() == (tmp_path / "once.gguf").read_bytes()


def test_the_library_reads_what_is_written():
    from gguf import GGUFReader

    reader = GGUFReader(FIXTURES / "untied.gguf")
    ours = read_gguf(FIXTURES / "untied.gguf")
    assert {t.name: tuple(t.shape[::-1]) for t in reader.tensors} == {
        name: tensor.shape for name, tensor in ours.tensors.items()
    }
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            value = ours.metadata[key]
            value = value.tolist() if isinstance(value, np.ndarray) else value
            assert value == pytest.approx(field.contents())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "relu"}, "gelu_new"),
        ({"activation_function": "gelu"}, "gelu_new"),
    ],
)
def test_what_gguf_has_no_form_for_is_refused(tmp_path, change, message):
    import msgspec

    checkpoint = gguf_model("tied")
    config = msgspec.structs.replace(checkpoint.config, **change)
    with pytest.raises(UsageError, match=message):
        write_gguf(
            tmp_path / "x.gguf",
            dataclasses.replace(checkpoint, config=config),
            "float32",
            no_progress,
        )
    with pytest.raises(UsageError, match="bfloat16"):
        write_gguf(tmp_path / "x.gguf", checkpoint, "bfloat16", no_progress)


def other_tokenizers():
    from tokenizers import models, normalizers, pre_tokenizers, processors

    bpe = Tokenizer.from_buffer(gguf_model("tied").tokenizer_json)
    bpe.normalizer = normalizers.Lowercase()
    yield bpe
    bpe = Tokenizer.from_buffer(gguf_model("tied").tokenizer_json)
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    yield bpe
    bpe = Tokenizer.from_buffer(gguf_model("tied").tokenizer_json)
    bpe.post_processor = processors.TemplateProcessing(
        single=["$A", "<|pad|>"], special_tokens=[("<|pad|>", 300)]
    )
    yield bpe
    yield Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    yield Tokenizer(models.Unigram([("a", -1.0), ("b", -2.0)]))


@pytest.mark.parametrize("tokenizer", list(other_tokenizers()), ids=range(5))
def test_a_tokenizer_that_gguf_has_no_form_for_is_left_out_with_a_note(tmp_path, tokenizer):
    checkpoint = gguf_model("tied")
    changed = dataclasses.replace(checkpoint, tokenizer_json=tokenizer.to_str().encode())
    [note] = write_gguf(tmp_path / "x.gguf", changed, "float32", no_progress)
    assert note.startswith("the tokenizer is left out: ")
    found = open_checkpoint(str(tmp_path / "x.gguf"))
    assert found.tokenizer_json is None
    assert found.config.eos_token_id == 0


def test_without_the_library_only_quantised_files_need_it(monkeypatch, tmp_path):
    for name in ("gguf", "gguf.constants", "gguf.quants"):
        monkeypatch.setitem(sys.modules, name, None)
    assert opened("tied").tensors["ln_f.bias"].size == 32
    for act in (lambda: opened("q8_0"), lambda: write(tmp_path / "x.gguf")):
        with pytest.raises(UsageError, match=r"gguf library: pip install 'rbe-cli\[gguf\]'"):
            act()


def write(path):
    return write_gguf(path, gguf_model("tied"), "float16", no_progress)


def patched(tmp_path, old, new, name="tied"):
    """A file in which some bytes are others, as many of them."""
    content = (FIXTURES / f"{name}.gguf").read_bytes()
    assert len(old) == len(new)
    assert content.count(old) >= 1
    path = tmp_path / "patched.gguf"
    path.write_bytes(content.replace(old, new, 1))
    return path


def test_other_architectures_are_named(tmp_path):
    key = b"general.architecture" + (8).to_bytes(4, "little") + (4).to_bytes(8, "little")
    path = patched(tmp_path, key + b"gpt2", key + b"bert")
    with pytest.raises(CheckpointError, match="'bert': only GPT-2 is supported"):
        open_checkpoint(str(path))


def test_another_tokenizer_is_left_out_with_a_note(tmp_path):
    path = patched(tmp_path, b"gpt-2", b"qwen2")
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.tokenizer_json is None
    [note] = checkpoint.notes
    assert "its tokenizer (gpt2 with qwen2) is not GPT-2's, and is left out" in note


def test_a_file_without_a_name_for_the_end_ends_with_gpt2s(tmp_path):
    key = b"tokenizer.ggml.eos_token_id"
    path = patched(tmp_path, key, b"tokenizer.ggml.xxx_token_id")
    assert open_checkpoint(str(path)).config.eos_token_id == 0  # <|endoftext|>


@pytest.mark.parametrize(
    "key", ["context_length", "attention.head_count", "block_count", "attention.layer_norm_epsilon"]
)
def test_a_key_that_is_missing_is_named(tmp_path, key):
    path = patched(tmp_path, f"gpt2.{key}".encode(), b"x" * (5 + len(key)))
    with pytest.raises(CheckpointError, match=rf"its key gpt2\.{key} is missing"):
        open_checkpoint(str(path))


@pytest.mark.parametrize(
    "key",
    [b"general.architecture", b"tokenizer.ggml.model", b"tokenizer.ggml.pre", b"split.count"],
)
def test_a_key_whose_value_is_an_array_is_no_surprise(tmp_path, key):
    content = (FIXTURES / "tied.gguf").read_bytes()
    items = 8 + -len(key) % 32  # so that the tensors stay where the alignment has them
    added = struct.pack("<Q", len(key)) + key + struct.pack("<IIQ", 9, 0, items) + bytes(items)
    renamed = content.replace(key, b"x" * len(key))
    (count,) = struct.unpack("<Q", content[16:24])
    file = renamed[:16] + struct.pack("<Q", count + 1) + added + renamed[24:]
    path = tmp_path / "x.gguf"
    path.write_bytes(file)
    with pytest.raises(CheckpointError) if b"tokenizer" not in key else nullcontext():
        assert open_checkpoint(str(path)).tokenizer_json is None


def test_types_of_tokens_that_are_no_numbers_are_refused():
    metadata = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b"]}
    for kinds in ([float("nan"), float("inf")], ["1", "1"], "11", 3, [True, True]):
        with pytest.raises(CheckpointError, match="types of tokens"):
            read_tokenizer(metadata | {"tokenizer.ggml.token_type": kinds}, 2)


def test_a_file_that_is_missing_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        open_checkpoint(str(tmp_path / "none.gguf"))


def test_a_file_without_an_embedding_is_refused(tmp_path):
    path = patched(tmp_path, b"token_embd.weight", b"token_embx.weight")
    with pytest.raises(CheckpointError, match=r"it has no tensor 'token_embd\.weight'"):
        open_checkpoint(str(path))


def test_a_special_scaling_becomes_part_of_the_queries(tmp_path):
    original = gguf_model("scaled")
    write_gguf(tmp_path / "x.gguf", original, "float32", no_progress)
    found = open_checkpoint(str(tmp_path / "x.gguf"))
    width = original.config.n_embd
    for layer in range(original.config.n_layer):
        name = f"h.{layer}.attn.c_attn.weight"
        expected = original.tensors[name].copy()
        expected[:, :width] *= np.sqrt(original.config.head_dim) / (layer + 1)
        np.testing.assert_allclose(found.tensors[name], expected, rtol=1e-6)


def test_what_a_file_cannot_hold_is_told(tmp_path):
    import msgspec

    model = gguf_model("tied")
    config = msgspec.structs.replace(model.config, eos_token_id=(0, 1, 2, 3))
    changed = dataclasses.replace(model, config=config, tokenizer_json=None)
    [note] = write_gguf(tmp_path / "x.gguf", changed, "float32", no_progress)
    assert note == "only the first 3 end-of-text tokens are written"
    tensors = {**model.tensors, "wte.weight": model.tensors["wte.weight"] * 1e6}
    large = dataclasses.replace(model, tensors=tensors)
    with pytest.raises(UsageError, match=r"tensor wte\.weight: float16 cannot .* choose float32"):
        write_gguf(tmp_path / "y.gguf", large, "float16", no_progress)
