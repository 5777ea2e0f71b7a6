"""From a YAML file to a checked profile, or to one line that says what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from discriminator_guidance.config.sections import Config, Section
from discriminator_guidance.config.tuned import TUNED, Tuned, with_tuned
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.redaction import redact

Kind = TypeVar("Kind", bound=Section)
PROFILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")  # it becomes a folder of data, models and reports
# What ruamel raises on well-formed text of which it can make no value: "!!int abc", 2001-99-99, a list in list in list.
# It asserts that the keys of an ordered map differ.
NO_VALUES = (ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


def load_config(profile: str, root: Path) -> Config:
    """Read and check a profile, with what studies chose for it.

    Args:
        profile: its name, the stem of a file in `configs/`.
        root: the project folder.

    Returns:
        The profile, with the members and variants of `configs/<profile>.tuned.yaml` where that file is there.

    Raises:
        ConfigError: no name of a profile, no such file, not YAML, or a key that is missing, unknown, of the wrong type
            or out of range.
    """
    path = root / "configs" / f"{profile}.yaml"
    shown = f"configs/{profile}.yaml"
    named = PROFILE.fullmatch(profile) is not None
    if not named or profile.endswith(TUNED) or not path.is_file():
        stems = [p.stem for p in (root / "configs").glob("*.yaml")]
        known = sorted(stem for stem in stems if not stem.endswith(TUNED))
        choice = f"choose one of: {', '.join(known) or 'none here'}"
        if not named:
            wanted = "a profile's name: at most 64 letters, digits, dots, dashes or underscores, no dot in front"
            raise ConfigError(wanted, _shown(profile), choice)
        raise ConfigError(f"a profile file {shown}", "no such file", choice)
    data, tuned = read_yaml(path, shown), load_tuned(profile, root)
    return parse_config(data if tuned is None else with_tuned(data, tuned, shown), shown)


def load_tuned(profile: str, root: Path) -> Tuned | None:
    """Read and check what studies chose for a profile.

    Args:
        profile: its name.
        root: the project folder.

    Returns:
        The contents of `configs/<profile>.tuned.yaml`; None where nothing was promoted.

    Raises:
        ConfigError: as for a profile.
    """
    shown = f"configs/{profile}{TUNED}.yaml"
    path = root / shown
    return parse(Tuned, read_yaml(path, shown), shown) if path.is_file() else None


def parse_config(data: object, shown: str) -> Config:
    """Check a profile that is already a mapping.

    Args:
        data: what the YAML file holds.
        shown: the file's name for messages.

    Returns:
        The profile.

    Raises:
        ConfigError: naming file, key, value and what is allowed.
    """
    return parse(Config, data, shown)


def parse(kind: type[Kind], data: object, shown: str) -> Kind:
    """Check a mapping against a section.

    Args:
        kind: which section.
        data: what the YAML file holds.
        shown: the file's name for messages.

    Returns:
        The section.

    Raises:
        ConfigError: naming file, key, value and what is allowed.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"sections in {shown}", type(data).__name__, "see configs/mini.yaml for a whole one")
    try:
        # Through JSON, so that strict mode takes lists for tuples and still refuses "2" for 2.
        text = json.dumps(data)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigError(f"plain values in {shown}", str(error), "use numbers, words, lists and maps") from error
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        raise _config_error(error, shown) from error


def read_yaml(path: Path, shown: str) -> object:
    """Read a YAML file.

    Args:
        path: the file.
        shown: its name for messages.

    Returns:
        What it holds, unchecked.

    Raises:
        ConfigError: not readable, not YAML, or with an alias, through which a few lines can stand for any number.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.composer import Composer, ComposerError
    from ruamel.yaml.error import YAMLError

    class WithoutAliases(Composer):
        def return_alias(self, a: Any) -> Any:
            raise ComposerError(None, None, "an alias, which is not taken", a.start_mark)

    # YAML 1.2, as DVC reads it: 1e-5 is a number there, in YAML 1.1 it is a string.
    reader = YAML(typ="safe", pure=True)
    reader.Composer = WithoutAliases
    try:
        return reader.load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        reason = redact(" ".join(str(error).split()))[:500]
        raise ConfigError(f"YAML in {shown}", reason, "mend the syntax at the place named") from error
    except OSError as error:
        raise ConfigError(f"a readable {shown}", str(error.strerror), "mend its permissions, or restore it") from error
    except NO_VALUES as error:
        reason = redact(" ".join(str(error).split()))[:200]
        raise ConfigError(
            f"values in {shown} that YAML can hold", reason, "use numbers, words, lists and maps, without tags"
        ) from error


# Pydantic names the branch of a union it took; a reader of the file knows no such key.
BRANCHES = {"score": 1, "extractor": 1, "fid_network": 1, "members": 2}  # places after the key that holds the union


def _key(location: tuple[int | str, ...]) -> str:
    parts = [str(part) for part in location if "[" not in str(part)]
    for holder, distance in BRANCHES.items():
        if holder in parts[:2] and len(parts) > (place := parts.index(holder) + distance):
            del parts[place]
    return ".".join(parts)


def _shown(value: object) -> str:
    text = redact(repr(value))
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _config_error(error: ValidationError, shown: str) -> ConfigError:
    errors: list[Any] = error.errors(include_url=False)
    # Of a union ("equal" or a list of weights) pydantic reports each branch; the last is about the list.
    branches = [e for e in errors if e["loc"][:4] == errors[0]["loc"][:4]]
    first = branches[-1] if "weights" in errors[0]["loc"] else errors[0]
    key = _key(first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return ConfigError(f"key {key} in {shown}", f"no such key{more}", "add it; configs/mini.yaml documents each")
    if first["type"] == "extra_forbidden":
        return ConfigError(
            f"known keys in {shown}", f"{key} = {_shown(first['input'])}{more}", "remove it or mend its spelling"
        )
    if first["type"] == "value_error":
        wrong, _, remedy = message.partition("; ")
        place = f"settings in {shown} that fit together" if not key else f"a valid {key} in {shown}"
        return ConfigError(place, f"{wrong}{more}", remedy or f"change {key}")
    if first["type"] == "union_tag_invalid":
        known = first["ctx"]["expected_tags"].replace("'", "")
        return ConfigError(f"{key}.source among {known} in {shown}", first["ctx"]["tag"] + more, "choose one of them")
    if first["type"] == "union_tag_not_found":
        return ConfigError(f"key {key}.source in {shown}", f"no such key{more}", "add it; see configs/mini.yaml")
    return ConfigError(f"a valid {key} in {shown}", f"{key} = {_shown(first['input'])}{more}", message)
