"""What several ranks make of a stage is what one process makes of it."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from discriminator_guidance import ranks
from discriminator_guidance.artifacts.partial import unsealed

from .sharing import IN_PASSES, RESUMED, SAMPLED, TRAINED, Shared
from .stages.conftest import Study

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch):
    """Make this process one of several, as far as dividing goes."""

    def be(rank: int, size: int) -> None:
        monkeypatch.setattr(ranks, "_crew", ranks._Crew(rank, size, rank))

    return be


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """See `tests.sharing`; a process of its own."""
    folder = tmp_path_factory.mktemp("shared")
    done = subprocess.run(
        [sys.executable, "-m", "tests.sharing", str(folder)], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def test_one_process_shares_with_nobody_and_never_asks_torch():
    program = (
        "import sys; from discriminator_guidance import ranks; ranks.start(); ranks.wait(); ranks.go_on_alone();"
        "assert ranks.told_by_first({'a': 1}) == {'a': 1} and ranks.added({'a': 1.5}) == {'a': 1.5};"
        "assert list(ranks.share(5)) == [0, 1, 2, 3, 4] and ranks.own_rows(5, 2) == slice(0, 5);"
        "assert ranks.is_first() and ranks.own_stream('noise') == 'noise';"
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("count", "size"), [(10, 3), (3, 3), (2, 3), (7, 1), (1, 4)])
def test_shares_cover_a_batch_once_and_are_even(crew, count, size):
    shares = []
    for rank in range(size):
        crew(rank, size)
        shares.append(ranks.share(count))
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize(("count", "batch", "size"), [(10, 3, 2), (12, 3, 3), (2, 5, 2), (7, 2, 4)])
def test_batches_are_the_same_whoever_takes_them(crew, count, batch, size):
    taken = []
    for rank in range(size):
        crew(rank, size)
        rows = np.arange(count)[ranks.own_rows(count, batch)]
        assert rows.tolist() == sorted(rows)
        taken += [rows[start : start + batch].tolist() for start in range(0, len(rows), batch)]
    whole = [list(range(start, min(start + batch, count))) for start in range(0, count, batch)]
    assert sorted(taken) == whole


def test_each_rank_draws_dropout_of_its_own(crew):
    names = []
    for rank in range(3):
        crew(rank, 3)
        names.append(ranks.own_stream("dropout"))
    assert names[0] == "dropout"
    assert len(set(names)) == 3


def test_ranks_tell_each_other_exactly_what_they_have(tmp_path):
    """Two real processes over gloo."""
    program = f"""
import torch
from discriminator_guidance import ranks
from discriminator_guidance.errors import UserError
from discriminator_guidance.networks.memory import BatchSize
ranks.BEFORE_THE_END_S = 0
ranks.start()
place = ranks.rank()
assert ranks.told_by_first(["d0", None, place]) == ["d0", None, 0]
assert ranks.added({{"loss": 0.25 + place, "accuracy": 1.0}}) == {{"loss": 1.5, "accuracy": 2.0}}
rows = torch.arange(7)[ranks.own_rows(7, 2)].float()
whole = ranks.collected(torch.stack([rows, -0.0 * rows], dim=1), 7, 2)
assert whole[:, 0].tolist() == list(range(7)) and whole[:, 1].signbit().all()
assert ranks.collected(torch.ones(1, 2) if place == 0 else torch.empty(0), 1, 4).tolist() == [[1.0, 1.0]]
parts = [torch.full((2, 3), 1.0 + place).to(memory_format=torch.contiguous_format), torch.tensor(10.0 * place)]
ranks.add_up(parts)
assert parts[0].tolist() == [[3.0] * 3] * 2 and parts[1].item() == 10.0
ranks.require_same([1, 2], "list")
assert ranks.told_by_all({{"rank": place}}) == [{{"rank": 0}}, {{"rank": 1}}]
at_once = BatchSize(8, print)
at_once.resume([4, 2] if place else [])
at_once.take_in_others()
assert at_once.halved == (4, 2)
try:
    ranks.require_same(place, "iteration")
except UserError as error:
    assert place == 1 and "same iteration on every rank; got 1 on rank 1 and 0 on rank 0" in str(error)
else:
    assert place == 0
