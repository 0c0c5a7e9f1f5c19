"""Run ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.engines.peer_session import PeerEngine, SteppingSession

if TYPE_CHECKING:
    from onnx import ModelProto

BLOCK = 128  # weights that share a scale; the fastest of 32, 64 and 128
INPUTS_IN_INT8 = 4  # MatMulNBits' accuracy level


class OrtSession(SteppingSession):
    """Run a model whose past and present are the same memory, so that no cache is copied."""

    def __init__(self, path: Path, threads: int) -> None:
        import numpy as np
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(str(path), options, ["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        self._value = ort.OrtValue.ortvalue_from_numpy
        for given in self._session.get_inputs():
            if given.name.startswith("past_"):
                cache = self._value(np.zeros(given.shape, np.float32))
                self._binding.bind_ortvalue_input(given.name, cache)
                self._binding.bind_ortvalue_output(given.name.replace("past", "present"), cache)
        vocab_size = self._session.get_outputs()[0].shape[-1]
        self._logits = self._value(np.empty((1, 1, vocab_size), np.float32))
        self._binding.bind_ortvalue_output("logits", self._logits)
        self._length = 0

    def prefill(self, tokens: Sequence[int]) -> None:
        self._length = 0
        self._run(tokens)

    def step(self, token: int) -> None:
        self._run((token,))

    def last_logits(self) -> list[float]:
        found: list[float] = self._logits.numpy().ravel().tolist()
        return found

    def _run(self, tokens: Sequence[int]) -> None:
        import numpy as np

        stop = self._length + len(tokens)
        inputs: dict[str, Any] = {
            "tokens": np.array([tokens], np.int64),
            "positions": np.arange(self._length, stop)[None],
            "last": np.array([stop - 1], np.int32),
            "total": np.array(stop, np.int32),
        }
        for name, values in inputs.items():
            self._binding.bind_ortvalue_input(name, self._value(values))
        self._session.run_with_iobinding(self._binding)
        self._length = stop


class OnnxRuntime(PeerEngine):
    """Quantise in two ways, inputs in int8: one is faster at prompts, one at decoding.

    `dynamic` has a scale for each output, `blocks` (MatMulNBits) for 128 weights of an output.
    """

    packages = ("onnx", "onnx_ir", "onnxruntime")
    variants = {"int8-dynamic": 8, "int8-blocks": 8, "int4-blocks": 4}  # noqa: RUF012

    def build(self, source: str, variant: str, path: Path) -> None:
        from benchmarks.engines.onnx_file import make_model
        from rbe_cli.checkpoint.source import open_checkpoint

        checkpoint = open_checkpoint(source)
        model = make_model(checkpoint.config, checkpoint.tensors)
        if variant == "int8-dynamic":
            write_dynamic(model, path)
        else:
            write_blocks(model, path, self.variants[variant])

    def open(self, path: Path, variant: str, setting: str, threads: int) -> OrtSession:
        return OrtSession(path, threads)


def write_dynamic(model: "ModelProto", path: Path) -> None:
    """Write weights in int8; inputs are quantised when they arrive."""
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(
        model,
        path,
        ["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def write_blocks(model: "ModelProto", path: Path, bits: int) -> None:
    """Write weights of 4 or 8 bits around zero."""
    import onnx
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantiser = MatMulNBitsQuantizer(
        model, bits, block_size=BLOCK, is_symmetric=True, accuracy_level=INPUTS_IN_INT8
    )
    quantiser.process()
    onnx.save(quantiser.model.model, path)


ENGINE = OnnxRuntime()
