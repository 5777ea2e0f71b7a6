"""Writing settings back: an activated profile with its dvc.lock, and the row that a study chose."""

import hashlib
import io
import json
import re
from itertools import takewhile
from pathlib import Path
from typing import Any

from dguide.settings import Layout
from dguide.settings.config import PARAMS, check, load_config, merged, parse, read
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.files import damage_refused, read_json, write_bytes

LOCK = "dvc.lock"
STAMP = "# As `dguide profile` wrote it; sha256 of what follows:"


def use_profile(root: Path, profile: str, force: bool = False) -> None:
    """Write a profile with its base as params.yaml, unless that has edits; each profile keeps its dvc.lock."""
    source, target = root / "configs" / f"{profile}.yaml", root / PARAMS
    known = sorted(path.stem for path in (root / "configs").glob("*.yaml")) or ["those in the project's folder"]
    if profile not in known:
        raise ConfigError(f"configs/ has no profile {profile!r}", f"choose one of: {', '.join(known)}")
    sources, text = merged(source), read(source).decode("utf-8-sig")
    if (name := check(sources).profile) != profile:
        raise ConfigError(f"profile in {source} is {name}", f"write {profile}")
    if len(sources) > 1:  # the keys and comments of the base, but for its first line, which is about itself
        header = takewhile(lambda line: line.startswith("#"), text.splitlines())
        text = "\n".join([*header, _dumped(sources[-1][0]).partition("\n")[2]])
    current = read(target) if target.exists() and not force else b""
    if current and not _as_written(current.decode(errors="replace")):
        raise ConfigError(f"{PARAMS} has edits", "save them in configs/, or add --force")
    lock, kept = root / LOCK, root / "reports" / profile / LOCK
    locked = lock.read_bytes() if lock.is_file() else b""
    owner = b"".join(re.findall(rb"outs:\n    - path: data/([^/\n]+)/real\n", locked)[:1]).decode()  # whose lock it is
    if owner not in ("", profile):
        write_bytes(root / "reports" / owner / LOCK, locked)
        lock.unlink()
    if owner != profile and kept.is_file():
        write_bytes(lock, kept.read_bytes())
    write_bytes(target, _stamped(text))
    write_bytes(root / "reports" / profile / "study" / ".gitkeep", b"")  # stage `report` depends on this folder


def promote_winner(root: Path, word: str) -> list[Path]:
    """Write the rows of a search's winner to params.yaml and its profile, if both are valid then; comments stay."""
    params, texts = root / PARAMS, dict[Path, bytes]()
    profile = load_config(params).profile
    with damage_refused("the search has no complete record", f"run `dguide study {word}` first"):
        rows = read_json(Layout(root, profile).study / f"{word}.json", f"study {word}")["rows"]
        for path in filter(Path.is_file, (params, root / "configs" / f"{profile}.yaml")):
            data = parse(read(path), path)
            for table, entries in rows.items():
                if table not in data:  # an overlay with its base's table
                    data[table] = (whole := merged(path)[-1][0])[table]
                    data.setdefault("report", {}).setdefault("describe", {}).update(whole["report"]["describe"])
                for name, row in entries.items():
                    alone = name in rows.get("members", {})
                    if table == "variants" and alone and name not in data[table].get(name, row).get("members", []):
                        raise ConfigError(f"{path} has another variant {name}", "give that another name, then promote")
                    data[table][name] = parse(json.dumps(row).encode(), path)  # JSON is YAML on one line
            text = _dumped(data)
            check(merged(path, text.encode()))
            texts[path] = _stamped(text) if _as_written(path.read_text(encoding="utf-8")) else text.encode()
        for path, content in reversed(texts.items()):  # params.yaml, which is in use, last
            write_bytes(path, content)
    return list(texts)


def _dumped(data: Any) -> str:
    from ruamel.yaml import YAML

    writer, stream, null = YAML(), io.StringIO(), "tag:yaml.org,2002:null"
    writer.width = 4096  # rows stay on their lines
    writer.representer.add_representer(type(None), lambda here, _: here.represent_scalar(null, "null"))
    writer.dump(data, stream)
    return stream.getvalue()


def _stamped(text: str) -> bytes:
    lines = [line for line in text.splitlines() if not line.startswith(STAMP)]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return "\n".join([f"{STAMP} {digest}", *lines, ""]).encode()


def _as_written(text: str) -> bool:
    """Whether nothing was changed since `dguide profile` wrote it, but perhaps the ends of lines."""
    return "\n".join([*text.splitlines(), ""]).encode() == _stamped(text)
