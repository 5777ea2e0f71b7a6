"""Writing what a study chose where the pipeline finds it: a profile's tuned file and its lists of rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.claims import alone
from discriminator_guidance.artifacts.files import write_bytes
from discriminator_guidance.config.loading import load_config, load_tuned, parse, parse_config, read_yaml
from discriminator_guidance.config.rows import PARAMS, active_profile, rows_file
from discriminator_guidance.config.tuned import (
    TUNED,
    TUNED_ENSEMBLE,
    TUNED_MEMBER,
    Part,
    Tuned,
    with_tuned,
)
from discriminator_guidance.errors import ConfigError

HEADER = """\
# What studies chose for profile `{profile}`: written by `dguide study promote`, to be committed. Added to the profile's
# members and variants; `provenance` names study, trial, seed, parameters, values and commit.
"""


def promote(root: Path, profile: str, part: Part, chosen: Mapping[str, Any], provenance: Mapping[str, Any]) -> Path:
    """Write the winner of a study to `configs/<profile>.tuned.yaml` and the profile's lists of rows; twice is as once.

    Args:
        root: the project folder.
        profile: its name.
        part: which study it won.
        chosen: "member" (part discriminator) and "variant", rows as they stand in a profile.
        provenance: study, trial, seed, parameters, values, commit.

    Returns:
        The tuned file; the other part's rows in it are kept.

    Raises:
        ConfigError: the rows do not fit the profile; nothing has been written then.
    """
    # The tuned file has the rows of both parts, and params.yaml those of whatever profile is active.
    with alone(root / ".partial" / "promotion.lock"):
        return _promote(root, profile, part, chosen, provenance)


def _promote(root: Path, profile: str, part: Part, chosen: Mapping[str, Any], provenance: Mapping[str, Any]) -> Path:
    shown, whole = f"configs/{profile}{TUNED}.yaml", f"configs/{profile}.yaml"
    load_config(profile, root)
    before = load_tuned(profile, root)
    content: dict[str, Any] = (
        {"provenance": {}, "discriminator": {"members": {}}, "guided": {"variants": {}}}
        if before is None
        else before.model_dump(mode="json", exclude_none=True)
    )
    content["provenance"][part] = dict(provenance)
    if part == "discriminator":
        content["discriminator"]["members"][TUNED_MEMBER] = dict(chosen["member"])
    content["guided"]["variants"][TUNED_MEMBER if part == "discriminator" else TUNED_ENSEMBLE] = dict(chosen["variant"])
    tuned = parse(Tuned, content, shown)
    parse_config(with_tuned(read_yaml(root / whole, whole), tuned, whole), f"{whole} with {shown}")

    key, name = ("tuned_members", TUNED_MEMBER) if part == "discriminator" else ("tuned_ensembles", TUNED_ENSEMBLE)
    listed = _listed(root, profile, key, name)
    path = root / shown
    write_bytes(
        path, (HEADER.format(profile=profile) + _yaml(tuned.model_dump(mode="json", exclude_none=True))).encode()
    )
    for file, text in listed.items():
        write_bytes(file, text.encode())
    return path


def _listed(root: Path, profile: str, key: str, name: str) -> dict[Path, str]:
    """New texts of the profile's rows file and, if it is of this profile, of params.yaml."""
    shown = [rows_file(profile)] if (root / rows_file(profile)).is_file() else []
    if active_profile(root) == profile:
        shown.append(PARAMS)
    if not shown:
        raise ConfigError(
            f"the rows of profile {profile} in {rows_file(profile)}", "no such file", f"write it as {rows_file('mini')}"
        )
    texts = {root / file: _with_name(root, file, key, name) for file in shown}
    return {path: text for path, text in texts.items() if text is not None}


def _with_name(root: Path, shown: str, key: str, name: str) -> str | None:
    """The text of a file with a name added to a list, comments kept; None where it is in it already."""
    from ruamel.yaml import YAML

    writer = YAML()
    writer.indent(mapping=2, sequence=2, offset=0)  # as `dvc exp run` composes params.yaml
    read_yaml(root / shown, shown)
    rows = writer.load((root / shown).read_text(encoding="utf-8"))
    if not isinstance(rows, dict) or not isinstance(rows.get(key), list):
        raise ConfigError(f"a list {key} in {shown}", "no such list", f"add `{key}: []`")
    if name in rows[key]:
        return None
    rows[key].append(name)
    rows[key].fa.set_block_style()
    stream = io.StringIO()
    writer.dump(rows, stream)
    return stream.getvalue()


def _yaml(content: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    writer = YAML(typ="safe", pure=True)
    writer.default_flow_style = None  # innermost maps and lists on one line, as in the profiles
    writer.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    writer.width = 120
    stream = io.StringIO()
    writer.dump(dict(content), stream)
    return stream.getvalue()
