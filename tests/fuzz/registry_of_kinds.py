"""All kinds of inputs, by their names."""

from fuzz.broken_kind import BrokenKind
from fuzz.checkpoint_kind import CheckpointKind
from fuzz.config_kinds import ConfigKind, SettingsKind, TokenFileKind
from fuzz.gguf_kind import GgufKind
from fuzz.kinds import InputKind
from fuzz.payload_kind import PayloadKind
from fuzz.rbe_kinds import DamagedFileKind, HeaderKind, WholeFileKind
from fuzz.safetensors_kind import SafetensorsKind
from fuzz.second_reader_kind import SecondReaderKind
from fuzz.tokenizer_kinds import SentencePieceKind, TokenizerFolderKind, TokenizerJsonKind
from fuzz.torch_kinds import PickleKind, TorchLegacyKind, TorchZipKind

KINDS: dict[str, InputKind] = {
    kind.name: kind
    for kind in (
        DamagedFileKind(), HeaderKind(), PayloadKind(), WholeFileKind(), SecondReaderKind(),
        SafetensorsKind(), PickleKind(), TorchZipKind(), TorchLegacyKind(), GgufKind(),
        ConfigKind(), CheckpointKind(), TokenizerJsonKind(), TokenizerFolderKind(),
        SentencePieceKind(), TokenFileKind(), SettingsKind(),
    )
}  # fmt: skip
BROKEN = BrokenKind()


def kind_named(name: str) -> InputKind:
    """Return a kind of the list, or the one that tests the fuzzer."""
    return BROKEN if name == BROKEN.name else KINDS[name]
