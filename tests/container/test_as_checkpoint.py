"""A `.rbe` file as a checkpoint: its decoded weights are what is compressed again."""

from pathlib import Path

import numpy as np
import pytest
from small_files import write_dense
from small_models import small_config
from small_tokenizer import train_tokenizer

from rbe_cli.checkpoint.checked_files import xxh3_of_files
from rbe_cli.container.as_checkpoint import as_checkpoint
from rbe_cli.container.reader import Container
from rbe_cli.errors import ChecksumError

CONFIG = small_config(vocab_size=300, n_layer=1)


@pytest.mark.parametrize("tokenizer_json", [None, train_tokenizer()])
def test_it_has_all_that_the_file_has(tmp_path: Path, tokenizer_json: bytes | None) -> None:
    path = tmp_path / "a.rbe"
    tensors = write_dense(path, CONFIG, tokenizer_json=tokenizer_json)
    with Container.open(path) as container:
        checkpoint = as_checkpoint(container, "org/name")
        assert checkpoint.config == CONFIG
        assert checkpoint.tensors.keys() == tensors.keys()
        for name, values in tensors.items():
            np.testing.assert_array_equal(checkpoint.tensors[name], values)
        assert checkpoint.tokenizer_json == tokenizer_json
        missing = "the checkpoint has none" if tokenizer_json is None else None
        assert checkpoint.tokenizer_missing == container.tokenizer_facts.missing
        assert missing is None or checkpoint.tokenizer_missing == missing
    assert checkpoint.source == "org/name"
    assert checkpoint.source_hash == xxh3_of_files([path])
    assert checkpoint.weight_bytes == path.stat().st_size
    assert checkpoint.notes == (
        "org/name is compressed already: its weights are taken as the original, and quality is "
        "relative to them",
    )


def test_damage_is_found_when_a_tensor_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.rbe"
    write_dense(path, CONFIG)
    with Container.open(path) as container:
        offset = container.layout.sections["wpe.weight"].offset
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
    with Container.open(path) as container:
        tensors = as_checkpoint(container, "a").tensors
        assert tensors["wte.weight"].shape == (300, 42)
        with pytest.raises(ChecksumError, match=r"section wpe\.weight is damaged"):
            tensors["wpe.weight"]
