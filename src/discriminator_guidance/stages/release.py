"""Command `release`: the networks of a profile in Hugging Face's layout, which `from_pretrained` reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from discriminator_guidance.checkpoints.weights import load_weights
from discriminator_guidance.data.files import write_bytes, write_json
from discriminator_guidance.stages.networks import INCEPTION

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.layout import Layout

KINDS = {
    "score": "An EDM denoiser D(x; sigma) of images in [-1, 1] (Karras et al. 2022)",
    "extractor": "A classifier of noisy images, whose features feed the discriminators (Dhariwal & Nichol 2021)",
    "fid_network": "A classifier of clean images, whose features define this profile's own Frechet distance",
    "discriminator": "A discriminator head on the extractor's features (Kim et al. 2023)",
}
CARD = """---
library_name: discriminator-guidance
license: {license}
tags: [diffusion, discriminator-guidance]
---
# {profile}/{part}

{kind}.
`model.safetensors` holds the weights, `config.json` the arguments of the network.

```python
from discriminator_guidance import from_pretrained, sample, to_uint8
models = from_pretrained("{profile}")
images = to_uint8(sample(models.denoiser, (16, *models.shape), guidance=models.guidance("{member}")))
```

Data: {data}. Settings of the training:

```json
{settings}
```
"""


def run(config: Config, layout: Layout, folder: Path) -> list[dict[str, Any]]:
    """Write model.safetensors, config.json and README.md of each network into folder/<part>; rows of what they hold.

    Of several training replicates the first is taken. Inception is left out.
    """
    first = layout.replicates(config.replicates)[0]
    parts = {word: (first.model(word), getattr(config, word)) for word in ("score", "extractor", "fid_network")}
    parts |= {f"discriminator/{name}": (first.discriminator(name), config.member(name)) for name in config.members}
    rows = []
    for part, (source, settings) in parts.items():
        word = part.partition("/")[0]
        state, arguments = load_weights(source, word)
        if arguments == INCEPTION:
            continue
        card = CARD.format(
            license="mit" if _trained_here(config) else "other  # that of the pretrained weights it is made of",
            profile=config.profile,
            part=part,
            kind=KINDS[word],
            member=next(iter(config.members)),
            data=f"{config.real.source}, {config.real.image_size}x{config.real.image_size}",
            settings=json.dumps(settings.model_dump(mode="json"), indent=2),
        )
        write_bytes(folder / part / "model.safetensors", (source / "model.safetensors").read_bytes())
        write_json(folder / part / "config.json", arguments)
        write_bytes(folder / part / "README.md", card.encode())
        rows.append({"folder": folder / part, "elements": sum(tensor.numel() for tensor in state.values())})
    return rows


def _trained_here(config: Config) -> bool:
    """Whether no network of the profile was made from a released file."""
    sources = {config.score.source, config.extractor.source}
    return sources == {"train"} and all(member.start.startswith("models/") for member in config.members.values())
