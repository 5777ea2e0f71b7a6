"""Stage `evaluation`: every number of Table 3 for one variant, with intervals."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from discriminator_guidance import distributed, progress
from discriminator_guidance.checkpoints.weights import WEIGHT_FILES
from discriminator_guidance.data.files import fingerprint, load_arrays, read_npz, sha256, write_json, write_npz
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.classification import classification_scores
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.frechet import (
    Gaussian,
    debiased_distance,
    floor_distance,
    frechet_influence,
    gaussian_of_features,
    gaussian_of_statistics,
)
from discriminator_guidance.evaluation.kid import kid, kid_influence
from discriminator_guidance.evaluation.manifold import precision_recall
from discriminator_guidance.evaluation.significance import Measured
from discriminator_guidance.guidance.ensemble import RULES, simplex_weights
from discriminator_guidance.networks.precision import allow_tf32, prepare
from discriminator_guidance.stages.networks import load_fid_network
from discriminator_guidance.stages.sampling import sampler_settings, window_of

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant
    from discriminator_guidance.stages.layout import Layout
    from discriminator_guidance.tracking import Tracker

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
    places = layout.replicates(config.replicates)
    real_path, statistics = layout.model("fid_network") / "features.npz", settings.reference_statistics
    real = read_npz(real_path, ["train", "holdout"], "fid_network")
    drawn = [_samples(config, place, variant) for place in places]
    index = drawn[0][1]
    all_scores = [_classification_scores(place, chosen) for place in places]
    scores = {name: float(np.mean([each[name] for each in all_scores])) for name in all_scores[0]}
    if statistics is None:
        reference = gaussian_of_features(real["train"])
    else:
        published = load_arrays(layout.root / statistics, ("mu", "sigma"), "get the file again")
        reference = gaussian_of_statistics(**published, width=real["train"].shape[1], source=statistics)

    compute = prepare(runtime.device, runtime.sampling_precision, runtime.threads)
    allow_tf32(False)  # metrics are compared to many digits
    network = load_fid_network(layout.model("fid_network"), compute)
    own, features = distributed.share(len(index)), list[dict[str, np.ndarray]]()
    with progress.bar(
        f"features of {variant}", sum(len(own) * len(images) for images, _ in drawn), "images"
    ) as advance:
        for images, _ in drawn:
            found = {}
            for name, whole in images.items():
                part = whole[own.start : own.stop]
                rows = extract_features(network.features, part, settings.batch_size, compute.device, advance)
                found[name] = distributed.gather_rows(torch.from_numpy(rows), len(index)).numpy()
            features.append(found)
    if not distributed.is_first():
        return {}

    sets = {name: [found[name] for found in features] for name in (variant, UNGUIDED)}
    fids = {name: Measured.of(frechet_influence(rows, reference) for rows in sets[name]) for name in sets}
    all_kids = {name: Measured.of(kid_influence(rows, real["train"]) for rows in sets[name]) for name in sets}
    fid, delta = fids[variant], fids[variant].minus(fids[UNGUIDED])
    kid_all, delta_kid = all_kids[variant], all_kids[variant].minus(all_kids[UNGUIDED])
    subsets = (settings.kid_subsets, settings.kid_subset_size, settings.seed)
    kids = {name: [kid(rows, of_real, *subsets) for rows in sets[variant]] for name, of_real in real.items()}
    shares = [precision_recall(r, real["train"], settings.neighborhood, device=compute.device) for r in sets[variant]]
    share_means = np.mean([[value for value, _ in each] for each in shares], axis=0)
    kid_means = [float(np.mean([value for value, _ in kids[name]])) for name in real]
    values = (fid.mean, *fid.interval(), delta.mean, *delta.interval(), *kid_means, *share_means.tolist())
    metrics = dict(zip(METRICS, values, strict=True))

    inputs = [place.guided(name) / "samples.npz" for place in places for name in drawn[0][0]]
    inputs += [real_path, *(layout.model("fid_network") / name for name in WEIGHT_FILES)]
    inputs += [place.discriminator(member) / "test_logits.npz" for place in places for member in chosen.members]
    inputs += [] if statistics is None else [layout.root / statistics]
    read = config.model_dump(mode="json", include={"guided", "sampler", "fid_network", "evaluation"})
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
        "kid_std": float(np.mean([deviation for _, deviation in kids["train"]])),
        "kid_holdout_std": float(np.mean([deviation for _, deviation in kids["holdout"]])),
        "kid_all": kid_all.mean,  # over all images, without subsets: the value that the intervals are of
        "kid_ci95": kid_all.interval(),
        "delta_kid": delta_kid.mean,
        "delta_kid_ci95": delta_kid.interval(),
        **({} if variant != UNGUIDED else _yardsticks(real, reference, guided.images, settings.seed)),
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
    write_npz(layout.influence(variant), influence=fid.influence, index=index)
    write_json(layout.evaluated(variant) / "details.json", details)
    write_json(layout.evaluation(variant), metrics)
    tracker.metrics(0, {f"discriminator_{name}": score for name, score in scores.items()})
    return metrics


def _yardsticks(real: Mapping[str, np.ndarray], reference: Gaussian, n: int, seed: int) -> dict[str, float]:
    """What to hold a distance against: n images of a perfect generator, and the held-out real images."""
    return {
        "floor": floor_distance(real["train"], n, FLOOR_DRAWS, seed),
        "holdout_fid": frechet_influence(real["holdout"], reference)[0],
        "holdout_fid_debiased": debiased_distance(real["holdout"], reference),
    }


def _samples(config: Config, layout: Layout, variant: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The images of the variant and of the unguided one, by name, and the sample indices that both must have."""
    paths = {name: layout.guided(name) / "samples.npz" for name in (variant, UNGUIDED)}
    read = {name: read_npz(path, ["images", "index"], "guided") for name, path in paths.items()}
    count, first = config.guided.images, config.guided.seed_start
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
    rule = RULES["mean_logit" if variant.rule == "shrunk_mean_logit" else variant.rule]
    combined = rule(logits, logits.new_tensor(simplex_weights(variant.weights, len(variant.members))))
    return classification_scores(combined.numpy(), read[0]["labels"])
