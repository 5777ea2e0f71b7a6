"""Stage `evaluation`: every number of Table 3 for one variant, with intervals."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from dguide import tracking
from dguide.artifacts import Layout, load_fid_network
from dguide.settings import Config, Variant
from dguide.stages.guided import sampler_settings, window_of
from dguide.tracking import Tracker
from discriminator_guidance.errors import InputError
from discriminator_guidance.files import load_arrays, read_npz, sha256, write_json, write_npz
from discriminator_guidance.guidance import RULES, simplex_weights
from discriminator_guidance.metrics.classification import classification_scores
from discriminator_guidance.metrics.distances import (
    Gaussian,
    debiased_distance,
    floor_distance,
    frechet_influence,
    gaussian_of_features,
    gaussian_of_statistics,
    kid,
    kid_influence,
)
from discriminator_guidance.metrics.features import extract_features
from discriminator_guidance.metrics.manifold import precision_recall
from discriminator_guidance.metrics.significance import Measured
from discriminator_guidance.runtime import allow_tf32, gather_rows, is_first, prepare, share

UNGUIDED = "edm"
FLOOR_DRAWS = 10  # bootstrap samples of the real images
METRICS = (
    "fid", "fid_low", "fid_high", "delta_fid", "delta_low", "delta_high", "kid", "kid_holdout", "precision", "recall",
)  # fmt: skip
SCORES = ("precision", "recall", "accuracy", "auroc")


def run(config: Config, layout: Layout, tracker: Tracker, variant: str) -> dict[str, Any]:
    """Compare a variant's samples with the real images and, index by index, with the unguided samples.

    With several training replicates each number is their mean, and intervals cover their scatter. Published statistics
    replace the real images in the Frechet distance alone: the others need features.
    """
    settings, guided, runtime, chosen = config.evaluation, config.guided, config.runtime, config.variants[variant]
    sampler = sampler_settings(config, chosen)
    effective = {
        **chosen.model_dump(mode="json", exclude={"needs"}),
        "rule": chosen.rule if chosen.members else None,
        "window": list(window_of(config, chosen)) if chosen.members else None,
        "steps": sampler.steps,
        "nfe": (2 * sampler.steps - 1) * (1 if chosen.autoguidance is None else 2),  # denoiser evaluations of an image
        "fid_network": config.fid_network.name,
    }
    tracker.params(effective)

    # Everything is read and checked before anything is computed.
    layouts = layout.replicates(config.replicates)
    real = read_npz(layout.model("fid_network") / "features.npz", ["train", "holdout"], "fid_network")
    if settings.kid_subset_size > (fewest := min(map(len, real.values()))):
        expected = f"evaluation.kid_subset_size of at most {fewest}, the real images of the smaller split"
        raise InputError(expected, str(settings.kid_subset_size), "lower it, or hold out more images")
    if settings.neighborhood + 2 > len(real["train"]):
        expected = f"evaluation.neighborhood of at most {len(real['train']) - 2}, by the real images"
        raise InputError(expected, str(settings.neighborhood), "lower it")
    index = guided.seed_start + np.arange(guided.images)
    drawn = [_samples(replicate, variant, index) for replicate in layouts]
    all_scores = [_classification_scores(replicate, chosen) for replicate in layouts]
    scores = {name: float(np.mean([each[name] for each in all_scores])) for name in all_scores[0]}
    statistics = None if settings.reference.startswith("models/") else settings.reference
    if statistics is None:
        reference = gaussian_of_features(real["train"])
    else:
        published = load_arrays(layout.root / statistics, ("mu", "sigma"), "get the file again")
        reference = gaussian_of_statistics(**published, width=real["train"].shape[1], source=statistics)

    compute = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    allow_tf32(False)  # metrics are compared to many digits
    network = load_fid_network(layout.model("fid_network"), compute)
    own = share(len(index))
    sets: dict[str, list[np.ndarray]] = {variant: [], UNGUIDED: []}  # features of each replicate
    with tracking.bar(f"features of {variant}", len(own) * len(sets) * len(drawn), "images") as advance:
        for images in drawn:
            for name, complete in images.items():
                part = complete[own.start : own.stop]
                rows = extract_features(network.features, part, settings.batch_size, compute.device, advance)
                sets[name].append(gather_rows(torch.from_numpy(rows), len(index)).numpy())
    if not is_first():
        return {}

    fids = {name: Measured.of(frechet_influence(rows, reference) for rows in sets[name]) for name in sets}
    all_kids, held_out = (
        {name: Measured.of(kid_influence(rows, part) for rows in sets[name]) for name in sets} for part in real.values()
    )
    fid, delta = fids[variant], fids[variant].minus(fids[UNGUIDED])
    kid_all, delta_kid = all_kids[variant], all_kids[variant].minus(all_kids[UNGUIDED])
    delta_held_out = held_out[variant].minus(held_out[UNGUIDED])
    subsets = (settings.kid_subsets, settings.kid_subset_size, settings.seed)
    (kid_train, kid_std), (kid_holdout, kid_holdout_std) = (
        np.mean([kid(rows, part, *subsets) for rows in sets[variant]], axis=0).tolist() for part in real.values()
    )
    size = min(guided.images, len(real["train"]))  # of both k-NN sets; real images in equal steps, for they are sorted
    known = real["train"][np.linspace(0, len(real["train"]) - 1, size).round().astype(int)]
    shares = [
        precision_recall(rows[:size], known, settings.neighborhood, device=compute.device) for rows in sets[variant]
    ]
    share_means = np.mean([[value for value, _ in each] for each in shares], axis=0)
    values = (fid.mean, *fid.interval(), delta.mean, *delta.interval(), kid_train, kid_holdout, *share_means.tolist())
    metrics = dict(zip(METRICS, values, strict=True))

    details = {
        "variant": variant,
        "n": guided.images,
        "replicates": config.replicates,
        **guided.model_dump(include={"seed", "seed_start"}),
        "fid_values": list(fid.values),  # of each replicate
        "fid_ci95_sampling": fid.sampling_interval(),
        "delta_ci95_sampling": delta.sampling_interval(),
        "delta_p": delta.p_value(),
        "fid_debiased": float(np.mean([debiased_distance(rows, reference) for rows in sets[variant]])),
        "kid_std": kid_std,
        "kid_holdout_std": kid_holdout_std,
        "kid_all": kid_all.mean,  # over all images, without subsets: the value that the intervals are of
        "kid_ci95": kid_all.interval(),
        "delta_kid": delta_kid.mean,
        "delta_kid_ci95": delta_kid.interval(),
        "delta_kid_holdout": delta_held_out.mean,
        "delta_kid_holdout_ci95": delta_held_out.interval(),
        **{f"discriminator_{name}": scores.get(name) for name in SCORES},
        **effective,
        "reference_statistics": statistics,
        "reference_n": len(real["train"]),
        "holdout_n": len(real["holdout"]),
        "precision_mode": compute.mode,
        **compute.record(),
        "samples_sha256": [sha256(replicate.guided(variant) / "samples.npz") for replicate in layouts],
    }
    if variant == UNGUIDED:
        details |= _real_distances(config, real, reference)
    write_npz(layout.evaluated(variant) / "influence.npz", influence=fid.influence, index=index)
    write_json(layout.evaluated(variant) / "details.json", details)
    write_json(layout.evaluation(variant), metrics)
    tracker.metrics(0, {f"discriminator_{name}": score for name, score in scores.items()})
    return metrics


def _real_distances(config: Config, real: dict[str, np.ndarray], reference: Gaussian) -> dict[str, Any]:
    """What to hold a distance against: training images drawn again, and held-out ones."""
    fid = Measured.of([frechet_influence(real["holdout"], reference)])
    kid_all = Measured.of([kid_influence(real["holdout"], real["train"])])
    return {
        "floor": floor_distance(real["train"], config.guided.images, FLOOR_DRAWS, config.evaluation.seed),
        "holdout_fid": fid.mean,
        "holdout_fid_ci95": fid.interval(),
        "holdout_fid_debiased": debiased_distance(real["holdout"], reference),
        "holdout_kid": kid_all.mean,
        "holdout_kid_ci95": kid_all.interval(),
    }


def _samples(layout: Layout, variant: str, index: np.ndarray) -> dict[str, np.ndarray]:
    """The images of the variant and of the unguided one, by name; both must have these sample indices."""
    images = {}
    for name in (variant, UNGUIDED):
        path = layout.guided(name) / "samples.npz"
        read = read_npz(path, ["images", "index"], "guided")
        images[name], found = read["images"], read["index"]
        if len(images[name]) != len(index) or not np.array_equal(found, index):
            expected = f"the {len(index)} samples {index[0]} .. {index[-1]} in {path}"
            got = f"{len(images[name])} images with indices {found[:1]} .. {found[-1:]}"
            raise InputError(expected, got, "run stage guided again")
    return images


def _classification_scores(layout: Layout, variant: Variant) -> dict[str, float]:
    """Scores of the combined discriminator on the fixed test split of real and unguided fake images.

    *Deviation*: members with fitted weights, which change with the noise level, are combined with equal ones.
    """
    if not variant.members:
        return {}
    paths = [layout.discriminator(member) / "test_logits.npz" for member in variant.members]
    read = [read_npz(path, ["logits", "labels"], "discriminator") for path in paths]
    logits = torch.from_numpy(np.stack([arrays["logits"] for arrays in read])).double()
    rule = RULES["mean_logit" if variant.rule == "shrunk_mean_logit" else variant.rule]
    combined = rule(logits, logits.new_tensor(simplex_weights(variant.weights, len(variant.members))))
    return classification_scores(combined.numpy(), read[0]["labels"])
