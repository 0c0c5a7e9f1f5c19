"""Define what products need to know of a form of tiles: how to unpack them."""

from typing import Any, NamedTuple


class TileForm(NamedTuple):
    """Hold device functions that unpack the tiles of a matrix in panels.

    All take the arrays of a `PanelArrays` (values, entries, starts, taps), the tiles of a panel,
    a panel, and a slot: the place of a tile in the order in which the panel's are stored.

    Attributes:
        name: tells the forms apart.
        tile_sum: (..., column, high, low, place): the products of a column of a tile and of
            rounded inputs (rounded_inputs.py), whose first words are at `place`, summed (int32).
        quad_pair: (..., column, pair): the words of quads 2 pair and 2 pair + 1, four signed
            levels each.
        tile_number: (entries, tiles, panel, slot): which tile of the panel lies there.
    """

    name: str
    tile_sum: Any
    quad_pair: Any
    tile_number: Any
