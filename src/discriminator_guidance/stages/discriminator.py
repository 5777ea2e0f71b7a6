"""Stage `discriminator`: one member's head, its curves, and its logits on the fixed test split."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.artifacts.files import read_npz, write_csv, write_json, write_npz
from discriminator_guidance.artifacts.weights import WEIGHT_FILES, save_weights
from discriminator_guidance.evaluation.classification import calibration_bins
from discriminator_guidance.networks.adm import build_head
from discriminator_guidance.stages.context import Context, StageResult, partial_work, prepare_compute
from discriminator_guidance.stages.networks import load_extractor
from discriminator_guidance.training.discriminator import (
    Features,
    GridFeatures,
    MemberSettings,
    grid_features,
    grid_logits,
    train_discriminator,
)
from discriminator_guidance.training.pairs import FAKE, REAL, Split, as_tensor, split_pairs

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Discriminator


def run(config: Config, context: Context, member: str) -> StageResult:
    """Train a member and write weights, curve, metrics, calibration and test logits.

    Args:
        config: reads `runtime` and `discriminator` (of the members only this one).
        context: surroundings.
        member: its name.

    Returns:
        Losses and accuracies.
    """
    settings, runtime = config.discriminator, config.runtime
    told = member_settings(settings, member)
    layout = context.layout
    inputs = [
        layout.real / "train.npz",
        layout.fake / "samples.npz",
        *(layout.model("extractor") / name for name in WEIGHT_FILES),
    ]
    real = read_npz(inputs[0], ["images"], "real")["images"]
    fake = read_npz(inputs[1], ["images"], "fake")["images"]
    compute = prepare_compute(runtime.device, runtime.training_precision, runtime.threads)
    frozen_compute = prepare_compute(runtime.device, runtime.sampling_precision, runtime.threads)
    extractor = load_extractor(layout, compute)

    def features(x_vp: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad(), frozen_compute.autocast():
            frozen: Tensor = extractor.features(x_vp, t)
        return frozen.float() if compute.mode == "float32" else frozen

    images = torch.cat([as_tensor(real, compute.device), as_tensor(fake, compute.device)])
    labels = torch.cat([torch.full((len(real),), float(REAL)), torch.full((len(fake),), float(FAKE))])
    labels = labels.to(compute.device)
    split = split_pairs(len(real), len(fake), settings.split.train, settings.split.validation, settings.split.seed)
    arguments: dict[str, Any] = {
        **settings.network.model_dump(),
        "feature_shape": list(extractor.feature_shape),
        "condition": False,
    }
    torch.manual_seed(told.seed)
    head = build_head(**arguments).to(compute.device)
    work = partial_work(
        context,
        "discriminator",
        member,
        inputs,
        {
            **asdict(told),
            "split": settings.split.model_dump(),
            "grid": [settings.grid_times, settings.grid_times_per_image],
            "network": arguments,
            "frozen_precision": frozen_compute.mode,
        },
        compute,
    )
    grid = _grid(features, images, labels, split.validation, settings)
    with context.bar(f"training {member}", told.epochs, "epochs") as advance:
        history = train_discriminator(
            features,
            head,
            images,
            labels,
            split.train,
            grid,
            told,
            compute,
            work,
            advance,
            context.on_metrics,
        )
    test = _grid(features, images, labels, split.test, settings)
    logits = grid_logits(head, test, compute)

    folder, curves = layout.discriminator(member), layout.discriminator_reports / member
    save_weights(folder, head.state_dict(), arguments)
    write_csv(curves / "history.csv", history)
    tested = {
        "logits": logits.cpu().numpy(),
        "labels": test.labels.cpu().numpy().astype(np.int64),
        "time": test.time,
    }
    write_npz(folder / "test_logits.npz", **tested, image=test.image)
    bins = calibration_bins(tested["logits"], tested["labels"], tested["time"])
    write_csv(curves / "calibration.csv", [asdict(entry) for entry in bins])
    metrics = _metrics(member, told, history, logits, test, split)
    metrics["parameters"] = sum(p.numel() for p in head.parameters())
    write_json(curves / "metrics.json", metrics)
    work.remove()
    tables = [curves / name for name in ("metrics.json", "history.csv", "calibration.csv")]
    return StageResult(
        summary={key: metrics[key] for key in ("train_loss", "validation_loss", "test_loss", "best_epoch")},
        outputs=[
            *(folder / name for name in ("model.safetensors", "model.json", "test_logits.npz")),
            *tables,
        ],
        artifacts=tables,
        weights=folder / "model.safetensors",
    )


def member_settings(settings: Discriminator, member: str) -> MemberSettings:
    """A row of Table 2 after the profile's two factors.

    Args:
        settings: the section `discriminator`.
        member: name of the row.

    Returns:
        What the member is trained with; at least one epoch.
    """
    row = settings.members[member]
    return MemberSettings(
        seed=row.seed,
        epochs=max(1, round(row.epochs * settings.epoch_factor)),
        learning_rate=row.learning_rate * settings.learning_rate_factor,
        weight_decay=row.weight_decay,
        t_min=row.t_min,
        batch_size=settings.batch_size,
        importance_sampling=settings.importance_sampling,
        reshuffle=settings.reshuffle,
        flip=settings.flip,
        checkpoint_every=settings.checkpoint_every,
    )


def _grid(
    features: Features, images: Tensor, labels: Tensor, rows: np.ndarray, settings: Discriminator
) -> GridFeatures:
    # Noise and times depend on the split alone: the same pairs for every member.
    times, each = settings.grid_times, settings.grid_times_per_image
    return grid_features(features, images, labels, rows, times, each, settings.split.seed)


def _metrics(
    member: str,
    told: MemberSettings,
    history: list[dict[str, float]],
    logits: Tensor,
    test: GridFeatures,
    split: Split,
) -> dict[str, Any]:
    last = history[-1]
    best = min(history, key=lambda row: row["validation_loss"])
    return {
        "member": member,
        "epochs": told.epochs,
        "learning_rate": told.learning_rate,
        "weight_decay": told.weight_decay,
        "t_min": told.t_min,
        "iterations": told.epochs * -(-len(split.train) // told.batch_size),
        **{key: last[key] for key in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy")},
        "best_validation_loss": best["validation_loss"],
        "best_epoch": int(best["epoch"]),
        "test_loss": binary_cross_entropy(logits, test.labels).item(),
        "n_train": len(split.train),
        "n_validation": len(split.validation),
        "n_test": len(split.test),
    }
