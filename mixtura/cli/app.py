"""The commands. Each validates, calls one function of the library, and prints what came of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import mixtura
from mixtura.cli import tasks
from mixtura.cli.terminal import TerminalTeller, console, errors, relative
from mixtura.errors import MixturaError

app = typer.Typer(
    name="mixtura",
    help="From raw corpora to the training mixture that moves a model most.\n\n"
    "Start with `mixtura demo`, or write a recipe (recipes/ has some) and `mixtura check` it, then `mixtura run` it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

app.add_typer(tasks.app, name="tasks")

RecipePath = Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)]
MixturePath = Annotated[Path, typer.Argument(help="The mixture's folder.", show_default=False)]
Workers = Annotated[
    int | None, typer.Option(help="Processes; by default one per core.", envvar="MIXTURA_WORKERS", min=1)
]
StorePath = Annotated[
    Path | None, typer.Option(help="Folder of artefacts; by default .mixtura.", envvar="MIXTURA_STORE")
]
Roots = Annotated[
    list[Path] | None, typer.Option("--root", help="A further folder that the recipe may read; repeatable.")
]
ShardRows = Annotated[int | None, typer.Option(help="Rows of a shard; fewer need less memory.", min=1)]
Output = Annotated[Path | None, typer.Option(help="Folder of the mixture, instead of the recipe's.")]
Plain = Annotated[bool, typer.Option("--plain", help="Without Prefect: the same stages, called directly.")]


@app.command()
def run(
    recipe: RecipePath,
    workers: Workers = None,
    store: StorePath = None,
    root: Roots = None,
    shard_rows: ShardRows = None,
    output: Output = None,
    plain: Plain = False,
) -> None:
    """Make the mixture that a recipe describes.

    What is done already is reused: run it again after a crash, a new file or a changed budget, and only the rest is
    computed. With `PREFECT_API_URL` set the run shows on that Prefect server, else on an embedded one.
    """
    from mixtura import recipe_file
    from mixtura.cli.running import curate

    loaded = recipe_file.load(recipe)
    settings = _settings(recipe, workers, store, root, shard_rows, output)
    teller = TerminalTeller()
    try:
        result = curate(loaded, settings, teller, plain=plain)
    finally:
        teller.close()
    console.print(f"[dim]reused {teller.reused} shards, computed {teller.computed}[/]")
    unchanged = "" if result["changed"] else " (unchanged)"
    console.print(
        f"\n[bold]{result['rows']:,} rows, {result['tokens']:,} tokens[/] in {relative(result['folder'])}{unchanged}"
    )
    console.print(f"card    {relative(result['card'])}")
    console.print(f"report  {relative(result['folder'])}/report.html")


@app.command()
def check(recipe: RecipePath, root: Roots = None, workers: Workers = None) -> None:
    """Validate a recipe, look at a sample of its files, and predict rows, bytes, time and memory. Writes nothing."""
    from mixtura import recipe_file
    from mixtura.cli import forecast

    loaded = recipe_file.load(recipe)
    forecast.show(loaded, _settings(recipe, workers, None, root, None, None))


@app.command()
def probe(
    recipe: RecipePath,
    workers: Workers = None,
    store: StorePath = None,
    root: Roots = None,
    output: Output = None,
) -> None:
    """Find out whether the picks help: train a small model on each selection's picks, and measure.

    All start from one model and see equally many tokens; uniform picks run beside them. Settings: the recipe's `probe`.
    What was measured goes into the mixture's card and report.
    """
    from mixtura import recipe_file
    from mixtura.cli import probing

    probing.run(recipe_file.load(recipe), _settings(recipe, workers, store, root, None, output))


@app.command()
def mine(
    recipe: RecipePath,
    workers: Workers = None,
    store: StorePath = None,
    root: Roots = None,
    output: Output = None,
    plain: Plain = False,
) -> None:
    """Find what a model fails at among a mixture's rows, learn from its failures, and go round while it helps.

    Warms a model up from easy to hard, then lets it answer, checks every answer, trains on pairs of a right and a wrong
    one, and measures on rows and tools set aside. Settings: the recipe's `mine` and `train`. Stopped, it resumes.
    """
    from mixtura import recipe_file
    from mixtura.cli import mining

    loaded = recipe_file.load(recipe)
    mining.run(loaded, _settings(recipe, workers, store, root, None, output), plain=plain)


@app.command()
def show(mixture: MixturePath) -> None:
    """Print what a mixture is made of, what was lost on the way, and where."""
    from mixtura.cli import inspect_mixture

    inspect_mixture.show(mixture)


@app.command()
def why(
    mixture: MixturePath, row: Annotated[str, typer.Argument(help="A row's id or its beginning, or FILE@OFFSET.")]
) -> None:
    """Print a record's life: from its file and offset to its split, or to what removed it."""
    from mixtura.cli import inspect_mixture

    inspect_mixture.why(mixture, row)


