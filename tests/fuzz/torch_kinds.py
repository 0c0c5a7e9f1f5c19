"""Files of `torch.save`: the pickle alone, in a zip archive, and of before PyTorch 1.6."""

from functools import cached_property
from typing import Any, ClassVar

from fuzz.byte_mutations import mutated_bytes
from fuzz.draws import Draws, joined
from fuzz.kinds import InputKind
from fuzz.safetensors_kind import check_tensor
from fuzz.scratch import SCRATCH
from fuzz.torch_pickles import (
    STORAGE,
    Member,
    legacy_bytes,
    mutated_pickle,
    pickle_seeds,
    zip_bytes,
)
from torch_files import GOLDEN, LEGACY_GOLDEN

from rbe_cli.checkpoint.torch_files.torch_file import read_torch_file
from rbe_cli.checkpoint.torch_files.torch_pickle import View, load_object
from rbe_cli.checkpoint.torch_files.training_checkpoint import find_state_dict
from rbe_cli.errors import BadFileError, CheckpointError, NotFoundError


class PickleKind(InputKind):
    """A pickle of a state dict, without a file."""

    name: ClassVar[str] = "pickle"
    errors = (CheckpointError,)
    share = 5.0

    @cached_property
    def _seeds(self) -> list[list[bytes]]:
        return [own for own in pickle_seeds(False) if len(own) < 200]

    def case(self, draws: Draws) -> Any:
        """Return a pickle with some changed opcodes, or changed bytes."""
        data = joined(mutated_pickle(draws, draws.one_of(self._seeds)))
        return mutated_bytes(draws, data) if draws.below(16) == 0 else data

    def read(self, case: Any) -> None:
        """Evaluate the pickle, and find and check the tensors in it."""
        value, _ = load_object(case)
        for item in find_state_dict(value).state.values():
            if isinstance(item, View):
                item.check()


class TorchZipKind(InputKind):
    """A zip archive with a pickle and storages."""

    name: ClassVar[str] = "torch-zip"
    errors = (BadFileError, NotFoundError)
    share = 1.0

    @cached_property
    def _seeds(self) -> list[list[bytes]]:
        return pickle_seeds(False)

    @cached_property
    def _golden(self) -> bytes:
        return GOLDEN.read_bytes()

    def case(self, draws: Draws) -> Any:
        """Return an archive whose pickle, members or records have changed."""
        choice = draws.below(16)
        if choice == 0:
            return mutated_bytes(draws, self._golden)
        opcodes = draws.one_of(self._seeds)
        if choice < 8:
            opcodes = mutated_pickle(draws, opcodes)
        members = [Member(b"m/data.pkl", joined(opcodes)), Member(b"m/data/0", STORAGE)]
        members += [Member(b"m/version", b"3\n"), Member(b"m/byteorder", b"little")]
        if choice == 8:
            at = draws.below(len(members))
            name = draws.one_of(
                (b"m/data.pkl", b"n/data.pkl", b"m/data/0", b"../x", b"m/\xff", b"")
            )
            members[at] = members[at]._replace(name=name)
        if choice == 9:
            at = draws.below(len(members))
            members[at] = members[at]._replace(data=mutated_bytes(draws, members[at].data))
        if choice == 10:
            members = [*members[: draws.below(5)], draws.one_of(members)]
        data = zip_bytes(draws, members, is_wrong=choice > 10)
        return mutated_bytes(draws, data) if choice == 15 else data

    def read(self, case: Any) -> None:
        """List the tensors of the file, and read each."""
        for _, tensor in read_torch_file(SCRATCH.write("pytorch_model.bin", case)).tensors:
            check_tensor(tensor)


class TorchLegacyKind(InputKind):
    """A file of `torch.save` before PyTorch 1.6."""

    name: ClassVar[str] = "torch-legacy"
    errors = (BadFileError, NotFoundError)
    share = 1.0

    @cached_property
    def _seeds(self) -> list[list[bytes]]:
        return pickle_seeds(True)

    @cached_property
    def _golden(self) -> bytes:
        return LEGACY_GOLDEN.read_bytes()

    def case(self, draws: Draws) -> Any:
        """Return a file whose pickles or storages have changed."""
        choice = draws.below(8)
        if choice == 0:
            return self._golden[:16] + mutated_bytes(draws, self._golden[16:])
        opcodes = draws.one_of(self._seeds)
        if choice < 5:
            opcodes = mutated_pickle(draws, opcodes)
        return legacy_bytes(draws, opcodes, STORAGE, is_wrong=choice > 4)

    def read(self, case: Any) -> None:
        """List the tensors of the file, and read each."""
        for _, tensor in read_torch_file(SCRATCH.write("legacy.bin", case)).tensors:
            check_tensor(tensor)
