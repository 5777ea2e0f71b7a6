"""`dguide study`: searches and experiments outside the pipeline, with Optuna.

Each worker is one such process; workers share a study through its storage.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

study = typer.Typer(
    help="Searches with Optuna. Start a command in several terminals to share its trials; `optuna-dashboard "
    "reports/<profile>/study/<name>.journal` shows them."
)

Trials = Annotated[str, typer.Option("--trials", metavar="N|+N", help="Total number of trials, e.g. 40, or +20 more.")]
Recover = Annotated[
    bool, typer.Option("--recover", help="Rerun trials of killed processes immediately; no other may be running.")
]
Params = Annotated[Path, typer.Option("--params", metavar="FILE", help="Another settings file.")]
PARAMS = Path("params.yaml")


@study.command()
def discriminator(trials: Trials, recover: Recover = False, params: Params = PARAMS) -> None:
    """Search the settings of one discriminator; the best trials are compared by their guided samples."""
    _run("discriminator", recover, params, trials)


@study.command()
def ensemble(trials: Trials, recover: Recover = False, params: Params = PARAMS) -> None:
    """Search the members' weights, the rule and the guidance of an ensemble."""
    _run("ensemble", recover, params, trials)


@study.command()
def factorial(recover: Recover = False, params: Params = PARAMS) -> None:
    """Measure how much each known cause contributes to the reproduction's result."""
    _run("factorial", recover, params)


@study.command()
def promote(name: Annotated[str, typer.Argument(help="discriminator or ensemble.")]) -> None:
    """Write the winner of a search to params.yaml and its profile, where `dvc repro` finds it."""
    from dguide.studies.record import promote_winner
    from discriminator_guidance.errors import ConfigError

    if name not in ("discriminator", "ensemble"):
        raise ConfigError("study discriminator or ensemble", repr(name), "choose one of the two")
    for path in promote_winner(Path.cwd(), name):
        typer.echo(f"written: {path.relative_to(Path.cwd())}")


def _run(word: str, recover: bool, params: Path, *trials: str) -> None:
    from importlib import import_module

    from dguide import tracking
    from dguide.artifacts import Layout
    from dguide.settings import load_config

    config = load_config(params)
    threads = config.studies.factorial.threads if word == "factorial" else config.studies.threads
    runtime = config.runtime.model_copy(update={"threads": threads})
    config, layout = config.model_copy(update={"runtime": runtime}), Layout(Path.cwd(), config.profile)
    if word == "discriminator":  # the others sample every training replicate
        layout = layout.replicates(config.replicates)[0]
    with import_module("dguide.studies.storage").storage_errors():
        result = import_module(f"dguide.studies.{word}").run(config, layout, *trials, recover)
    tracking.table(f"study {word}", [result])
