"""Say what mutation testing changes: all that lies on the way from bytes to a matrix or a text."""

import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path

_LEFT_OUT = (
    # Run as machine code, which is compiled once and not for each mutant.
    "*_programs.py", "*/tile_packer.py", "*/rans_decoder.py", "*/trellis_vectors.py",
    # Only write: a worse encoder makes larger files, not wrong ones.
    "*/error_cost.py", "*/error_feedback.py", "*/fixed_encoder.py", "*/head_bases.py",
    "*/coordinate_descent.py",
    "*/tile_widths.py", "*/folder_writer.py", "*/safetensors_writer.py", "*/gguf_writer.py",
    # Tested in processes of their own, which import the package as it is on disk.
    "*/hub/*",
)  # fmt: skip
# Functions that only encode, in modules that decode, too.
_ENCODING = {
    "rbe_cli/codec/": r"(.*\.)?(encode\w*|to_bytes|expected_bits|plain_error_power|parts"
    r"|join|sample|sampled_bits|side_bits|count_parts|check_bits|check_range|with_parameters_of"
    r"|with_steps|rescaled|choose|exact|fits_float16|_cost|_step|_quantiser|_code|_room_for"
    r"|_encode\w*|_least_squares|_largest|_cheapest_level|_encoder_tables)",
    "rbe_cli/codec/scales.py": r"(?!steps$).*",
    "rbe_cli/codec/ectcq/trellis.py": r"(?!state_labels$).+",
    "rbe_cli/checkpoint/gguf/gguf_tokenizer.py": r"to_gguf|_check_byte_level|_around|_flat",
    "rbe_cli/checkpoint/checkpoint_tensor.py": r"from_float32",
}


def modules_in(places: Iterable[str]) -> Iterator[str]:
    """Yield the modules in some folders, or of some paths, that are changed."""
    for place in places:
        folder = Path(place)
        paths = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder]
        for path in paths:
            if not any(fnmatch(path.as_posix(), pattern) for pattern in _LEFT_OUT):
                yield path.as_posix()


def is_in_scope(path: str, function: str) -> bool:
    """Tell whether the mutants of a function (empty: outside functions) are tried."""
    return not any(
        path.startswith(start) and re.fullmatch(pattern, function)
        for start, pattern in _ENCODING.items()
    )
