"""The options of `rbe compress`, in the order and under the headings of its help."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rbe_cli.choices import Dtype, Objective
from rbe_cli.cli.numbers import MAX_SEED, MAX_THREADS, byte_count, whole
from rbe_cli.cli.options import SPEED, WRITING
from rbe_cli.cli.output import Output, table

if TYPE_CHECKING:
    from rich.console import Console

_TARGET = "Target"
_QUALITY = "Calibration and tuning"
_BACK = "The way back"


def _show_presets(wanted: bool) -> None:
    """Print what each preset gives, and exit."""
    if not wanted:
        return
    from rbe_cli.compression.settings import load_preset, preset_names

    def show(console: "Console") -> None:
        rows = []
        for name, preset in presets.items():
            if found := preset.measured:
                rise = 100 * (found.perplexity / found.reference_perplexity - 1)
                speed = f"{found.tokens_per_second:.0f}"
                rows.append(
                    (name, preset.description, f"{found.kl_divergence:g}", f"{rise:+.2f} %", speed)
                )
        columns = ("preset", "", "KL divergence", "perplexity", "tokens/s")
        console.print(table("", columns, rows))
        console.print("Measured on an English GPT-2 of 6 million parameters, two threads.")

    presets = {name: load_preset(name) for name in preset_names()}
    Output().result(presets, show)
    raise typer.Exit


Source = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        show_default=False,
        help="The checkpoint: demo (a small one that comes with rbe), a folder, a .safetensors, "
        ".bin, .pt, .ckpt, .gguf or .rbe file, or a model on the Hugging Face Hub (org/name, "
        "org/name@revision or its address).",
    ),
]
Destination = Annotated[
    Path,
    typer.Argument(
        metavar="OUT.rbe",
        show_default=False,
        help="The file to write; with --decompress, the folder or GGUF file.",
    ),
]
Decompress = Annotated[
    bool,
    typer.Option(
        "--decompress",
        "-d",
        rich_help_panel=_BACK,
        help="Turn the .rbe file SOURCE into a folder OUT in Hugging Face layout, which the "
        "transformers library loads, or into a GGUF file if OUT ends with .gguf.",
    ),
]
DtypeOption = Annotated[
    Dtype | None,
    typer.Option(
        "--dtype",
        metavar="float32|float16|bfloat16",
        rich_help_panel=_BACK,
        help="With --decompress: store the weights in this type. The default, float32, holds "
        "them exactly, or rounded to float32 if the residual stream is rotated; the others take "
        "half the space.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=_TARGET,
        help="Use a preset: micro, tiny, small, balanced (the default), quality or near-lossless "
        "(1.5 to 6 bits a weight), or speed-2bit, speed-4bit or speed-8bit, which start and run "
        "fastest.",
    ),
]
Presets = Annotated[
    bool,
    typer.Option(
        "--presets",
        is_eager=True,
        callback=_show_presets,
        rich_help_panel=_TARGET,
        help="Show the quality and the speed of every preset, and exit.",
    ),
]
TargetBpw = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=_TARGET,
        help="Aim at this many bits a weight. The tokenizer in the file is not counted. Above 12, "
        "tensors are stored exactly, one after another, as far as they fit.",
    ),
]
TargetSize = Annotated[
    int | None,
    typer.Option(
        parser=byte_count,
        metavar="SIZE",
        rich_help_panel=_TARGET,
        help="Write the best file that is not larger than this, such as 50MB or 1.5GiB. Where "
        "every tensor fits exactly, it is smaller.",
    ),
]
TargetKl = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        rich_help_panel=_TARGET,
        help="Find the smallest file whose KL divergence from the original is at most this, in "
        "nats a token on held-out text.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_TARGET,
        help="Read the settings from a TOML file of the same form as the presets.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--override",
        metavar="REGEX=KEY=VALUE",
        rich_help_panel=_TARGET,
        help="Set the codec or the bits of the tensors whose names match. KEY=VALUE is "
        "codec=float16, codec=float32, codec=fixed or bits=5, or several of them with commas. "
        "codec=classic,bits=4,block=64 is the original design, for comparisons. Repeatable; the "
        "last rule that matches a tensor counts.",
    ),
]
ObjectiveOption = Annotated[
    Objective | None,
    typer.Option(
        "--objective",
        metavar="kl|outputs",
        rich_help_panel=_TARGET,
        help="Choose what is as small as possible at the given size: the KL divergence of the "
        "whole model (kl, the default) or the relative error of each layer's output (outputs).",
    ),
]
States = Annotated[
    int | None,
    typer.Option(
        metavar="8|16|32|64",
        rich_help_panel=_TARGET,
        help="Set the number of states of the trellis. More states lose a little less, and take "
        "longer to encode. The default is 8.",
    ),
]
Calib = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_QUALITY,
        help="Calibrate on this UTF-8 text. By default the checkpoint writes its own text.",
    ),
]
CalibTokens = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        rich_help_panel=_QUALITY,
        help="Calibrate on token ids: a .npy array, or a text file with one sequence of "
        "space-separated ids a line.",
    ),
]
CalibSamples = Annotated[
    int | None,
    typer.Option(
        parser=whole(1, 10**7),
        metavar="N",
        rich_help_panel=_QUALITY,
        help="Calibrate on this many sequences of up to 256 tokens. The default is 128, or 48 for "
        "a model of more than 50 million parameters; with --tune, four times as many.",
    ),
]
Tune = Annotated[
    int | None,
    typer.Option(
        parser=whole(0),
        metavar="STEPS",
        rich_help_panel=_QUALITY,
        help="Improve the file afterwards: train quantisation steps, biases and LayerNorms for "
        "this many training steps of 2048 tokens. With 0, only more text is calibrated on.",
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        parser=whole(0, MAX_SEED),
        metavar="N",
        rich_help_panel=_QUALITY,
        help="Set the seed of every random choice. The same seed gives the same file.",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        rich_help_panel=WRITING,
        help="Show the sizes, the memory and the time that the run would need; write nothing.",
    ),
]
Force = Annotated[
    bool,
    typer.Option(
        "--force",
        rich_help_panel=WRITING,
        help="Replace the output if it exists, and accept a file that is worse than promised.",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        rich_help_panel=WRITING,
        help="Continue an interrupted run of the same command.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        parser=whole(1, MAX_THREADS),
        metavar="N",
        rich_help_panel=SPEED,
        help="Run this many tasks at once, each on one thread. Fewer tasks need less memory. The "
        "default is --threads.",
    ),
]
MaxMemory = Annotated[
    int | None,
    typer.Option(
        parser=byte_count,
        metavar="SIZE",
        rich_help_panel=SPEED,
        help="Run only as many tasks at once as fit in this much memory, such as 4GB.",
    ),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=SPEED,
        help="Run the tasks on the Dask cluster whose scheduler has this address, such as "
        "tcp://10.0.0.1:8786. It needs: pip install 'rbe-cli[dask]'.",
    ),
]
