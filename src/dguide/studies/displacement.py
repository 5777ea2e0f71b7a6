"""How far the clipped-logit rule moves samples, computed from logits and gradients with no fitted constant.

In u = x / (1 + sigma^2)^(1/2), with s = ln(1 + sigma^2) / 2, the rule pushes along the gradient g of the mean logit p
by du = w g / p ds where p is in (0, 1) and small, so that p dp = w |g|^2 ds. The noise in u has standard deviation 1,
and so |g| is the standard deviation of p over noise. With r = p / |g|, a sample moves by (r^2 + 2 w ds)^(1/2) - r
standard deviations: the size of the logits cancels. Where p is negative or above 1, the rule does nothing.
"""

import numpy as np
import torch

from dguide.settings import Config, Layout, Variant
from dguide.stages.guided import Networks, moved_logits
from discriminator_guidance.core.files import read_npz
from discriminator_guidance.core.images import as_tensor, scaled
from discriminator_guidance.core.noise import column, generator, karras_sigmas, marginal_mean, tau_from_sigma
from discriminator_guidance.core.settings import SamplerSettings
from discriminator_guidance.sampling.guidance import gradient
from discriminator_guidance.sampling.weights import delivered_weight

IMAGES = 200  # unguided samples whose logits are measured


def displacement(
    logits: np.ndarray, slopes: np.ndarray, spans: np.ndarray, weight: float, boosting: bool = False
) -> np.ndarray:
    """The displacement (N,) of samples in standard deviations, after T noise levels from the highest on.

    logits, slopes: p and |g| (T, N) of undisplaced samples. spans: ds (T,) to the next level. weight: w, what the
    sampler delivers. boosting: at even steps it doubles where p < 1/2, which the rule takes for fake.
    """
    moved = np.zeros(logits.shape[1])
    for step, (p, slope, ds) in enumerate(zip(logits, slopes, spans, strict=True)):
        ratio, now = p / slope + moved, p + slope * moved
        w = weight * np.where((now < 0.5) & boosting & (step % 2 == 0), 2.0, 1.0)
        moved = np.where((now > 0) & (now < 1), moved + np.sqrt(ratio**2 + 2 * w * ds) - ratio, moved)
    return moved


def variant_displacement(config: Config, layout: Layout, networks: Networks, variant: Variant) -> float:
    """The mean displacement of unguided samples by a variant of the clipped-logit rule."""
    device, members = networks.compute.device, networks.members
    assert members is not None, "only a rule of members moves samples"
    images = scaled(as_tensor(read_npz(layout.fake() / "samples.npz", ["images"], "fake")["images"][:IMAGES], device))
    levels = karras_sigmas(variant.steps, variant.sigma_min, variant.sigma_max, variant.rho)
    sigmas, s, window = levels[:-1], torch.log1p(levels**2) / 2, variant.window
    tau = tau_from_sigma(sigmas)
    inside = (window[0] <= tau) & (tau <= window[1])
    logit, parts = moved_logits(members, variant), list[tuple[np.ndarray, np.ndarray]]()
    draws = generator(config.guided.seed, "displacement", 0, 0).standard_normal(images.shape, dtype=np.float32)
    noise = torch.from_numpy(draws).to(device)  # one for all levels, as u hardly changes where noise is high
    for sigma in sigmas[inside].tolist():
        level = torch.full((len(images),), sigma, dtype=torch.float64, device=device)
        time = tau_from_sigma(level)
        x_vp = column(marginal_mean(time), images) * (images + sigma * noise)
        x_vp = x_vp.float().requires_grad_(True)
        with networks.compute.autocast():
            mean = logit(x_vp, time.float()).float().mean(dim=0)
        slope = gradient(mean, x_vp).flatten(1).norm(dim=1)
        parts.append((mean.detach().cpu().numpy(), slope.cpu().numpy()))
    logits, slopes = (np.stack(values) for values in zip(*parts, strict=True))
    weight, spans = delivered_weight(window, **vars(SamplerSettings.of(variant))), (s[:-1] - s[1:])[inside].numpy()
    return float(displacement(logits, slopes, spans, weight, variant.boosting).mean())
