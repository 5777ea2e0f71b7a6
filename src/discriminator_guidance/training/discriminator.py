"""Training of a discriminator from real and generated images, in one call."""

import copy
import hashlib
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as binary_cross_entropy

from discriminator_guidance.core import runtime
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import Resumable, fingerprint, source_hash
from discriminator_guidance.core.images import class_indices
from discriminator_guidance.core.noise import Split, generator, scaled, split_pairs, to_uint8
from discriminator_guidance.core.runtime import Compute, attribute_of, broadcast, compute_on, usable, world_size
from discriminator_guidance.core.settings import FEWEST, DiscriminatorSettings, NonNegative, refuse_unknown
from discriminator_guidance.networks.adm import SILU_GAIN, EncoderUNet, MemberLogits, NoisyImageCNN, build_head
from discriminator_guidance.sampling.guidance import Denoiser
from discriminator_guidance.sampling.sampler import MOST, PIXELS, fingerprint_of, sample
from discriminator_guidance.training import data, loop
from discriminator_guidance.training.data import Features, GridFeatures, Pairs, Source
from discriminator_guidance.training.loop import Batch, Report, Row, Trained, used_row
from discriminator_guidance.training.trained import TrainedDiscriminator, as_it_is, calibration_bins, calibration_errors

GRID_PAIRS = 8192  # of image and VP time, about as many as a validation needs
FAKES = 2**40  # the seed of samples to train on, so that those of other seeds are new
LARGE = 2**32  # bytes of images that stay where they are, in main memory or mapped from a file
WIDTH = 32  # channels of an attention head
NO_CLIP = 1e30  # a bound of the gradient norm that changes nothing


