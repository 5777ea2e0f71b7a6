"""The command `dguide`: parse, call, show."""

import os
import re
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from dguide import tracking
from dguide.report.format import answer, fid_label, summary_rows
from dguide.run import run_stage
from dguide.settings import Config, Layout, described, load_config, plain
from dguide.settings.config import PARAMS
from dguide.tools.profile import promote_winner, use_profile
from discriminator_guidance import __version__
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import rounded, save_weights
from discriminator_guidance.core.runtime import is_first, prepare

PIPELINE, STUDY, TOOLS = "Pipeline (what `dvc repro` runs)", "Study", "Tools"
MOST_SAMPLES = 10**6

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)
study = typer.Typer(help="Studies with Optuna. Start a command in several terminals to share its trials.")
app.add_typer(study, name="study", rich_help_panel=STUDY, no_args_is_help=True)

Params = Annotated[Path, typer.Option("--params", metavar="FILE", help="Another settings file.")]
Replicate = Annotated[int | None, typer.Option("--replicate", min=0, help="Run one training replicate, as a job.")]
Row = Annotated[str, typer.Argument(metavar="ROW", help="A row of `members`, or of `variants` to draw samples.")]
Trials = Annotated[int | None, typer.Option("--trials", min=1, help="Their total number (default: the starting ones).")]
Recover = Annotated[bool, typer.Option("--recover", help="Rerun trials of killed processes; no other may be running.")]


def _opened(params: Path) -> tuple[Config, Layout]:
    """The settings, and the folders of their profile."""
    settings = load_config(params)
    return settings, Layout(Path.cwd(), settings.profile)


def _results(params: Path) -> tuple[Config, Layout, dict[str, dict[str, Any]]]:
    """The settings and folders, and the results of each variant, whose row must be as it is now."""
    from dguide.report.gather import read_evaluation

    settings, layout = _opened(params)
    evaluations = {name: read_evaluation(layout.report, name) for name in settings.variants}
    for name, evaluation in evaluations.items():
        if not rounded(described(settings, name)).items() <= evaluation.items():
            raise InputError(f"the results of {name} are of other settings", "run `dvc repro`, then this command")
    return settings, layout, evaluations


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Discriminator Guidance for diffusion models: pipeline, studies and tools. Settings come from params.yaml."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


# The name of a command is the word of its stage or study.
def _stage(command: typer.Context, replicate: Replicate = None, params: Params = PARAMS) -> None:
    run_stage(str(command.info_name), params, replicate)


def _stage_of_row(command: typer.Context, row: Row, replicate: Replicate = None, params: Params = PARAMS) -> None:
    word = str(command.info_name)
    run_stage(word, params, replicate, **{"member" if word == "discriminator" else "variant": row})


for _word, _command, _text in (
    ("real", _stage, "Prepare the real images: training set, held-out set, data card."),
    ("score", _stage, "Train or convert the score network, the EDM denoiser."),
    ("extractor", _stage, "Train or convert the time-conditional classifier whose features feed the discriminators."),
    ("fid_network", _stage, "Train or convert the network whose features define the Frechet distance."),
    ("fake", _stage, "Draw the unguided samples that discriminators learn from."),
    ("discriminator", _stage_of_row, "Train one discriminator."),
    ("guided", _stage_of_row, "Draw the evaluation samples of one variant."),
    ("evaluation", _stage, "Evaluate the samples of every variant: FID, KID, precision, recall, with intervals."),
    ("report", _stage, "Write tables, figures and index.html."),
):
    app.command(_word, help=_text, rich_help_panel=PIPELINE)(_command)


@study.command("factorial", help="Measure what the clipped-logit rule does to the FID, and why.")
@study.command("ensemble", help="Search the members' weights, the rule and the guidance of an ensemble.")
@study.command("discriminator", help="Search the settings of one discriminator; the best are compared by samples.")
def _study(command: typer.Context, trials: Trials = None, recover: Recover = False, params: Params = PARAMS) -> None:
    from dguide.studies.study import run_study

    word = str(command.info_name)
    tracking.table(f"study {word}", [run_study(word, *_opened(params), trials, recover)])


