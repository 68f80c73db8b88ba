"""The command `dgemma-lsp`: serve an editor, or do one thing in a terminal and say how it went."""

from __future__ import annotations

import re
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from dgemma_lsp.command.loading import ModelOptions, UserError
from dgemma_model.checkpoint import catalogue
from dgemma_model.checkpoint.config import Quantize

app = typer.Typer(add_completion=False, no_args_is_help=False, pretty_exceptions_enable=False)

CheckpointOption = Annotated[
    str | None,
    typer.Option(
        help="A name of `dgemma-lsp checkpoints`, a directory, a .gguf file, or a name on the Hugging Face hub that "
        "was pulled; by default the best that is here."
    ),
]
OneLineOption = Annotated[
    bool | None,
    typer.Option(
        "--one-line/--no-one-line",
        help="Tasks end with their line, or none does; by default where the syntax or the engine finds the end.",
    ),
]
DeviceOption = Annotated[str | None, typer.Option(help="Where the model runs: cpu, cuda, cuda:1; chosen by default.")]
QuantizeOption = Annotated[
    Quantize | None,
    typer.Option(
        "--quantize",
        help="In how many bits the experts of DiffusionGemma are held; by default in as many as fit the memory.",
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="An engine to ask in place of a checkpoint: llama.cpp's server, vLLM, or another with their interface. "
        "Text around the cursor is sent there. By default DGEMMA_ENGINE.",
    ),
]
EngineTokenOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="What the engine wants to be told; otherwise DGEMMA_ENGINE_TOKEN, or the file DGEMMA_ENGINE_TOKEN_FILE.",
    ),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("dgemma-lsp"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def serve(
    context: typer.Context,
    tcp: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Listen there instead of on stdio.")] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="What a TCP client must say; otherwise DGEMMA_TOKEN, or one that is logged."),
    ] = None,
    insecure_listen: Annotated[
        bool, typer.Option("--insecure-listen", help="Listen where other machines can reach the server.")
    ] = False,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
    engine_token_file: EngineTokenOption = None,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Fill code in place. Without a command: serve an editor over stdio."""
    if context.invoked_subcommand is not None:
        options = (checkpoint, device, quantize, engine, engine_token_file, tcp, token_file)
        if any(option is not None for option in options) or insecure_listen:
            fail(f"options go after the command: dgemma-lsp {context.invoked_subcommand} --checkpoint ...")
        return
    try:
        ModelOptions(checkpoint, engine=engine).chosen_engine()
    except UserError as error:
        fail(str(error))
    from dgemma_lsp.server import server
    from dgemma_lsp.server.admission import AdmissionError

    if tcp is None:
        server.serve_stdio(
            checkpoint=checkpoint,
            device=device,
            quantize=quantize,
            engine=engine,
            engine_token_file=engine_token_file,
        )
    host, _, port = tcp.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or int(port) > 65535:
        fail(f"--tcp wants HOST:PORT, for example 127.0.0.1:7777, not {tcp!r}")
    try:
        server.serve_tcp(
            host.strip("[]"),
            int(port),
            checkpoint=checkpoint,
            device=device,
            quantize=quantize,
            engine=engine,
            engine_token_file=engine_token_file,
            token_file=token_file,
            insecure=insecure_listen,
        )
    except OSError as error:
        fail(f"cannot listen on {tcp}: {error.strerror or error}; pass another --tcp HOST:PORT")
    except AdmissionError as error:
        fail(f"--tcp {tcp}: {error}")


@app.command()
def fill(
    place: Annotated[
        str | None, typer.Argument(metavar="FILE:LINE:COLUMN", help="Where to fill; both count from 1.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show what happens in each pass.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    batch: Annotated[Path | None, typer.Option(metavar="TASKS.jsonl", help="Fill every task of a file.")] = None,
    one_line: OneLineOption = None,
    denoise: Annotated[
        bool, typer.Option("--denoise", help="Denoise a canvas, also where another way is the default.")
    ] = False,
    steps: Annotated[
        int | None, typer.Option(min=0, help="Most denoising steps of a canvas; the checkpoint's own by default.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.0, help="Take what is there after so many milliseconds.")
    ] = None,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
    engine_token_file: EngineTokenOption = None,
) -> None:
    """Fill one hole in a file and show it in place, or fill a file of tasks."""
    from dgemma_lsp.command import fill as fill_command

    if (place is None) == (batch is None):
        fail("pass either FILE:LINE:COLUMN or --batch TASKS.jsonl")
    if one_line is not None and batch is None:
        fail("--one-line and --no-one-line are about --batch: at FILE:LINE:COLUMN the syntax decides")
    wanted = ModelOptions(checkpoint, device, quantize, engine, engine_token_file)
    try:
        if batch is not None:
            fill_command.fill_batch(batch, wanted, one_line=one_line, denoise=denoise, steps=steps, budget_ms=budget_ms)
        elif place is not None:
            fill_command.fill_once(
                place, wanted, watch=watch, as_json=as_json, denoise=denoise, steps=steps, budget_ms=budget_ms
            )
    except UserError as error:
        fail(str(error))


@app.command()
def check(
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    quantize: QuantizeOption = None,
    engine: EngineOption = None,
    engine_token_file: EngineTokenOption = None,
) -> None:
    """Say what works on this machine, and what to do where something does not."""
    from dgemma_lsp.command.check import check as check_machine

    if not check_machine(ModelOptions(checkpoint, device, quantize, engine, engine_token_file)):
        raise typer.Exit(1)


@app.command()
def bench(
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    shape: Annotated[
        str | None, typer.Option(metavar="26b", help="Random weights of the published shape; on a processor, in small.")
    ] = None,
    quantize: QuantizeOption = None,
    repeats: Annotated[int, typer.Option(min=1, help="Runs of everything that is measured.")] = 20,
) -> None:
    """Measure the model and the server on this machine; the last line is one JSON document."""
    from dgemma_lsp.command import bench as benchmark

    if shape not in (None, "26b"):
        fail(f"--shape knows 26b only, not {shape!r}")
    try:
        benchmark.bench(checkpoint, device, quantize, shape=shape, repeats=repeats)
    except UserError as error:
        fail(str(error))


@app.command("eval")
def evaluate(
    checkpoint: CheckpointOption = None,
    device: DeviceOption = None,
    quantize: QuantizeOption = None,
    ways: Annotated[str, typer.Option(metavar="A,B", help="Ways to fill; the shipped ones and baselines.")] = "",
    kinds: Annotated[str, typer.Option(metavar="A,B", help="Kinds of cases; all by default.")] = "",
    sample: Annotated[int | None, typer.Option(min=1, help="About so many cases, always the same ones.")] = None,
    held_out: Annotated[
        str,
        typer.Option(
            "--set", metavar="NAME", help="Held-out holes: classic, or fresh: of packages published since 2025."
        ),
    ] = "classic",
    tasks: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.jsonl", help="Outside tasks instead: id, prefix, suffix, and middle or test with entry_point."
        ),
    ] = None,
    one_line: OneLineOption = None,
    dials: Annotated[bool, typer.Option("--dials", help="Quality against steps and time instead.")] = False,
    output: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write the table there.")] = None,
    calibration: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Plot there how far scores can be trusted.")
    ] = None,
    unconfined: Annotated[
        bool,
        typer.Option(
            "--run-model-programs-unconfined",
            help="Where nothing confines programs that the model writes, run them with your own rights.",
        ),
    ] = False,
) -> None:
    """Fill held-out holes as the server would, and say how many are right."""
    from dgemma_lsp.command import eval_run

    try:
        eval_run.evaluate(
            checkpoint,
            device,
            quantize,
            ways=_names(ways),
            kinds=_names(kinds),
            sample=sample,
            held_out=held_out,
            tasks=tasks,
            one_line=one_line,
            dials=dials,
            output=output,
            calibrate=calibration,
            unconfined=unconfined,
        )
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("dgemma-lsp: interrupted; nothing was written")
        raise typer.Exit(130) from None


@app.command()
def checkpoints(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False) -> None:
    """Say which checkpoints there are, which are here, and which one this machine should use."""
    from dgemma_lsp.command import checkpoints as command

    command.show(as_json=as_json)


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="One of `dgemma-lsp checkpoints`, or owner/model on the hub.")
    ] = catalogue.DEFAULT,
    given: Annotated[
        Path | None, typer.Option("--from", metavar="FILE", help="Take it from a .gguf file or a directory.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document a line, for programs.")] = False,
) -> None:
    """Get a checkpoint, continue if a download was interrupted, and check it."""
    from dgemma_lsp.command import pull as command
    from dgemma_model.checkpoint.errors import CheckpointError

    if as_json:
        raise typer.Exit(command.pull_for_programs(name, given))
    try:
        command.pull(name, given)
    except CheckpointError as error:
        fail(str(error))
    except KeyboardInterrupt:
        Console(stderr=True).print("dgemma-lsp: interrupted; what has arrived is kept, and pulling again continues")
        raise typer.Exit(130) from None


@app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A checkpoint that is here.")],
    unasked: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete a checkpoint, and say how many bytes that frees."""
    from dgemma_lsp.command import checkpoints as command
    from dgemma_model.checkpoint.errors import CheckpointError

    try:
        if not command.remove(name, unasked=unasked):
            raise typer.Exit(1)
    except CheckpointError as error:
        fail(str(error))


def _names(listed: str) -> list[str]:
    """The names of a list with commas."""
    return [name for part in listed.split(",") if (name := part.strip())]


def fail(message: str) -> NoReturn:
    """Print an error for users and leave with exit code 2."""
    Console(stderr=True, highlight=False, markup=False).print(f"dgemma-lsp: {message}", soft_wrap=True)
    raise typer.Exit(2)


def main() -> None:
    """Do what the arguments of this process say; the entry point is `start.main`."""
    app()