@app.command()
def train(
    mixture: MixturePath,
    out: Annotated[Path | None, typer.Option(help="Folder of the model; by default MIXTURE-model.")] = None,
    model: Annotated[str | None, typer.Option(help="A causal LM by name or folder, instead of the recipe's.")] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps, instead of the recipe's.", min=1)] = None,
    plain: Plain = False,
) -> None:
    """Fine-tune a causal LM on a mixture; prints the held-out loss before and after. Stopped, it resumes exactly."""
    from mixtura.cli import training

    training.run(mixture, out, model, steps, plain=plain)


@app.command()
def questions(
    file: Annotated[
        Path, typer.Argument(help="A file of questions, such as BFCL_v4_multiple.json.", show_default=False)
    ],
    out: Annotated[Path, typer.Argument(help="The JSONL file to write; it must not exist yet.", show_default=False)],
    answers: Annotated[
        Path | None, typer.Option(help="The file of possible answers; by default its namesake in possible_answer/.")
    ] = None,
) -> None:
    """Turn the Berkeley leaderboard's questions and possible answers into rows that a recipe reads.

    Each row ends with the first right answer; the check `tool_calls` accepts all of them. The leaderboard is a
    benchmark: measure on these rows, and do not train on what you report.
    """
    from mixtura.cli import questions as command

    command.write(file, out, answers)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe.

    Editors complete from it: `mixtura schema > recipe.schema.json`, and as the recipe's first line
    `# yaml-language-server: $schema=recipe.schema.json`.
    """
    from mixtura import recipe_file

    sys.stdout.write(json.dumps(recipe_file.schema(), indent=2, ensure_ascii=False) + "\n")


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(help="Where the demo's files go.")] = Path("demo"),
    plain: Plain = False,
) -> None:
    """See it work: curate the docstrings of the installed packages for one library, and train on the result."""
    from mixtura.cli import demo as demonstration

    demonstration.run(folder, plain=plain)


@app.command()
def serve(
    recipe: RecipePath,
    cron: Annotated[str, typer.Option(help="When to run it.")] = "0 3 * * *",
    limit: Annotated[int, typer.Option(help="Runs at once.", min=1)] = 1,
) -> None:
    """Serve a recipe on a schedule: registers the deployment with the Prefect server and runs it when due."""
    from mixtura import recipe_file

    loaded = recipe_file.load(recipe)
    from mixtura.flows.prefect_env import prepare_to_serve

    prepare_to_serve()
    from mixtura.flows.curate import serve as serving

    console.print(f"serving {loaded.name!r} at {cron!r}; stop with Ctrl-C")
    serving(recipe.resolve(), loaded.name, cron, limit)


def main() -> None:
    """Run a command; a mistake of the user is one sentence and exit code 2, never a traceback."""
    try:
        app()
    except MixturaError as e:
        errors.print(f"[bold red]error[/] {_escape(str(e))}", soft_wrap=True)
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        errors.print("stopped; run the same command again to continue")
        sys.exit(130)


def _settings(
    recipe: Path,
    workers: int | None,
    store: Path | None,
    root: list[Path] | None,
    shard_rows: int | None,
    output: Path | None,
) -> Any:
    from mixtura.recipe_file import base_of
    from mixtura.stages.plan import Settings

    given = {
        "workers": workers,
        "store": store and str(store),
        "shard_rows": shard_rows,
        "output": output and str(output),
    }
    return Settings(
        base=str(base_of(recipe)),
        roots=[str(r) for r in root or []],
        **{k: v for k, v in given.items() if v is not None},
    )


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        console.print(mixtura.__version__)
        raise typer.Exit
