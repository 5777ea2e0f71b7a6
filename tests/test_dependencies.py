"""The code that a stage in dvc.yaml depends on is the code that it imports: no hole and no surplus."""

from pathlib import PurePosixPath
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from .commands import PROJECT

# What starts a stage, shows and records it, and says what is wrong: no result depends on it.
PLUMBING = {"dguide.tracking", "discriminator_guidance.core.errors"}
DVC = YAML(typ="safe").load((PROJECT / "dvc.yaml").read_text())
ROOTS = {f"${{{name}}}": path for entry in DVC["vars"] for name, path in entry.items()}
GRAPH = grimp.build_graph("discriminator_guidance", "dguide", exclude_type_checking_imports=True)


def code_dependencies(stage: dict[str, Any]) -> list[PurePosixPath]:
    """The paths under src/ that a stage depends on."""
    paths = []
    for path in stage.get("do", stage)["deps"]:
        for name, root in ROOTS.items():
            path = path.replace(name, root)
        paths += [PurePosixPath(path)] if path.startswith("src/") else []
    return paths


def modules_in(path: PurePosixPath) -> set[str]:
    """The modules in a file or a folder."""
    name = ".".join(path.relative_to("src").with_suffix("").parts)
    return {name, *GRAPH.find_descendants(name)} if name in GRAPH.modules else set()


@pytest.mark.parametrize("word", DVC["stages"])
def test_a_stage_depends_on_the_code_that_it_imports(word: str) -> None:
    stage = f"dguide.stages.{word}"
    imported = {stage, *GRAPH.find_upstream_modules(stage)}
    packages = {module for module in imported if GRAPH.find_children(module)}
    plumbing = {module for part in PLUMBING for module in (part, *GRAPH.find_descendants(part))}
    wanted = imported - packages - plumbing
    named = {path: modules_in(path) for path in code_dependencies(DVC["stages"][word])}
    assert not wanted.difference(*named.values())
    assert [path for path, modules in named.items() if not modules & wanted] == []
