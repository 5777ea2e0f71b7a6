"""The documentation builds as a site, and its links lead somewhere."""

import re
from pathlib import Path

from .commands import PROJECT, succeed


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = ("mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    succeed(PROJECT, *command, NO_MKDOCS_2_WARNING="1")
    assert "train_discriminator" in (tmp_path / "site" / "api" / "index.html").read_text()


def test_links_of_the_pages_outside_the_site_lead_to_files() -> None:
    for page in PROJECT.glob("*.md"):
        for link in re.findall(r"\]\((?!http)([^)#]+)", page.read_text()):
            assert (PROJECT / link).exists(), (page.name, link)
