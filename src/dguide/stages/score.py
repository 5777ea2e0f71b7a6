"""Stage `score`: the EDM denoiser that is to be guided."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from dguide.settings import Config, Layout, plain, read_released, resumable
from dguide.stages.networks import network_training, save_network
from dguide.tracking import Tracker
from discriminator_guidance.checkpoints.edm_pickle import read_edm
from discriminator_guidance.core.files import load_network, read_npz, save_weights
from discriminator_guidance.core.noise import as_tensor, split_pairs
from discriminator_guidance.core.runtime import is_first, prepare, world_size
from discriminator_guidance.networks.edm import EDMPrecond
from discriminator_guidance.sampling.sampler import sample
from discriminator_guidance.training.score import finetune_score, holdout_loss, train_score

HELD_OUT = 2000  # images of which the loss is measured, evenly spread


def run(config: Config, layout: Layout, tracker: Tracker) -> dict[str, Any]:
    """Train the denoiser on the real images, or convert a released one."""
    settings, runtime, folder = config.score, config.runtime, layout.model("score")
    files = [layout.part("score"), layout.real / "holdout.npz", layout.part("discriminator")]
    real, holdout, others = (read_npz(file, ["images", "labels"], "real") for file in files)
    _, size, _, channels = real["images"].shape
    classes = 1 + max(int(part["labels"].max()) for part in (real, holdout, others)) if config.cond else 0
    compute = prepare(runtime.device, runtime.training_precision, runtime.threads)
    arguments = {"img_resolution": size, "img_channels": channels, "label_dim": classes}
    if settings.source == "edm":
        released, arguments = read_released(read_edm, layout.root, settings.path, "score.path", arguments)
        return {"source": settings.path, **save_network(layout, tracker, "score", released, arguments)}

    def tensors(part: dict[str, np.ndarray], rows: Any = slice(None)) -> tuple[Tensor, Tensor | None]:
        labels = torch.from_numpy(part["labels"][rows]).to(compute.device) if classes else None
        return as_tensor(part["images"][rows], compute.device), labels

    arguments |= {"sigma_data": settings.sigma_data, **plain(settings.network)}
    torch.manual_seed(settings.training.seed)
    network = EDMPrecond(**arguments).to(compute.device)
    with network_training(config, layout, tracker, "score", files[0], compute) as (work, report):
        trained = train_score(network, *tensors(real), settings, compute, work, report, settings.snapshots.values())
    denoiser = trained.network
    summary = save_network(layout, tracker, "score", denoiser, arguments, trained.history)
    states = {name: trained.snapshots[iterations] for name, iterations in settings.snapshots.items()}
    for name, tuning in settings.finetuned.items():
        fakes, shares = None, config.discriminator.split  # the rows that a discriminator of as many images is given
        rows = np.concatenate([*vars(split_pairs(len(others["labels"]), 0, shares, tuning.images)).values()])
        key = {**plain(settings), "cond": config.cond, "ranks": world_size(), "split": plain(shares)}
        checkpoints = resumable(layout, f"score/{name}", files, key, compute)
        if tuning.objective == "ddo":
            shape, out = (tuning.images, channels, size, size), checkpoints.folder / "fake.npz"
            if not out.is_file():
                drawer = compute.autocast()(denoiser)
                sample(drawer, shape, seed=tuning.seed, device=compute.device, out=out, progress=False)
            fakes = as_tensor(read_npz(out, ["images"], "score")["images"], compute.device)
        tuned = finetune_score(denoiser, *tensors(others, rows), settings, tuning, compute, fakes, checkpoints)
        states[name] = tuned.state_dict()
    for name, state in states.items() if is_first() else ():
        save_weights(folder / name, state, arguments)
    count = len(holdout["labels"])
    spread = np.linspace(0, count - 1, min(HELD_OUT, count)).round().astype(int)
    for name in ("", *settings.networks) if is_first() else ():
        saved = compute.place(load_network(EDMPrecond, folder / name, "score"))
        loss = holdout_loss(saved, *tensors(holdout, spread), settings, compute)
        summary["_".join(filter(None, ["holdout_loss", name]))] = loss
    return {**summary, "precision": compute.mode}
