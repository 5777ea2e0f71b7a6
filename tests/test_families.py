"""Profile `mini-families`: mini with more ensembles, in a pipeline of its own that `dvc repro` leaves alone."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from discriminator_guidance.config import TUNED_MEMBER
from discriminator_guidance.stages.chain import of_member, predecessor
from tests.amount import FULL
from tests.project_files import project_config, project_yaml
from tests.test_profiles import called, copied

PROJECT = Path(__file__).resolve().parents[1]
LISTS = project_yaml("families/params.yaml")
FAMILIES = ("bagged", "architecture", "snapshot", "seeds")
SIX = range(6)

mini, families = (project_config(profile) for profile in ("mini", "mini-families"))
rows = families.discriminator.members


def test_the_pipeline_is_that_of_the_project():
    link = PROJECT / "families" / "dvc.yaml"
    assert link.is_symlink()
    assert link.resolve() == PROJECT / "dvc.yaml"
    assert (LISTS["profile"], LISTS["root"], LISTS["families"]) == ("mini-families", "..", list(FAMILIES))


def test_all_but_members_variants_and_the_number_of_samples_is_as_in_mini():
    left_out = {"discriminator": {"members"}, "guided": {"variants", "images"}}
    assert families.model_dump(exclude=left_out) == mini.model_dump(exclude=left_out)
    for section in ("study", "factorial", "fetch"):  # no stage reads them, so a dump leaves them out
        assert getattr(families, section) == getattr(mini, section)


def test_the_grid_is_that_of_mini():
    grid = [name for name in mini.discriminator.members if name != TUNED_MEMBER]
    for name in grid:
        assert rows[name] == mini.discriminator.members[name]
    variants = mini.guided.variants
    shared = set(variants) & set(families.guided.variants)
    assert shared >= {"edm", *grid, "ensemble_probability"}
    for name in shared:
        assert families.guided.variants[name] == variants[name], name


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_averages_six_members_that_guide_alone_as_they_do_together(family: str):
    together = families.guided.variants[family]
    assert together.members == tuple(f"{family}{number}" for number in SIX)
    assert (together.rule, together.weights) == ("mean_probability", "equal")
    for member in together.members:
        alone = families.guided.variants[member]
        assert alone == together.model_copy(update={"members": (member,)})


def apart_from_seed(name: str, *differences: str) -> dict:
    row = rows[name].model_dump(exclude={"seed": True, "differs": set(differences)})
    return row


def test_each_family_differs_from_d0_in_its_own_way():
    d0, networks = rows["d0"], []
    for number in SIX:
        names = [f"{family}{number}" for family in FAMILIES]
        assert {rows[name].seed for name in names} == {110 + number}
        assert apart_from_seed(f"seeds{number}") == apart_from_seed("d0")
        assert apart_from_seed(f"bagged{number}", "bagging") == apart_from_seed("d0", "bagging")
        assert rows[f"bagged{number}"].differs.bagging == 1.0
        assert apart_from_seed(f"architecture{number}", "network") == apart_from_seed("d0", "network")
        networks.append(rows[f"architecture{number}"].differs.network)
        grid = apart_from_seed(f"d{number}", "init", "after")
        assert apart_from_seed(f"snapshot{number}", "init", "after") == grid
    shapes = [(network.model_channels, network.num_res_blocks) for network in networks]
    ours = families.discriminator.network
    assert len(set(shapes)) == 6
    assert (ours.model_channels, ours.num_res_blocks) not in shapes
    assert d0.seed not in {110 + number for number in SIX}


def test_snapshots_are_one_chain_and_no_other_member_goes_on_from_another():
    chain = {f"snapshot{number}": f"snapshot{number - 1}" for number in SIX if number}
    assert {name: before for name in rows if (before := predecessor(families.discriminator, name))} == chain
    inits = [of_member(families.discriminator, f"snapshot{number}", "init") for number in SIX]
    assert inits == ["fresh", *["sequential"] * 5]


def stages(output: str) -> list[str]:
    return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")]


@pytest.mark.skipif(not FULL, reason="half a minute of DVC: make test-full resolves both pipelines")
def test_both_pipelines_resolve_and_neither_runs_the_other(tmp_path: Path):
    root = copied(tmp_path, "mini")
    (root / "families").mkdir()
    shutil.copy(PROJECT / "families" / "params.yaml", root / "families")
    (root / "families" / "dvc.yaml").symlink_to("../dvc.yaml")
    dry = (sys.executable, "-m", "dvc", "repro", "--dry", "--allow-missing", "--force")
    own, other = (called(root, *dry, *target) for target in ((), ("families/dvc.yaml",)))
    assert (own.returncode, other.returncode) == (0, 0), own.stderr[-2000:] + other.stderr[-2000:]
    ours, theirs = stages(own.stdout), stages(other.stdout)
    assert ours
    assert not [stage for stage in ours if "families" in stage or "_family" in stage]
    assert all(stage.startswith("families/dvc.yaml:") for stage in theirs)
    named = {stage.partition(":")[2] for stage in theirs}
    for family in FAMILIES:
        assert {f"guided_family@mini-families-{family}", f"evaluation_family@mini-families-{family}"} <= named
    assert len(theirs) == len(named) == 6 + len(rows) + 2 * len(families.guided.variants)
    # DVC runs members in the order of the list, so that what a snapshot goes on from is there.
    trained = [stage.rpartition("-")[2] for stage in theirs if ":discriminator@" in stage]
    assert trained == LISTS["members"] == list(rows)
