"""One stage as a process: settings, inputs, an MLflow run, and errors as one line."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from dguide import tracking
from discriminator_guidance.core.errors import ConfigError, UserError
from discriminator_guidance.core.runtime import alone, barrier, is_first, rank, world_size

# OpenMP's threads spin while they wait, which on a busy machine takes the processor from those that work.
SPINCOUNT = "10000"


def run_stage(word: str, params: Path, replicate: int | None = None, **row: str) -> None:
    """Run stage `word` of the project in the current folder, for one `member` or `variant` where it has rows.

    Work folders stay until the outputs of all replicates are written: DVC deletes outputs before it runs a stage again.
    """
    from dguide.settings import REPLICATED, Layout, load_config, plain
    from discriminator_guidance.core.files import read_json

    config = load_config(params)
    for kind, name in row.items():
        rows = getattr(config, f"{kind}s")
        if name not in rows:
            raise ConfigError(f"a {kind} of {params}", repr(name), f"choose one of: {', '.join(rows)}")
    layout = Layout(Path.cwd(), config.profile)
    if word == "real":
        from dguide.planning import check_inputs

        check_inputs(config, layout.root)
    elif (card := layout.real / "card.json").is_file():
        config.check_counts(*(read_json(card, "real")[part] for part in ("train", "holdout")))
    layouts = layout.replicates(config.replicates if word in REPLICATED else 1)
    if replicate is not None and replicate >= len(layouts):
        raise ConfigError(f"--replicate from 0 to {len(layouts) - 1}", str(replicate), "see replicates in the settings")
    numbers: Sequence[int] = range(len(layouts)) if replicate is None else [replicate]
    # Processes of torchrun divide samples and batches, or train whole replicates apart if none of them is idle then.
    # Other stages are done by one process: distances must not depend on the number of processes.
    trains = word in ("score", "extractor", "discriminator")
    apart = word not in REPLICATED or (trains and len(numbers) >= world_size())
    numbers = numbers[rank() :: world_size()] if apart else numbers
    results = []
    with tracking.recording(), alone(apart):
        stage: Any = import_module(f"dguide.stages.{word}")
        for number in numbers:
            layout, settings = layouts[number], config.replicate(number)
            name = "/".join(filter(None, [word, *row.values(), layout.replicate]))
            tags = {"stage": word, "profile": config.profile, "mlflow.note.content": stage.__doc__, **row}
            shown = {key: value for key, value in plain(settings).items() if key in ("runtime", word)}
            with tracking.run(config.profile, name, tags, shown | row) as tracker:
                result: dict[str, Any] = stage.run(settings, layout, tracker, *row.values())
                tracker.summary(result)
            results.append({"replicate": number, **result} if layout.replicate else result)
        if is_first() and results:
            tracking.table("/".join([word, *row.values()]), results)
        with alone(False):
            barrier()  # the others may still compute a replicate, or read what this process wrote
        for number in numbers if is_first() else []:
            shutil.rmtree(layouts[number].partial / "-".join([word, *row.values()]), ignore_errors=True)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Show what a user can correct as one line, and exit with code 2."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINCOUNT)  # read when torch starts
    try:
        yield
        return
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.strerror is None or error.filename is None:
            raise
        message = f"expected to read or write {error.filename}; got {error.strerror}; correct it and try again"
    except (MemoryError, RuntimeError) as error:
        signs = ("out of memory", "ALLOC_FAILED", "can't allocate memory")
        if not isinstance(error, MemoryError) and not any(sign in str(error) for sign in signs):
            raise
        message = "expected memory on the device; got none left; lower batch_size of the stage, or runtime.device: cpu"
    tracking.notice(message, "error")
    sys.exit(2)
