"""Compare decompressed models with what transformers computes (make_transformers_golden.py)."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from compressing import run
from reference_gpt2 import gpt2
from safetensors import safe_open
from safetensors.numpy import load_file
from small_files import write_dense
from small_models import float64, random_tensors, relative_error, small_config
from tokenizers import Tokenizer

from rbe_cli.checkpoint.folder_writer import write_folder
from rbe_cli.checkpoint.source import open_checkpoint
from rbe_cli.compression.decompression import decompress
from rbe_cli.compression.open_source import open_source
from rbe_cli.compression.settings import Settings
from rbe_cli.errors import ChecksumError, OutputError, UsageError
from rbe_cli.progress import no_progress

FIXTURES = Path(__file__).parent / "fixtures"
sys.path.append(str(FIXTURES))

from written_models import CONFIGS, DTYPES, TEXTS, TOKENS, open_model  # noqa: E402

GOLDEN = np.load(FIXTURES / "transformers_golden.npz")
CONFIG = small_config(vocab_size=50, n_layer=1)


@pytest.fixture
def source(tmp_path):
    """Return an opened `.rbe` file without a tokenizer."""
    write_dense(tmp_path / "model.rbe", CONFIG)
    return open_source(str(tmp_path / "model.rbe"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CONFIGS)
def test_transformers_computes_what_the_file_holds(tmp_path, name, dtype):
    checkpoint = open_model(name, tmp_path)
    result = decompress(checkpoint, tmp_path / "folder", dtype)
    written = open_checkpoint(str(tmp_path / "folder"))
    assert written.config == checkpoint.config
    expected = GOLDEN[f"{name} {dtype} logits"]
    logits = gpt2(TOKENS, float64(written.tensors), written.config)
    assert relative_error(logits, expected) < 1e-5
    limit = {"float32": 1e-5, "float16": 3e-3, "bfloat16": 3e-2}[dtype]
    decoded = gpt2(TOKENS, float64(checkpoint.tensors), checkpoint.config)
    assert relative_error(decoded, expected) < limit
    ends = GOLDEN[f"{name} {dtype} eos"].tolist()
    assert ends == list(checkpoint.config.eos_token_ids)
    bos = checkpoint.config.bos_token_id
    assert GOLDEN[f"{name} {dtype} bos"].tolist() == ([] if bos is None else [bos])
    assert result.file_bytes == sum(f.stat().st_size for f in (tmp_path / "folder").iterdir())
    assert (result.source, result.dtype) == ("model.rbe", dtype)


def test_the_tokenizer_gives_the_ids_that_transformers_gave(tmp_path):
    decompress(open_model("gelu_new", tmp_path), tmp_path / "folder")
    tokenizer = Tokenizer.from_file(str(tmp_path / "folder" / "tokenizer.json"))
    for index, text in enumerate(TEXTS):
        expected = GOLDEN[f"gelu_new float32 text {index}"].tolist()
        assert tokenizer.encode(text).ids == expected
    settings = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    assert settings == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 16,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    }


def test_a_token_that_is_not_special_does_not_become_so(tmp_path):
    """Token 39 ends texts but is not special. If it were declared so, ids of texts would change."""
    decompress(open_model("gelu_pytorch_tanh", tmp_path), tmp_path / "folder")
    settings = json.loads((tmp_path / "folder" / "tokenizer_config.json").read_text())
    assert settings.keys().isdisjoint({"bos_token", "eos_token"})


def test_safetensors_reads_the_weights(tmp_path, source):
    decompress(source, tmp_path / "folder")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
    }
    weights = tmp_path / "folder" / "model.safetensors"
    tensors = load_file(weights)
    assert len(tensors) == len(source.tensors)
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(tensors[f"transformer.{name}"], tensor)
    with safe_open(weights, "np") as file:
        assert file.metadata() == {"format": "pt"}


def test_bfloat16_rounds_to_the_nearest_and_ties_to_even(tmp_path):
    tensors = random_tensors(CONFIG)
    ones = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-20, 1e-30, 3e38], np.float32)
    tensors["ln_f.bias"][: ones.size] = ones
    write_dense(tmp_path / "model.rbe", CONFIG, tensors)
    decompress(open_source(str(tmp_path / "model.rbe")), tmp_path / "folder", "bfloat16")
    found = open_checkpoint(str(tmp_path / "folder")).tensors["ln_f.bias"]
    expected = [1, 1, 1 + 2**-6, -1 - 2**-7]
    assert found[:4].tolist() == expected
    np.testing.assert_allclose(found[4:6], ones[4:6], rtol=2**-7)


def test_large_models_are_written_as_shards(tmp_path, source):
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(folder, source, "float16", no_progress, shard_bytes=20_000)
    shards = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == shards
    for name, shard in index["weight_map"].items():
        with safe_open(folder / shard, "np") as file:
            assert name in file.keys()  # noqa: SIM118
    assert index["metadata"] == {"total_size": 2 * sum(t.size for t in source.tensors.values())}
    written = open_checkpoint(str(folder))
    for name, tensor in source.tensors.items():
        np.testing.assert_array_equal(written.tensors[name], tensor.astype(np.float16))


def test_the_bases_of_heads_do_not_change_the_function(tmp_path):
    config = small_config(vocab_size=50, n_layer=2, tie_word_embeddings=False)
    tensors = random_tensors(config, 3)
    write_dense(tmp_path / "dense.rbe", config, tensors)
    original = open_source(str(tmp_path / "dense.rbe"))
    run(original, tmp_path / "coded.rbe", Settings(8.0), threads=1, calib_samples=4)
    decompress(open_source(str(tmp_path / "coded.rbe")), tmp_path / "folder")
    written = open_checkpoint(str(tmp_path / "folder"))
    tokens = np.arange(60) % 50
    expected = gpt2(tokens, float64(tensors), config)
    assert relative_error(gpt2(tokens, float64(written.tensors), config), expected) < 0.03


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_what_float16_cannot_hold_is_refused(tmp_path, value):
    tensors = random_tensors(CONFIG)
    tensors["h.0.mlp.c_fc.bias"][3] = value
    write_dense(tmp_path / "model.rbe", CONFIG, tensors)
    source = open_source(str(tmp_path / "model.rbe"))
    with pytest.raises(UsageError, match=r"h\.0\.mlp\.c_fc\.bias: float16 cannot hold"):
        decompress(source, tmp_path / "folder", "float16")
    assert not (tmp_path / "folder").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model.rbe"]
    decompress(source, tmp_path / "folder", "bfloat16")


def test_a_damaged_file_gives_no_folder(tmp_path, source):
    content = bytearray((tmp_path / "model.rbe").read_bytes())
    content[-5] ^= 1
    (tmp_path / "broken.rbe").write_bytes(content)
    with pytest.raises(ChecksumError):
        decompress(open_source(str(tmp_path / "broken.rbe")), tmp_path / "folder")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.rbe", "model.rbe"]


def test_only_folders_of_such_files_are_replaced(tmp_path, source):
    folder = tmp_path / "folder"
    decompress(source, folder, "float16")
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists; use `force`"):
        decompress(source, folder)
    decompress(source, folder, force=True)
    assert not (folder / "model-00001-of-00002.safetensors").exists()
    assert json.loads((folder / "config.json").read_text())["torch_dtype"] == "float32"
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"other files.*thesis\.txt"):
        decompress(source, folder, force=True)
    assert (folder / "thesis.txt").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "other.rbe", "model.bin"])
def test_the_name_of_a_file_is_no_folder(tmp_path, source, name):
    with pytest.raises(UsageError, match="folder"):
        decompress(source, tmp_path / name)
