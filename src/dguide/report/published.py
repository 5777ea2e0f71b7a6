"""Published numbers beside ours: the reproduction's and the paper's (CIFAR-10, 50,000 samples, Inception features)."""

import json
from pathlib import Path
from typing import Any

DATA, IMAGES = "cifar10", 50_000
SAMPLER = (35, True, 2.0, 0.0)  # the reproduction's steps, boosting, w1, w2
_FOLDER = Path(__file__).parent / "templates"


def _read(name: str) -> dict[str, Any]:
    return dict(json.loads((_FOLDER / name).read_text(encoding="utf-8")))


# Tables 1 and 2 of the reproduction with the BCE at the last epoch of its logs (nats), and published results, by the
# key `published` of a member or variant; their precision and recall are the discriminator's classification scores.
TABLES = _read("published.json")
CURVES = _read("reproduction_curves.json")  # by member, loss and accuracy of training and validation, for each epoch
