"""Stage `discriminator`: one member's head, its curves, and its logits on the fixed test split."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.files import read_npz, write_bytes, write_csv, write_json, write_npz
from discriminator_guidance.artifacts.partial import PartialWork
from discriminator_guidance.artifacts.weights import WEIGHT_FILES, save_weights
from discriminator_guidance.evaluation.classification import calibration_bins
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.networks.precision import allow_tf32, resolve_compute
from discriminator_guidance.stages.chain import of_member, predecessor, predecessors_hash
from discriminator_guidance.stages.context import Context, StageResult, prepare_compute
from discriminator_guidance.stages.halved import halved_record
from discriminator_guidance.stages.heads import (
    Bench,
    Pairs,
    grid,
    made_from,
    member_settings,
    read_released_head,
    train_member,
    train_rows,
    waiting,
)
from discriminator_guidance.stages.networks import load_extractor
from discriminator_guidance.stages.noted import noted
from discriminator_guidance.stages.sharing import shares
from discriminator_guidance.stages.trained import released_file
from discriminator_guidance.training.grid import FEATURE_BATCH, accuracy, grid_logits
from discriminator_guidance.training.loop import Row
from discriminator_guidance.training.pairs import FAKE, REAL, as_tensor, split_pairs

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

CURVE = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


def run(config: Config, context: Context, member: str) -> StageResult:
    """Train a member, or take a released one, and write weights, curve, metrics, calibration and test logits.

    Args:
        config: reads `runtime`, `cond` and `discriminator` (of the members only this one, those before it if it
            goes on from them, and with `shared_features` those whose training can use the features of its batches).
        context: surroundings.
        member: its name.

    Returns:
        Losses and accuracies.

    Raises:
        Dismissed: on all ranks but the first.
    """
    settings, layout = config.discriminator, context.layout
    row, key = settings.members[member], f"discriminator.members.{member}.path"
    if hasattr(row, "path"):
        released_file(context, row.path, key)  # before the features of thousands of pictures are computed
    bench = open_bench(config, context)
    history: list[Row] = []
    work: PartialWork | None = None
    if hasattr(row, "path"):
        head = read_released_head(bench, row.path, key).to(bench.compute.device)
    else:
        head, history, work = train_member(bench, member, ranks.told_by_first(waiting(bench, member)))
    told = _training_metrics(bench, member, history) if history else _released_metrics(bench, head)
    bench.forget_validation()
    test = grid(bench.features, bench.pairs, bench.pairs.split.test, settings, bench.grid_at_once)
    logits = grid_logits(head, test, bench.compute)
    for at_once in (bench.at_once, bench.grid_at_once):
        at_once.take_in_others()
    ranks.go_on_alone()

    folder, curves = layout.discriminator(member), layout.discriminator_reports / member
    note = noted(config)
    save_weights(folder, head.state_dict(), head.arguments)
    if history:
        write_csv(curves / "history.csv", [{**entry, **note} for entry in history])
    else:
        write_bytes(curves / "history.csv", f"{','.join(CURVE)}\n".encode())
    tested = {
        "logits": logits.cpu().numpy(),
        "labels": test.labels.cpu().numpy().astype(np.int64),
        "time": test.time,
    }
    write_npz(folder / "test_logits.npz", **tested, image=test.image)
    bins = calibration_bins(tested["logits"], tested["labels"], tested["time"])
    write_csv(curves / "calibration.csv", [{**asdict(entry), **note} for entry in bins])
    metrics = {
        "member": member,
        **told,
        "test_loss": binary_cross_entropy(logits, test.labels).item(),
        "n_train": len(bench.pairs.split.train),
        "n_validation": len(bench.pairs.split.validation),
        "n_test": len(bench.pairs.split.test),
        "parameters": sum(p.numel() for p in head.parameters()),
        **bench.compute.record(),
        **bench.at_once.record(),
        **bench.grid_at_once.record("halved_grid_batches"),
        **halved_record(layout.fake / "samples.npz", "fake"),
        **note,
    }
    write_json(curves / "metrics.json", metrics)
    if work is not None:
        work.remove()
    tables = [curves / name for name in ("metrics.json", "calibration.csv")]
    shown = {key: metrics[key] for key in ("train_loss", "validation_loss", "test_loss", "best_epoch")}
    return StageResult(
        summary={**shown, "batch_size": bench.at_once.size, **bench.compute.record()},
        outputs=[
            *(folder / name for name in ("model.safetensors", "model.json", "test_logits.npz")),
            *tables,
            curves / "history.csv",
        ],
        artifacts=[*tables, curves / "history.csv"] if history else tables,
        weights=folder / "model.safetensors",
    )


def open_bench(config: Config, context: Context) -> Bench:
    """Read what all members share: the frozen extractor, the pictures, the split, the validation grid.

    Args:
        config: reads `runtime`, `cond` and `discriminator` without its members.
        context: surroundings.

    Returns:
        What a member is trained on.
    """
    settings, runtime, layout = config.discriminator, config.runtime, context.layout
    inputs = [
        layout.real / "train.npz",
        layout.fake / "samples.npz",
        *(layout.model("extractor") / name for name in WEIGHT_FILES),
    ]
    names = ["images", "labels"] if config.cond else ["images"]
    real, fake = read_npz(inputs[0], names, "real"), read_npz(inputs[1], names, "fake")
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)
    frozen_compute = resolve_compute(runtime.device, runtime.sampling_precision)
    allow_tf32("tf32" in (compute.mode, frozen_compute.mode))  # the other is bfloat16 then, which leaves nothing to it
    extractor = load_extractor(layout, frozen_compute)

    def features(x_vp: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), frozen_compute.autocast():
            frozen: Tensor = extractor.features(x_vp, t)
        return frozen if compute.mode == "bfloat16" else frozen.float()

    counts = len(real["images"]), len(fake["images"])
    labels = torch.cat([torch.full((count,), float(kind)) for count, kind in zip(counts, (REAL, FAKE), strict=True)])
    classes = torch.from_numpy(np.concatenate([real["labels"], fake["labels"]])) if config.cond else None
    pairs = Pairs(
        torch.cat([as_tensor(real["images"], compute.device), as_tensor(fake["images"], compute.device)]),
        labels.to(compute.device),
        None if classes is None else classes.to(compute.device),
        split_pairs(*counts, settings.split.train, settings.split.validation, settings.split.seed, settings.images),
    )
    shape = extractor.feature_shape
    at_once = [BatchSize(size, context.notice) for size in (settings.batch_size, FEATURE_BATCH)]
    return Bench(settings, context, inputs, features, shape, pairs, compute, frozen_compute.mode, *at_once)


def _training_metrics(bench: Bench, member: str, history: list[Row]) -> dict[str, Any]:
    told = member_settings(bench.settings, member)
    best = min(history, key=lambda row: row["validation_loss"])
    used = {"last": told.epochs, "best": int(best["epoch"])}.get(str(told.checkpoint), told.checkpoint)
    row = history[int(used) - 1]
    return {
        "epochs": told.epochs,
        "used_epoch": int(used),
        "learning_rate": told.learning_rate,
        "weight_decay": told.weight_decay,
        "t_min": told.t_min,
        "iterations": told.epochs * -(-len(train_rows(bench, member)) // told.batch_size),
        **{key: row[key] for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")},
        "best_validation_loss": best["validation_loss"],
        "best_epoch": int(best["epoch"]),
        "init": of_member(bench.settings, member, "init"),
        "goes_on_from": predecessor(bench.settings, member),
        "predecessors_hash": predecessors_hash(bench.settings, member),
        "made_from": made_from(bench, member) if shares(bench.settings, member) else None,
    }


def _released_metrics(bench: Bench, head: Any) -> dict[str, Any]:
    logits, labels = grid_logits(head, bench.validation, bench.compute), bench.validation.labels
    settings = ("epochs", "used_epoch", "learning_rate", "weight_decay", "t_min", "iterations")
    start = ("init", "goes_on_from", "predecessors_hash", "made_from")
    untrained = ("train_loss", "train_accuracy", "best_validation_loss", "best_epoch")
    return {
        **dict.fromkeys((*settings, *start, *untrained), None),
        "validation_loss": binary_cross_entropy(logits, labels).item(),
        "validation_accuracy": accuracy(logits, labels),
    }
