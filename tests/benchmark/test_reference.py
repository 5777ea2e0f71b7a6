"""The plain way of computing against the vectors that this project's networks and sampler are checked with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from discriminator_guidance.benchmark import reference
from discriminator_guidance.diffusion.noise_levels import karras_sigmas
from discriminator_guidance.networks.edm import EDMPrecond
from tests.golden import test_adm as adm
from tests.golden import test_edm as edm
from tests.golden import test_guidance as guidance
from tests.golden import test_sampler as sampler
from tests.golden.vectors import Vectors


def plain(vectors: Vectors, name: str = ""):
    return reference.as_published(vectors.network(name))


@pytest.mark.parametrize("path", edm.FILES, ids=lambda path: path.stem)
def test_denoisers(path: Path):
    vectors = Vectors(path)
    denoiser = plain(vectors)
    assert isinstance(denoiser, EDMPrecond)
    for name, value in edm.denoised(vectors, denoiser).items():
        vectors.check(f"out/{name}", value.detach())
    assert vectors.checked


@pytest.mark.parametrize("path", adm.FILES, ids=lambda path: path.stem)
def test_classifier_and_heads(path: Path):
    vectors = Vectors(path)
    networks = {name: plain(vectors, name) for name in vectors.meta["ctor_kwargs"]}
    for name, value in adm.forward_values(vectors, networks).items():
        if f"out/{name}" in vectors:
            vectors.check(f"out/{name}", value[: len(vectors[f"out/{name}"])].detach())
    assert vectors.checked


@pytest.mark.parametrize("path", guidance.SINGLE, ids=lambda path: path.stem)
def test_guidance_of_one_discriminator(path: Path):
    vectors = Vectors(path)
    networks = [plain(vectors, name) for name in ("classifier", "disc")]
    for name, changes in vectors.meta["runs"].items():
        run = {**vectors.meta["defaults"], **changes}
        sigma = vectors[f"in/{name}/sigma"]
        if run["cond"] or "sat" in run or run["img_resolution"] == 64:
            continue
        score, log_ratio = reference.guidance_term(networks[0], networks[1:], guidance.noisy(vectors, sigma), sigma)
        inside = vectors[f"out/{name}/log_ratio"] < guidance.OUTSIDE
        if inside.all():
            vectors.check(f"out/{name}/score", score)
            vectors.check(f"out/{name}/log_ratio", log_ratio)
    assert vectors.checked


def test_guidance_of_several_members_is_of_their_mean_probability():
    vectors = Vectors(guidance.ENSEMBLE[0])
    names, sigma = guidance.member_names(vectors), vectors["in/sigma"]
    heads = [reference.as_published(vectors.network(name, kind="disc")) for name in names]
    score, log_ratio = reference.guidance_term(
        plain(vectors, "classifier"), heads, guidance.noisy(vectors, sigma), sigma
    )
    run = next(name for name in guidance.ensemble_runs(vectors) if name.startswith("meanprob"))
    inside = vectors[f"out/{run}/log_ratio"] < guidance.OUTSIDE
    if inside.all():
        vectors.check(f"out/{run}/score", score)
        vectors.check(f"out/{run}/log_ratio", log_ratio)
    else:
        wanted = vectors[f"out/{run}/log_ratio"].double()[inside]
        torch.testing.assert_close(log_ratio[inside], wanted, atol=1e-5, rtol=1e-4)


def test_whole_runs_of_the_sampler():
    checked = 0
    for path in sampler.FILES:
        vectors = Vectors(path)
        networks = {name: plain(vectors, name) for name in ("edm", "classifier", "disc")}
        labels, schedule, meta = vectors.get("in/class_labels"), vectors.meta["schedule"], vectors.meta
        classes = None if labels is None else labels.argmax(dim=1)
        sigmas = karras_sigmas(
            schedule["num_steps"], schedule["sigma_min"], schedule["sigma_max"], schedule["rho"]
        ).tolist()

        def term(x, sigma, networks=networks, classes=classes):
            return reference.guidance_term(networks["classifier"], [networks["disc"]], x, sigma, classes)

        for name, run in meta["runs"].items():
            if set(run) <= {"w1", "w2"} and not run.get("w2") and f"out/{name}/x_final" in vectors:
                w1 = run.get("w1", 0.0)
                window = meta["time_min"], meta["time_max"]
                asked = term if w1 else None
                drawn = reference.sample(networks["edm"], asked, vectors["in/latents"], sigmas, window, w1, labels)
                vectors.check(f"out/{name}/x_final", drawn)
                checked += 1
    assert checked


def test_recomputation_gives_the_gradients_of_plain_backpropagation():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(3, 3).double(), torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    parameters = tuple(layer.parameters())
    recomputed = reference.Recomputed.apply(lambda v: layer(v).tanh(), x, *parameters)
    wanted = torch.autograd.grad(layer(x).tanh().square().sum(), (x, *parameters))
    for got, want in zip(torch.autograd.grad(recomputed.square().sum(), (x, *parameters)), wanted, strict=True):
        torch.testing.assert_close(got, want)
