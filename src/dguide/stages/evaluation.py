"""Stage `evaluation`: every number of Table 3 for every variant, and the difference of every two, with intervals."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from dguide import tracking
from dguide.settings import Config, Layout, Variant, described, plain
from dguide.tracking import Tracker
from discriminator_guidance.core import files
from discriminator_guidance.core.errors import InputError
from discriminator_guidance.core.files import fingerprint, load_arrays, read_json, read_npz, write_csv, write_json
from discriminator_guidance.core.runtime import Compute, allow_tf32, prepare, progress
from discriminator_guidance.metrics import distances
from discriminator_guidance.metrics.distances import precision_recall
from discriminator_guidance.metrics.features import FidNetwork, extract_features, load_fid_network
from discriminator_guidance.metrics.significance import Estimate, holm
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP, SHRUNK, combined_logits

FLOOR_DRAWS = 10  # bootstrap samples of the real images
# Of published statistics, relative to the largest eigenvalue; sums over 50,000 features are rounded at about 1e-13.
ROUNDING = 1e-8
DISTANCES = ("fid", "kid", "kid_holdout")
SCORES = ("precision", "recall", "accuracy", "auroc")  # of discriminators

Evaluated = Mapping[str, Estimate]  # by metric, of a variant


@dataclass(frozen=True)
class RealImages:
    """What every set of features is compared with, computed once."""

    gaussian: distances.Gaussian
    kernels: Mapping[str, distances.KernelSet]  # by the distance to them
    neighbours: np.ndarray  # features (n, d) for the k-NN manifolds
    neighborhood: int


def measure(rows: np.ndarray, real: RealImages, compute: Compute, most: int | None = None) -> dict[str, Estimate]:
    """The metrics of features (n, d), by the first `most` of them those of the k-NN manifolds."""
    kernel = distances.KernelSet.of(rows, compute.device)
    precision, recall = precision_recall(rows[:most], real.neighbours, real.neighborhood, device=compute.device)
    kids = {name: distances.kid_influence(kernel, of_real) for name, of_real in real.kernels.items()}
    pairs = {"fid": distances.frechet_influence(rows, real.gaussian), **kids}
    return {name: Estimate.of([pair]) for name, pair in pairs.items()} | {"precision": precision, "recall": recall}


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Compare the samples of every variant with the real images and, index by index, with those of every other one.

    With several training replicates each number is their mean, and intervals cover their scatter.
    """
    settings, guided, layouts = config.evaluation, config.guided, layout.replicates(config.replicates)
    compute = prepare(config.runtime.device, config.runtime.sampling_precision, config.runtime.threads)
    allow_tf32(False)  # metrics are compared to many digits
    features = read_npz(layout.model("fid_network") / "features.npz", ["train", "holdout"], "fid_network")
    scores = {name: _classification_scores(layouts, variant) for name, variant in config.variants.items()}
    for path in [replicate.guided(variant) / "samples.npz" for replicate in layouts for variant in config.variants]:
        files.require(path, "guided")  # before hours of others
    network = load_fid_network(layout.model("fid_network"), compute)
    real = _real_images(config, layout, features, compute)

    evaluated: dict[str, dict[str, Estimate]] = {name: {} for name in config.variants}
    debiased, variation = defaultdict(list), defaultdict(list)
    total = len(config.variants) * len(layouts) * guided.images
    with progress("features of all variants", total, "images") as advance:
        for variant in config.variants:
            measured = []
            for replicate in layouts:
                images = read_samples(config, replicate, variant)
                rows = extract_features(network.features, images, settings.batch_size, compute.device, advance)
                measured.append(measure(rows, real, compute, len(real.neighbours)))
                debiased[variant].append(distances.debiased_distance(rows, real.gaussian))
                if isinstance(network, FidNetwork):
                    variation[variant].append(total_variation(network, rows, features["train"], compute))
            for name in measured[0]:
                pairs = [(part[name].mean, part[name].influence[0]) for part in measured]
                evaluated[variant][name] = replace(Estimate.of(pairs), limits=measured[0][name].limits)

    of_real, metrics, baselines = _distances_of_real(config, features, real), {}, config.baselines
    compared = differences(evaluated)
    adjusted = adjusted_p(compared, baselines, config.report.primary)
    for name, estimates in evaluated.items():
        delta = _minus(estimates, evaluated[baselines[name] or name])
        metrics[name] = {
            **_interval(estimates["fid"], "fid", "fid_low", "fid_high"),
            **_interval(delta["fid"], "delta_fid", "delta_low", "delta_high"),
            **{key: estimates[key].mean for key in ("kid", "kid_holdout", "precision", "recall")},
        }
        details: dict[str, Any] = {
            "fid_values": list(estimates["fid"].values),  # of each replicate
            "fid_debiased": float(np.mean(debiased[name])),
            "delta_p": delta["fid"].p_value(),
            "kid_values": list(estimates["kid"].values),
            "total_variation_values": variation[name],
        }
        for kid in ("kid", "kid_holdout"):
            details[f"{kid}_ci95"] = estimates[kid].interval()
            details |= {f"delta_{kid}": delta[kid].mean, f"delta_{kid}_ci95": delta[kid].interval()}
        details |= described(config, name) | scores[name] | (of_real if name == settings.baseline else {})
        details |= {
            "reference_n": len(features["train"]),
            "holdout_n": len(features["holdout"]),
            "delta_p_adjusted": adjusted.get(name),
            "against_members": against_members(config.variants, evaluated, name),
        }
        write_json(layout.report / "evaluation" / f"{name}.json", metrics[name])  # what DVC compares
        write_json(layout.report / "details" / f"{name}.json", details)
    write_csv(layout.report / "details" / "differences.csv", compared)
    tags = {"stage": "evaluation", "profile": config.profile, "settings": fingerprint(plain(config))}
    for name in config.variants:  # rows of the runs table in MLflow
        how = tags | {"variant": name, "mlflow.note.content": config.report.describe.get(name, name)}
        with tracking.run(config.profile, f"evaluation/{name}", how, described(config, name)) as nested:
            nested.summary(metrics[name] | scores[name])
    tracking.table(f"metrics of {len(metrics)} variants", [{"variant": name, **row} for name, row in metrics.items()])
    return {"variants": len(evaluated), **of_real}