try:
    ranks.go_on_alone()
except ranks.Dismissed:
    assert place == 1
else:
    assert place == 0
assert ranks.world_size() == 1
open({str(tmp_path)!r} + f"/done{{place}}", "w").close()
"""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = tmp_path / "program.py"
    script.write_text(program)
    done = subprocess.run([*command, str(script)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {path.name for path in tmp_path.glob("done*")} == {"done0", "done1"}


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in ("data", "models", "reports")
        for path in sorted((folder / top).rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("job", SAMPLED, ids=lambda job: job.folder)
def test_pictures_features_and_metrics_are_the_same_bytes(shared, job):
    assert digests(shared / job.folder) == digests(shared / "one")


def saved(shared: Path, job: str) -> list[str]:
    lines = [line.split(": ") for line in (shared / "saved.txt").read_text().splitlines()]
    return sorted(what for stage, what in lines if stage == job)


def test_every_rank_drew_shards_and_none_was_drawn_twice(shared):
    assert saved(shared, "fake") == [f"shard {place} by rank {place % 2} of 2" for place in range(4)]
    assert saved(shared, "guided-edm") == [f"shard {place} by rank {place} of 4" for place in range(3)]
    assert saved(shared, "guided-d0_table1-resumed") == [
        "shard 0 by rank 0 of 1",  # before it was killed
        "shard 1 by rank 0 of 2",
        "shard 2 by rank 1 of 2",
    ]


@pytest.mark.parametrize(("job", "passes"), zip(TRAINED, IN_PASSES, strict=True), ids=lambda job: job.folder)
def test_networks_curves_and_logits_are_those_of_one_process_that_takes_a_batch_in_two_passes(shared, job, passes):
    assert digests(shared / job.folder) == digests(shared / passes.folder)
    assert digests(shared / job.folder) != digests(shared / "one")  # which took it in one: rounding


@pytest.mark.parametrize("job", TRAINED, ids=lambda job: job.folder)
def test_losses_are_those_of_one_process_up_to_rounding(shared, job):
    rows, rows_of_one = (losses(shared / folder, job) for folder in (job.folder, "one"))
    assert len(rows) == len(rows_of_one) >= 2
    assert rows == pytest.approx(rows_of_one, rel=0.01)


def losses(root: Path, job: Shared) -> list[float]:
    layout = Study(root).layout
    folder = layout.discriminator_reports / job.name if job.name else layout.model(job.word)
    rows = csv.DictReader((folder / "history.csv").open())
    return [float(row["train_loss" if job.name else "loss"]) for row in rows]


def test_the_first_rank_alone_keeps_checkpoints(shared):
    assert saved(shared, "score") == ["checkpoint by rank 0 of 2"] * 2
    assert saved(shared, "discriminator-d0") == ["checkpoint by rank 0 of 2"] * 4  # its own and those of d1


def test_killed_ranks_resume_to_the_bytes_of_undisturbed_ones(shared):
    assert len(saved(shared, RESUMED.folder)) == 2  # not three: it went on from the one that was kept
    assert digests(shared / RESUMED.folder) == digests(shared / "score")


def companion(root: Path) -> dict:
    """The checkpoint of d1, which was trained beside d0."""
    (path,) = root.rglob("discriminator-d1-*/checkpoint.sealed")
    state: dict = torch.load(io.BytesIO(unsealed(path)), weights_only=True)
    return state


def test_a_head_trained_beside_another_is_the_same_too(shared):
    ours, theirs = (companion(shared / folder) for folder in ("discriminator-d0", "discriminator-d0-passes"))
    assert ours["history"] == theirs["history"]
    assert len(ours["history"]) == 4
    assert all(torch.equal(tensor, theirs["head"][name]) for name, tensor in ours["head"].items())


def test_ranks_leave_no_unfinished_work_of_their_own(shared):
    left = [path for path in shared.rglob("*.sealed") if "one" not in path.parts]
    assert {path.parent.name.rsplit("-", 1)[0] for path in left} == {"discriminator-d1"}


def test_features_were_kept_for_one_process_to_find(shared):
    names = [{path.name for path in (shared / s / ".cache").rglob("*")} for s in ("one", "evaluation-d0_table1")]
    assert names[1] == names[0]
