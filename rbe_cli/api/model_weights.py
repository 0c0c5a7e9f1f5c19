"""The weights of a loaded model, the changes made to them, and the file they are saved to."""

from collections.abc import Mapping
from dataclasses import fields
from functools import cached_property
from pathlib import Path

from numpy.typing import ArrayLike

from rbe_cli import __version__
from rbe_cli.api.changed_tensors import as_stored, stored_form
from rbe_cli.api.model_tensors import checked
from rbe_cli.codec.registry import codec_named
from rbe_cli.codec.stream_rotation import StreamRotation, is_even, norm_before
from rbe_cli.container.header import Provenance
from rbe_cli.container.reader import Container
from rbe_cli.container.stored_tensor import StoredTensor
from rbe_cli.engine.load import stored_norms
from rbe_cli.errors import UsageError
from rbe_cli.model.tensor_names import ROTATION, is_embedding
from rbe_cli.nn import parameters as trained
from rbe_cli.nn.layer_norm_parameters import CompressedVector
from rbe_cli.nn.named_weights import rotation_of
from rbe_cli.quoting import quoted
from rbe_cli.runtime.arrays import Float32, Floating
from rbe_cli.runtime.fork_lock import ForkLock
from rbe_cli.weights import weight_forms
from rbe_cli.weights.on_demand import OnDemand
from rbe_cli.weights.weight_forms import Weight


