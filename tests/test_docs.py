"""The documentation builds as a site, its links lead somewhere, and its commands exist."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from dguide.cli import app

from .commands import PROJECT, succeed

PAGES = sorted((PROJECT / "docs").glob("*.md"))


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = ("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    succeed(PROJECT, *command, NO_MKDOCS_2_WARNING="1")
    assert "train_discriminator" in (tmp_path / "site" / "api" / "index.html").read_text()


def test_links_of_the_pages_outside_the_site_lead_to_files() -> None:
    for page in PROJECT.glob("*.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (PROJECT / link).exists(), (page.name, link)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_a_page_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if "dguide" in words[:2]:
                check_options(words[words.index("dguide") + 1 :])
            elif words[:1] == ["make"]:
                assert words[1] in targets


def check_options(words: list[str]) -> None:
    """Fail unless words begin with a command of `dguide` that has each of their options."""
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command, *words = command.commands[words[0]], *words[1:]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options
