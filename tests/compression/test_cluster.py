"""Check that a Dask cluster of two processes on this machine gives the same bytes as threads."""

import os
import warnings
from pathlib import Path

import pytest
from compressing import FOUR_BITS, run

from rbe_cli.compression.pipeline import CompressOptions, compress
from rbe_cli.errors import NotFoundError
from rbe_cli.jobs.workers import cluster


@pytest.fixture(scope="module")
def address():
    from distributed import LocalCluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Dask's own starting and stopping
        with LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address=None,
            scheduler_port=0,
        ) as scheduler:
            yield scheduler.scheduler_address


def test_a_cluster_gives_the_same_bytes(checkpoint, tmp_path, address):
    with cluster(address) as workers:
        assert workers.jobs == 2
        compress(
            checkpoint, tmp_path / "a.rbe", CompressOptions(FOUR_BITS, calib_samples=16), workers
        )
    run(checkpoint, tmp_path / "b.rbe")
    assert (tmp_path / "a.rbe").read_bytes() == (tmp_path / "b.rbe").read_bytes()


def test_workers_need_not_see_the_files(checkpoint, tmp_path, address, monkeypatch):
    """They may be other machines; here, they have another current folder."""
    from distributed import Client

    monkeypatch.chdir(tmp_path)
    with Client(address) as client:
        client.run(os.chdir, "/")
    with cluster(address) as workers:
        options = CompressOptions(FOUR_BITS, calib_samples=16, tune=2)
        compress(checkpoint, Path("a.rbe"), options, workers)
    run(checkpoint, Path("b.rbe"), tune=2)
    assert Path("a.rbe").read_bytes() == Path("b.rbe").read_bytes()


def test_a_scheduler_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr("rbe_cli.jobs.workers._CONNECT_SECONDS", 1)
    with pytest.raises(NotFoundError, match=r"127\.0\.0\.1:9$"), cluster("tcp://127.0.0.1:9"):
        pass