class ModelWeights:
    """Weights by name, which several threads may read and change.

    Attributes:
        changes: how many there were; closing is one.
    """

    def __init__(self, container: Container, weights: dict[str, Weight]) -> None:
        """Args:
        container: the file, which stays open.
        weights: of all its tensors, as `Gpt2` takes them.
        """
        self.changes = 0
        self._container = container
        self._weights: dict[str, Weight] | None = weights
        self._changed: dict[str, StoredTensor | None] = {}  # None: not encoded yet
        self._lock = ForkLock()

    def close(self) -> None:
        """Let go of the weights and of the file."""
        with self._lock:
            self._weights = None
            self._changed.clear()
            self.changes += 1
            self._container.close()

    def current(self) -> tuple[dict[str, Weight], int]:
        """Return the weights as they are now, which never change in place, and `changes`.

        Raises:
            UsageError: the model is closed.
        """
        with self._lock:
            if self._weights is None:
                raise UsageError("the model is closed")
            return self._weights, self.changes

    def unchanged_norms(self) -> dict[str, CompressedVector]:
        """Return each gamma and beta that was not changed as the file holds it."""
        with self._lock:
            self.current()
            norms = stored_norms(self._container)
            return {name: own for name, own in norms.items() if name not in self._changed}

    @cached_property
    def _rotation(self) -> StreamRotation | None:
        """Return the rotation of the residual stream; None if it was not rotated."""
        weights, _ = self.current()
        return rotation_of(weights)

    def names(self) -> tuple[str, ...]:
        """Return the canonical names of a checkpoint's tensors in the order of the file."""
        return tuple(name for name in self._container.tensors if name != ROTATION)

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Return the shape that a checkpoint gives to a tensor."""
        return self._container.layout.tensors[name].shape

    def stored(self, name: str) -> StoredTensor:
        """Return what a file would hold of a tensor now."""
        with self._lock:
            weights, _ = self.current()
            before = self._container.tensors[name]
            if name not in self._changed:
                return before
            found = self._changed[name]
            if found is None:
                found = self._changed[name] = stored_form(before, weights[name])
            return found

    def values(self, name: str) -> Float32:
        """Return a copy of a tensor's values, in the shape and the basis of a checkpoint."""
        weights, _ = self.current()
        if self._rotation is None:
            return as_stored(name, weights[name])
        decoded = OnDemand(weights, lambda name: as_stored(name, weights[name]))
        return self._rotation.restored(name, decoded)

    def replace_tensor(self, name: str, values: Float32) -> None:
        """Give a tensor other values, in the shape and the basis of a checkpoint.

        See `ModelTensors`.
        """
        with self._lock:
            found = {name: values}
            if self._rotation is not None:
                _check_gamma(name, values)
                found = {
                    other: self._rotation.rotated(other, own)
                    for other, own in (self._folded_beside(name) | found).items()
                }
            self._replace({n: own.T if is_embedding(n) else own for n, own in found.items()})

    def parameters(self) -> dict[str, Floating]:
        """See `Model.parameters`."""
        weights, _ = self.current()
        known = trained.split(weights).items()
        return {n: own.copy() for n, own in known if not self._is_fixed(*_tensor_of(n, weights))}

    def set_parameters(self, values: Mapping[str, ArrayLike]) -> None:
        """See `Model.set_parameters`."""
        with self._lock:
            weights, _ = self.current()
            asked: dict[str, dict[str, Floating]] = {}
            for name, own in values.items():
                tensor, suffix = _tensor_of(name, weights)
                known = weight_forms.parameters(weights[tensor]) if tensor in weights else {}
                if tensor == ROTATION or suffix not in known or self._is_fixed(tensor, suffix):
                    raise UsageError(f"the model has no parameter {quoted(name)}")
                found = checked(name, own, known[suffix].shape)
                if suffix.endswith("_steps") and not (found > 0).all():
                    raise UsageError(f"{name} takes steps above 0")
                asked.setdefault(tensor, known)[suffix] = found
            self._replace(
                {
                    name: weight_forms.with_parameters(weights[name], own)
                    for name, own in asked.items()
                }
            )

    def save(self, path: Path, *, force: bool) -> int:
        """See `Model.save`."""
        from rbe_cli.container.writer import write_container

        with self._lock:
            self.current()
            tensors = [self.stored(name) for name in self._container.tensors]
            provenance = self._container.provenance
            if self._changed:
                provenance = _without_quality(provenance, len(self._changed))
        return write_container(
            path,
            config=self._container.config,
            tensors=tensors,
            tokenizer_json=self._container.tokenizer_json(),
            provenance=provenance,
            force=force,
        )

    def _replace(self, weights: Mapping[str, Weight]) -> None:
        """Take other weights; the lock is held."""
        current, _ = self.current()
        self._weights = current | dict(weights)
        self._changed |= dict.fromkeys(weights)
        self.changes += 1

    def _folded_beside(self, name: str) -> dict[str, Float32]:
        """Return the tensors that change with an assigned one, as `values` gives them.

        Where gamma was trained after the residual stream was rotated, `values` shows its LayerNorm
        folded into the next matrix. An assignment holds if all of these are folded.
        """
        norm = norm_before(name)
        weights, _ = self.current()
        if norm is None or is_even(as_stored(f"{norm}.weight", weights[f"{norm}.weight"])):
            return {}
        return {other: self.values(other) for other in self.names() if norm_before(other) == norm}

    def _is_fixed(self, name: str, suffix: str) -> bool:
        """Whether a file cannot hold other values of a parameter."""
        return suffix in codec_named(self._container.layout.tensors[name].codec).fixed_parameters


def _check_gamma(name: str, values: Float32) -> None:
    """Refuse a gamma that a file with a rotated residual stream cannot hold."""
    if name == f"{norm_before(name)}.weight" and not is_even(values):
        raise UsageError(
            f"{name} takes one value for all elements: the file's residual stream is rotated; "
            "multiply the rows of the matrix that follows instead"
        )


def _tensor_of(name: str, weights: Mapping[str, Weight]) -> tuple[str, str]:
    """Return the tensor that a parameter belongs to, and the rest of its name."""
    if name in weights:
        return name, ""
    tensor, _, suffix = name.rpartition(".")
    return tensor, f".{suffix}"


def _without_quality(provenance: Provenance, changed: int) -> Provenance:
    """Return the provenance of a file of which tensors were changed: its quality is not known."""
    from msgspec import structs

    from rbe_cli.compression.output_file import Quality

    measured = {field.name for field in fields(Quality)}
    kept = {key: own for key, own in provenance.extra.items() if key not in measured}
    extra = kept | {"changed_tensors": changed}
    return structs.replace(provenance, tool_version=__version__, extra=extra)
