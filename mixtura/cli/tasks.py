"""`mixtura tasks`: task pools on the terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from mixtura.cli.terminal import TerminalTeller, console, relative, table
from mixtura.errors import InputError
from mixtura.recipe import Clean, Pick, Recipe, Selection, Source

app = typer.Typer(
    help="Task pools: a domain's actions and steps, from which builders make one data set a step.", no_args_is_help=True
)


@app.command()
def propose(
    corpus: Annotated[
        list[Path],
        typer.Argument(help="A recipe, whose sources are read, or data files and folders.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The task pool file to write; never overwritten.")] = Path("tasks.yaml"),
    domain: Annotated[
        str | None, typer.Option(help="Name of the domain; by default the recipe's or the file's.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Rows to look at, chosen by hash; more cost time.", min=2)] = 40_000,
    most: Annotated[int, typer.Option(help="The most clusters; more make narrower steps.", min=2)] = 48,
    number: Annotated[int | None, typer.Option(help="How many clusters, instead of choosing.", min=2)] = None,
    format: Annotated[str | None, typer.Option(help="Reader of data files, where their ending does not say.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A language model that words the steps: a folder, or its name on a server.")
    ] = None,
    server: Annotated[
        str | None, typer.Option(help="Base URL of the OpenAI-compatible server that has the model.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes; by default one per core.", envvar="MIXTURA_WORKERS", min=1)
    ] = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of artefacts; by default .mixtura.", envvar="MIXTURA_STORE")
    ] = None,
    root: Annotated[
        list[Path] | None, typer.Option("--root", help="A further folder that the recipe may read.")
    ] = None,
) -> None:
    """Draft a task pool from a corpus, for a person to edit, with a page to look at.

    Requests that are alike become steps; so do columns that already hold a label, a span of the text, or a score.
    No model is needed; one that is given names the steps and writes their instructions.
    """
    from mixtura.propose import session
    from mixtura.stages.plan import Plan

    generator = _generator(model, server)
    recipe, base, roots = _recipe(corpus, format, root or [])
    if out.exists():  # told before minutes of work
        step = "It may hold someone's edits: give another name with --out, or move it away"
        raise InputError(f"task pool {str(out)!r}", "must not exist yet", next_step=step)
    teller = TerminalTeller()
    try:
        plan = Plan.of(recipe, _settings(base, workers, store, roots), teller)
        wishes = session.Wishes(domain or recipe.name, rows, most, number)
        made = session.propose(plan, wishes, session.memberships_name(out), generator)
    finally:
        teller.close()
    written = session.write(made, out)
    console.print()
    table(
        ["step", "kind", "rows", "terms"],
        [
            [f"{d.action}/{d.name}", d.step.kind, f"{d.step.proposed.rows:,}", ", ".join(d.step.proposed.terms[:4])]
            for d in made.drafted
            if d.step.proposed
        ],
    )
    for kind, path in zip(("tasks", "rows", "page"), written, strict=True):
        console.print(f"{kind:<7} {relative(str(path))}")


def _generator(model: str | None, server: str | None) -> Any:
    """The model that words the steps, or None where none is named."""
    if model is None:
        if server is not None:
            raise InputError("--server", "needs the model's name there", next_step="Add --model")
        return None
    from mixtura.generation.opening import Spec, open_generator

    return open_generator(Spec(model=model, server=server))


def _recipe(corpus: list[Path], format: str | None, roots: list[Path]) -> tuple[Recipe, Path, list[Path]]:
    """The recipe that says where the corpus is, the folder its paths are relative to, and what it may read."""
    from mixtura import recipe_file

    if len(corpus) == 1 and corpus[0].suffix in (".yaml", ".yml"):
        return recipe_file.load(corpus[0]), recipe_file.base_of(corpus[0]), roots
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", corpus[0].resolve().stem).strip("._-") or "corpus"
    source = Source(files=[str(p.resolve()) for p in corpus], format=format)
    recipe = Recipe(
        name=name,
        sources={name: source},
        clean=Clean(near_dedup=None),  # requests of one form look like near-duplicates, and are what is sought
        select=[Selection(selector="uniform", pick=Pick(budget_rows=1))],  # a recipe has one; nothing is picked
    )
    recipe_file.check_words(recipe)
    return recipe, Path.cwd(), [*roots, *(p.resolve().parent for p in corpus)]


def _settings(base: Path, workers: int | None, store: Path | None, roots: list[Path]) -> Any:
    from mixtura.stages.plan import Settings

    given = {"workers": workers, "store": store and str(store)}
    return Settings(base=str(base), roots=[str(r) for r in roots], **{k: v for k, v in given.items() if v is not None})
