"""Stage `discriminator`: one member, its training curve, and its logits on the fixed test split."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from dguide.settings import Config, Layout, Member, plain, read_released
from dguide.settings.config import Discriminator
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.core import files
from discriminator_guidance.core.runtime import compute_on, is_first, prepare
from discriminator_guidance.core.settings import DiscriminatorSettings
from discriminator_guidance.networks.adm import EncoderUNet, NoisyImageCNN, build_discriminator, build_head
from discriminator_guidance.training.discriminator import train_discriminator
from discriminator_guidance.training.loop import Report
from discriminator_guidance.training.trained import TrainedDiscriminator

LAST = "last"  # folder of the weights after the last epoch, where others are used; a later member may start from them
TRAINED = ("epochs", "learning_rate", "weight_decay", "t_min")  # settings after the profile's factors
CURVE = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


class DiscriminatorInputs:
    """What a member learns from, and others of its precision: real and fake images, and the frozen extractor."""

    def __init__(self, config: Config, layout: Layout, member: Member) -> None:
        self.config, self.layout, runtime = config, layout, config.runtime
        names = ["images", "labels"] if config.cond else ["images"]  # (N, H, W, C) uint8, (N,)
        self.real = files.read_npz(layout.part("discriminator"), names, "real")
        self.fake = files.read_npz(layout.fake(member.fakes) / "samples.npz", names, "fake")
        self.frozen = prepare(runtime.device, runtime.sampling_precision, runtime.threads)  # of the extractor
        self.compute = compute_on(self.frozen.device, member.precision)
        self.extractor = self.frozen.place(files.load_network(EncoderUNet, layout.model("extractor"), "extractor"))


def run(config: Config, layout: Layout, tracker: Tracker, member: str) -> dict[str, Any]:
    """Train a member, or take a released head, and test it."""
    row = config.members[member]
    inputs, settings = DiscriminatorInputs(config, layout, row), member_settings(config.discriminator, row)
    effective = {key: getattr(settings, key) for key in TRAINED}
    tracker.params({**plain(row), **effective})
    checkpoints = layout.partial / f"discriminator-{member}"
    trained = train_member(inputs, row, checkpoints, f"training {member}", tracker.metrics)
    network, used, about = trained.network, trained.used, trained.about
    arguments: Any = network.arguments
    history = list[dict[str, float]]()
    for row_number, entry in enumerate(trained.history, 1):  # a row is an epoch, or `row_steps` steps
        passes = entry["iteration"] * settings.batch_size / about["train"]
        history.append({"epoch": passes if settings.epochs is None else row_number, **entry})
    best = min(history, key=lambda entry: entry["validation_loss"], default={})
    logits, labels = (torch.from_numpy(trained.tested[name]) for name in ("logits", "labels"))
    metrics: dict[str, Any] = {
        **(effective if history else dict.fromkeys(TRAINED) | {"epochs": 0}),  # a released head as it is
        "used_epoch": next((row["epoch"] for row in history if row["iteration"] == used.get("iteration")), 0.0),
        "iterations": history[-1]["iteration"] if history else 0,
        **{key: used.get(key) for key in CURVE if key != "epoch"},
        "best_validation_loss": best.get("validation_loss"),
        "best_epoch": best.get("epoch"),
        "test_loss": binary_cross_entropy(logits, labels.float()).item(),
        **{f"n_{part}": about[part] for part in ("train", "validation", "test")},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "precision": inputs.compute.mode,
    }

    folder, reports = layout.discriminator(member), layout.discriminator_report(member)
    if is_first():
        files.save_weights(folder, network.state_dict(), arguments)
        shutil.rmtree(folder / LAST, ignore_errors=True)
        if used.get("iteration", 0) < metrics["iterations"] or settings.ema_decay is not None:
            files.save_weights(folder / LAST, trained.last, arguments)
        files.write_npz(folder / "test_logits.npz", **trained.tested)
        files.write_csv(reports / "history.csv", [{key: entry[key] for key in CURVE} for entry in history], CURVE)
        files.write_csv(reports / "calibration.csv", [asdict(entry) for entry in trained.calibration])
        files.write_json(reports / "metrics.json", metrics)
        tracker.artifact(reports / "calibration.csv", reports / "metrics.json")
    tracker.model(f"discriminator-{config.profile}", folder / "model.safetensors", metrics["validation_loss"])
    return {key: metrics[key] for key in ("used_epoch", "best_epoch", "best_validation_loss", "test_loss")}


def train_member(
    inputs: DiscriminatorInputs, member: Member, checkpoints: Path | None, title: str | bool, report: Report
) -> TrainedDiscriminator:
    """Train and test a member as its row says."""
    settings = vars(member_settings(inputs.config.discriminator, member)) | {"precision": inputs.compute.mode}
    extractor = inputs.frozen.autocast()(inputs.extractor.features) if member.kind == "head" else None
    real, fake = (tuple(part.values()) if inputs.config.cond else part["images"] for part in (inputs.real, inputs.fake))
    how: dict[str, Any] = {"start": start_network(inputs, member), "device": inputs.compute.device, "progress": title}
    return train_discriminator(real, fake, extractor, checkpoints=checkpoints, report=report, **how, **settings)


def member_settings(section: Discriminator, member: Member) -> DiscriminatorSettings:
    """A complete row of Table 2 after the profile's two factors; at least one epoch, unless the row asks for none."""

    def scaled(epochs: int) -> int:
        return max(1, round(epochs * section.epoch_factor)) if epochs else 0

    rate, checkpoint = member.learning_rate * section.learning_rate_factor, member.checkpoint
    epochs = None if member.epochs is None else scaled(member.epochs)
    used = checkpoint if epochs is None or isinstance(checkpoint, str) else scaled(checkpoint)
    return DiscriminatorSettings.of(member, epochs=epochs, learning_rate=rate, checkpoint=used)


def start_network(inputs: DiscriminatorInputs, member: Member) -> nn.Module:
    """What training begins with: a fresh network, another member after its last epoch, or a released head."""
    layout, (channels, size, _), cond = inputs.layout, inputs.extractor.feature_shape, inputs.config.cond
    if not member.start.startswith("models/"):
        wanted = {"in_channels": channels, "image_size": size, "out_channels": 1, "condition": cond}
        return read_released(read_adm, layout.root, member.start, "the member's start", wanted)[0]
    if member.start != f"models/{layout.profile}/extractor":
        folder = layout.root / member.start / layout.replicate
        last = folder / LAST if (folder / LAST).is_dir() else folder
        return files.load_network(build_discriminator, last, "discriminator")
    torch.manual_seed(member.seed)
    if member.kind == "head":
        return build_head(inputs.extractor.feature_shape, condition=cond, **plain(member.network))
    _, size, _, channels = inputs.real["images"].shape
    classes = 1 + max(int(part["labels"].max()) for part in (inputs.real, inputs.fake)) if cond else 0
    return NoisyImageCNN((channels, size, size), member.network.model_channels, classes, member.gain)
