"""Stage `discriminator`: one member's head, its training curve, and its logits on the fixed test split."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy
from torch.nn.functional import one_hot

from dguide.settings import Config, Layout, Member, plain, resumable
from dguide.settings.config import Discriminator
from dguide.stages.networks import read_released
from dguide.tracking import Tracker, training_report
from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.core import files
from discriminator_guidance.core.runtime import Compute, allow_tf32, is_first, prepare, world_size
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.training.discriminator import HeadTraining, TrainedDiscriminator, train_discriminator
from discriminator_guidance.training.loop import Report
from discriminator_guidance.training.pairs import Features
from discriminator_guidance.training.score_matching import ScoreMatching

RELEASED = (0.5, -1.2, 1.2)  # sigma_data, p_mean, p_std of the released EDM networks (Karras et al. 2022, Table 1)
LAST = "last"  # folder of the weights after the last epoch, where others are used; a later member may start from them
TRAINED = ("epochs", "learning_rate", "weight_decay", "t_min")  # settings after the profile's factors
CURVE = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class DiscriminatorInputs:
    """What the heads of a profile learn from: real and fake images, and the features of the frozen extractor."""

    config: Config
    layout: Layout
    real: np.ndarray  # (N, H, W, C) uint8
    fake: np.ndarray
    classes: np.ndarray | None  # of real ++ fake
    extractor: EncoderUNet
    frozen: Compute  # of the extractor
    compute: Compute  # of the head


def run(config: Config, layout: Layout, tracker: Tracker, member: str) -> dict[str, Any]:
    """Train a member, or take a released head, and test it."""
    row = config.members[member]
    inputs, settings = open_inputs(config, layout, row), head_settings(config.discriminator, row)
    split = settings.split_images(len(inputs.real), len(inputs.fake))
    effective = {key: getattr(settings, key) for key in TRAINED}
    tracker.params({**plain(row), **effective})
    checkpoints = head_checkpoints(inputs, f"discriminator-{member}", row)
    with training_report(tracker, f"training {member}", settings.epochs, "epochs") as report:
        trained = train_head(inputs, row, checkpoints, report)
    head, history, used = trained.head, trained.history, trained.used
    best = min(history, key=lambda entry: entry["validation_loss"], default={})
    logits, labels = (torch.from_numpy(trained.tested[name]) for name in ("logits", "labels"))
    metrics: dict[str, Any] = {
        **(effective if history else dict.fromkeys(TRAINED) | {"epochs": 0}),  # a released head as it is
        "used_epoch": used["epoch"],
        "iterations": settings.epochs * -(-len(settings.rows(split)) // settings.batch_size),
        **{key: used.get(key) for key in CURVE if key != "epoch"},
        "best_validation_loss": best.get("validation_loss"),
        "best_epoch": best.get("epoch"),
        "test_loss": binary_cross_entropy(logits, labels.float()).item(),
        **{f"n_{part}": len(getattr(split, part)) for part in ("train", "validation", "test")},
        "parameters": sum(parameter.numel() for parameter in head.parameters()),
        "precision": inputs.compute.mode,
        **inputs.compute.record(),
    }

    folder, reports = layout.discriminator(member), layout.discriminator_report(member)
    if is_first():
        files.save_weights(folder, head.state_dict(), head.arguments)
        shutil.rmtree(folder / LAST, ignore_errors=True)
        if used["epoch"] < settings.epochs or settings.ema_decay is not None:
            files.save_weights(folder / LAST, trained.last, head.arguments)
        files.write_npz(folder / "test_logits.npz", **trained.tested)
        files.write_csv(reports / "history.csv", [{key: entry[key] for key in CURVE} for entry in history], CURVE)
        files.write_csv(reports / "calibration.csv", [asdict(entry) for entry in trained.calibration])
        files.write_json(reports / "metrics.json", metrics)
        tracker.artifact(reports / "calibration.csv")
        tracker.artifact(reports / "metrics.json")
    tracker.model(f"discriminator-{config.profile}", folder / "model.safetensors", metrics["validation_loss"])
    return {key: metrics[key] for key in ("used_epoch", "best_epoch", "best_validation_loss", "test_loss")}


def open_inputs(config: Config, layout: Layout, member: Member) -> DiscriminatorInputs:
    """Read the frozen extractor and the real and fake images."""
    runtime, names = config.runtime, ["images", "labels"] if config.cond else ["images"]
    real = files.read_npz(layout.real / "train.npz", names, "real")
    fake = files.read_npz(layout.fake / "samples.npz", names, "fake")
    classes = np.concatenate([real["labels"], fake["labels"]]) if config.cond else None
    frozen = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    compute = prepare(runtime.device, member.precision, runtime.threads)
    allow_tf32("tf32" in (compute.mode, frozen.mode))  # the other is bfloat16 then, to which it means nothing
    extractor = frozen.place(files.load_network(EncoderUNet, layout.model("extractor"), "extractor"))
    return DiscriminatorInputs(config, layout, real["images"], fake["images"], classes, extractor, frozen, compute)


def train_head(
    inputs: DiscriminatorInputs, member: Member, checkpoints: files.Resumable, report: Report
) -> TrainedDiscriminator:
    """Train and test a head as a row of Table 2 says."""
    precision: Any = inputs.compute.mode
    settings = replace(head_settings(inputs.config.discriminator, member), precision=precision)
    if settings.objective != "cross_entropy":
        settings = replace(settings, matching=score_matching(inputs))
    return train_discriminator(
        inputs.real,
        inputs.fake,
        frozen_features(inputs.extractor, inputs.frozen, inputs.compute),
        head=start_head(inputs, member),
        classes=inputs.classes,
        device=inputs.compute.device,
        checkpoints=checkpoints,
        progress=report,
        **vars(settings),
    )


def frozen_features(extractor: EncoderUNet, frozen: Compute, compute: Compute) -> Features:
    """The features of a frozen extractor, in the format that a head in training takes."""
    features = torch.no_grad()(frozen.called(extractor.features))
    return features if compute.mode == "bfloat16" else lambda x_vp, t: features(x_vp, t).float()


def head_settings(section: Discriminator, member: Member) -> HeadTraining:
    """A complete row of Table 2 after the profile's two factors; at least one epoch, unless the row asks for none."""

    def scaled(epochs: int) -> int:
        return max(1, round(epochs * section.epoch_factor)) if epochs else 0

    rate, checkpoint = member.learning_rate * section.learning_rate_factor, member.checkpoint
    used = scaled(checkpoint) if isinstance(checkpoint, int) else checkpoint
    return HeadTraining.of(member, epochs=scaled(member.epochs), learning_rate=rate, checkpoint=used)


