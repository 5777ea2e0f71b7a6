"""The command `dguide`: parse, call a stage, show what came out."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from discriminator_guidance import launching
from discriminator_guidance.cli_study import study
from discriminator_guidance.errors import InputError, OutputError, UserError
from discriminator_guidance.running import run_stage, stage_parameters

# What an operating system says of a place where nothing more can be written.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
FORBIDDEN = (errno.EACCES, errno.EPERM)  # for reading or for writing: it does not say which
BROKEN = (errno.EIO, errno.ESTALE, errno.ENODEV)

if TYPE_CHECKING:
    from discriminator_guidance.benchmark.groups import Row
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.layout import Layout

app = typer.Typer(
    help="A reproducible study of Discriminator Guidance. Stages are normally run by `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
convert = typer.Typer(help="Turn released checkpoints into safetensors and JSON.", no_args_is_help=True)
app.add_typer(convert, name="convert")
app.add_typer(study, name="study")
Profile = Annotated[str, typer.Option(help="Name of a file in configs/.")]
Member = Annotated[str, typer.Option(help="A row of discriminator.members.")]
Variant = Annotated[str, typer.Option(help="A row of guided.variants.")]


@app.command()
def real(profile: Profile) -> None:
    """Make the real pictures: training and held-out set, data card."""
    run_stage("real", profile)


@app.command()
def score(profile: Profile) -> None:
    """Make the score network (the EDM denoiser)."""
    run_stage("score", profile)


@app.command()
def extractor(profile: Profile) -> None:
    """Make the time-conditional classifier whose features feed the discriminators."""
    run_stage("extractor", profile)


@app.command("fid_network")
def fid_network(profile: Profile) -> None:
    """Make the network whose features define the Frechet distance."""
    run_stage("fid_network", profile)


@app.command()
def fake(profile: Profile) -> None:
    """Draw the unguided samples the discriminators learn from."""
    run_stage("fake", profile)


@app.command()
def discriminator(profile: Profile, member: Member) -> None:
    """Train one member of the ensemble."""
    run_stage("discriminator", profile, member=member)


@app.command()
def guided(profile: Profile, variant: Variant) -> None:
    """Draw the evaluation samples of one variant (`edm` is the unguided one)."""
    run_stage("guided", profile, variant=variant)


@app.command()
def evaluation(profile: Profile, variant: Variant) -> None:
    """Evaluate the samples of one variant."""
    run_stage("evaluation", profile, variant=variant)


@app.command()
def report(profile: Profile) -> None:
    """Make tables, figures and index.html."""
    run_stage("report", profile)


@app.command()
def factorial(
    profile: Profile,
    workers: Annotated[int, typer.Option(min=1, help="Processes, each with factorial.threads threads.")] = 2,
) -> None:
    """Measure how much each known cause contributes to the study's result."""
    from discriminator_guidance import tracking
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import bar
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.stages.claims import factorial_claim
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.studies import factorial as experiment

    root = Path.cwd()
    settings, layout = load_config(profile, root), Layout(root, profile)

    def on_cell(row: Mapping[str, Any]) -> None:
        numbers = {key: row[key] for key in ("fid", "sampling_error")}
        told = {key: value for key, value in row.items() if key not in numbers}
        tags = {"stage": "factorial", "profile": profile, "cell": row["cell"]}
        with tracking.run(root, profile, f"factorial {row['cell']}", tags, told, {}) as run:
            run.metrics(0, numbers)

    with factorial_claim(settings, layout):
        result = experiment.run(settings, layout, workers, bar, on_cell)
    show("factorial", [result.summary])


@convert.command("edm")
def convert_edm(
    file: Annotated[Path, typer.Argument(help="An EDM .pkl; nothing in it is executed.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for model.safetensors and model.json.")],
) -> None:
    """Convert an EDM score network."""
    from discriminator_guidance.progress import summary
    from discriminator_guidance.stages.convert import read_edm, write

    summary(f"converted {file.name}", [write(read_edm(file), out_dir)])


@convert.command("adm")
def convert_adm(
    file: Annotated[Path, typer.Argument(help="A classifier or discriminator .pt, zip or legacy format.")],
    out_dir: Annotated[Path, typer.Argument(help="Folder for model.safetensors and model.json.")],
    head_channels: Annotated[int, typer.Option(min=1, help="Channels an attention head.")] = 64,
) -> None:
    """Convert an ADM classifier or a DG discriminator head."""
    from discriminator_guidance.progress import summary
    from discriminator_guidance.stages.convert import read_adm, write

    summary(f"converted {file.name}", [write(read_adm(file, head_channels), out_dir)])


