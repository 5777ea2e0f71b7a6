"""Command `release`: the networks of a profile in Hugging Face's layout, which `from_pretrained` reads."""

import json
from pathlib import Path
from typing import Any

from dguide.settings import Config, Layout, plain
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.files import load_weights, save_weights, write_bytes
from discriminator_guidance.metrics.features import INCEPTION

CARD = """---
library_name: discriminator-guidance
license: {license}
tags: [diffusion, discriminator-guidance]
---
# {profile}/{part}

A network for images of {size}x{size} pixels ({source}). `discriminator_guidance.from_pretrained` loads the folder
`{profile}`. Settings of this network:

```json
{settings}
```
"""


def run(config: Config, layout: Layout, folder: Path) -> list[dict[str, Any]]:
    """Write weights, config.json and README.md of each network but Inception, of the first replicate, to a folder."""
    first = layout.replicates(config.replicates)[0]
    parts = {word: (first.model(word), getattr(config, word)) for word in ("score", "extractor", "fid_network")}
    parts |= {f"discriminator/{name}": (first.discriminator(name), config.members[name]) for name in config.members}
    parts |= {f"score/{name}": (first.model("score") / name, config.score) for name in config.score.networks}
    own = all(member.start.startswith("models/") for member in config.members.values())
    free = own and config.trained.keys() >= {"score", "extractor"} and config.real.source in ("digits", "fashion")
    about = {"profile": config.profile, "source": config.real.source, "size": config.real.image_size}
    about |= {"license": "mit" if free else "other  # as the images and pretrained weights allow"}
    if old := {path.name for path in (folder / "discriminator").glob("[!.]*")} - config.members.keys():
        raise ConfigError(f"{folder} has discriminators of another release: {', '.join(old)}", "remove the folder")
    networks, rows = {part: load_weights(source, part.partition("/")[0]) for part, (source, _) in parts.items()}, []
    for part, (state, arguments) in networks.items():
        if arguments == INCEPTION:
            continue
        text = CARD.format(part=part, settings=json.dumps(plain(parts[part][1]), indent=2), **about)
        save_weights(folder / part, state, arguments)
        write_bytes(folder / part / "README.md", text.encode())
        rows.append({"folder": folder / part, "elements": sum(tensor.numel() for tensor in state.values())})
    return rows
