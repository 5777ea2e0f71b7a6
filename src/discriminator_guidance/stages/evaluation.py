"""Stage `evaluation`: every number of Table 3 for one variant, with intervals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from discriminator_guidance.artifacts.files import fingerprint, read_npz, sha256, write_json, write_npz
from discriminator_guidance.artifacts.reference_statistics import read_statistics
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.classification import classification_scores
from discriminator_guidance.evaluation.distances import kid
from discriminator_guidance.evaluation.inception import INCEPTION_FEATURES
from discriminator_guidance.evaluation.manifold import BLOCK, precision_recall
from discriminator_guidance.evaluation.reference import Reference, reference_of_features, reference_of_statistics
from discriminator_guidance.evaluation.significance import (
    influence_on,
    interval,
    paired_difference,
    ranges_interval,
)
from discriminator_guidance.guidance.ensemble import RULES, simplex_weights
from discriminator_guidance.networks.memory import BatchSize
from discriminator_guidance.stages.context import Context, StageResult, prepare_compute
from discriminator_guidance.stages.features import picture_features, real_radii
from discriminator_guidance.stages.halved import halved_record
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.noted import noted

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant

UNGUIDED = "edm"


def run(config: Config, context: Context, variant: str) -> StageResult:
    """Compare a variant's samples with the real pictures and with the unguided samples.

    The Frechet distance is that of each range of samples, and their mean. Kernel distances, precision and recall are
    those of the first range. Published reference statistics replace the real features in the Frechet distance alone:
    the others need single features.

    Args:
        config: reads `runtime`, `evaluation`, `fid_network`, `sampler`, the ranges of `guided` and this variant.
        context: surroundings.
        variant: its name.

    Returns:
        The Frechet distance, its interval, and the paired difference to the unguided samples.
    """
    settings, runtime, chosen = config.evaluation, config.runtime, config.guided.variants[variant]
    layout = context.layout
    paths = {
        "samples": layout.guided(variant) / "samples.npz",
        "unguided": layout.guided(UNGUIDED) / "samples.npz",
        "real": layout.real / "train.npz",
        "holdout": layout.real / "holdout.npz",
    }
    images = {
        name: read_npz(path, ["images"], "real" if name in ("real", "holdout") else "guided")["images"]
        for name, path in paths.items()
    }
    ranges, index = config.guided.ranges, _paired_index(paths["samples"], paths["unguided"])
    if not len(images["samples"]) == len(images["unguided"]) == len(index):
        raise InputError(
            f"a picture for each of {len(index)} sample indices",
            f"{len(images['samples'])} of {variant} and {len(images['unguided'])} without guidance",
            "run stage guided again",
        )
    if len(index) != ranges * config.guided.images:
        raise InputError(
            f"{ranges} x {config.guided.images} samples in {paths['samples']}",
            str(len(index)),
            "run stage guided again",
        )
    inputs = [
        *paths.values(),
        *(layout.model("fid_network") / name for name in WEIGHT_FILES),
        *(layout.discriminator(m) / "test_logits.npz" for m in chosen.members),
    ]
    published, statistics = None, settings.reference_statistics
    if statistics is not None:
        source = layout.root / Path(statistics).expanduser()
        published = reference_of_statistics(*read_statistics(source), _width(config), statistics)
        inputs.append(source)
    classified = _classification(layout, chosen)
    compute = prepare_compute(runtime.device, runtime.sampling_precision, runtime.threads)
    at_once = BatchSize(settings.batch_size, context.notice)
    features = picture_features(context, compute, images, at_once)
    samples, unguided = (_by_range(features[name], ranges) for name in ("samples", "unguided"))
    first, real = samples[0], features["real"]
    blocks = BatchSize(BLOCK, context.notice)
    radii = real_radii(context, compute, real, settings.neighborhood, blocks)
    reference = published or reference_of_features(real)

    with context.bar(f"evaluating {variant}", 2 * ranges + 3, "metrics") as advance:
        distances, influence = _distances(samples, reference, advance)
        distances_of_unguided, influence_of_unguided = _distances(unguided, reference, advance)
        delta, delta_bounds = paired_difference(distances, influence, distances_of_unguided, influence_of_unguided)
        kernel = {}
        for name, pictures in (("kid", real), ("kid_holdout", features["holdout"])):
            kernel[name], kernel[f"{name}_std"] = kid(
                first, pictures, settings.kid_subsets, settings.kid_subset_size, settings.seed
            )
            advance(1)
        precision, recall = blocks.attempt(
            lambda size: precision_recall(first, real, settings.neighborhood, size, radii, compute.device)
        )
        advance(1)

    told = {
        "evaluation": settings.model_dump(),
        "variant": chosen.model_dump(),
        "sampler": config.sampler.model_dump(),
        "range": [config.guided.images, ranges, config.guided.seed, config.guided.seed_start],
        "inputs": {_name(path, layout.root): sha256(path) for path in inputs},
    }
    fid = float(np.mean(distances))
    scatter = ranges_interval(distances)
    result: dict[str, Any] = {
        "variant": variant,
        "n": config.guided.images,
        "ranges": ranges,
        "fid": fid,
        "fid_ci95": list(interval(fid, influence)),
        "fid_ranges": distances,
        "fid_ranges_mean": fid,
        "fid_ranges_ci95": None if scatter is None else list(scatter),
        "delta_fid_vs_edm": delta,
        "delta_fid_ci95": list(delta_bounds),
        **kernel,
        "precision": precision,
        "recall": recall,
        **classified,
        "members": list(chosen.members),
        "rule": chosen.rule if chosen.members else None,
        "w1": chosen.w1,
        "w2": chosen.w2,
        "boosting": chosen.boosting,
        "steps": config.sampler.steps,
        "fid_network": config.fid_network.name,
        "reference_statistics": statistics,
        "reference_n": len(images["real"]),
        "holdout_n": len(images["holdout"]),
        "seed": config.guided.seed,
        "seed_start": config.guided.seed_start,
        "precision_mode": compute.mode,
        **compute.record(),
        **at_once.record(),
        **blocks.record("halved_blocks"),
        **halved_record(paths["samples"], "guided"),
        "params_hash": fingerprint(told),
        **noted(config),
    }
    path, pulls = layout.evaluation(variant), layout.influence(variant)
    shape = (ranges, -1) if ranges > 1 else (-1,)
    write_npz(pulls, influence=influence.reshape(shape), index=index.reshape(shape))
    write_json(path, result)
    shown = ("fid", "fid_ci95", "delta_fid_vs_edm", "delta_fid_ci95", "precision", "recall")
    numbers = {key: float(value) for key, value in result.items() if type(value) is float}
    numbers |= {f"{key}_{end}": value for key in ("fid_ci95", "delta_fid_ci95") for end, value in _ends(result[key])}
    return StageResult(
        summary={**{key: result[key] for key in shown}, "batch_size": at_once.size, **compute.record()},
        outputs=[path, pulls],
        artifacts=[path],
        metrics=numbers,
    )


def _width(config: Config) -> int:
    return INCEPTION_FEATURES if config.fid_network.source == "inception" else config.fid_network.features


def _name(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def _paired_index(samples: Path, unguided: Path) -> np.ndarray:
    first, second = (read_npz(path, ["index"], "guided")["index"] for path in (samples, unguided))
    if not np.array_equal(first, second):
        raise InputError(
            f"the same sample indices in {samples} and {unguided}",
            f"{first[0]} .. {first[-1]} and {second[0]} .. {second[-1]}",
            "draw both with the same guided.images and guided.seed_start",
        )
    return first


def _by_range(features: np.ndarray, ranges: int) -> np.ndarray:
    return features.reshape(ranges, -1, features.shape[1])


def _distances(
    sets: np.ndarray, reference: Reference, advance: Callable[[int], None]
) -> tuple[list[float], np.ndarray]:
    """Of each range: its Frechet distance and, (ranges, n), the influence of its samples."""
    distances, influence = [], []
    for features in sets:
        distances.append(reference.distance(features))
        influence.append(influence_on(features, reference.mean, reference.root))
        advance(1)
    return distances, np.stack(influence)


def _ends(bounds: list[float]) -> list[tuple[str, float]]:
    return [("low", bounds[0]), ("high", bounds[1])]


def _classification(layout: Layout, variant: Variant) -> dict[str, float | None]:
    """Scores of the variant's (combined) discriminator on the fixed test split of real and unguided fakes."""
    names = ("precision", "recall", "accuracy", "auroc")
    if not variant.members:
        return {f"discriminator_{name}": None for name in names}
    read = [
        read_npz(layout.discriminator(member) / "test_logits.npz", ["logits", "labels"], "discriminator")
        for member in variant.members
    ]
    logits = torch.from_numpy(np.stack([member["logits"] for member in read])).double()
    weights = logits.new_tensor(simplex_weights(variant.weights, len(variant.members)))
    log_ratio = RULES[variant.rule](logits, weights).numpy()
    scores = classification_scores(log_ratio, read[0]["labels"])
    return {f"discriminator_{name}": getattr(scores, name) for name in names}
