"""Command `init`: a profile of somebody's own images, every size from their number and shape."""

import json
import re
from pathlib import Path

from dguide.settings.config import check, merged, read
from discriminator_guidance.core.errors import ConfigError, InputError
from discriminator_guidance.core.files import write_bytes
from discriminator_guidance.core.images import open_images, read_images

FEWEST = 100  # images: fewer are no reference for a distance
SMALLEST, LARGEST = 8, 32  # pixels, in multiples of 4: networks halve images twice


def write_profile(root: Path, source: Path, name: str | None) -> Path:
    """Read all images of a folder, a zip or an .npz file, and write configs/<name>.yaml for them."""
    name = name or re.sub(r"[^a-z0-9_-]+", "-", source.resolve().stem.lower()).strip("-")
    target, *emptied = root / "configs" / f"{name}.yaml", root / "data" / name, root / "models" / name
    if not re.fullmatch(r"[a-z0-9_][a-z0-9_-]*", name) or any(map(Path.exists, [target, *emptied])):
        raise ConfigError(f"NAME is {name!r}", "give one of a-z, 0-9, - and _ that configs/, data/ and models/ lack")
    read(root / "configs" / "mini.yaml")  # the base, before thousands of images
    side = open_images(source).shape[0]
    size = max(SMALLEST, min(LARGEST, side - side % 4))
    images = read_images(source, size)
    count, classes = len(images.labels), len(images.classes)
    if count < FEWEST:
        raise InputError(f"{source} has {count} images, too few for a distance", f"give {FEWEST} or more")
    about = f"# {count:,} images, {side}x{side} pixels, classes: {classes}, from which every size follows.\n"
    text = (about + overlay(name, json.dumps(str(source), ensure_ascii=False), count, classes, size)).encode()
    check(merged(target, text))
    write_bytes(target, text)
    return target


def overlay(name: str, path: str, count: int, classes: int, size: int) -> str:
    """Settings for so many images: one whole network as discriminator, and samples with and without it."""
    train = count - round(0.2 * count)
    fakes, samples = min(train, 10_000), min(max(train, 500), 5000)
    width, iterations = 32 if count > 5000 else 16, min(max(train // 4, 1000), 10_000)
    features, fewest = min(train // 8, 64), 50 if classes > 1 else 400  # one class is changed in 20 ways
    classifier_iterations = min(max(train // 5, fewest), 2000)
    tested = 0.1 if count > 500 else 0.2  # share of validation, and of test
    return f"""\
# configs/mini.yaml explains each key. `replicates: 5` makes intervals cover training seeds, at five times the cost.
base: mini
runtime: {{device: auto}}
real: {{source: images, path: {path}, holdout_path: {path},
       image_size: {size}, holdout_fraction: 0.2, seed: 0, note: null}}
score: {{network: {{model_channels: {width}, attn_resolutions: [{size // 4}]}}, training: {{iterations: {iterations}}}}}
# `whole` does not use the extractor; a member of kind head needs more iterations of it.
extractor: {{network: {{attention_resolutions: [{size // 4}]}}, training: {{iterations: 50}}}}
fid_network: {{name: {name} network, features: {features}, training: {{iterations: {classifier_iterations}}}}}
fake: {{images: {fakes}}}
discriminator: {{split: {{train: {1 - 2 * tested}, validation: {tested}, test: {tested}}}, grid_times_per_image: null,
  images: {fakes if fakes < train else "null"}, epochs: null, steps: 1000, patience: 5, checkpoint: best,
  optimizer: adamw, learning_rate: 1e-3, learning_rate_factor: 1.0, weight_decay: 0.01, ema_decay: 0.99,
  importance_sampling: 0.5, gain: 1.68}}
members: {{whole: {{kind: whole, start: models/{name}/extractor}}}}
guided: {{images: {samples}}}
variants:
  unguided: {{needs: score}}
  guided: {{needs: discriminator/whole, members: [whole], w1: 1.0, w2: 1.0}}
evaluation: {{baseline: unguided}}
report: {{primary: [guided, unguided], samples: [unguided, guided], log_ratios: [guided], sampling: [unguided, guided],
         describe: {{unguided: no guidance, guided: one discriminator (planned),
                    discriminator/whole: learns from your images}}}}
study: {{start: guided, discriminator: {{importance_sampling: [0.5, true, false]}},
        ensemble: {{rules: [mean_probability]}}, factorial: {{sets: {{fresh: [whole]}}}}}}
"""
