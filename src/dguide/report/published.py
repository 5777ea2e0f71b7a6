"""Published numbers beside ours: the reproduction's and the paper's (CIFAR-10, 50,000 samples, Inception features)."""

import json
from pathlib import Path

from dguide.report.format import MISSING

DATA, IMAGES = "cifar10", 50_000

# Table 1 of the reproduction: how its guided samples were drawn.
SAMPLING = {
    "data": DATA,
    "image size": "32x32",
    "score network": "EDM, released weights",
    "feature network": "Inception",
    "samples (N)": "50,000",
    "batch size": "64",
    "steps (NFE)": "35 (69)",
    "sigma": "0.002 to 80, rho 7",
    "churn": "0",
}
GUIDANCE = {
    "discriminators": "D0",
    "w1": "2",
    "w2": "0",
    "guidance weight, (w1 + w2) / 2": "1",
    "time window": "[0.01, 1]",
    "boosting": "on",
    "probability clip": "[1e-5, 1 - 1e-5]",
}

# Table 2 of the reproduction, and the BCE at the last epoch of its logs (nats).
MEMBER_COLUMNS = ("epochs", "learning rate", "weight decay", "t_min", "batch", "train BCE", "validation BCE")
MEMBERS = {
    "d0": ("60", "3e-4", "1e-7", "1e-5", "64", "0.41", "1.38"),
    "d1": ("40", "0.001", "1e-7", "1e-5", "64", "0.41", "1.22"),
    "d2": ("40", "1e-4", "0", "0.01", "64", "0.53", "1.39"),
    "d3": ("40", "1e-4", "0.001", "0.001", "64", "0.54", "0.91"),
    "d4": ("40", "5e-5", "1e-9", "0.001", "64", "0.47", "1.31"),
    "d5": ("200", "1e-5", "1e-11", "1e-5", "64", "0.34", "2.13"),
}

# The reproduction's logs: by member, loss and accuracy of training and validation (_val), a value for each epoch.
CURVES = json.loads((Path(__file__).parent / "templates" / "reproduction_curves.json").read_text(encoding="utf-8"))

# By our variant of the same kind, without classes; precision and recall are the discriminator's classification scores.
RESULT_COLUMNS = (
    "published, cifar10, N = 50,000: row",
    "published, cifar10, N = 50,000: FID (reproduction)",
    "published, cifar10, N = 50,000: FID (paper)",
    "published, discriminator as classifier: precision",
    "published, discriminator as classifier: recall",
)
RESULTS = {
    "edm": ("EDM, 35 steps", "2.094", MISSING, MISSING, MISSING),
    "edm_paper": ("EDM, 18 steps", MISSING, "2.03 (best seed 1.97)", MISSING, MISSING),
    "authors": (
        "EDM-G++, the paper authors' discriminator, as the reproduction sampled",
        "1.880",
        MISSING,
        "0.500",
        "0.761",
    ),
    "authors_paper": ("EDM-G++, the authors' discriminator", MISSING, "1.77", MISSING, MISSING),
    "d0_table1": ("EDM-G++, the reproduction's D0", "2.084", MISSING, "0.525", "0.733"),
    "s_clip": (
        "ensemble D0-D5, as the reproduction's code computed it",
        "14.348 (17.930 in its repository)",
        MISSING,
        "0.417 (0.550 in its repository)",
        "0.680 (0.615 in its repository)",
    ),
}
SAME_KIND = {"r0_prob": "d0_table1", "r_clip": "s_clip", "d0_paper": "authors_paper"}  # rows of other heads