def fit(
    network: nn.Module,
    features: Features,
    pairs: Pairs,
    settings: DiscriminatorSettings,
    compute: Compute,
    checkpoints: Resumable | None = None,
    report: Report | None = None,
) -> Trained:
    """Minimize the binary cross-entropy of d(x_vp, t) over importance-sampled VP times (Kim et al. 2023, Eq. 4).

    network: (features, t[, classes]) -> logits. The curve has the scores on the validation grid; a resumed run reports
    the rows of its checkpoint again.

    *Deviation:* several processes, see `loop.train`.
    """
    split, device = pairs.split, pairs.labels.device
    rows = training_rows(settings, split)
    kinds = [rows[pairs.labels.cpu().numpy()[rows] == kind] for kind in (1, 0)]
    if not all(map(len, kinds)):
        raise ConfigError(f"bagging is {settings.bagging}, which leaves no image of one kind", "raise it")
    pairs = data.permuted_labels(pairs, settings.seed) if settings.permute_labels else pairs
    (every, steps), size = lengths(settings, split), settings.batch_size
    if not steps:
        return Trained(network.eval(), copy.deepcopy(network.state_dict()), [], {})

    @lru_cache(1)
    def order_of(epoch: int) -> np.ndarray:
        return generator(settings.seed, "order", epoch if settings.reshuffle else 0, 0).permutation(rows)

    def batch_of(step: int) -> Batch:
        if settings.epochs is None:
            rng = generator(settings.seed, "batch", step, 0)
            chosen = rng.permutation(np.concatenate([rng.choice(kind, -(-size // 2)) for kind in kinds]))
        else:
            epoch, place = divmod(step, every)
            rng = generator(settings.seed, "batch", epoch, place)
            chosen = order_of(epoch)[place * size :][:size]
        uniform = 1.0 - settings.importance_sampling  # share of the times
        x_vp, t = data.draw_noised(pairs.take(chosen), rng, settings.t_min, uniform, settings.flip)
        at = torch.from_numpy(chosen).to(device)
        return x_vp, t, pairs.labels[at], *(() if pairs.classes is None else (pairs.classes[at],))

    def loss_of(batch: Batch) -> tuple[Tensor, Row]:
        x_vp, t, target, *condition = batch
        with torch.no_grad():
            frozen = features(x_vp, t)
        with compute.autocast():
            logits: Tensor = network(frozen, t, *condition)
        logits = logits.view(-1).float()
        loss = binary_cross_entropy(logits, target + settings.label_smoothing * (1 - 2 * target))
        return loss, {"accuracy": data.accuracy(logits.detach(), target)}

    grid = grid_of(settings, features, pairs, split.validation)
    changes = {"iterations": steps, "gradient_clip": NO_CLIP, "checkpoint_every": every * settings.checkpoint_every}
    schedule, scores = loop.Schedule.of(settings, **changes), partial(validate, grid=grid, compute=compute)
    validation = loop.Validation(every, "train_", scores, settings.checkpoint, settings.patience or math.inf)
    return loop.train(network, batch_of, loss_of, schedule, checkpoints, report, validation=validation)


def lengths(settings: DiscriminatorSettings, split: Split) -> tuple[int, int]:
    """The steps in a row of the curve, and at most in all."""
    if settings.epochs is None:
        return settings.row_steps, settings.steps
    epoch = -(-len(training_rows(settings, split)) // settings.batch_size)
    return epoch, settings.epochs * epoch


def training_rows(settings: DiscriminatorSettings, split: Split) -> np.ndarray:
    """The training images of an epoch, as rows of real ++ fake: with bagging (Breiman 1996) drawn with replacement."""
    if settings.bagging is None:
        return split.train
    count = max(1, round(settings.bagging * len(split.train)))
    return np.sort(generator(settings.seed, "bagging", 0, 0).choice(split.train, count, replace=True))


def grid_of(settings: DiscriminatorSettings, features: Features, pairs: Pairs, rows: np.ndarray) -> GridFeatures:
    """Features of images on the common grid of VP times."""
    rows = rows if settings.grid_times_per_image else rows[:: -(-len(rows) // GRID_PAIRS)]
    per_image = min(settings.grid_times, settings.grid_times_per_image or max(1, GRID_PAIRS // len(rows)))
    return data.grid_features(features, pairs, rows, settings.grid_times, per_image, settings.split.seed)


def validate(network: nn.Module, grid: GridFeatures, compute: Compute) -> Row:
    """Binary cross-entropy in nats, accuracy and calibration error of a network on the validation grid."""
    logits = data.grid_logits(network, grid, compute)
    loss = binary_cross_entropy(logits, grid.labels).item()
    loop.require_finite("on validation images", validation_loss=loss)
    bins = calibration_bins(logits.cpu().numpy(), grid.labels.cpu().numpy().astype(np.int64), grid.time)
    error = float(np.mean([*calibration_errors(bins).values()]))  # noise levels count alike
    accuracy = data.accuracy(logits, grid.labels)
    return {"validation_loss": loss, "validation_accuracy": accuracy, "calibration_error": error}


class TrainerSettings(DiscriminatorSettings):
    """The settings of `train_discriminator`."""

    finetune: bool = False  # train the extractor too, in a copy
    gain: NonNegative = SILU_GAIN  # with torch's own weights, a whole network learns later
    data_range: tuple[float, float] | None = None  # black and white in floats, such as (0, 1); None: as they are

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.data_range and not self.data_range[0] < self.data_range[1]:
            yield f"data_range is {self.data_range}; give black, and then white, which is larger"


@torch.inference_mode(False)
def train_discriminator(
    real: Source,
    fake: Source | Denoiser,
    extractor: Features | None = None,
    *,
    start: nn.Module | None = None,
    device: torch.device | str = "cpu",
    checkpoints: str | Path | None = None,
    progress: bool | str = True,
    report: Report | None = None,
    **settings: Any,
) -> TrainedDiscriminator:
    """Train a discriminator of real (1) and generated (0) images at all noise levels (Kim et al. 2023, Eq. 4).

    Of the images 80 % train, 10 % choose the step whose weights are used, 10 % test; in batches and in the latter two,
    as many are real as fake. Warns where the result is no better than chance.

    Args:
        real: images (N, H, W, C) uint8, a tensor (N, C, H, W) of uint8 or floats, a folder, zip, .npz or .npy file, or
            an iterable of images or batches, such as a Dataset or a DataLoader, of (image, label) too: it is written
            to disk once, so that it need not fit in memory. Floats are taken as they are, also those of latents. A
            tuple (images, labels) trains a conditional discriminator.
        fake: the same of generated images; or the denoiser, with which `sample` then draws as many images as are used
            of the real ones, called as (x, sigma, labels) with the labels of the real images, if there are any. Where
            these have 8 bits, also as floats, floats are rounded to 8 bits: otherwise rounding would distinguish them.
        extractor: a pretrained `EncoderUNet`, or any (x_vp, tau) -> feature map (N, C, S, S), on whose features a head
            is trained, as in the paper. None trains a whole network of the noised images.
        start: the network to begin with, such as `trained.network`; None: a fresh one.
        device: where to compute.
        checkpoints: a folder for checkpoints and drawn samples (else in memory); the same call resumes there.
        progress: whether to show progress on standard error; a text is its title.
        report: called with the steps done and each row of the curve.
        settings: other values for fields of `TrainerSettings`, such as steps, seed, finetune or data_range.

    >>> rng = np.random.default_rng(0)
    >>> real, fake = (rng.integers(low, low + 100, (20, 8, 8, 1), dtype=np.uint8) for low in (150, 0))
    >>> discriminator = train_discriminator(real, fake, steps=20, progress=False)
    >>> discriminator(torch.zeros(4, 1, 8, 8), torch.tensor(0.1)).shape
    torch.Size([4])
    """
    refuse_unknown("train_discriminator", settings, vars(TrainerSettings()))
    chosen, device = TrainerSettings(**settings), usable(device)
    compute = compute_on(device, chosen.precision)
    extractors, starts = (nn.Module, EncoderUNet | None) if chosen.finetune else (object, nn.Module | None)
    nested = extractor is not None and isinstance(start, MemberLogits)  # it has an extractor of its own
    if nested or not (isinstance(extractor, extractors) and isinstance(start, starts)):
        problem = f"finetune={chosen.finetune}, extractor a {type(extractor).__name__}, start a {type(start).__name__}"
        raise ConfigError(problem, "give a module as extractor, and as start none or a trained.network (of a head)")
    folder, work = None if checkpoints is None else Path(checkpoints), None
    if folder and folder.exists() and not folder.is_dir():
        raise ConfigError(f"checkpoints is {folder}, a file", "give a folder")
    pairs = _pairs(real, partial(_drawn, fake, bool(progress)) if callable(fake) else fake, chosen, device, folder)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(chosen.seed)
        features, network, probe = _untrained(extractor, start, chosen, pairs)
        if folder is not None or world_size() > 1:
            weights = torch.cat([values.detach().flatten() for values in network.parameters()]).float()
            inputs = [part for part in (pairs.real, pairs.fake, pairs.classes) if part is not None]
            arrays = [np.ascontiguousarray(part.cpu().numpy()) for part in (*inputs, probe.float(), weights)]
            digests = [(hashlib.sha256(array.data).hexdigest(), *array.shape) for array in arrays]
            if (given := [str(chosen), *digests[: len(inputs)]]) != broadcast(given):  # networks may round otherwise
                raise ConfigError("processes of torchrun have other images or settings", "give the same to all")
            key = {**asdict(chosen), "precision": compute.mode, "arrays": digests, "on": [device.type, world_size()]}
            work = None if folder is None else Resumable(folder, "discriminator", key)
        title = progress if isinstance(progress, str) else "training discriminator"
        with runtime.progress(title, lengths(chosen, pairs.split)[1], "steps", bool(progress)) as advance:

            def reported(done: int, row: Row) -> None:
                advance(to=done)
                if report is not None:
                    report(done, row)

            network, last, history, _ = fit(network, features, pairs, chosen, compute, work, reported)
    grid = partial(grid_of, chosen, features, pairs)
    trained_row = used_row(history, chosen.checkpoint) - 1 if history else None
    used = validate(network, grid(pairs.split.validation), compute) if trained_row is None else history[trained_row]
    test = grid(pairs.split.test)
    logits, kinds = data.grid_logits(network, test, compute).cpu().numpy(), test.labels.long().cpu().numpy()
    tested = {"logits": logits, "labels": kinds, "time": test.time, "image": test.image}
    about = {
        "real": len(pairs.real),
        "fake": len(pairs.fake),
        **{part: len(rows) for part, rows in vars(pairs.split).items()},
        "shape": list(pairs.real.shape[1:]),
        "source": Path(real).name if isinstance(real, str | Path) else None,
        "settings": {name: value for name, value in asdict(chosen).items() if name in settings},
    }
    trained = TrainedDiscriminator(network.requires_grad_(False), features, last, history, used, tested, about)
    if history and trained.at_chance:
        losses = ", ".join(f"{loss:.3f} at {time:.2g}" for time, (loss, _) in trained.losses.items())
        advice = "give more images or more steps, or the samples are already good"
        warnings.warn(f"the discriminator learned nothing; {advice} (cross-entropy by VP time: {losses})", stacklevel=3)
    return trained


def _pairs(real: Source, fake: Any, settings: TrainerSettings, device: torch.device, folder: Path | None) -> Pairs:
    """The images as `fit` takes them, with their split."""
    reals, real_labels = data.image_tensor(real, "real", settings.data_range, folder)
    if not callable(fake):
        fakes, fake_labels = data.image_tensor(fake, "fake", settings.data_range, folder)
    elif real_labels is not None and len(class_indices(real_labels)) != len(reals):
        raise InputError(f"there are {len(real_labels)} labels for {len(reals)} images", "give one an image")
    else:  # fewer than FEWEST are refused below, so that nothing is drawn for them; classes may be in any order
        drawn = len(reals) if settings.images is None or real_labels is not None else min(settings.images, len(reals))
        fakes = fake((drawn, *reals.shape[1:]), real_labels, device, folder) if drawn >= FEWEST else reals
        fake_labels = real_labels
    labels = [label for label in (real_labels, fake_labels) if label is not None]
    if reals.shape[1:] != fakes.shape[1:] or min(len(reals), len(fakes)) < FEWEST:
        problem = f"real images are {tuple(reals.shape)} and fake ones {tuple(fakes.shape)}"
        raise InputError(problem, f"give {FEWEST} or more of each, of one shape")
    spread = [scaled(part[:256]).std().item() for part in (reals, fakes)]
    if not reals.dtype == fakes.dtype == torch.uint8 and max(spread) > 1.8 * min(spread):
        warnings.warn(f"standard deviations of real and fake are {spread}: give both in one unit", stacklevel=4)
    levels = 127.5 * scaled(reals[:256]) + 127.5
    eight_bits = (levels - levels.round().clamp(0, 255)).abs().max() < 0.1  # float16 is off by 0.06
    if fakes.is_floating_point() and bool(eight_bits):
        rounded = (torch.from_numpy(to_uint8(part)).permute(0, 3, 1, 2) for part in torch.split(fakes, 1024))
        fakes, _ = data.image_tensor(rounded, "fake", None, folder)  # on disk
    if labels and (given := [len(part) for part in labels]) != (images := [len(reals), len(fakes)]):
        raise InputError(f"there are {given} labels for {images} images", "give both as (images, labels), or neither")
    reals, fakes = (part.contiguous().to(device if part.nbytes < LARGE else "cpu") for part in (reals, fakes))
    kinds = torch.cat([torch.ones(len(reals)), torch.zeros(len(fakes))]).to(device, torch.float32)
    joined = torch.cat([class_indices(part).cpu() for part in labels]).to(device) if labels else None
    used = [min(len(part), settings.images or len(part)) for part in (reals, fakes)]
    if settings.epochs and used[0] != used[1]:  # a network that is not trained may be tested on any numbers
        problem = f"epochs of {used[0]} real and {used[1]} fake images shift every logit"
        raise InputError(problem, f"give as many of each, or images={min(used)}, or steps")
    split = split_pairs(len(reals), len(fakes), settings.split, settings.images)
    if empty := [part for part, rows in vars(split).items() if not 0 < (rows < len(reals)).sum() < len(rows)]:
        problem = f"split leaves no real or no fake one of {len(reals)} and {len(fakes)} images for {empty[0]}"
        raise InputError(problem, f"give more images, or raise split.{empty[0]}")
    return Pairs(reals, fakes, kinds, joined, split)


def _drawn(
    denoiser: Denoiser, progress: bool, shape: Sequence[int], labels: Any, device: torch.device, folder: Path | None
) -> Tensor:
    """As many samples of a denoiser as there are real images, with their labels; in a folder they are kept."""
    like = torch.empty(min(MOST, max(1, PIXELS // math.prod(shape[2:])), shape[0]), *shape[1:], device=device)
    try:
        networks = broadcast(fingerprint_of(denoiser, None, like, labels))
    except (TypeError, ValueError) as error:
        if labels is None or isinstance(error, ConfigError | InputError):
            raise
        raise ConfigError(f"the denoiser takes no labels ({error})", "give images alone") from error
    key: dict[str, Any] = {"networks": networks, "shape": list(shape), "code": source_hash()}
    key["limits"] = [str(attribute_of(denoiser, name, None)) for name in ("sigma_min", "sigma_max")]
    key["labels"] = None if labels is None else torch.as_tensor(labels).tolist()
    draw = partial(sample, denoiser, shape, classes=labels, seed=FAKES, device=device, progress=progress)
    if folder is None:
        return draw().cpu()
    path = folder / f"fake-{fingerprint(key)[:12]}.npy"
    if not broadcast(path.is_file()):
        draw(out=path)
    return torch.from_numpy(np.load(path, mmap_mode="c", allow_pickle=False))


def _untrained(
    extractor: Features | None, start: nn.Module | None, settings: TrainerSettings, pairs: Pairs
) -> tuple[Features, nn.Module, Tensor]:
    """The features that are not trained, the network that training begins with, and the features of some images."""
    images, device = pairs.take(pairs.split.train[:2]), pairs.labels.device
    start = start and copy.deepcopy(start).requires_grad_(True)
    classes = 0 if pairs.classes is None else int(pairs.classes.max()) + 1
    if extractor is None:
        network = start or NoisyImageCNN(images.shape[1:], classes=classes, gain=settings.gain)
        return as_it_is, network.to(device), images
    if isinstance(extractor, nn.Module):  # the caller's stays as it is
        extractor = copy.deepcopy(extractor).to(device).requires_grad_(False).eval()
    runtime.warn_in_training("the extractor", extractor)
    features = extractor.features if isinstance(extractor, EncoderUNet) else extractor
    with torch.no_grad():
        maps = features(images, images.new_full((len(images),), 0.5))
    if len(shape := tuple(getattr(maps, "shape", ()))) != 4 or shape[2] != shape[3]:
        raise ConfigError(f"the extractor's feature maps are {shape or type(maps)}", "reshape them to (N, C, S, S)")
    sizes = {"model_channels": WIDTH * max(1, min(4, maps.shape[1] // 128)), "num_head_channels": WIDTH}  # paper: 128
    head = (start or build_head(maps.shape[1:], classes > 0, num_res_blocks=2, **sizes)).to(device)
    if settings.finetune:
        return as_it_is, MemberLogits(extractor, head).requires_grad_(True), maps  # type: ignore[arg-type]
    return features, head, maps
