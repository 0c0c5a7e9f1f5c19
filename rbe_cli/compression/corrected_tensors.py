"""Encode the tensors of a file while its drift is corrected (drift_correction.py)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from rbe_cli.codec.codec import Payload
from rbe_cli.codec.error_cost import ErrorCost
from rbe_cli.compression.drift_correction import Corrected, bias_name
from rbe_cli.compression.metric import as_matrix, input_factor
from rbe_cli.compression.output_file import PartialFile
from rbe_cli.compression.step_pacing import StepPacing
from rbe_cli.compression.tensor_encoder import TensorEncoder
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.jobs.work_folder import Arrays, WorkFolder
from rbe_cli.runtime.arrays import Float32


class CorrectedTensors:
    """The tensors of a compressed model, as far as they are encoded (`drift_correction.Encoder`).

    Attributes:
        stored: the encoded tensors by name.
    """

    def __init__(
        self,
        encoder: TensorEncoder,
        stored: Sequence[StoredTensor],
        rates: Mapping[str, float],
        file: PartialFile,
        pacing: StepPacing,
        folder: WorkFolder,
        tag: str,
    ) -> None:
        """Encode what does not wait for the correction.

        Args:
            encoder: encodes single tensors.
            stored: all vectors, the matrices that have no quantisation step, and the rotation.
            rates: about the bits per weight of each matrix to correct, by name.
            file: the file that will be written.
            pacing: the steps of the other matrices.
            folder: keeps encoded matrices.
            tag: begins their names there.
        """
        self.stored = {tensor.name: tensor for tensor in stored}
        self._encoder = encoder
        self._rates = rates
        self._file = file
        self._pacing = pacing
        self._folder = folder
        self._tag = tag
        for name in pacing.steps:
            if name not in rates and not self._is_restored(name):
                self._take(self._paced(name, encoder.weights(name), encoder.metric.cost(name)))
                self._save(name, {})

    def corrects(self, name: str) -> bool:
        """Return whether a matrix is to be corrected."""
        return name in self._rates

    def encode(self, corrected: Corrected, bias: Callable[[Float32], Float32]) -> None:
        """Encode a corrected matrix, and then its bias (`drift_correction.Encoder`)."""
        name, encoder = corrected.name, self._encoder
        factor = input_factor(
            corrected.inputs, self._rates[name], corrected.tokens, encoder.workers.team
        )
        cost = replace(encoder.metric.cost(name), inputs=factor)
        if name in self._pacing.steps:
            self._take(self._paced(name, corrected.weights, cost))
        else:
            self._take(encoder.with_rate(name, corrected.weights, cost, self._rates[name]))
        values = bias(self.decoded(name))
        self._take(encoder.vector(bias_name(name), values))
        self._save(name, {"bias": values})

    def restore(self, name: str) -> None:
        """Take up a matrix and its bias that an earlier run has encoded.

        Raises:
            OutputError: they were damaged or deleted since.
        """
        if not self._is_restored(name):
            self._folder.require(f"{self._tag}-{name}")

    def decoded(self, name: str) -> Float32:
        """Return a tensor as it is encoded so far, a matrix as `[inputs, outputs]`.

        A matrix that is not encoded yet is that of the checkpoint.
        """
        stored = self.stored.get(name)
        return self._encoder.weights(name) if stored is None else as_matrix(name, stored.decode())

    def _paced(self, name: str, weights: Float32, cost: ErrorCost) -> StoredTensor:
        """Encode a matrix with the step that the size of the file asks for."""
        while True:
            stored = self._encoder.with_step(name, weights, cost, self._pacing.step(name))
            if self._pacing.accepts(name, len(stored.data)):
                return stored

    def _take(self, stored: StoredTensor) -> None:
        self.stored[stored.name] = stored
        if stored.name not in self._pacing.steps:
            self._file.replace(stored)

    def _save(self, name: str, arrays: Arrays) -> None:
        data = np.frombuffer(self.stored[name].data, np.uint8)
        self._folder.save(f"{self._tag}-{name}", {"bytes": data} | arrays)

    def _is_restored(self, name: str) -> bool:
        """Take up what an earlier run has encoded; return whether it is there."""
        saved = self._folder.load(f"{self._tag}-{name}")
        if saved is None:
            return False
        data, encoder = saved["bytes"].tobytes(), self._encoder
        if name in self._pacing.steps:
            self._pacing.step(name)
            self._pacing.keep(name, len(data))
        self._take(encoder.stored(name, Payload(encoder.plans[name].codec.name, data)))
        if "bias" in saved:
            self._take(encoder.vector(bias_name(name), saved["bias"]))
        return True
