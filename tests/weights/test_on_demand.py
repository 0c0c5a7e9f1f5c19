import pytest

from rbe_cli.weights.on_demand import OnDemand


def test_each_access_reads_anew_and_only_what_there_is():
    read = []
    found = OnDemand(["b", "a"], lambda name: read.append(name) or len(read))
    assert (list(found), len(found), read) == (["b", "a"], 2, [])
    assert [found["a"], found["a"], found["b"]] == [1, 2, 3]
    with pytest.raises(KeyError):
        found["c"]
    assert "c" not in found
