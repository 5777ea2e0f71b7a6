"""One stage as a process: refused before it computes, claimed, tracked, shared by ranks, shown."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discriminator_guidance import launching, ranks
from discriminator_guidance.imports import uncollected
from discriminator_guidance.orphans import end_with_parent

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.context import StageResult
    from discriminator_guidance.stages.layout import Layout

# Stages with nothing that several processes could share.
UNDIVIDED = ("real", "report")


def run_stage(word: str, profile: str, **choice: str) -> None:
    """Run a stage in the current folder and show what came out.

    Args:
        word: the stage.
        profile: name of a file in configs/.
        choice: its member or variant, by that word.

    Raises:
        UserError: a setting, an input or another process stands in the way, or the work itself failed.
    """
    # A stage that outlives the pipeline would meet its successor, and a rank the next run's.
    rank = ranks.started()[1] > 1
    if "DVC_STAGE" in os.environ or rank:
        end_with_parent(already=not rank)
    from importlib import import_module

    from discriminator_guidance import tracking
    from discriminator_guidance.config import listed_members, load_config, refuse_rows_of_others
    from discriminator_guidance.progress import bar, notice, summary

    root = Path.cwd()
    settings = load_config(profile, root)
    refuse_rows_of_others(profile, settings, root)
    _refuse_unknown(settings, profile, choice)
    from discriminator_guidance.stages.claims import stage_claim
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.stages.needed import files_read, refuse_missing

    layout = Layout(root, profile)
    refuse_missing(settings, layout, word, {*listed_members(profile, root), *choice.values()})
    if word not in UNDIVIDED:
        if (count := launching.wanted_ranks()) > 1:
            from discriminator_guidance.networks.precision import resolve_compute

            if resolve_compute(settings.runtime.device, "auto").device.type == "cpu" and (
                said := launching.crowding(count, settings.runtime.threads, os.cpu_count() or 1)
            ):
                notice(said)
            options = [part for key, value in choice.items() for part in (f"--{key}", value)]
            launching.launch(count, [word, "--profile", profile, *options])
            return
        ranks.start()
    elif ranks.started()[0] > 0:
        return
    from discriminator_guidance.stages.context import Context
    from discriminator_guidance.stages.fetch import check_used

    module = f"discriminator_guidance.stages.{word}"
    with uncollected(module):
        stage = import_module(module)
    if not ranks.is_first():
        with suppress(ranks.Dismissed):
            ranks.wait()
            stage.run(settings, Context(layout, _no_bar, _no_metrics, _prefixed(notice)), **choice)
        return
    name = "-".join([word, *choice.values()])
    tags = {"stage": word, "profile": profile, **choice}
    if ranks.world_size() > 1:
        tags["ranks"] = str(ranks.world_size())
    with (
        stage_claim(settings, layout, word, choice),
        tracking.run(
            root, profile, name, tags, stage_parameters(settings, word, choice), _inputs(layout, word, choice)
        ) as run,
    ):

        def on_metrics(step: int, values: Mapping[str, float]) -> None:
            run.metrics(step, values)

        context = Context(layout, bar, on_metrics, notice)
        if word not in UNDIVIDED:
            from discriminator_guidance.networks.precision import unused_gpu

            if said := unused_gpu(settings.runtime.device):
                notice(said)
        check_used(settings, context, files_read(settings, word, choice.get("member")))
        ranks.wait()
        result: StageResult = stage.run(settings, context, **choice)
        numbers = {key: value for key, value in result.summary.items() if isinstance(value, float | int)}
        run.metrics(0, numbers | result.metrics)
        for path in [*result.artifacts, *(_training_curve(result, layout, name) if run.listens else [])]:
            run.artifact(path)
        if result.weights is not None:
            run.register(f"{word}-{'-'.join([profile, *choice.values()])}", result.weights)
    summary(name, [{key: _shown(value) for key, value in result.summary.items()}])


@contextmanager
def _no_bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    yield lambda amount: None


def _no_metrics(step: int, values: Mapping[str, float]) -> None:
    pass


def _prefixed(notice: Callable[[str], None]) -> Callable[[str], None]:
    prefix = f"rank {ranks.rank()}: "
    return lambda line: notice(prefix + line)


def _training_curve(result: StageResult, layout: Layout, name: str) -> list[Path]:
    """The picture of a training run's history, where the stage has one; it lies where unfinished work does."""
    histories = [path for path in result.artifacts if path.name == "history.csv"]
    if not histories:
        return []
    from discriminator_guidance.report.training_curve import write_training_curve

    picture = layout.partial / "curves" / f"{name}.png"
    write_training_curve(histories[0], picture)
    return [picture]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"[{', '.join(map(_shown, value))}]" if isinstance(value, list) else str(value)


def _refuse_unknown(settings: Config, profile: str, choice: Mapping[str, str]) -> None:
    from discriminator_guidance.errors import ConfigError

    known: dict[str, Mapping[str, object]] = {
        "member": settings.discriminator.members,
        "variant": settings.guided.variants,
    }
    for kind, name in choice.items():
        if name not in known[kind]:
            raise ConfigError(
                f"a {kind} of configs/{profile}.yaml", repr(name), f"choose one of: {', '.join(known[kind])}"
            )


def stage_parameters(settings: Config, word: str, choice: Mapping[str, str]) -> dict[str, object]:
    """The settings that MLflow keeps of a run of a stage.

    Args:
        settings: the profile.
        word: the stage.
        choice: its member or variant.

    Returns:
        Sections `runtime` and `sampler`, and the stage's own with the one member or variant that is run.
    """
    section: dict[str, Any] = getattr(settings, word).model_dump()
    for kind, name in choice.items():
        # Of the many members or variants of a section, the one that is run.
        table = section.pop(f"{kind}s", None)
        section[kind] = table[name] if isinstance(table, dict) else name
    return {"runtime": settings.runtime.model_dump(), "sampler": settings.sampler.model_dump(), **section}


def _inputs(layout: Layout, word: str, choice: Mapping[str, str]) -> dict[str, str]:
    """Digests of the picture sets that a stage reads, as far as they are there."""
    from discriminator_guidance.artifacts.files import sha256

    real, fake = layout.real / "train.npz", layout.fake / "samples.npz"
    sets = {
        "score": {"real": real},
        "extractor": {"real": real},
        "fid_network": {"real": real},
        "discriminator": {"real": real, "fake": fake},
        "evaluation": {"real": real, "samples": layout.guided(choice.get("variant", "")) / "samples.npz"},
    }
    return {name: sha256(path) for name, path in sets.get(word, {}).items() if path.is_file()}
