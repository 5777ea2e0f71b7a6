"""From a YAML file to checked settings, or to one line that says what is wrong and where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from discriminator_guidance.config.sections import Config
from discriminator_guidance.errors import ConfigError

PARAMS = Path("params.yaml")


def load_config(path: Path = PARAMS) -> Config:
    """Read and check a settings file; ConfigError names file, line, key, value and what is allowed."""
    data = read_yaml(path)
    try:
        # Through JSON, so that strict mode takes lists for tuples and still refuses "2" for 2.
        text = json.dumps(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"plain values in {path}", str(error), "use numbers, words, lists and maps") from error
    try:
        return Config.model_validate_json(text)
    except ValidationError as error:
        raise _explained(error, data, path) from error


def read_yaml(path: Path) -> Mapping[str, Any]:
    """Read a mapping from a YAML 1.2 file (as DVC does: 1e-5 is a number), without aliases or tags."""
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer, ComposerError
    from ruamel.yaml.error import YAMLError

    class WithoutAliases(Composer):  # through which a few lines can stand for any number of values
        def return_alias(self, a: Any) -> Any:
            raise ComposerError(None, None, "an alias, which is not allowed", a.start_mark)

    reader = YAML(pure=True)  # round trip: mappings know their lines
    reader.Composer = WithoutAliases
    reader.preserve_quotes = True
    try:
        data = reader.load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"settings in {path}", "no such file", "run `dguide profile mini`, or name a file") from error
    except OSError as error:
        raise ConfigError(f"a readable {path}", str(error.strerror), "check its permissions") from error
    except (YAMLError, ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError,
            ValueError) as error:  # fmt: skip
        # Of well-formed text that holds no value, such as 2001-99-99, ruamel raises nearly anything.
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"YAML in {path}", reason, "correct the syntax at the line named") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"sections in {path}", type(data).__name__, "configs/mini.yaml is a complete example")
    return data


def _explained(error: ValidationError, data: Mapping[str, Any], path: Path) -> ConfigError:
    errors: list[Any] = error.errors(include_url=False)
    # A misspelt key is also a missing one. Of a union ("equal" or a list of weights) the last branch is about the list.
    unknown = [e for e in errors if e["type"] == "extra_forbidden"]
    first = next(iter([*unknown, *(e for e in reversed(errors) if "weights" in e["loc"]), errors[0]]))
    where = _location(first["loc"], data)
    if first["type"].startswith("union_tag"):
        where.append("source")
    key, line = ".".join(where), _line(where, data)
    spot = f"{path}, line {line}" if line else str(path)
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    given = "a section" if isinstance(first["input"], Mapping) else repr(first["input"])[:200]
    if first["type"] == "missing":
        return ConfigError(f"key {key} in {spot}", f"no such key{more}", "add it; configs/mini.yaml documents each key")
    if first["type"] == "extra_forbidden":
        known = [e["loc"][-1] for e in errors if e["type"] == "missing" and e["loc"][:-1] == first["loc"][:-1]]
        near = get_close_matches(str(where[-1]), [*known, *_siblings(first["loc"], data)], n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]}?" if near else "remove it; configs/mini.yaml documents each key"
        return ConfigError(f"known keys in {spot}", f"{key} = {given}{more}", remedy)
    if first["type"] == "value_error":
        wrong, _, remedy = message.partition("; ")
        return ConfigError(
            f"a valid {key or 'combination of settings'} in {spot}", wrong + more, remedy or f"change {key}"
        )
    if first["type"].startswith("union_tag"):
        allowed = first["ctx"].get("expected_tags", "train and others").replace("'", "")
        given = repr(first["ctx"].get("tag"))
        return ConfigError(f"{key} among {allowed} in {spot}", given + more, "choose one of them")
    return ConfigError(f"a valid {key} in {spot}", f"{given}{more}", message[0].lower() + message[1:])


def _location(location: tuple[int | str, ...], data: Mapping[str, Any]) -> list[str]:
    """The keys of an error as the file has them: pydantic adds the names of union branches."""
    keys: list[str] = []
    here: Any = data
    for step, part in enumerate(location):
        last = step == len(location) - 1
        inside = (isinstance(here, Mapping) and part in here) or (isinstance(here, list) and isinstance(part, int))
        if inside or (last and not isinstance(part, int) and "[" not in part and isinstance(here, Mapping)):
            keys.append(str(part))
            here = here[part] if inside else {}
    return keys


def _siblings(location: tuple[int | str, ...], data: Mapping[str, Any]) -> list[str]:
    """The keys that the section of an unknown key may have."""
    model: Any = Config
    for part in location[:-1]:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            model = fields[part].annotation
        elif hasattr(model, "__args__"):  # dict[Name, Row], or a union that `part` chooses from
            model = model.__args__[-1]
    branches = getattr(model, "__args__", [model])
    return [name for branch in branches for name in getattr(branch, "model_fields", {})]


def _line(keys: list[str], data: Any) -> int | None:
    """The line of a key, from 1; None where the file has no such key."""
    line = None
    for key in keys:
        if not isinstance(data, Mapping) or key not in data:
            break
        line = data.lc.key(key)[0] + 1  # type: ignore[attr-defined]
        data = data[key]
    return line