@app.command()
def fetch(
    profile: Profile,
    names: Annotated[list[str] | None, typer.Argument(help="Files of fetch.files (default: all).")] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Show what is here and what is missing.")] = False,
) -> None:
    """Load the files that a profile needs from those who publish them, and check them."""
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import bar, notice
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.stages import fetch as stage
    from discriminator_guidance.stages.layout import Layout

    settings, layout = load_config(profile, Path.cwd()), Layout(Path.cwd(), profile)
    if not settings.fetch.files and not names:
        typer.echo(f"profile {profile} needs no files of others")
        return
    if only_list:
        rows, advice = stage.listing(settings, layout.root, names or ())
        show(f"profile {profile}: files of others", rows)
        for line in advice:
            typer.echo(line)
        return
    from discriminator_guidance.stages.context import Context

    context = Context(layout, bar, lambda step, values: None, notice)
    result = stage.run(settings, context, names or ())
    show(f"profile {profile}: files of others", [{"file": k, "state": v} for k, v in result.summary.items()])


@app.command()
def plan(
    profile: Profile,
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long this machine is timed.")] = 10.0,
    compare: Annotated[bool, typer.Option("--compare", help="Beside what MLflow recorded of finished runs.")] = False,
) -> None:
    """Say what a profile costs on this machine, and which files it lacks; runs and writes nothing."""
    from discriminator_guidance.config import load_config
    from discriminator_guidance.planning.table import rows
    from discriminator_guidance.progress import bar, notice
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.stages import plan as planned
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.layout import Layout

    root = Path.cwd()
    settings = load_config(profile, root)
    result = planned.run(settings, Context(Layout(root, profile), bar, lambda step, values: None, notice), seconds)
    recorded, reservations = {}, []
    if compare:
        from discriminator_guidance.recorded import recorded_runs

        wanted = {
            e.command.name: stage_parameters(settings, e.command.stage, e.command.choices) for e in result.estimates
        }
        found = recorded_runs(root, profile, wanted)
        recorded = {name: run.seconds for name, run in found.items() if not run.reservation}
        reservations = [f"{name}: {run.reservation}, not compared" for name, run in found.items() if run.reservation]
        if not recorded:
            reservations.append("no finished run of this profile with its settings of now in MLflow")
    show(
        f"profile {profile}: estimated before anything runs",
        rows(result.estimates, result.start_up_s, recorded if compare else None),
    )
    show("what this machine was timed at", result.timings)
    for line in [*result.remarks, *reservations]:
        typer.echo(f"- {line}")
    for line in result.missing:
        typer.echo(f"missing: {line}")


