"""What stages share that train a network on the real images or take a released one."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from dguide.settings import Config, Layout, plain, resumable
from dguide.tracking import Tracker
from discriminator_guidance.core.files import Resumable, save_weights, write_csv
from discriminator_guidance.core.runtime import Compute, is_first, progress, world_size
from discriminator_guidance.training.loop import Report, Row


@contextmanager
def network_training(
    config: Config, layout: Layout, tracker: Tracker, word: str, images: Path, compute: Compute
) -> Iterator[tuple[Resumable, Report]]:
    """The checkpoints of the network of stage `word`, which learns from a file of real images; what takes its curve."""
    settings = getattr(config, word)
    total = max([settings.training.iterations, *getattr(settings, "snapshots", {}).values()])
    key = {**plain(settings, "name"), "cond": config.cond, "ranks": world_size()}
    with progress(f"training {word}", total, "iterations") as advance:

        def report(done: int, row: Row) -> None:
            advance(to=done)
            tracker.metrics(done, row)

        yield resumable(layout, word, [images], key, compute), report


def save_network(
    layout: Layout, tracker: Tracker, word: str, network: nn.Module, arguments: dict[str, Any], rows: Sequence[Row] = ()
) -> dict[str, Any]:
    """Write model.safetensors, config.json and history.csv, which is empty for a released network; its summary."""
    folder = layout.model(word)
    if is_first():
        save_weights(folder, network.state_dict(), arguments)
        write_csv(folder / "history.csv", rows, ("iteration", "loss"))
    tracker.model(f"{word}-{layout.profile}", folder / "model.safetensors")
    last = {f"final_{name}": value for row in rows[-1:] for name, value in row.items() if name != "iteration"}
    return {**last, "parameters": sum(parameter.numel() for parameter in network.parameters())}
