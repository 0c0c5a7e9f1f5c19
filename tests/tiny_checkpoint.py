"""Fixtures: a tiny checkpoint, its model, and threads to work with."""

from itertools import pairwise

import pytest
from small_models import random_tensors, small_config
from small_tokenizer import VOCAB_SIZE, train_tokenizer

from rbe_cli.checkpoint.checkpoint import Checkpoint
from rbe_cli.jobs.work_folder import WorkFolder
from rbe_cli.jobs.workers import workers
from rbe_cli.kernels.kernel_table import load_kernels
from rbe_cli.nn.gpt2 import Gpt2


@pytest.fixture(scope="session")
def config():
    return small_config(
        vocab_size=VOCAB_SIZE, n_positions=64, n_embd=64, n_layer=2, n_head=4, n_inner=130
    )


@pytest.fixture(scope="session")
def checkpoint(config):
    tensors = random_tensors(config)
    size = sum(tensor.nbytes for tensor in tensors.values())
    return Checkpoint(config, tensors, train_tokenizer(), "tiny", "xxh3:0123456789abcdef", size)


@pytest.fixture(scope="session")
def kernels():
    return load_kernels("fast", threads=1)


@pytest.fixture(scope="session")
def model(checkpoint, kernels):
    return Gpt2.from_checkpoint(checkpoint.config, checkpoint.tensors, kernels)


@pytest.fixture
def pool():
    with workers(2) as pool:
        yield pool


@pytest.fixture(scope="session")
def new_folder(tmp_path_factory):
    """Makes empty work folders."""
    return lambda: WorkFolder.open(tmp_path_factory.mktemp("work"), {}, resume=False)


@pytest.fixture
def folder(new_folder):
    return new_folder()


class ProgressRecorder:
    """Keeps what a task tells, and checks that it is a progress."""

    def __init__(self):
        self.stages = {}

    def __call__(self, stage, done, total, note=""):
        self.stages.setdefault(stage, []).append((done, total))

    def check(self):
        """Each stage begins with nothing done and ends with all done; it may begin again."""
        assert self.stages
        for calls in self.stages.values():
            assert calls[0][0] == 0
            assert calls[-1][0] == calls[-1][1] > 0
            for (before, total), (done, same_total) in pairwise(calls):
                assert total == same_total
                assert before <= done <= total or (before, done) == (total, 0)


@pytest.fixture
def progress():
    recorder = ProgressRecorder()
    yield recorder
    recorder.check()
