"""Check that a `.rbe` file can be a source like any checkpoint."""

import numpy as np
import pytest
from compressing import decode, run
from reference_gpt2 import gpt2
from small_files import write_dense
from small_models import float64, random_tensors, relative_error, small_config

from rbe_cli.compression.open_source import open_source
from rbe_cli.compression.settings import Settings
from rbe_cli.errors import ChecksumError, NotFoundError, TruncatedError

CONFIG = small_config(n_layer=2, tie_word_embeddings=False, eos_token_id=3, bos_token_id=2)


@pytest.mark.parametrize("name", ["model.rbe", "model"])
def test_its_tensors_config_and_tokenizer_are_the_checkpoints(tmp_path, name):
    path = tmp_path / name
    tensors = write_dense(path, CONFIG, tokenizer_json=b"{}")
    checkpoint = open_source(str(path))
    assert checkpoint.config == CONFIG
    assert checkpoint.tokenizer_json == b"{}"
    assert checkpoint.weight_bytes == path.stat().st_size
    assert checkpoint.tensors.keys() == tensors.keys()
    for tensor_name, tensor in tensors.items():
        np.testing.assert_array_equal(checkpoint.tensors[tensor_name], tensor)
    [note] = checkpoint.notes
    assert note.startswith(f"{path} is compressed already")


def test_other_sources_open_as_before():
    checkpoint = open_source("demo")
    assert checkpoint.source == "demo"
    assert checkpoint.notes == ()


def test_a_damaged_file_is_refused(tmp_path):
    path = tmp_path / "model.rbe"
    write_dense(path, CONFIG)
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(TruncatedError):
        open_source(str(path))
    with pytest.raises(NotFoundError):
        open_source(str(tmp_path / "none.rbe"))
    broken = bytearray(content)
    broken[-5] ^= 1  # in the vectors, the last section
    path.write_bytes(broken)
    checkpoint = open_source(str(path))
    with pytest.raises(ChecksumError, match="vectors"):
        checkpoint.tensors["ln_f.bias"]


def test_compressing_again_keeps_the_function(tmp_path):
    """Each compression changes the bases of the heads, which must not change the logits."""
    write_dense(tmp_path / "0.rbe", CONFIG, random_tensors(CONFIG, 5))
    for turn in range(2):
        checkpoint = open_source(str(tmp_path / f"{turn}.rbe"))
        result = run(
            checkpoint, tmp_path / f"{turn + 1}.rbe", Settings(8.0), threads=1, calib_samples=4
        )
        assert result.original_bytes == checkpoint.weight_bytes
    tokens = np.arange(60) * 7 % CONFIG.vocab_size
    first, last = (
        gpt2(tokens, float64(decode(tmp_path / name)), CONFIG) for name in ("0.rbe", "2.rbe")
    )
    assert relative_error(last, first) < 0.05