def read_samples(config: Config, layout: Layout, variant: str) -> np.ndarray:
    """The images of a variant, which must have the shape and the indices that the settings ask for."""
    path, guided, size = layout.guided(variant) / "samples.npz", config.guided, config.real.image_size
    known = read_json(layout.model("fid_network") / "config.json", "fid_network").get("in_channels")
    arrays = read_npz(path, ["images", "index"], "guided")
    images, index = arrays["images"], guided.seed_start + np.arange(guided.images)
    shape = (guided.images, size, size, known or images.shape[-1])
    if images.shape != shape or images.dtype != np.uint8 or not np.array_equal(arrays["index"], index):
        found = f"{images.shape} {images.dtype} with indices {arrays['index'][:1]} .. {arrays['index'][-1:]}"
        raise InputError(f"{path} has {found}, not {shape} uint8, {index[0]} .. {index[-1]}", "run stage guided again")
    return images


def _classification_scores(layouts: Sequence[Layout], variant: Variant) -> dict[str, Any]:
    """Mean scores of the combined discriminator on the test split, and its cross-entropy in nats in each replicate.

    *Deviation*: members with fitted weights, which change with the noise level, are combined with equal ones.
    """
    scores, losses = [], []
    for layout in layouts if variant.members else []:
        paths = [layout.discriminator(member) / "test_logits.npz" for member in variant.members]
        arrays = [read_npz(path, ["logits", "labels"], "discriminator") for path in paths]
        labels = arrays[0]["labels"]
        for path, member in zip(paths, arrays, strict=True):
            if not np.array_equal(member["labels"], labels) or member["logits"].shape != labels.shape:
                problem = f"{path} and {paths[0]} have other test images, {len(member['labels'])} and {len(labels)}"
                raise InputError(problem, "give all members as many images, and train them again")
        logits = torch.from_numpy(np.stack([member["logits"] for member in arrays])).double()
        logits = variant.logit_scale * logits + variant.logit_shift
        rule = "mean_logit" if variant.rule == SHRUNK else variant.rule
        weights = None if isinstance(variant.weights, str) else variant.weights
        combined = combined_logits(logits, rule, weights, PROBABILITY_CLIP)
        scores.append(classification_scores(combined.numpy(), labels))
        losses.append(binary_cross_entropy_with_logits(combined, torch.from_numpy(labels).double()).item())
    means = {name: float(np.mean([score[name] for score in scores])) if scores else None for name in SCORES}
    return {f"discriminator_{name}": mean for name, mean in means.items()} | {"cross_entropy_values": losses}


