"""One stage as a process: settings, inputs and an MLflow run."""

import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from dguide import tracking
from dguide.settings import REPLICATED, Layout, load_config, plain
from discriminator_guidance.core.errors import ConfigError, UserError
from discriminator_guidance.core.files import fingerprint
from discriminator_guidance.core.runtime import alone, barrier, is_first, rank, world_size


def run_stage(word: str, params: Path, replicate: int | None = None, **row: str) -> None:
    """Run stage `word` of the project in the current folder, for one `member` or `variant` where it has rows.

    Work folders stay until the outputs of all replicates are written: DVC deletes outputs before it runs a stage again.
    """
    config = load_config(params)
    for kind, name in row.items():
        rows = getattr(config, f"{kind}s")
        if name not in rows:
            raise ConfigError(f"{params} has no {kind} {name!r}", f"choose one of: {', '.join(rows)}")
    layout = Layout(Path.cwd(), config.profile)
    if word != "real" and (card := layout.card()):
        config.check_counts(*card[:3])
    import_module("dguide.stages.guided").check_windows(config.variants)
    layouts = layout.replicates(config.replicates if word in REPLICATED else 1)
    if replicate is not None and replicate >= len(layouts):
        raise ConfigError(f"--replicate is {replicate}", f"choose from 0 to {len(layouts) - 1}, as replicates says")
    numbers: Sequence[int] = range(len(layouts)) if replicate is None else [replicate]
    # Processes of torchrun divide samples and batches, or train whole replicates apart if none of them is idle then.
    # Other stages are done by one process: distances must not depend on the number of processes.
    apart = word not in REPLICATED or (word in ("score", "extractor", "discriminator") and len(numbers) >= world_size())
    numbers = numbers[rank() :: world_size()] if apart else numbers
    results, label = [], "/".join([word, *row.values()])  # such as guided/d0
    with ExitStack() as stack, alone(apart):
        folders = [layouts[number].partial / label.replace("/", "-") for number in numbers]
        for folder in folders if is_first() else []:
            stack.enter_context(locked(folder))
        stack.enter_context(tracking.recording())
        stage: Any = import_module(f"dguide.stages.{word}")
        about = config.report.describe.get(label.removeprefix("guided/"), stage.__doc__)
        sections = ("runtime",) if word == "discriminator" else ("runtime", word)  # members hold all of their section
        for number in numbers:
            layout, settings = layouts[number], config.replicate(number)
            tags = {"stage": word, "profile": config.profile, "mlflow.note.content": about, **row}
            tags["settings"] = fingerprint(plain(settings))
            shown = {key: value for key, value in plain(settings).items() if key in sections}
            name = f"{label}/{layout.replicate}" if layout.replicate else label
            with tracking.run(config.profile, name, tags, shown | row) as tracker:
                result: dict[str, Any] = stage.run(settings, layout, tracker, *row.values())
                tracker.summary(result)
            results.append({"replicate": number, **result} if layout.replicate else result)
        if is_first() and results:
            tracking.table(label, results)
        with alone(False):
            barrier()  # the others may still compute a replicate, or read what this process wrote
        for folder in folders if is_first() else []:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes out of a work folder; the kernel opens it when this process ends, however it does."""
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise UserError(f"another process works in {folder}", "let it end or stop it, then try again") from error
    try:
        yield
    finally:
        os.close(descriptor)
        with suppress(OSError):  # a refused command leaves no folder, an interrupted one its work
            os.removedirs(folder if folder.is_dir() else folder.parent)
