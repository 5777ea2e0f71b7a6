"""The import contracts hold, and each of them notices an import that breaks it."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRACTS_FILE = ROOT / ".importlinter"

# contract: (file that gets a bad import, what it imports)
VIOLATIONS = {
    "layers": ("stages/__init__.py", "discriminator_guidance.tracking"),
    "guidance": ("guidance/__init__.py", "discriminator_guidance.networks"),
    "training": ("training/__init__.py", "discriminator_guidance.artifacts"),
    "evaluation": ("evaluation/__init__.py", "discriminator_guidance.diffusion"),
    "artifacts": ("artifacts/__init__.py", "discriminator_guidance.diffusion"),
    "report": ("report/__init__.py", "torch"),
    "light": ("config.py", "torch"),
    "mlflow": ("cli.py", "mlflow"),
    "optuna": ("cli.py", "optuna"),
    "configuration": ("stages/__init__.py", "pydantic"),
    "pyyaml": ("stages/__init__.py", "yaml"),
    "terminal": ("stages/__init__.py", "rich.progress"),
    "metrics": ("stages/__init__.py", "torchmetrics"),
    "fidelity": ("evaluation/__init__.py", "torch_fidelity"),
    "figures": ("stages/__init__.py", "pandas"),
}


def contract_names() -> dict[str, str]:
    """Contract identifiers and the names that reports show."""
    parser = configparser.ConfigParser()
    parser.read(CONTRACTS_FILE)
    prefix = "importlinter:contract:"
    return {s.removeprefix(prefix): parser[s]["name"] for s in parser.sections() if s.startswith(prefix)}


def broken_contracts(source: Path) -> tuple[set[str], str]:
    """The names of broken contracts of the package in a source folder, and the whole report."""
    # The folder it runs in comes before the installed package in the search path.
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache", CONTRACTS_FILE],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    report = run.stdout + run.stderr
    assert re.search(r"Contracts: \d+ kept, \d+ broken\.", report), report
    return set(re.findall(r"^(.*) BROKEN$", report, flags=re.MULTILINE)), report


@pytest.fixture
def source_copy(tmp_path: Path) -> Path:
    """A source folder with a copy of the package that may be spoilt."""
    shutil.copytree(
        ROOT / "src" / "discriminator_guidance",
        tmp_path / "discriminator_guidance",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    return tmp_path


def test_contracts_hold() -> None:
    broken, report = broken_contracts(ROOT / "src")
    assert not broken, report


def test_every_contract_has_a_violation_here() -> None:
    assert set(VIOLATIONS) == set(contract_names())


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_bad_import_breaks_its_contract_alone(contract: str, source_copy: Path) -> None:
    file, imported = VIOLATIONS[contract]
    with (source_copy / "discriminator_guidance" / file).open("a", encoding="utf-8") as module:
        module.write(f"\n\ndef _late() -> None:\n    import {imported}\n")
    broken, report = broken_contracts(source_copy)
    assert broken == {contract_names()[contract]}, report


def test_new_module_must_be_given_a_layer(source_copy: Path) -> None:
    (source_copy / "discriminator_guidance" / "newcomer.py").write_text("", encoding="utf-8")
    broken, report = broken_contracts(source_copy)
    assert broken == {contract_names()["layers"]}, report
    assert "newcomer" in report