@app.command()
def benchmark(
    profile: Annotated[
        str, typer.Option(help="Name of a file in configs/; its networks get random weights.")
    ] = "cifar10",
    file: Annotated[Path | None, typer.Option("--json", help="Where to write the table, group by group.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="How long this machine is timed, about.")] = 120.0,
) -> None:
    """Time this project against the plain way of computing and against the machine, in one process."""
    from discriminator_guidance.artifacts.files import write_json
    from discriminator_guidance.benchmark.groups import as_json, printed
    from discriminator_guidance.benchmark.run import GROUPS
    from discriminator_guidance.benchmark.run import benchmark as timed
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import bar, notice
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.stages.plan import study_pictures

    root = Path.cwd()
    settings = load_config(profile, root)
    context = Context(Layout(root, profile), bar, lambda step, values: None, notice)
    pictures, _ = study_pictures(settings, context)
    with bar("timing", GROUPS, "groups") as advance:

        def on_rows(rows: Sequence[Row]) -> None:
            advance(1)
            if file is not None:
                write_json(file, as_json(rows))

        rows, peaks = timed(profile, settings, pictures, seconds, on_rows)
    show(f"profile {profile}: seconds of a call, median (shortest-longest)", printed(rows))
    show("peaks", [{"operation": name, "GFLOP/s": f"{rate / 1e9:.3g}"} for name, rate in peaks.items()])
    conditions = rows[0].conditions
    typer.echo(", ".join(f"{key} {value}" for key, value in conditions.items()))


@app.command()
def config(profile: Profile) -> None:
    """Check a profile without running anything."""
    from discriminator_guidance.config import load_config

    settings = load_config(profile, Path.cwd())
    members, variants = settings.discriminator.members, settings.guided.variants
    typer.echo(f"configs/{profile}.yaml is whole: {len(members)} members, {len(variants)} variants")


@app.command()
def summary(profile: Profile) -> None:
    """Show the results of a finished study."""
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.report.gather import EVALUATION_KEYS
    from discriminator_guidance.report.readers import read_json
    from discriminator_guidance.report.wording import count, estimate, fid_label, number
    from discriminator_guidance.stages.layout import Layout

    settings, layout = load_config(profile, Path.cwd()), Layout(Path.cwd(), profile)
    rows, absent = [], _absent(settings, layout)
    for variant in settings.guided.variants:
        if variant in absent:
            continue
        result = read_json(layout.evaluation(variant), "evaluation", EVALUATION_KEYS)
        rows.append(
            {
                "variant": variant,
                fid_label(result["fid_network"]): estimate(result["fid"], result["fid_ci95"]),
                "difference to edm": estimate(result["delta_fid_vs_edm"], result["delta_fid_ci95"], sign=True),
                "precision": number(result["precision"], 2),
                "recall": number(result["recall"], 2),
                "N": count(result["n"]),
            }
        )
    show(f"profile {profile}: 95% intervals cover sampling noise, networks and reference fixed", rows)
    for variant, remedy in absent.items():
        typer.echo(f"{variant}: {remedy}")
    typer.echo(f"tables, figures and the page: {layout.report.relative_to(Path.cwd())}/index.html")


@app.command()
def status(profile: Profile) -> None:
    """Show which results of a profile are there."""
    from discriminator_guidance.config import load_config
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.stages.layout import Layout

    settings, layout = load_config(profile, Path.cwd()), Layout(Path.cwd(), profile)
    absent = _absent(settings, layout)
    members = [m for m in settings.discriminator.members if m not in absent]
    variants = [v for v in settings.guided.variants if v not in absent]
    wanted = {
        "real": [layout.real / "train.npz"],
        "score": [layout.model("score") / "model.safetensors"],
        "extractor": [layout.model("extractor") / "model.safetensors"],
        "fid_network": [layout.model("fid_network") / "model.safetensors"],
        "fake": [layout.fake / "samples.npz"],
        "discriminator": [layout.discriminator(m) / "model.safetensors" for m in members],
        "guided": [layout.guided(v) / "samples.npz" for v in variants],
        "evaluation": [layout.evaluation(v) for v in variants],
        "report": [layout.report / "index.html"],
    }
    show(
        f"profile {profile}: present / wanted (`dvc status` tells whether they are up to date)",
        [
            {"stage": stage, "present": str(sum(p.is_file() for p in paths)), "wanted": str(len(paths))}
            for stage, paths in wanted.items()
        ],
    )
    for variant, remedy in absent.items():
        typer.echo(f"{variant}: {remedy}")


@app.command()
def verify(profile: Profile) -> None:
    """Compare every file of a profile with what is recorded of it; names what is damaged and what rebuilds it."""
    from discriminator_guidance.config import load_config, locked_stages
    from discriminator_guidance.errors import InputError
    from discriminator_guidance.progress import bar, notice
    from discriminator_guidance.progress import summary as show
    from discriminator_guidance.stages import verify as stage
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.layout import Layout

    root = Path.cwd()
    settings = load_config(profile, root)
    context = Context(Layout(root, profile), bar, lambda step, values: None, notice)
    verified = stage.run(settings, context, locked_stages(root, profile))
    show(f"profile {profile}: checked", [{"what": kind, "files": n} for kind, n in verified.checked.items()])
    if damages := verified.damages:
        rows = [{"file": one.path, "found": one.found, "command": one.command} for one in damages]
        show(f"profile {profile}: not as recorded", rows)
        raise InputError(
            f"every file of profile {profile} as it was written",
            f"{len(damages)} that are not, the first being {damages[0].path} ({damages[0].found})",
            f"run `{damages[0].command}`" if len(damages) == 1 else "run the commands above",
        )
    typer.echo(f"all of it is as it was written ({sum(verified.checked.values())} files)")


@app.command()
def prepare() -> None:
    """Create the MLflow database (part of the set-up)."""
    from discriminator_guidance.tracking import prepare as prepare_tracking

    prepare_tracking(Path.cwd())


@app.command()
def mlflow(port: Annotated[int, typer.Option(help="Port on 127.0.0.1.")] = 5000) -> None:
    """Open the MLflow UI on the runs of this project."""
    from discriminator_guidance.tracking import ui_command

    command, environment = ui_command(Path.cwd(), port)
    typer.echo(f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning (Ctrl-C stops it)")
    os.execvpe(command[0], command, environment)


def main() -> None:
    """Run `dguide`; errors a user can cure are one line and exit code 2."""
    try:
        app()
    except UserError as error:
        _end(error)
    except OSError as error:
        place = f" {error.filename}" if error.filename else ""
        said = str(error.strerror)
        if error.errno in NO_ROOM:
            _end(OutputError(f"to write{place}", said, "give it room and run it again"))
        if error.errno in FORBIDDEN:
            _end(InputError(f"to read or write{place}", said, "give permission and run it again"))
        if error.errno in BROKEN:
            where = place and f" at{place}"
            _end(InputError(f"a disk that can be read{where}", said, "`dguide verify` names damaged files"))
        raise
    except RuntimeError as error:
        # A command that computes on a device has imported this, and others need not.
        memory = sys.modules.get("discriminator_guidance.networks.memory")
        if memory is None or not memory.tells_of_exhaustion(error):
            raise
        met = " ".join(str(error).split())[:120]
        _end(UserError("memory on the device", met, "free the device, or choose runtime.device: cpu"))


def _end(error: UserError) -> NoReturn:
    if not launching.record(error):
        from discriminator_guidance.progress import complain

        complain(str(error))
    sys.exit(2)


def _absent(settings: Config, layout: Layout) -> dict[str, str]:
    """The variants that wait for a file or a study, with what to do."""
    from discriminator_guidance.report.absent import absent_rows

    return absent_rows(layout.profile, settings.model_dump(), layout.report / "evaluation")


if __name__ == "__main__":
    main()
