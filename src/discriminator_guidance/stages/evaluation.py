"""Stage `evaluation`: every number of Table 3 for one variant, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from discriminator_guidance.artifacts.closure import closure_digest
from discriminator_guidance.artifacts.feature_cache import cached_features
from discriminator_guidance.artifacts.files import fingerprint, read_npz, sha256, write_json
from discriminator_guidance.artifacts.weights import WEIGHT_FILES
from discriminator_guidance.errors import InputError
from discriminator_guidance.evaluation.classification import classification_scores
from discriminator_guidance.evaluation.distances import fid_torchmetrics, kid
from discriminator_guidance.evaluation.features import extract_features
from discriminator_guidance.evaluation.manifold import precision_recall
from discriminator_guidance.evaluation.significance import frechet_influence, interval, paired_interval
from discriminator_guidance.guidance.ensemble import RULES, simplex_weights
from discriminator_guidance.networks.precision import Compute
from discriminator_guidance.stages.context import Context, StageResult, prepare_compute
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_fid_network

if TYPE_CHECKING:
    from discriminator_guidance.config import Config, Variant

UNGUIDED = "edm"


def run(config: Config, context: Context, variant: str) -> StageResult:
    """Compare a variant's samples with the real pictures and with the unguided samples.

    Args:
        config: reads `runtime`, `evaluation`, `fid_network.name`, `sampler`, the range of `guided` and this variant.
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
    _refuse_unpaired(paths["samples"], paths["unguided"])
    weights = [layout.model("fid_network") / name for name in WEIGHT_FILES]
    inputs = [
        *paths.values(),
        *weights,
        *(layout.discriminator(m) / "test_logits.npz" for m in chosen.members),
    ]
    classified = _classification(layout, chosen)
    compute = prepare_compute(runtime.device, runtime.sampling_precision, runtime.threads)
    features = _features(layout, compute, weights, images, settings.batch_size, context)

    steps = ["fid", "intervals", "kid", "precision_recall"]
    with context.bar(f"evaluating {variant}", len(steps), "metrics") as advance:
        fid = fid_torchmetrics(features["samples"], features["real"])
        unguided = fid_torchmetrics(features["unguided"], features["real"])
        advance(1)
        influence = frechet_influence(features["samples"], features["real"])
        influence_of_unguided = frechet_influence(features["unguided"], features["real"])
        paired = paired_interval(fid - unguided, influence, influence_of_unguided)
        advance(1)
        kid_real = kid(
            features["samples"],
            features["real"],
            settings.kid_subsets,
            settings.kid_subset_size,
            settings.seed,
        )
        kid_holdout = kid(
            features["samples"],
            features["holdout"],
            settings.kid_subsets,
            settings.kid_subset_size,
            settings.seed,
        )
        advance(1)
        precision, recall = precision_recall(features["samples"], features["real"], settings.neighborhood)
        advance(1)

    told = {
        "evaluation": settings.model_dump(),
        "variant": chosen.model_dump(),
        "sampler": config.sampler.model_dump(),
        "range": [config.guided.images, config.guided.seed, config.guided.seed_start],
        "inputs": {str(path.relative_to(layout.root)): sha256(path) for path in inputs},
    }
    result: dict[str, Any] = {
        "variant": variant,
        "n": len(images["samples"]),
        "fid": fid,
        "fid_ci95": list(interval(fid, influence)),
        "delta_fid_vs_edm": fid - unguided,
        "delta_fid_ci95": list(paired),
        "kid": kid_real[0],
        "kid_std": kid_real[1],
        "kid_holdout": kid_holdout[0],
        "kid_holdout_std": kid_holdout[1],
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
        "reference_n": len(images["real"]),
        "holdout_n": len(images["holdout"]),
        "seed": config.guided.seed,
        "seed_start": config.guided.seed_start,
        "precision_mode": compute.mode,
        "params_hash": fingerprint(told),
    }
    path = layout.evaluation(variant)
    write_json(path, result)
    shown = ("fid", "fid_ci95", "delta_fid_vs_edm", "delta_fid_ci95", "precision", "recall")
    numbers = {key: float(value) for key, value in result.items() if type(value) is float}
    numbers |= {f"{key}_{end}": value for key in ("fid_ci95", "delta_fid_ci95") for end, value in _ends(result[key])}
    return StageResult(summary={key: result[key] for key in shown}, outputs=[path], artifacts=[path], metrics=numbers)


def _refuse_unpaired(samples: Path, unguided: Path) -> None:
    first, second = (read_npz(path, ["index"], "guided")["index"] for path in (samples, unguided))
    if not np.array_equal(first, second):
        raise InputError(
            f"the same sample indices in {samples} and {unguided}",
            f"{first[0]} .. {first[-1]} and {second[0]} .. {second[-1]}",
            "draw both with the same guided.images and guided.seed_start",
        )


def _ends(bounds: list[float]) -> list[tuple[str, float]]:
    return [("low", bounds[0]), ("high", bounds[1])]


def _features(
    layout: Layout,
    compute: Compute,
    weights: list[Path],
    images: dict[str, np.ndarray],
    batch_size: int,
    context: Context,
) -> dict[str, np.ndarray]:
    network = load_fid_network(layout, compute)
    # Everything that determines the features of a picture, the code included.
    identity = fingerprint(
        {
            "weights": [sha256(path) for path in weights],
            "code": closure_digest("stages.evaluation"),
            "torch": torch.__version__,
            "device": str(compute.device),
            "threads": torch.get_num_threads(),
            "batch": batch_size,
        }
    )

    def penultimate(pictures: Tensor) -> Tensor:
        # Full precision: metrics are compared to many digits, and this pass is cheap.
        with torch.no_grad():
            features: Tensor = network.features(pictures)
        return features

    def extract(pictures: np.ndarray) -> np.ndarray:
        with context.bar("extracting features", len(pictures), "images") as advance:
            return extract_features(penultimate, pictures, batch_size, compute.device, advance)

    return {
        name: cached_features(layout.feature_cache, identity, pictures, extract) for name, pictures in images.items()
    }


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