@study.command()
def promote(name: Annotated[Literal["discriminator", "ensemble"], typer.Argument(help="Which search.")]) -> None:
    """Write the winner of a search to params.yaml and its profile, where `dvc repro` finds it."""
    for path in promote_winner(Path.cwd(), name):
        typer.echo(f"written: {path.relative_to(Path.cwd())}")


@app.command(rich_help_panel=TOOLS)
def profile(
    name: Annotated[str, typer.Argument(help="A file in configs/, without .yaml.")],
    force: Annotated[bool, typer.Option("--force", help="Overwrite edits of params.yaml that no profile has.")] = False,
) -> None:
    """Activate a profile: copy configs/NAME.yaml to params.yaml."""
    use_profile(Path.cwd(), name, force)
    typer.echo(f"params.yaml is now profile {name}")


@app.command(rich_help_panel=TOOLS)
def init(
    images: Annotated[Path, typer.Option(metavar="FOLDER", help="Images or class folders, a zip of them, or an .npz.")],
    name: Annotated[str | None, typer.Argument(help="The name of the profile (default: that of the folder).")] = None,
) -> None:
    """Write configs/NAME.yaml, a profile of your own images, and estimate its cost."""
    from dguide.tools.init import write_profile

    path = write_profile(Path.cwd(), images, name)
    typer.echo(path.read_text().partition("\n")[0].removeprefix("# "))
    typer.echo(f"written: {path.relative_to(Path.cwd())}; next: make repro PROFILE={path.stem}")
    plan(seconds=10.0, params=path)


@app.command(rich_help_panel=TOOLS)
def config(params: Params = PARAMS) -> None:
    """Check the settings, the device and the input files without running anything."""
    from dguide.tools.fetch import missing_files

    settings, layout = _opened(params)
    real, runtime = settings.real, settings.runtime
    precisions = {member.precision for member in settings.members.values()}
    precisions |= {runtime.training_precision, runtime.sampling_precision}
    if runtime.device != "cpu" or "tf32" in precisions:  # a CPU has the others: no need to wait for torch
        for precision in sorted(precisions):
            prepare(runtime.device, precision, runtime.threads)
    if missing := missing_files(settings, layout.root):
        raise InputError(f"{missing[0][0]} does not exist", missing[0][1])
    if real.source == "images":
        from discriminator_guidance.core.images import open_images

        count, apart = len(open_images(layout.root / real.path).names), real.path != real.holdout_path
        share = round(real.holdout_fraction * count)
        held = len(open_images(layout.root / real.holdout_path).names) if apart else share
        settings.check_counts(count if apart else count - held, held)
    elif (card := layout.card()) and round(real.holdout_fraction * sum(card[:2])) in (0, card[1]):  # of these settings
        settings.check_counts(*card[:3])
    rows = f"{len(settings.members)} members, {len(settings.variants)} variants"
    typer.echo(f"{params} is valid: profile {settings.profile}, {rows}")


@app.command(rich_help_panel=TOOLS)
def summary(params: Params = PARAMS) -> None:
    """Print the results of the profile."""
    settings, layout, evaluations = _results(params)
    cover = "sampling noise" if settings.replicates == 1 else f"{settings.replicates} training seeds and sampling noise"
    title = f"profile {settings.profile}: 95 % intervals cover {cover}; the reference is fixed"
    tracking.table(title, summary_rows(plain(settings) | {"baselines": settings.baselines}, evaluations))
    typer.echo(f"tables, figures and the page: {layout.report.relative_to(Path.cwd())}/index.html")
    compare(*settings.report.primary, params)