def head_checkpoints(inputs: DiscriminatorInputs, name: str, member: Member) -> files.Resumable:
    """The checkpoints of a head, under a key of everything that determines it."""
    config, layout, start = inputs.config, inputs.layout, inputs.layout.start(member.start)
    weights = [layout.model("extractor") / file for file in files.WEIGHT_FILES]
    begun_from = [start] if start.is_file() else sorted(start.rglob("model.safetensors"))
    key = {
        "section": plain(config.discriminator),
        "member": plain(member),
        "cond": config.cond,
        "feature_precision": inputs.frozen.mode,
        "start": [files.sha256(path) for path in begun_from],
        "ranks": world_size(),
    }
    images = layout.real / "train.npz", layout.fake / "samples.npz"
    return resumable(layout, name, [*images, *weights], key, inputs.compute)


def score_matching(inputs: DiscriminatorInputs) -> ScoreMatching:
    """The frozen denoiser and extractor as the score-matching objective calls them."""
    compute, score, layout = inputs.compute, inputs.config.score, inputs.layout
    network = compute.place(files.load_network(EDMPrecond, layout.model("score"), "score"))
    extractor = compute.place(files.load_network(EncoderUNet, layout.model("extractor"), "extractor"))
    constants = (score.sigma_data, score.p_mean, score.p_std) if score.source == "train" else RELEASED

    def denoiser(x: Tensor, sigma: Tensor, *classes: Tensor) -> Tensor:
        return compute.called(network)(x, sigma, *(one_hot(labels, network.label_dim) for labels in classes))

    return ScoreMatching(denoiser, compute.called(extractor.features), *constants)


def start_head(inputs: DiscriminatorInputs, member: Member) -> EncoderUNet:
    """The head that training begins with: a fresh one, another member after its last epoch, or a released one."""
    layout, (channels, size, _), cond = inputs.layout, inputs.extractor.feature_shape, inputs.config.cond
    folder = layout.start(member.start)
    if not member.start.startswith("models/"):
        wanted = {"in_channels": channels, "image_size": size, "out_channels": 1, "condition": cond}
        return read_released(read_adm, layout.root, member.start, "the member's start", wanted)[0]
    if folder != layout.model("extractor"):
        last = folder / LAST if (folder / LAST).is_dir() else folder
        return files.load_network(EncoderUNet, last, "discriminator")
    torch.manual_seed(member.seed)
    return build_head(inputs.extractor.feature_shape, condition=cond, **plain(member.network))
