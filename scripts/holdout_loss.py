"""Write reports/<profile>/holdout_loss.json: held-out losses of the active profile's score networks, by replicate.

Stage `score` prints the same numbers, and MLflow has them; no stage writes them to a file.
"""

from pathlib import Path

import numpy as np
import torch

from dguide.settings import PARAMS, Layout, load_config
from dguide.stages.score import HELD_OUT
from discriminator_guidance.core.files import load_network, read_npz, write_json
from discriminator_guidance.core.noise import as_tensor
from discriminator_guidance.core.runtime import prepare
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.training.score import holdout_loss

config = load_config(Path(PARAMS))
layout, runtime = Layout(Path.cwd(), config.profile), config.runtime
compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
images, labels = read_npz(layout.real / "holdout.npz", ["images", "labels"], "real").values()
spread = np.linspace(0, len(images) - 1, min(HELD_OUT, len(images))).round().astype(int)
held_out = as_tensor(images[spread], compute.device)
classes = torch.from_numpy(labels[spread]).to(compute.device) if config.cond else None
losses: dict[str, list[float]] = {name or "final": [] for name in ("", *config.score.networks)}
for number, replicate in enumerate(layout.replicates(config.replicates)):
    for name in ("", *config.score.networks):
        network = compute.place(load_network(EDMPrecond, replicate.model("score") / name, "score"))
        losses[name or "final"].append(
            holdout_loss(network, held_out, classes, config.replicate(number).score, compute)
        )
write_json(layout.report / "holdout_loss.json", losses)