@app.command(rich_help_panel=TOOLS)
def compare(
    variant: Annotated[str, typer.Argument(help="A row of `variants`.")],
    other: Annotated[str, typer.Argument(help="Another row.")],
    params: Params = PARAMS,
) -> None:
    """Print the paired difference between two variants."""
    from dguide.report.gather import read_differences

    settings, layout, _ = _results(params)
    rows = read_differences(layout.report)
    if (variant, other) not in rows:
        raise ConfigError(f"{variant} and {other} are not compared", f"choose two of {', '.join(settings.variants)}")
    typer.echo(answer(fid_label(settings.fid_network.name), plain(settings), rows[variant, other]))


@app.command(rich_help_panel=TOOLS)
def sample(
    indices: Annotated[str, typer.Option(metavar="LIST", help="Sample indices, e.g. 0-63 or 3,5-7.")],
    out: Annotated[Path, typer.Option(metavar="PATH", help="A folder for <index>.png, a .png grid, or an array.")],
    variant: Annotated[str | None, typer.Option(help="A row of `variants`.")] = None,
    model: Annotated[Path | None, typer.Option(help="Instead, the folder of a diffusers pipeline.")] = None,
    discriminator: Annotated[list[str] | None, typer.Option(help="Folders or user/repo that guide the model.")] = None,
    weight: Annotated[float | None, typer.Option(help="The weight of this guidance; 1 if not given.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Of the sampler, for a model; 18 if not given.")] = None,
    params: Params = PARAMS,
) -> None:
    """Draw single samples of a variant, or of a saved diffusers pipeline, by their indices, as files."""
    parts = [re.fullmatch(r"(\d{1,18})(?:-(\d{1,18}))?", part.strip()) for part in indices.split(",")]
    ranges = [range(int(part[1]), int(part[2] or part[1]) + 1) for part in parts if part]
    if None in parts or not all(ranges) or sum(map(len, ranges)) > MOST_SAMPLES:
        raise ConfigError(f"--indices is {indices!r}", f"give 1 to {MOST_SAMPLES:,} of them, such as 0-63 or 3,5-7")
    numbers = list(dict.fromkeys(chain(*ranges)))
    if model is not None and variant is None and (discriminator or weight is None):
        from dguide.tools import saved_model

        saved_model.draw(model, discriminator or [], 1.0 if weight is None else weight, steps or 18, numbers, out)
    elif variant is not None and model is None and not discriminator and weight is None and steps is None:
        from dguide.stages.guided import write_images

        settings, layout = _opened(params)
        write_images(settings, layout.replicates(settings.replicates)[0], variant, numbers, out)
    else:
        raise ConfigError("options do not fit", "give --variant, or --model, --steps, --discriminator with --weight")
    typer.echo(f"{len(numbers)} samples of {variant or model}: {out}")


@app.command("train-discriminator", rich_help_panel=TOOLS)
def train_discriminator(
    model: Annotated[Path, typer.Option(help="The folder of a diffusers pipeline.")],
    data: Annotated[Path, typer.Option(help="Real images: a folder, a zip or an .npz.")],
    out: Annotated[Path, typer.Option(help="The folder of the discriminator; the same command resumes there.")],
    steps: Annotated[int, typer.Option(help="Of training, at most.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of training.")] = 0,
) -> None:
    """Train a discriminator of a saved diffusers pipeline's samples, without a profile."""
    from dguide.tools import saved_model

    typer.echo(f"{saved_model.train(model, data, out, steps, seed)}: {out}")


@app.command(rich_help_panel=TOOLS)
def fid(
    images: Annotated[Path, typer.Option(help="Generated images: a folder, a zip or an .npz.")],
    reference: Annotated[Path, typer.Option(help="Real images, in the same formats.")],
    against: Annotated[Path | None, typer.Option(help="Other generated images to compare with.")] = None,
    network: Annotated[str, typer.Option(help="`inception`, its .pth file, or a folder `fid_network`.")] = "inception",
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one feature pass.")] = 64,
) -> None:
    """Measure FID, KID, precision and recall of any images, with intervals; compare two sets."""
    from dguide.tools import fid as command

    distances = command.run(images, against, reference, network, batch_size)
    title = f"{distances.title()}: 95 % intervals cover sampling noise; network and reference are fixed"
    tracking.table(title, distances.rows())
    if against is not None:
        typer.echo(distances.sentence())


