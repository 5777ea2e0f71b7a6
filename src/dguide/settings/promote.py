"""Writing settings back: an activated profile, and the row that a study chose."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dguide.settings.load import PARAMS, check, load_config, parse
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.files import write_bytes


def use_profile(root: Path, profile: str, force: bool = False) -> None:
    """Copy configs/<profile>.yaml to params.yaml, unless that has edits which no profile has."""
    source, target = root / "configs" / f"{profile}.yaml", root / PARAMS
    known = sorted(path.stem for path in (root / "configs").glob("*.yaml"))
    if profile not in known:
        raise ConfigError("a profile of configs/", repr(profile), f"choose one of: {', '.join(known)}")
    if load_config(source).profile != profile:
        raise ConfigError(f"profile: {profile} in configs/{profile}.yaml", "another name", "correct it")
    current = target.read_bytes() if target.is_file() else b""
    saved = [(root / "configs" / f"{stem}.yaml").read_bytes() for stem in known]
    if current and current not in saved and not force:
        raise ConfigError(
            "params.yaml as one of configs/", "edits of its own", "save it as configs/<name>.yaml, or add --force"
        )
    write_bytes(target, source.read_bytes())
    # DVC's stage `report` depends on this folder, which studies fill.
    placeholder = root / "reports" / profile / "study" / ".gitkeep"
    if not placeholder.parent.is_dir():
        write_bytes(placeholder, b"")


def promote(root: Path, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[Path]:
    """Write rows, {"members": {name: row}, "variants": {name: row}}, to params.yaml and its profile's file in configs/.

    Comments and other rows stay as they are; nothing is written unless both files are valid with the new rows.
    """
    profile = load_config(root / PARAMS).profile
    texts: dict[Path, bytes] = {}
    for path in (root / PARAMS, root / "configs" / f"{profile}.yaml"):
        if path.is_file():
            texts[path] = _with_rows(path, rows)
            check(parse(texts[path], path), path)
    for path, text in texts.items():
        write_bytes(path, text)
    return list(texts)


def _with_rows(path: Path, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> bytes:
    from ruamel.yaml import YAML

    data = parse(path.read_bytes(), path)
    writer = YAML()
    for table, entries in rows.items():
        for name, row in entries.items():
            data[table][name] = writer.load(json.dumps(row))  # JSON is YAML on one line
    writer.width = 4096  # rows stay on their lines
    null = "tag:yaml.org,2002:null"
    writer.representer.add_representer(type(None), lambda here, _: here.represent_scalar(null, "null"))
    stream = io.BytesIO()
    writer.dump(data, stream)
    return stream.getvalue()
