"""Command `fetch`, on the entries of docs/downloads.md and against a local server."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from ruamel.yaml import YAML

from discriminator_guidance.artifacts.downloads import Patience
from discriminator_guidance.artifacts.remote_files import PINS, read_pins
from discriminator_guidance.config import Config, Download, Fetch, parse_config
from discriminator_guidance.errors import ConfigError, InputError
from discriminator_guidance.stages import fetch

from ..publisher import Publisher, publishing
from .conftest import PROJECT, Study, tiny_settings

CONTENT = b"\x80\x04" + bytes(range(256)) * 20
PATIENT = Patience(attempts=2, stall_s=5.0, sleep=lambda _: None)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    with publishing() as server:
        yield server


def documented() -> dict[str, Any]:
    """The registry that docs/downloads.md gives for CIFAR-10."""
    text = (PROJECT / "docs" / "downloads.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    data: dict[str, Any] = YAML(typ="safe", pure=True).load(block)
    return data


def settings_with(files: dict[str, Download]) -> Config:
    """Entries that may name the local server, which a profile must not."""
    config = parse_config(tiny_settings(), "configs/tiny.yaml")
    return config.model_copy(update={"fetch": Fetch.model_construct(files=files)})


def download(publisher: Publisher, name: str, **changes: Any) -> Download:
    given = {
        "url": f"{publisher.url}/{name}",
        "redirect_hosts": (),
        "size": len(CONTENT),
        "md5": None,
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        "path": f"data/downloads/{name}",
        "by_hand": "from its page",
    }
    return Download.model_construct(**(given | changes))


WRONG = {"a": {}, "private": {"url": None}}


def run(config: Config, root: Path, *names: str) -> dict[str, Any]:
    return fetch.run(config, Study(root).context, names, PATIENT, local_http=True).summary


def states(config: Config, root: Path) -> dict[str, str]:
    rows, _ = fetch.listing(config, root)
    return {row["file"]: row["state"] for row in rows}


def test_list_and_fetch_agree(publisher, tmp_path):
    files = {
        "checked": download(publisher, "checked"),
        "plain": download(publisher, "plain", size=None, sha256=None),
        "private": download(publisher, "private", url=None),
    }
    config = settings_with(files)
    publisher.script = [publisher.whole(CONTENT)]
    assert states(config, tmp_path) == dict.fromkeys(files, "missing")
    _, advice = fetch.listing(config, tmp_path)
    assert [line.startswith(f"{name}: ") for name, line in zip(files, advice, strict=True)] == [True] * 3
    assert ["dguide fetch" in line for line in advice] == [True, True, False]
    assert "put the file at data/downloads/private by hand (from its page)" in advice[2]
    assert publisher.asked == []

    summary = run(config, tmp_path)
    assert summary["checked"] == "loaded"
    assert summary["plain"].startswith("loaded, pinned")
    assert summary["private"].startswith("missing: put the file")
    assert states(config, tmp_path) == {"checked": "verified", "plain": "verified", "private": "missing"}

    (tmp_path / PINS).unlink()
    (tmp_path / "data/downloads/checked").write_bytes(CONTENT[:-1])
    assert states(config, tmp_path) == {"checked": "wrong", "plain": "unverified", "private": "missing"}


def test_only_the_named_files(publisher, tmp_path):
    config = settings_with({name: download(publisher, name) for name in ("a", "b")})
    publisher.script = [publisher.whole(CONTENT)]
    assert run(config, tmp_path, "b") == {"b": "loaded"}
    assert states(config, tmp_path) == {"a": "missing", "b": "verified"}
    with pytest.raises(ConfigError, match=r"'c'.*choose one of: a, b"):
        run(config, tmp_path, "c")


def test_one_failure_does_not_stop_the_others(publisher, tmp_path):
    config = settings_with({name: download(publisher, name) for name in ("a", "b", "c")})
    publisher.script = [publisher.answer(404), publisher.whole(CONTENT), publisher.answer(403)]
    with pytest.raises(InputError, match=r"a from .*HTTP 404.*\(and 1 more files failed\)"):
        run(config, tmp_path)
    assert states(config, tmp_path) == {"a": "missing", "b": "verified", "c": "missing"}


def test_a_file_without_an_address_is_an_error_only_if_named(publisher, tmp_path):
    config = settings_with({"private": download(publisher, "private", url=None)})
    assert run(config, tmp_path)["private"].startswith("missing")
    with pytest.raises(InputError, match="no address"):
        run(config, tmp_path, "private")


def test_a_file_is_pinned_where_a_stage_first_reads_it_and_another_one_is_refused(publisher, tmp_path):
    files = {"plain": download(publisher, "plain", size=None, sha256=None), "checked": download(publisher, "checked")}
    config, said = settings_with(files), []
    context = replace(Study(tmp_path).context, notice=said.append)
    paths = ["data/downloads/plain", "data/downloads/checked", "data/not-of-the-registry"]
    fetch.check_used(config, context, paths)  # nothing is here: another check says so
    put = tmp_path / "data" / "downloads"
    put.mkdir(parents=True)
    for name in files:
        (put / name).write_bytes(CONTENT)
    fetch.check_used(config, context, paths[1:])
    assert said == []
    fetch.check_used(config, context, paths)
    fetch.check_used(config, context, paths)
    assert ["plain is pinned in configs" in line for line in said] == [True]
    (put / "plain").write_bytes(CONTENT[1:])
    with pytest.raises(InputError, match=r"plain at .*instead of .*pinned in configs"):
        fetch.check_used(config, context, paths)
    fetch.check_used(config, context, paths[1:])
    (put / "checked").write_bytes(CONTENT[1:])
    with pytest.raises(InputError, match=r"checked at .*published"):
        fetch.check_used(config, context, paths[1:])


def test_files_that_stages_first_read_at_once_are_all_pinned(publisher, tmp_path):
    files = {f"file{i}": download(publisher, f"file{i}", size=None, sha256=None) for i in range(24)}
    config, put = settings_with(files), tmp_path / "data" / "downloads"
    put.mkdir(parents=True)
    for name in files:
        (put / name).write_bytes(CONTENT)

    def first_use(name: str) -> None:
        fetch.check_used(config, replace(Study(tmp_path).context, notice=lambda line: None), [f"data/downloads/{name}"])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(first_use, files))
    assert set(read_pins(tmp_path)) == set(files)


def test_a_wrong_file_is_replaced_by_fetch_or_by_hand(publisher, tmp_path):
    config = settings_with({name: download(publisher, name, **given) for name, given in WRONG.items()})
    put = tmp_path / "data" / "downloads"
    put.mkdir(parents=True)
    for name in WRONG:
        (put / name).write_bytes(CONTENT[1:])
    _, advice = fetch.listing(config, tmp_path)
    assert ["remove data/downloads/" in line for line in advice] == [True, True]
    assert ["dguide fetch" in line for line in advice] == [True, False]


def test_two_at_once_do_not_mix(publisher, tmp_path):
    config = settings_with({"a": download(publisher, "a")})
    (tmp_path / ".partial").mkdir()
    with FileLock(tmp_path / ".partial" / "fetch.lock"), pytest.raises(InputError, match="another one at work"):
        run(config, tmp_path)
    assert publisher.asked == []


def test_the_documented_registry_is_valid_and_complete(tmp_path):
    config = parse_config(tiny_settings() | documented(), "docs/downloads.md")
    files = config.fetch.files
    archive = files["cifar10"]
    assert (archive.md5, archive.size) == ("c58f30108f718f92721af3b95e74349a", 170_498_071)
    assert {f"edm_{label}_{kind}" for label in ("uncond", "cond") for kind in ("vp", "ve")} < set(files)
    assert {name for name, file in files.items() if file.url is None} == {
        "adm_classifier",
        "dg_discriminator",
        "dg_discriminator_cond",
    }
    rows, advice = fetch.listing(config, tmp_path)
    assert len(rows) == len(advice) == len(files)
