"""House rule: what is public says what it takes and what it gives."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src" / "discriminator_guidance"
COVERED = sorted(
    path.relative_to(PACKAGE).as_posix()
    for folder in (
        ".",
        "artifacts",
        "diffusion",
        "evaluation",
        "guidance",
        "networks",
        "planning",
        "stages",
        "training",
    )
    for path in (PACKAGE / folder).glob("*.py")
    if path.name not in ("cli.py", "cli_study.py")
)
# A property reads like an attribute; validators have the signature that pydantic asks for.
EXEMPT_DECORATORS = {"property", "cached_property", "field_validator", "model_validator", "overload"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def public(body: list[ast.stmt]) -> Iterator[tuple[Function | ast.ClassDef, ast.ClassDef | None]]:
    """Each public function and class of a module, and the public methods of those classes with their class."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, None
            if isinstance(node, ast.ClassDef):
                methods = [inner for inner in node.body if isinstance(inner, Function)]
                yield from ((method, node) for method in methods if not method.name.startswith("_"))


def decorators(node: Function) -> set[str]:
    return {ast.unparse(each).split("(")[0].split(".")[-1] for each in node.decorator_list}


def faults(node: Function | ast.ClassDef, owner: ast.ClassDef | None) -> list[str]:
    """What the docstring of one function, method or class lacks."""
    if isinstance(node, Function) and decorators(node) & EXEMPT_DECORATORS:
        return []
    text = ast.get_docstring(node)
    if text is None:
        return ["a docstring"]
    if isinstance(node, ast.ClassDef):
        starts = [inner for inner in node.body if isinstance(inner, Function) and inner.name == "__init__"]
        return undescribed(starts[0], text, bound=True) if starts else []
    if owner is not None and node.name == "train":  # overrides nn.Module.train
        return []
    lacking = undescribed(node, text, bound=owner is not None and "staticmethod" not in decorators(node))
    gives = node.returns is not None and ast.unparse(node.returns) not in ("None", "Never", "NoReturn")
    if gives and "Returns:" not in text and "Yields:" not in text:
        lacking.append("Returns")
    return lacking


def undescribed(function: Function, text: str, bound: bool) -> list[str]:
    """The parameters of a function that the section Args does not have."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args)][1 if bound else 0 :]
    names += [each.arg for each in (*arguments.kwonlyargs, arguments.vararg, arguments.kwarg) if each is not None]
    section = text.partition("Args:")[2].partition("\n\n")[0]
    return [f"Args: {name}" for name in names if not re.search(rf"^ +\*{{0,2}}{name}: ", section, re.MULTILINE)]


@pytest.mark.parametrize("path", COVERED)
def test_says_what_it_takes_and_gives(path: str) -> None:
    tree = ast.parse((PACKAGE / path).read_text(encoding="utf-8"))
    found = {
        f"{path}:{node.lineno} {node.name}": lacking
        for node, owner in public(tree.body)
        if (lacking := faults(node, owner))
    }
    assert not found


@pytest.mark.parametrize(
    ("source", "lacking"),
    [
        ('def f(a):\n    """Do.\n\n    Args:\n        a: it.\n    """', []),
        ('def f(a) -> int:\n    """Do."""', ["Args: a", "Returns"]),
        ("def f() -> None: ...", ["a docstring"]),
        ('class C:\n    """It."""\n    def __init__(self, a): ...', ["Args: a"]),
    ],
)
def test_notices_what_is_lacking(source: str, lacking: list[str]) -> None:
    ((node, owner),) = public(ast.parse(source).body)
    assert faults(node, owner) == lacking
