"""Stage `discriminator`: one member's head, its training curve, and its logits on the fixed test split."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy
from torch.nn.functional import one_hot

from dguide.artifacts import (
    Layout,
    load_denoiser,
    load_extractor,
    released_file,
    require_arguments,
    resumable,
    training_report,
)
from dguide.settings import Config, Member, plain
from dguide.settings.config import Discriminator
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.adm_checkpoint import read_adm
from discriminator_guidance.files import (
    WEIGHT_FILES,
    Resumable,
    load_network,
    read_npz,
    save_weights,
    sha256,
    write_csv,
    write_json,
    write_npz,
)
from discriminator_guidance.networks.adm import EncoderUNet, build_head
from discriminator_guidance.runtime import Compute, allow_tf32, is_first, prepare, world_size
from discriminator_guidance.training.discriminator import HeadTraining, train_discriminator, used_epoch
from discriminator_guidance.training.pairs import Features, GridFeatures, Pairs, pair_up, validate
from discriminator_guidance.training.score_matching import ScoreMatching

RELEASED = (0.5, -1.2, 1.2)  # sigma_data, p_mean, p_std of the released EDM networks (Karras et al. 2022, Table 1)
LAST = "last"  # folder of the weights after the last epoch, where others are used; a later member may start from them
TRAINED = ("epochs", "learning_rate", "weight_decay", "t_min")  # settings after the profile's factors
CURVE = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy")


@dataclass(frozen=True)
class DiscriminatorInputs:
    """Training and test data of heads: the images, the frozen features, and the split of `member`."""

    config: Config
    layout: Layout
    member: Member
    real: np.ndarray  # (N, H, W, C) uint8
    fake: np.ndarray
    classes: np.ndarray | None  # of real ++ fake
    features: Features
    feature_shape: tuple[int, int, int]
    compute: Compute
    feature_precision: str

    @cached_property
    def pairs(self) -> Pairs:
        """Real and fake images on the device, and their split."""
        split = self._own.split_images(len(self.real), len(self.fake))
        return pair_up(self.real, self.fake, self.classes, split, self.compute.device)

    @cached_property
    def validation(self) -> GridFeatures:
        """The validation images on the common grid of VP times."""
        return self._own.grid(self.features, self.pairs, self.pairs.split.validation)

    @property
    def _own(self) -> HeadTraining:
        return head_settings(self.config.discriminator, self.member)

    def settings(self, member: Member) -> HeadTraining:
        """How a member is trained and tested here."""
        settings = replace(head_settings(self.config.discriminator, member), precision=self.compute.mode)  # type: ignore[arg-type]
        matched = settings.objective != "cross_entropy"
        return replace(settings, matching=score_matching(self)) if matched else settings


def run(config: Config, layout: Layout, tracker: Tracker, member: str) -> dict[str, Any]:
    """Train a member, or take a released head, and test it."""
    row = config.members[member]
    inputs = open_inputs(config, layout, row)
    settings = inputs.settings(row)
    split = settings.split_images(len(inputs.real), len(inputs.fake))
    effective = {key: getattr(settings, key) for key in TRAINED}
    tracker.params({**plain(row), **effective})
    checkpoints = resumable_head(inputs, f"discriminator-{member}", row)
    with training_report(tracker, f"training {member}", settings.epochs, "epochs") as report:
        trained = train_discriminator(
            inputs.real,
            inputs.fake,
            inputs.features,
            head=start_head(inputs, row),
            classes=inputs.classes,
            device=inputs.compute.device,
            checkpoints=checkpoints,
            progress=report,
            **vars(settings),
        )
    head, history, tested = trained.head, trained.history, trained.tested
    if history:
        used = history[used_epoch(history, settings.checkpoint) - 1]
        best = min(history, key=lambda entry: entry["validation_loss"])
        batches = -(-len(settings.rows(split)) // settings.batch_size)
    else:  # a released head that is not trained further
        used = {"epoch": 0, **validate(head, inputs.validation, inputs.compute)}
        best, batches, effective = {}, 0, {"epochs": 0}
    logits, labels = (torch.from_numpy(tested[name]) for name in ("logits", "labels"))
    metrics: dict[str, Any] = {
        **{key: effective.get(key) for key in TRAINED},
        "used_epoch": used["epoch"],
        "iterations": settings.epochs * batches,
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
        save_weights(folder, head.state_dict(), head.arguments)
        shutil.rmtree(folder / LAST, ignore_errors=True)
        if used["epoch"] < settings.epochs or settings.ema_decay is not None:
            save_weights(folder / LAST, trained.last, head.arguments)
        write_npz(folder / "test_logits.npz", **tested)
        write_csv(reports / "history.csv", history, CURVE)
        write_csv(reports / "calibration.csv", [asdict(entry) for entry in trained.calibration])
        write_json(reports / "metrics.json", metrics)
        tracker.artifact(reports / "calibration.csv")
        tracker.artifact(reports / "metrics.json")
    tracker.model(f"discriminator-{config.profile}", folder / "model.safetensors", metrics["validation_loss"])
    return {key: metrics[key] for key in ("used_epoch", "best_epoch", "best_validation_loss", "test_loss")}


def open_inputs(config: Config, layout: Layout, member: Member) -> DiscriminatorInputs:
    """Read the frozen extractor and the real and fake images."""
    runtime, names = config.runtime, ["images", "labels"] if config.cond else ["images"]
    real = read_npz(layout.real / "train.npz", names, "real")
    fake = read_npz(layout.fake / "samples.npz", names, "fake")
    classes = np.concatenate([real["labels"], fake["labels"]]) if config.cond else None
    frozen = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    compute = prepare(runtime.device, member.precision, runtime.threads)
    allow_tf32("tf32" in (compute.mode, frozen.mode))  # the other is bfloat16 then, to which it means nothing
    extractor = load_extractor(layout, frozen)
    features, arrays = frozen_features(extractor, frozen, compute), (real["images"], fake["images"], classes)
    return DiscriminatorInputs(config, layout, member, *arrays, features, extractor.feature_shape, compute, frozen.mode)


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


def resumable_head(inputs: DiscriminatorInputs, name: str, member: Member) -> Resumable:
    """The checkpoints of a head, under a key of everything that determines it."""
    config, layout = inputs.config, inputs.layout
    files = [layout.real / "train.npz", layout.fake / "samples.npz"]
    files += [layout.model("extractor") / file for file in WEIGHT_FILES]
    start = layout.start(member.start)
    started_from = [start] if start.is_file() else sorted(start.rglob("model.safetensors"))
    key = {
        "section": plain(config.discriminator),
        "member": plain(member),
        "cond": config.cond,
        "feature_precision": inputs.feature_precision,
        "start": [sha256(path) for path in started_from],
        "ranks": world_size(),
    }
    return resumable(layout, name, files, key, inputs.compute)


def score_matching(inputs: DiscriminatorInputs) -> ScoreMatching:
    """The frozen denoiser and extractor as the score-matching objective calls them."""
    compute, score = inputs.compute, inputs.config.score
    network, extractor = load_denoiser(inputs.layout, compute), load_extractor(inputs.layout, compute)
    constants = (score.sigma_data, score.p_mean, score.p_std) if score.source == "train" else RELEASED

    def denoiser(x: Tensor, sigma: Tensor, *classes: Tensor) -> Tensor:
        return compute.called(network)(x, sigma, *(one_hot(each, network.label_dim) for each in classes))

    return ScoreMatching(denoiser, compute.called(extractor.features), *constants)


def start_head(inputs: DiscriminatorInputs, member: Member) -> EncoderUNet:
    """The head that training begins with: a fresh one, another member after its last epoch, or a released one."""
    layout, device = inputs.layout, inputs.compute.device
    folder = layout.start(member.start)
    if not member.start.startswith("models/"):
        head, found = read_adm(released_file(layout, member.start, "the member's start"))
        channels, size, _ = inputs.feature_shape
        wanted = {"in_channels": channels, "image_size": size, "out_channels": 1, "condition": inputs.config.cond}
        remedy = "change the member's start, extractor.path or cond"
        require_arguments(f"a discriminator in {member.start}", wanted, found, remedy)
        return head.to(device)
    if folder != layout.model("extractor"):
        last = folder / LAST if (folder / LAST).is_dir() else folder
        return load_network(EncoderUNet, last, "discriminator").to(device)
    torch.manual_seed(member.seed)
    return build_head(inputs.feature_shape, condition=inputs.config.cond, **plain(member.network)).to(device)