def classification_scores(log_ratio: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Precision, recall, accuracy and auroc, in [0, 1], of (N,) logits; 0 or more (probability 0.5) means real, 1.

    *Deviation:* the reproduction averaged precision and recall over batches; here they are of all images.
    """
    from torchmetrics.functional.classification import binary_accuracy, binary_auroc, binary_precision, binary_recall

    target, called_real = torch.from_numpy(labels == 1).long(), torch.from_numpy(log_ratio >= 0).long()
    # Ranks in [0, 1]: torchmetrics would take the sigmoid of logits, which makes large ones equal.
    _, rank = np.unique(log_ratio, return_inverse=True)
    return {
        "precision": float(binary_precision(called_real, target)),
        "recall": float(binary_recall(called_real, target)),
        "accuracy": float(binary_accuracy(called_real, target)),
        "auroc": float(binary_auroc(torch.from_numpy(rank / len(rank)), target)),
    }


def _real_images(config: Config, layout: Layout, features: Mapping[str, np.ndarray], compute: Compute) -> RealImages:
    train, reference = features["train"], config.evaluation.reference
    if reference.startswith("models/"):
        gaussian = distances.gaussian_of_features(train)
    else:
        published = load_arrays(layout.root / reference, ("mu", "sigma"), "get the file again")
        gaussian = gaussian_of_statistics(**published, width=train.shape[1], source=reference)
    splits = {"kid": "train", "kid_holdout": "holdout"}
    kernels = {distance: distances.KernelSet.of(features[split], compute.device) for distance, split in splits.items()}
    # The k-NN sets have one size; real images are taken in equal steps, for they are sorted.
    rows = np.linspace(0, len(train) - 1, min(config.guided.images, len(train))).round().astype(int)
    return RealImages(gaussian, kernels, train[rows], config.evaluation.neighborhood)


def gaussian_of_statistics(mu: np.ndarray, sigma: np.ndarray, width: int, source: str) -> distances.Gaussian:
    """The Gaussian of published statistics, such as EDM's `cifar10-32x32.npz`, for features of this width.

    Errors name `source`: other shapes, or no covariance even after rounding.
    """
    remedy = "get the file again, or let evaluation.reference name models/<profile>/fid_network"
    numbers = all(array.dtype.kind in "iuf" and np.isfinite(array).all() for array in (mu, sigma))
    if mu.shape != (width,) or sigma.shape != (width, width) or not numbers:
        given = f"mu {mu.shape} {mu.dtype} and sigma {sigma.shape} {sigma.dtype} in {source}"
        raise InputError(f"{given} are not finite numbers of shapes ({width},) and ({width}, {width})", remedy)
    covariance = torch.from_numpy(sigma.astype(np.float64))
    eigenvalues, vectors = torch.linalg.eigh((covariance + covariance.T) / 2)
    asymmetry, largest = float((covariance - covariance.T).abs().max()), max(float(eigenvalues[-1]), 0.0)
    if max(asymmetry, -float(eigenvalues[0])) >= ROUNDING * largest:  # also where all are 0
        found = f"asymmetry {asymmetry:.3g} and the eigenvalue {eigenvalues[0]:.3g}"
        raise InputError(f"sigma in {source} is no covariance: it has {found}", remedy)
    kept = eigenvalues > width * distances.EPS * largest
    mean = torch.from_numpy(mu.astype(np.float64))
    return distances.Gaussian(mean, eigenvalues[kept].sqrt()[:, None] * vectors[:, kept].T)


def total_variation(network: FidNetwork, rows: np.ndarray, real: np.ndarray, compute: Compute) -> float:
    """Half the absolute differences of the class shares (of one class: of changes) of two sets of features (n, d)."""

    def shares(features: np.ndarray) -> Tensor:
        logits = network.classifier(torch.from_numpy(features).to(compute.device))
        return torch.bincount(logits.argmax(dim=1), minlength=logits.shape[1]).double() / len(features)

    return (shares(rows) - shares(real)).abs().sum().item() / 2


def _distances_of_real(config: Config, features: Mapping[str, np.ndarray], real: RealImages) -> dict[str, Any]:
    """What to hold a distance against: training images drawn again, and held-out ones."""
    details: dict[str, Any] = {
        "floor": floor_distance(features["train"], real.gaussian, config.guided.images, config.evaluation.seed),
        "holdout_fid_debiased": distances.debiased_distance(features["holdout"], real.gaussian),
    }
    kid = distances.kid_influence(real.kernels["kid_holdout"], real.kernels["kid"])
    for name, pair in (("fid", distances.frechet_influence(features["holdout"], real.gaussian)), ("kid", kid)):
        estimate = Estimate.of([pair])
        details |= {f"holdout_{name}": estimate.mean, f"holdout_{name}_ci95": estimate.interval()}
    return details


def floor_distance(real: np.ndarray, reference: distances.Gaussian, n: int, seed: int) -> float:
    """The mean distance of n real rows, drawn with replacement, to the reference."""
    generator = np.random.default_rng(seed)
    sets = (distances.gaussian_of_features(real[generator.integers(len(real), size=n)]) for _ in range(FLOOR_DRAWS))
    return float(np.mean([distances.distance_of_gaussians(drawn, reference) for drawn in sets]))


def _minus(variant: Evaluated, other: Evaluated) -> dict[str, Estimate]:
    """The paired difference of each distance."""
    return {name: variant[name].minus(other[name]) for name in DISTANCES}


def _interval(estimate: Estimate, *keys: str) -> dict[str, float]:
    """An estimate and the ends of its interval under three keys."""
    return dict(zip(keys, (estimate.mean, *estimate.interval()), strict=True))


def _difference(delta: Evaluated) -> dict[str, float]:
    """The differences of the distances with their intervals: `difference`, `low` and `high` are of FID."""
    row: dict[str, float] = {}
    for distance, estimate in delta.items():
        prefix = "" if distance == "fid" else f"{distance}_"
        row |= _interval(estimate, f"{prefix}difference", f"{prefix}low", f"{prefix}high")
    return row


def differences(evaluated: Mapping[str, Evaluated]) -> list[dict[str, Any]]:
    """The differences of every variant from every other, of FID with its p-value and ratio, and of both KIDs."""
    rows = []
    for name, other in permutations(evaluated, 2):
        delta = _minus(evaluated[name], evaluated[other])
        row = {"variant": name, "other": other, **_difference(delta), "p": delta["fid"].p_value()}
        ratio = evaluated[name]["fid"].ratio(evaluated[other]["fid"])
        rows.append(row | dict(zip(("ratio", "ratio_low", "ratio_high"), ratio, strict=True)))
    return rows


def adjusted_p(
    pairs: Sequence[Mapping[str, Any]], baselines: Mapping[str, str | None], planned: tuple[str, str]
) -> dict[str, float]:
    """The p-value of each variant's difference from its baseline, by Holm's method over all but the planned one."""
    p = {row["variant"]: row["p"] for row in pairs if row["other"] == baselines[row["variant"]]}
    unplanned = [name for name in p if (name, baselines[name]) != planned]
    return p | dict(zip(unplanned, holm([p[name] for name in unplanned]), strict=True))


def against_members(
    variants: Mapping[str, Variant], evaluated: Mapping[str, Evaluated], ensemble: str
) -> dict[str, Any] | None:
    """An ensemble's difference from its members on average, where each was sampled alone with the same settings."""
    members, how = variants[ensemble].members, _sampling(variants[ensemble])
    same = {name: row.members for name, row in variants.items() if len(row.members) == 1 and _sampling(row) == how}
    singles = {member: name for name, (member,) in same.items()}
    if len(members) < 2 or not set(members) <= set(singles):
        return None
    mean, alone = {}, {member: singles[member] for member in members}
    for distance in DISTANCES:
        estimates = [evaluated[name][distance] for name in alone.values()]
        # The mean of distances has the mean of their influences, because all share their noise index by index.
        values = np.mean([estimate.values for estimate in estimates], axis=0)
        influence = np.mean([estimate.influence for estimate in estimates], axis=0)
        mean[distance] = Estimate(tuple(values.tolist()), influence)
    return {"alone": alone, "fid": mean["fid"].mean, **_difference(_minus(evaluated[ensemble], mean))}


def _sampling(variant: Variant) -> dict[str, Any]:
    """How a variant is sampled, whichever its members; of one member all rules are the same but the clipped one."""
    how = vars(variant) | {"rule": variant.rule == "clipped_logit_mean", "weights": variant.weights == "fitted"}
    return {key: value for key, value in how.items() if key not in ("needs", "members", "baseline", "published")}
