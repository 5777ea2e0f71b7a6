"""Command `fetch`: the files that a profile needs from others, loaded, checked, or described."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from discriminator_guidance.artifacts.downloads import Patience, fetch
from discriminator_guidance.artifacts.remote_files import PINS, RemoteFile, inspect, read_pins, write_pin
from discriminator_guidance.errors import ConfigError, InputError, OutputError, UserError

if TYPE_CHECKING:
    from discriminator_guidance.config import Config
    from discriminator_guidance.stages.context import Context, StageResult


def run(
    config: Config,
    context: Context,
    names: Sequence[str] = (),
    patience: Patience | None = None,
    *,
    local_http: bool = False,
) -> StageResult:
    """Load what is missing and check what is there, every file even if another one fails.

    Args:
        config: reads `fetch`.
        context: surroundings.
        names: which files; all if empty. Files that can only be got by hand are an error only if named.
        patience: how long to try.
        local_http: also accept plain http on 127.0.0.1 (for tests).

    Returns:
        What was done, by file.

    Raises:
        ConfigError: a name that the profile does not have.
        InputError: a file is wrong or could not be had; the others were still tried.
    """
    from discriminator_guidance.stages.context import StageResult

    root = context.layout.root
    chosen = _chosen(config, names)
    done: dict[str, str] = {}
    errors: list[UserError] = []
    lock = root / ".partial" / "fetch.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        # Two at once would write into the same unfinished file.
        with FileLock(lock, timeout=0):
            for file in chosen:
                if file.url is None and not names and not (root / file.path).exists():
                    done[file.name] = f"missing: {file.remedy}"
                    continue
                try:
                    done[file.name] = fetch(file, root, context.bar, patience, local_http=local_http).detail
                except (InputError, OutputError) as error:
                    errors.append(error)
    except Timeout as error:
        raise InputError("to be the only `dguide fetch`", "another one at work", "wait until it is done") from error
    if errors:
        first = errors[0]
        more = f" (and {len(errors) - 1} more files failed)" if errors[1:] else ""
        raise InputError(first.expected, f"{first.got}{more}", first.remedy)
    return StageResult(summary=dict(done), outputs=[root / f.path for f in chosen if (root / f.path).is_file()])


def listing(config: Config, root: Path, names: Sequence[str] = ()) -> tuple[list[dict[str, str]], list[str]]:
    """Say of each file whether it is here, and where a person finds it if not.

    Args:
        config: reads `fetch`.
        root: project folder.
        names: which files; all if empty.

    Returns:
        Rows with `file`, `state`, `MB`, `path`, `detail`; and a line of advice for each file that needs any.

    Raises:
        ConfigError: a name that the profile does not have.
    """
    pins = read_pins(root)
    rows, advice = [], []
    for file in _chosen(config, names):
        found = inspect(file, root, pins)
        size = found.pin.size if found.pin else file.size
        rows.append(
            {
                "file": file.name,
                "state": found.state,
                "MB": f"{size / 1e6:,.1f}" if size else "?",
                "path": str(file.path),
                "detail": found.detail,
            }
        )
        automatic = "`dguide fetch` loads it, or " if file.url else ""
        if found.state == "missing":
            advice.append(f"{file.name}: {automatic}{file.remedy}")
        if found.state == "wrong":
            advice.append(f"{file.name}: remove {file.path}; then {automatic}{file.remedy}")
        if found.state == "unverified":
            advice.append(f"{file.name}: its publisher gives no checksum; `dguide fetch` pins it as it is")
    return rows, advice


def check_used(config: Config, context: Context, paths: Collection[str]) -> None:
    """Compare files that a stage is about to read with what they should be; one that nothing tells of is pinned.

    Args:
        config: reads `fetch`.
        context: surroundings.
        paths: as the profile names them; those that are not of the registry, or not here, are left alone.

    Raises:
        InputError: a file is not the one that is published or was used before.
    """
    root = context.layout.root
    for file in _chosen(config, ()):
        if str(file.path) not in paths or not (root / file.path).is_file():
            continue
        found = inspect(file, root, read_pins(root))
        if found.state == "wrong":
            raise InputError(
                f"{file.name} at {file.path}", found.detail, "remove the file, then fetch it or put the right one there"
            )
        if found.state == "unverified" and found.pin is not None:
            write_pin(root, file.name, found.pin)
            context.notice(f"{file.name} is pinned in {PINS} at its first use: commit it")


def _chosen(config: Config, names: Sequence[str]) -> list[RemoteFile]:
    known = config.fetch.files
    for name in names:
        if name not in known:
            raise ConfigError("a file of fetch.files", repr(name), f"choose one of: {', '.join(known) or 'none here'}")
    return [
        RemoteFile(
            name=name,
            url=download.url,
            redirect_hosts=download.redirect_hosts,
            size=download.size,
            md5=download.md5,
            sha256=download.sha256,
            path=Path(download.path),
            by_hand=download.by_hand,
        )
        for name, download in known.items()
        if not names or name in names
    ]
