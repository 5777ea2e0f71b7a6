"""From a YAML file to checked settings, or to one line that says what is wrong and where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dguide.settings.sections import Config, Member, Variant
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.files import reason

PARAMS = Path("params.yaml")
# Keys that may be left out; sections need all of theirs.
OPTIONAL = {"members": [*Member.model_fields], "variants": [*Variant.model_fields], "study": ["warmup_epochs"]}


def load_config(path: Path = PARAMS) -> Config:
    """Read and check a settings file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"settings in {path}", "no such file", "run `dguide profile mini`, or name a file") from error
    return check(parse(content, path), path)


def parse(content: bytes, path: Path) -> Any:
    """The values in YAML 1.2 (as DVC reads it: 1e-5 is a number); mappings know their lines."""
    from ruamel.yaml import YAML

    reader = YAML(pure=True)
    reader.preserve_quotes = True
    try:
        return reader.load(content)
    except Exception as error:  # of well-formed text that holds no value, such as 2001-99-99, nearly any
        raise ConfigError(f"YAML in {path}", reason(error), "correct the syntax at the line named") from error


def check(data: Any, path: Path) -> Config:
    """The settings that `path` holds; ConfigError names file, line, key, value and what is allowed."""
    try:
        # Through JSON, so that strict mode takes lists for tuples and still refuses "2" for 2.
        return Config.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        raise _explained(error, data, path) from error
    except TypeError as error:
        raise ConfigError(f"plain keys in {path}", str(error), "use words") from error


def _explained(error: ValidationError, data: Any, path: Path) -> ConfigError:
    errors: list[Any] = error.errors(include_url=False)
    # A misspelt key is also a missing one. Of a union ("equal" or a list of weights) the last branch is about the list.
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    first = next(iter([*unknown, *(e for e in reversed(errors) if "weights" in e["loc"]), errors[0]]))
    kind, location = first["type"], first["loc"]
    given = "a section" if isinstance(first["input"], Mapping) else repr(first["input"])[:200]
    if kind.startswith("union_tag"):
        location, given = (*location, "source"), repr(first["ctx"].get("tag"))
    keys, line = _keys_and_line(location, data)
    if kind in ("missing", "extra_forbidden", "union_tag_not_found") and keys[-1:] != [str(location[-1])]:
        keys.append(str(location[-1]))
    key, spot = ".".join(keys) or "combination of settings", f"{path}, line {line}" if line else str(path)
    if kind == "missing":
        return ConfigError(f"key {key} in {spot}", "no such key", "add it; configs/mini.yaml documents each key")
    if kind == "extra_forbidden":
        missing = [e["loc"][-1] for e in errors if e["type"] == "missing" and e["loc"][:-1] == location[:-1]]
        near = get_close_matches(keys[-1], [*missing, *OPTIONAL.get(keys[0], [])], n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else "remove it; configs/mini.yaml documents each key"
        return ConfigError(f"known keys in {spot}", f"{key} = {given}", remedy)
    message = first["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        given, _, message = message.partition("; ")
    return ConfigError(f"a valid {key} in {spot}", given, message or f"change {key}")


def _keys_and_line(location: tuple[int | str, ...], data: Any) -> tuple[list[str], int | None]:
    """The keys of an error as the file has them, and the line of the last one, from 1."""
    keys, line = list[str](), None
    for part in location:
        with suppress(LookupError, TypeError):  # pydantic adds the names of union branches, which no file has
            inside = data[part]
            if isinstance(data, Mapping):
                line = data.lc.key(part)[0] + 1  # type: ignore[attr-defined]
            keys.append(str(part))
            data = inside
    return keys, line
