"""Define what the entropy coder and the encoders do for one integer, in compiled code.

An integer is coded as n = 2 q + z. z follows from the state of the trellis, and the state from the
integers before (codec/ectcq/trellis.py).
"""

from rbe_cli.codec.entropy.entropy_model import ESCAPE, SYMBOL_OFFSET
from rbe_cli.runtime.jit import program_code


@program_code
def next_state(state: int, label: int, q: int, states: int) -> int:
    """Return the next state: the state shifted by q's lowest bit ^ the label's parity."""
    return ((state << 1) | ((q ^ label) & 1)) & (states - 1)


@program_code
def symbol_of(q: int, shift: int) -> int:
    """Return the table symbol of q, or `ESCAPE` if its high part is outside the table."""
    symbol = (q >> shift) + SYMBOL_OFFSET
    return symbol if 0 <= symbol < ESCAPE else ESCAPE
