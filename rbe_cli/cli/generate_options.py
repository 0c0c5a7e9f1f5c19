"""The options of `rbe generate`, in the order and under the headings of its help."""

from typing import Annotated

import typer

from rbe_cli.choices import ActivationBits, KvType, Overflow
from rbe_cli.cli.numbers import byte_count, whole
from rbe_cli.cli.options import INPUT, SPEED

_SAMPLING = "Sampling"
_END = "End of the text"
_PRINTING = "Printing"


Prompt = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROMPT]",
        show_default=False,
        help="The text to continue; - reads it from stdin. A text that begins with - goes after "
        "a -- of its own.",
    ),
]
Interactive = Annotated[
    bool,
    typer.Option(
        "--interactive",
        rich_help_panel=INPUT,
        help="Continue each line that you type. GPT-2 continues a text; it does not answer.",
    ),
]
Batch = Annotated[
    int,
    typer.Option(
        parser=whole(1, 65536),
        metavar="N",
        rich_help_panel=INPUT,
        help="Write this many continuations of the prompt side by side.",
    ),
]
Temperature = Annotated[
    float,
    typer.Option(
        metavar="X",
        rich_help_panel=_SAMPLING,
        help="Divide the logits by this. Higher values give more varied text; 0 always takes the "
        "likeliest token.",
    ),
]
TopK = Annotated[
    int,
    typer.Option(
        metavar="K",
        rich_help_panel=_SAMPLING,
        help="Choose among the K likeliest tokens; 0 keeps all.",
    ),
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="P",
        rich_help_panel=_SAMPLING,
        help="Choose among the likeliest tokens whose probabilities add up to P; 1 keeps all.",
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        metavar="P",
        rich_help_panel=_SAMPLING,
        help="Drop tokens that are less than P times as likely as the likeliest one; 0 keeps all.",
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        metavar="X",
        rich_help_panel=_SAMPLING,
        help="Make tokens that occurred before less likely (above 1) or more likely (below 1).",
    ),
]
RepetitionWindow = Annotated[
    int,
    typer.Option(
        metavar="N",
        rich_help_panel=_SAMPLING,
        help="Apply the penalty to the tokens among the last N.",
    ),
]
Greedy = Annotated[
    bool,
    typer.Option(
        "--greedy",
        rich_help_panel=_SAMPLING,
        help="Always take the likeliest token. The options above have no place beside it.",
    ),
]
MaxTokens = Annotated[
    int,
    typer.Option(metavar="N", rich_help_panel=_END, help="End after this many new tokens."),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TEXT",
        rich_help_panel=_END,
        help=r"End before this text. \n, \t and \r stand for a newline, a tab and a carriage "
        r"return, and \\ for a backslash. Repeatable.",
    ),
]
IgnoreEos = Annotated[
    bool,
    typer.Option(
        "--ignore-eos",
        rich_help_panel=_END,
        help="Go on after a token that marks the end of a text.",
    ),
]
OnOverflow = Annotated[
    Overflow,
    typer.Option(
        metavar="stop|shift",
        rich_help_panel=_END,
        help="When the context is full, end the text (stop), or keep the newest half of the "
        "context and go on (shift).",
    ),
]
KvTypeOption = Annotated[
    KvType,
    typer.Option(
        "--kv-type",
        metavar="fp32|fp16|int8",
        rich_help_panel=SPEED,
        help="Store the attention's keys and values in this form. Smaller forms need less memory "
        "and lose some precision.",
    ),
]
ActivationsOption = Annotated[
    ActivationBits,
    typer.Option(
        "--activations",
        metavar="auto|8|16",
        rich_help_panel=SPEED,
        help="Round the activations of a prompt to this many bits. auto takes 8 bits where the "
        "weights are coarser than that, and 16 elsewhere.",
    ),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        parser=byte_count,
        metavar="SIZE",
        rich_help_panel=SPEED,
        help="Use at most this much memory, such as 200MB. Layers that do not fit are decoded "
        "again for every token, which is much slower.",
    ),
]
Lookup = Annotated[
    bool,
    typer.Option(
        rich_help_panel=SPEED,
        help="Guess passages that repeat, and check several tokens at once. It is faster, and the "
        "text is the same.",
    ),
]
Logprobs = Annotated[
    int | None,
    typer.Option(
        parser=whole(0, 1000),
        metavar="N",
        rich_help_panel=_PRINTING,
        help="In json and jsonl, add the log-probability of each new token and the N likeliest "
        "tokens, N from 0 to 1000. They are the model's own, before all options of sampling.",
    ),
]
NoStream = Annotated[
    bool,
    typer.Option(
        "--no-stream",
        rich_help_panel=_PRINTING,
        help="Print the text when it is complete, not token by token.",
    ),
]
