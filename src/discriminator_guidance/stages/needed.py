"""The files of others that a profile names: whether they are here, before anything is computed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from discriminator_guidance.errors import InputError
from discriminator_guidance.stages.layout import Layout

if TYPE_CHECKING:
    from discriminator_guidance.config import Config

READS_A_FILE = ("cifar10", "images", "edm", "adm", "inception")  # sources that compute nothing worth hours
AFTERWARDS = ("evaluation", "report")  # what they need has been used by then, or they say so themselves


def missing_files(config: Config, layout: Layout, member: str | None = None) -> dict[str, str]:
    """The files that are still to be read and are not here.

    Args:
        config: a whole profile.
        layout: where files are.
        member: one that is to run; files of other released members are not asked for.

    Returns:
        Path by the setting that names it. A file whose stage has its result is not needed any more.
    """
    named: list[tuple[str, str | None, Path | None]] = [
        ("real.path", config.real.path, layout.real / "train.npz"),
        ("real.holdout_path", config.real.holdout_path, layout.real / "holdout.npz"),
        *(
            (f"{word}.path", getattr(getattr(config, word), "path", None), layout.model(word) / "model.safetensors")
            for word in ("score", "extractor", "fid_network")
        ),
        ("evaluation.reference_statistics", config.evaluation.reference_statistics, layout.evaluation("edm")),
    ]
    row = config.discriminator.members.get(member) if member else None
    if member and row is not None:
        made = layout.discriminator(member) / "model.safetensors"
        named.append((f"discriminator.members.{member}.path", getattr(row, "path", None), made))
    named += [
        ("discriminator.pretrained", config.discriminator.pretrained, layout.discriminator(name) / "model.safetensors")
        for name, row in config.discriminator.members.items()
        if not hasattr(row, "path") and (row.differs.init or config.discriminator.init) == "pretrained"
    ]
    return {
        key: path
        for key, path, made in named
        if path is not None and not (made and made.is_file()) and not (layout.root / Path(path).expanduser()).exists()
    }


def files_read(config: Config, word: str, member: str | None = None) -> list[str]:
    """The files of others that a stage reads itself; the archive of `real` is judged by its own reader.

    Args:
        config: a whole profile.
        word: the stage.
        member: of stage `discriminator`.

    Returns:
        Their paths, as the profile names them.
    """
    if word in ("score", "extractor", "fid_network"):
        named = [getattr(getattr(config, word), "path", None)]
    elif word == "evaluation":
        named = [config.evaluation.reference_statistics]
    elif word == "discriminator":
        named = [config.discriminator.pretrained, getattr(config.discriminator.members.get(str(member)), "path", None)]
    else:
        named = []
    return [path for path in named if path is not None]


def refuse_missing(config: Config, layout: Layout, word: str, members: Collection[str] = ()) -> None:
    """Stop before compute whose result could not be used for want of a file.

    Args:
        config: a whole profile.
        layout: where files are.
        word: the stage that is to run. One that only reads a file is stopped only for want of that file.
        members: that are to run, now or later; of the released ones the file is asked for.

    Raises:
        InputError: naming every file that is missing.
    """
    missing = missing_files(config, layout)
    for member in members:
        missing |= missing_files(config, layout, member)
    own = [key for key in missing if key.startswith(f"{word}.")]
    reads = getattr(getattr(config, word), "source", None) in READS_A_FILE
    if not missing or word in AFTERWARDS or (reads and not own):
        return
    told = ", ".join(f"{path} ({key})" for key, path in missing.items())
    offered = {file.path for file in config.fetch.files.values()}
    remedy = "put them there"
    if offered & set(missing.values()):
        fetch = f"dguide fetch --profile {layout.profile}"
        remedy = f"run `{fetch}`; `{fetch} --list` says where to put by hand what it cannot load"
    released = [key.split(".")[2] for key in missing if key.startswith("discriminator.members.")]
    others = [name for name in config.discriminator.members if name in members and name not in released]
    if released and others:
        remedy += f"; without {', '.join(released)}: `dvc exp run -S profile={layout.profile} "
        remedy += f"-S 'members=[{','.join(others)}]'`"
    raise InputError(f"the files that configs/{layout.profile}.yaml names", f"none at {told}", remedy)