@app.command(rich_help_panel=TOOLS)
def fetch(
    names: Annotated[list[str] | None, typer.Argument(help="Names in section `fetch` (default: all).")] = None,
    only_list: Annotated[bool, typer.Option("--list", help="Show which files are present or missing.")] = False,
    params: Params = PARAMS,
) -> None:
    """Download the third-party files that a profile needs, and check their hashes."""
    from dguide.tools import fetch as command

    settings, layout = _opened(params)
    rows = (command.listing if only_list else command.run)(settings, layout.root, names or [])
    tracking.table(f"profile {settings.profile}: third-party files", rows)


@app.command(rich_help_panel=TOOLS)
def release(
    folder: Annotated[Path, typer.Argument(help="Where to write a folder named after the profile.")] = Path("dist"),
    params: Params = PARAMS,
) -> None:
    """Pack the networks of the profile so that others can load them with `from_pretrained`."""
    from dguide.tools import release as command

    settings, layout = _opened(params)
    rows = command.run(settings, layout, folder / settings.profile)
    tracking.table(f"profile {settings.profile}: released networks", rows)


@app.command(rich_help_panel=TOOLS)
def convert(
    kind: Annotated[Literal["edm", "adm"], typer.Argument(help="A score network, or a classifier or discriminator.")],
    file: Annotated[Path, typer.Argument(help="EDM's .pkl or ADM's .pt.")],
    folder: Annotated[Path, typer.Argument(help="Where model.safetensors and config.json go.")],
    head_channels: Annotated[int, typer.Option(min=1, help="Channels of an attention head of adm.")] = 64,
) -> None:
    """Convert a released checkpoint to safetensors; nothing in it is executed."""
    from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
    from discriminator_guidance.checkpoints.edm_pickle import read_edm

    if (folder / "config.json").exists():
        raise ConfigError(f"{folder} has a config.json", "choose another folder")
    network, arguments = read_edm(file) if kind == "edm" else read_adm(file, head_channels)
    save_weights(folder, state := network.state_dict(), arguments)
    elements = sum(tensor.numel() for tensor in state.values())
    tracking.table(f"converted {file.name}", [{"tensors": len(state), "elements": elements, "folder": folder}])


@app.command(rich_help_panel=TOOLS)
def plan(
    seconds: Annotated[float, typer.Option(min=0.1, max=600, help="How long to time this machine.")] = 30.0,
    params: Params = PARAMS,
) -> None:
    """Estimate the time of each stage on this machine and list missing files, without running a stage."""
    from dguide.tools import plan as command
    from dguide.tools.fetch import missing_files

    settings, layout = _opened(params)
    times = command.estimate(settings, layout, seconds)
    if not is_first():
        return
    rows = [{"stage": stage, "time": str(timedelta(seconds=round(took)))} for stage, took in times.items()]
    tracking.table(f"profile {settings.profile}: estimates, at load {os.getloadavg()[0]:.1f} of the machine", rows)
    for file, remedy in missing_files(settings, layout.root):
        typer.echo(f"missing: {file}: {remedy}")


@app.command(rich_help_panel=TOOLS)
def benchmark(
    file: Annotated[Path | None, typer.Option("--json", dir_okay=False, writable=True, help="Another file.")] = None,
    seconds: Annotated[float, typer.Option(min=1, max=86400, help="Approximate duration in seconds.")] = 120.0,
    params: Params = PARAMS,
) -> None:
    """Time this project against the computations of the published code, in reports/<profile>/benchmark.json."""
    from dguide.tools import benchmark as command

    settings, layout = _opened(params)
    rows = command.benchmark(settings, layout, seconds, file or layout.report / "benchmark.json")
    tracking.table(f"profile {settings.profile}: seconds of a call, medians", rows)
