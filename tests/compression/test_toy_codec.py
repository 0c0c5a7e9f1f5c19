"""Add a new codec to the registry, to test what that needs."""

import numpy as np
import pytest
from compressing import decode, relative, run

from rbe_cli.codec import registry
from rbe_cli.codec.codec import Codec, Payload
from rbe_cli.compression.settings import Override, Settings
from rbe_cli.container.reader import Container
from rbe_cli.engine.load import load_weights
from rbe_cli.errors import PayloadError
from rbe_cli.progress import no_progress


class SignCodec(Codec):
    """A codec that stores one bit per weight: its sign, times the mean magnitude."""

    name = "sign"

    def encode(self, values, job):
        scale = np.float32(np.abs(values).mean())
        return Payload(self.name, scale.tobytes() + np.packbits(values < 0).tobytes())

    def decode(self, data, shape):
        count = shape[0] * shape[1]
        if len(data) != 4 + -(-count // 8):
            raise PayloadError(f"{len(data)} bytes are not the signs of {shape}")
        bits = np.unpackbits(np.frombuffer(data, np.uint8, offset=4), count=count)
        signs = 1 - 2 * bits.astype(np.float32)
        return (np.frombuffer(data, "<f4", 1) * signs).reshape(shape)


@pytest.fixture
def sign(monkeypatch):
    codec = SignCodec()
    monkeypatch.setitem(registry.CODECS, codec.name, codec)
    return codec


def test_a_new_codec_goes_all_the_way(sign, checkpoint, tmp_path):
    settings = Settings(6.0, override=(Override("mlp.c_fc.weight|wte", sign.name),))
    settings.check("here")
    path = tmp_path / "a.rbe"
    result = run(checkpoint, path, settings, force=True)
    assert result.bits_per_weight == pytest.approx(6.0, rel=0.01)
    codecs = {tensor.name: tensor.codec for tensor in result.tensors}
    assert codecs["h.0.mlp.c_fc.weight"] == codecs["wte.weight"] == sign.name
    decoded = decode(path)
    for name in ("h.1.mlp.c_fc.weight", "wte.weight"):
        original = checkpoint.tensors[name]
        np.testing.assert_array_equal(np.sign(decoded[name]), np.where(original < 0, -1, 1))
        assert 0.5 < relative(decoded[name] - original, original) < 0.7
    with Container.open(path) as container:
        assert container.codec_versions[sign.name] == 1
        weights = load_weights(container, 1, no_progress)
        np.testing.assert_array_equal(weights["wte.weight"], decoded["wte.weight"].T)


def test_a_file_of_a_codec_that_is_not_known_is_refused(sign, checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "a.rbe"
    run(checkpoint, path, Settings(6.0, override=(Override("wte", sign.name),)), force=True)
    monkeypatch.delitem(registry.CODECS, sign.name)
    with pytest.raises(Exception, match="the codec 'sign', which this rbe does not know"):
        Container.open(path)
