"""Say which functions mutation testing changes: all that lie on the way from bytes to a matrix.

What only encodes is left out: a worse encoder makes larger files, not wrong ones.
"""

import re

_ENCODING = {
    "rbe_cli/codec/": r"(.*\.)?(encode\w*|to_bytes|job_like|expected_bits|plain_error_power|parts"
    r"|join|sample|sampled_bits|side_bits|count_parts|check_bits|check_range|with_parameters_of"
    r"|with_steps|rescaled|choose|exact|fits_float16|_cost|_step|_quantiser|_code|_room_for"
    r"|_encode\w*|_least_squares|_largest|_cheapest_level|_encoder_tables)",
    "rbe_cli/codec/scales.py": r"(?!steps$).*",
    "rbe_cli/codec/ectcq/trellis.py": r"(?!state_labels$).*",
}


def is_in_scope(path: str, function: str) -> bool:
    """Tell whether the mutants of a function (empty: outside functions) are tried."""
    return not any(
        path.startswith(start) and re.fullmatch(pattern, function) and function
        for start, pattern in _ENCODING.items()
    )
