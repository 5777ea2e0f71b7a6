"""Stage `evaluation`: every number of Table 3 for one variant, with intervals."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from discriminator_guidance import distributed, progress
from discriminator_guidance.checkpoints.reference_statistics import read_statistics
from discriminator_guidance.checkpoints.weights import WEIGHT_FILES
from discriminator_guidance.data.files import fingerprint, read_npz, sha256, write_json, write_npz
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.classification import classification_scores
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.frechet import frechet_influence, gaussian_of_features, gaussian_of_statistics
from discriminator_guidance.evaluation.kid import kid
from discriminator_guidance.evaluation.manifold import precision_recall
from discriminator_guidance.evaluation.significance import interval, paired_difference, ranges_interval
from discriminator_guidance.guidance.ensemble import RULES, simplex_weights
from discriminator_guidance.networks.precision import allow_tf32, prepare
from discriminator_guidance.stages.networks import load_fid_network
from discriminator_guidance.stages.sampling import sampler_settings, window_of

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.tracking import Tracker

UNGUIDED = "edm"
METRICS = (
    "fid", "fid_low", "fid_high", "delta_fid", "delta_low", "delta_high", "kid", "kid_holdout", "precision", "recall",
)  # fmt: skip
SCORES = ("precision", "recall", "accuracy", "auroc")


def run(config: Config, layout: Layout, tracker: Tracker, variant: str) -> dict[str, Any]:
    """Compare a variant's samples with the real images and, index by index, with the unguided samples.

    The Frechet distance is the mean over ranges of samples; kernel distances, precision and recall are those of the
    first range. Published statistics replace the real images in the Frechet distance alone: the others need features.
    """
    settings, guided, runtime, chosen = config.evaluation, config.guided, config.runtime, config.variants[variant]
    effective = {
        **chosen.model_dump(mode="json", exclude={"needs"}),
        "rule": chosen.rule if chosen.members else None,
        "window": list(window_of(config, chosen)) if chosen.members else None,
        "steps": sampler_settings(config, chosen).steps,
        "fid_network": config.fid_network.name,
    }
    tracker.params(effective)

    # Everything is read and checked before anything is computed.
    real_path, statistics = layout.model("fid_network") / "features.npz", settings.reference_statistics
    real = read_npz(real_path, ["train", "holdout"], "fid_network")
    images, index = _samples(config, layout, variant)
    scores = _classification_scores(layout, chosen)
    if statistics is None:
        reference = gaussian_of_features(real["train"])
    else:
        width = real["train"].shape[1]
        reference = gaussian_of_statistics(*read_statistics(layout.root / statistics), width, statistics)

    compute = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    allow_tf32(False)  # metrics are compared to many digits
    network = load_fid_network(layout, compute)
    own, features = distributed.share(len(index)), {}
    with progress.bar(f"features of {variant}", len(own) * len(images), "images") as advance:
        for name, whole in images.items():
            part = whole[own.start : own.stop]
            rows = extract_features(network.features, part, settings.batch_size, compute.device, advance)
            features[name] = distributed.gather_rows(torch.from_numpy(rows), len(index)).numpy()
    if not distributed.is_first():
        return {}

    distances, influence = {}, {}
    for name, rows in features.items():
        by_range = [frechet_influence(part, reference) for part in np.split(rows, guided.ranges)]
        distances[name] = [distance for distance, _ in by_range]
        influence[name] = np.stack([of_samples for _, of_samples in by_range])
    fid = float(np.mean(distances[variant]))
    delta, delta_bounds = paired_difference(
        distances[variant], influence[variant], distances[UNGUIDED], influence[UNGUIDED]
    )
    first = features[variant][: guided.images]
    subsets = (settings.kid_subsets, settings.kid_subset_size, settings.seed)
    (kid_real, kid_std), (kid_holdout, kid_holdout_std) = (kid(first, real[name], *subsets) for name in real)
    shares = precision_recall(first, real["train"], settings.neighborhood, device=compute.device)
    values = (fid, *interval(fid, influence[variant]), delta, *delta_bounds, kid_real, kid_holdout, *shares)
    metrics = dict(zip(METRICS, values, strict=True))

    inputs = [layout.guided(name) / "samples.npz" for name in images]
    inputs += [real_path, *(layout.model("fid_network") / name for name in WEIGHT_FILES)]
    inputs += [layout.discriminator(member) / "test_logits.npz" for member in chosen.members]
    inputs += [] if statistics is None else [layout.root / statistics]
    read = config.model_dump(mode="json", include={"guided", "sampler", "fid_network", "evaluation"})
    details = {
        "variant": variant,
        "n": guided.images,
        **guided.model_dump(include={"ranges", "seed", "seed_start"}),
        "fid_ranges": distances[variant],
        "fid_ranges_ci95": ranges_interval(distances[variant]),
        "kid_std": kid_std,
        "kid_holdout_std": kid_holdout_std,
        **{f"discriminator_{name}": scores.get(name) for name in SCORES},
        **effective,
        "reference_statistics": statistics,
        "reference_n": len(real["train"]),
        "holdout_n": len(real["holdout"]),
        "precision_mode": compute.mode,
        **compute.record(),
        "settings_hash": fingerprint({**read, "variant": chosen.model_dump(mode="json")}),
        "inputs": {os.path.relpath(path, layout.root): sha256(path) for path in inputs},
        **({} if config.real.note is None else {"note": config.real.note}),
    }
    shape = (guided.ranges, -1) if guided.ranges > 1 else (-1,)
    write_npz(layout.influence(variant), influence=influence[variant].reshape(shape), index=index.reshape(shape))
    write_json(layout.evaluated(variant) / "details.json", details)
    write_json(layout.evaluation(variant), metrics)
    tracker.metrics(0, {f"discriminator_{name}": score for name, score in scores.items()})
    return metrics


def _samples(config: Config, layout: Layout, variant: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The images of the variant and of the unguided one, by name, and the sample indices that both must have."""
    paths = {name: layout.guided(name) / "samples.npz" for name in (variant, UNGUIDED)}
    read = {name: read_npz(path, ["images", "index"], "guided") for name, path in paths.items()}
    count, first = config.guided.ranges * config.guided.images, config.guided.seed_start
    for name, arrays in read.items():
        index = arrays["index"]
        if len(arrays["images"]) != count or not np.array_equal(index, first + np.arange(count)):
            expected = f"the {count} samples {first} .. {first + count - 1} in {paths[name]}"
            found = f"{len(arrays['images'])} images with indices {index[:1]} .. {index[-1:]}"
            raise InputError(expected, found, "run stage guided again")
    return {name: arrays["images"] for name, arrays in read.items()}, read[variant]["index"]


def _classification_scores(layout: Layout, variant: Variant) -> dict[str, float]:
    """Scores of the combined discriminator on the fixed test split of real and unguided fake images."""
    if not variant.members:
        return {}
    paths = [layout.discriminator(member) / "test_logits.npz" for member in variant.members]
    read = [read_npz(path, ["logits", "labels"], "discriminator") for path in paths]
    logits = torch.from_numpy(np.stack([arrays["logits"] for arrays in read])).double()
    weights = logits.new_tensor(simplex_weights(variant.weights, len(variant.members)))
    return classification_scores(RULES[variant.rule](logits, weights).numpy(), read[0]["labels"])
