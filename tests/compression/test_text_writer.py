import numpy as np
import pytest
from small_models import random_tensors, small_config

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.compression.text_writer import eight_bit_copy, write
from rbe_cli.engine.loaded_model import LoadedModel
from rbe_cli.engine.session import Session
from rbe_cli.jobs.ticks import Ticks
from rbe_cli.progress import no_progress


def logits_of(model, tokens):
    return Session(model).extend(0, tokens)


@pytest.mark.parametrize("tied", [True, False])
def test_a_copy_in_8_bits_has_nearly_the_same_logits(pool, tied):
    config = small_config(tie_word_embeddings=tied)
    tensors = random_tensors(config)
    copy = eight_bit_copy(Checkpoint(config, tensors, None, "", "", 0), pool)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, 20)
    expected = logits_of(LoadedModel.from_checkpoint(config, tensors), tokens)
    found = logits_of(copy, tokens)
    assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(expected)


def test_every_token_is_counted(checkpoint, pool):
    reports = []
    ticks = Ticks(lambda *report: reports.append(report), "writing", 3 * 9)
    found = write(eight_bit_copy(checkpoint, pool), 3, 10, np.random.SeedSequence(0), ticks)
    assert found.shape == (3, 10)
    assert [done for _, done, _ in reports] == list(range(0, 28, 3))


def test_weights_of_zero_give_every_token_the_same_chance(pool):
    config = small_config()
    tensors = {name: np.zeros_like(own) for name, own in random_tensors(config).items()}
    model = eight_bit_copy(Checkpoint(config, tensors, None, "", "", 0), pool)
    ticks = Ticks(no_progress, "writing", 40 * 60)
    found = write(model, 40, 60, np.random.SeedSequence(0), ticks)
    counts = np.bincount(found.ravel(), minlength=config.vocab_size)
    expected = found.size / config.vocab_size
    chi_squared = np.sum((counts - expected) ** 2 / expected)
    assert abs(chi_squared - config.vocab_size) < 5 * np.sqrt(2 * config.vocab_size)
