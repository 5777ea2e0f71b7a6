"""The commands `dguide study ...`: search, and promote what was found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from discriminator_guidance.stages.context import Context

study = typer.Typer(
    help="Search for settings beyond those of the study. A search may be stopped; the same command goes on.",
    no_args_is_help=True,
)
Part = Literal["discriminator", "ensemble"]
Profile = Annotated[str, typer.Option(help="Name of a file in configs/.")]
Trials = Annotated[int, typer.Option(min=1, help="How many the study shall have at the end, earlier calls included.")]
Workers = Annotated[
    int, typer.Option(min=1, help="Processes of study.threads threads; one alone repeats what the seed gives.")
]


@study.command()
def discriminator(profile: Profile, trials: Trials, workers: Workers = 1) -> None:
    """Search a discriminator's training and size; judge the best by the samples they guide."""
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import summary
    from discriminator_guidance.stages.claims import study_claim
    from discriminator_guidance.studies import discriminator as search
    from discriminator_guidance.studies.discriminator_results import write_discriminator_results

    config, context = load_config(profile, Path.cwd()), _context(profile)
    with study_claim(config, context.layout, "discriminator"):
        found, finalists = search.run(config, context, trials, workers, _recorder(profile))
        files = write_discriminator_results(found, finalists, config, context.layout)
    record = _read(files[0])
    summary(
        f"{record['study']}: {record['n_trials']} trials {_states(record)}, objective: {record['objective']}; the best "
        f"judged by FID ({record['fid_network']}) of {record['tuning']['images']} guided tuning samples",
        [
            {
                "trial": one["trial"],
                "row": one["grid"] or "",
                "objective": one["objective"],
                "FID": one["fid"],
                "GFLOP": one["gflop"],
                "": "on the front" if one["trial"] in record["pareto_front"] else "",
            }
            for one in record["finalists"]
        ],
    )
    _keep(profile, record, record["winner"] | {"value": record["best"]["value"]}, files)
    _say_next("discriminator", profile, files)


@study.command()
def ensemble(profile: Profile, trials: Trials, workers: Workers = 1) -> None:
    """Search weights, rule, guidance and window of an ensemble by the distance of tuning samples."""
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import summary
    from discriminator_guidance.stages.claims import study_claim
    from discriminator_guidance.studies import ensemble as search
    from discriminator_guidance.studies.ensemble_results import write_ensemble_results

    config, context = load_config(profile, Path.cwd()), _context(profile)
    with study_claim(config, context.layout, "ensemble"):
        found = search.run(config, context, trials, workers, _recorder(profile))
        files = write_ensemble_results(found, config, context.layout)
    record = _read(files[0])
    best = record["best"]
    summary(
        f"{record['study']}: {record['n_trials']} trials {_states(record)}; {record['objective']}",
        [
            {"": f"best, trial {best['trial']}", "FID": best["value"]},
            {"": "plain mean", "FID": record["plain_mean"]},
            *({"": name, "FID": value} for name, value in record["vertices"].items()),
        ],
    )
    _keep(profile, record, best, files)
    _say_next("ensemble", profile, files)


@study.command()
def promote(part: Annotated[Part, typer.Argument(help="Whose winner.")], profile: Profile) -> None:
    """Write the winner of a study to configs/<profile>.tuned.yaml and the profile's lists of rows."""
    from discriminator_guidance.config import active_profile
    from discriminator_guidance.studies.promotion import promote_winner

    root = Path.cwd()
    path = promote_winner(root, profile, part)
    following = "dvc repro" if active_profile(root) == profile else f"dvc exp run -S profile={profile}"
    typer.echo(f"{path.relative_to(root)} and the lists of rows have the winner of study {part}; next: `{following}`")


def _context(profile: str) -> Context:
    from discriminator_guidance.progress import bar, notice
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.layout import Layout

    return Context(Layout(Path.cwd(), profile), bar, lambda step, values: None, notice)


def _recorder(profile: str) -> Callable[[str, Any], None]:
    """Makes each trial that ends a run of its own."""
    from discriminator_guidance import tracking
    from discriminator_guidance.studies.finalists import FINALISTS
    from discriminator_guidance.studies.trial_runs import trial_run

    def on_finished(name: str, trial: Any) -> None:
        told = trial_run(name, trial, ("fid", "gflop") if name.endswith(FINALISTS) else ("objective",))
        tags = {"stage": "study", "profile": profile, **told.tags}
        with tracking.run(Path.cwd(), profile, told.name, tags, told.params, {}) as run:
            for step, values in told.metrics.items():
                run.metrics(step, values)

    return on_finished


def _keep(profile: str, record: dict[str, Any], best: dict[str, Any], files: list[Path]) -> None:
    """Make the whole study one run more, with its record, table and charts."""
    from discriminator_guidance import tracking

    tags = {"stage": "study", "profile": profile, "study": record["study"], "trial": "all"}
    told = {key: record[key] for key in ("n_trials", "states", "seed", "objective", "tuning")}
    numbers = {key: float(best[key]) for key in ("value", "fid", "gflop") if key in best}
    with tracking.run(Path.cwd(), profile, record["study"], tags, told | {"best": best["trial"]}, {}) as run:
        run.metrics(0, numbers | {"n_trials": float(record["n_trials"])})
        for path in files:
            run.artifact(path)


def _read(path: Path) -> dict[str, Any]:
    from discriminator_guidance.artifacts.files import read_json

    return read_json(path, "study")


def _states(record: dict[str, Any]) -> str:
    return f"({', '.join(f'{count} {state}' for state, count in record['states'].items())})"


def _say_next(part: str, profile: str, files: list[Path]) -> None:
    typer.echo(f"written: {', '.join(str(path.relative_to(Path.cwd())) for path in files)}")
    typer.echo(f"`dguide study promote {part} --profile {profile}` hands the winner to the pipeline")
