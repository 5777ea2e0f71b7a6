"""The winner of a study, from the record that it left, as rows of the profile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from discriminator_guidance.artifacts.files import read_json
from discriminator_guidance.config import Part, load_config, promote
from discriminator_guidance.errors import InputError
from discriminator_guidance.provenance import provenance
from discriminator_guidance.stages.layout import Layout


def promote_winner(root: Path, profile: str, part: Part) -> Path:
    """Write the winner of a study where the pipeline finds it.

    Args:
        root: the project folder.
        profile: its name.
        part: which study.

    Returns:
        The profile's tuned file.

    Raises:
        InputError: the study was not run.
        ConfigError: its winner does not fit the profile.
    """
    load_config(profile, root)
    path = Layout(root, profile).study_reports / f"{part}.json"
    if not path.is_file():
        raise InputError(
            f"the record of a study, {path.relative_to(root)}",
            "no such file",
            f"run `dguide study {part} --profile {profile} --trials N` first",
        )
    record = read_json(path, f"study {part}")
    try:
        return promote(root, profile, part, *_WINNERS[part](record, _commit(root)))
    except KeyError as error:
        raise InputError(f"key {error} in {path.relative_to(root)}", "no such key", "run the study again") from error


def _discriminator(record: Mapping[str, Any], commit: str) -> tuple[dict[str, Any], dict[str, Any]]:
    winner, guidance = record["winner"], record["guidance"]
    judged = {finalist["grid"]: finalist["fid"] for finalist in record["finalists"]}
    variant = {"members": ["tuned"], "rule": "mean_probability", "weights": "equal", **guidance}
    seen = _seen("discriminator", record, winner["trial"], winner["fid"], judged.get("D0"))
    values = {"objective": winner["objective"], "fid": winner["fid"], "gflop": winner["gflop"]}
    told = _provenance("discriminator", record, winner["trial"], winner["params"], values, commit)
    return {"member": winner["member"], "variant": variant | {"tuning": seen}}, told


def _ensemble(record: Mapping[str, Any], commit: str) -> tuple[dict[str, Any], dict[str, Any]]:
    best = record["best"]
    seen = _seen("ensemble", record, best["trial"], best["value"], record["plain_mean"])
    told = _provenance("ensemble", record, best["trial"], best["params"], {"fid": best["value"]}, commit)
    return {"variant": best["variant"] | {"tuning": seen}}, told


_WINNERS = {"discriminator": _discriminator, "ensemble": _ensemble}


def _seen(study: str, record: Mapping[str, Any], trial: int, fid: float, start_fid: float | None) -> dict[str, Any]:
    """What the study saw in its winner, and in what it began with, on the tuning samples."""
    seen = {"study": study, "trial": trial, "fid": fid, "images": record["tuning"]["images"]}
    return seen if start_fid is None else seen | {"start_fid": start_fid}


def _provenance(
    study: str,
    record: Mapping[str, Any],
    trial: int,
    parameters: Mapping[str, Any],
    values: Mapping[str, float],
    commit: str,
) -> dict[str, Any]:
    return {
        "study": study,
        "trial": trial,
        "seed": record["seed"],
        "parameters": dict(parameters),
        "values": dict(values),
        "commit": commit,
    }


def _commit(root: Path) -> str:
    state = provenance(root)
    changed = ", with uncommitted changes" if state.get("git.dirty") == "true" else ""
    return state.get("git.commit", "not a git checkout") + changed
