"""Training replicates: the same stages, with other seeds and folders of their own."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from dguide.report.gather import read_evaluation
from dguide.run import run_stage
from discriminator_guidance.core.files import sha256

from .commands import TORCHRUN, succeed
from .stages.conftest import only, prepare_study, tiny_settings, write_params

STAGES = (
    ("score", {}), ("extractor", {}), ("fake", {}), ("discriminator", {"member": "d0"}),
    ("discriminator", {"member": "d1"}), ("guided", {"variant": "edm"}), ("guided", {"variant": "mean_prob"}),
)  # fmt: skip


def test_the_first_replicate_is_the_study_the_second_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sequential = {"members.d1.start": "models/mini/discriminator/d0"}
    sequential |= {"score.training.iterations": 10, "extractor.training.iterations": 10}
    _, layout = prepare_study(tmp_path, tiny_settings(sequential))
    one, two = layout.replicates(2)

    def hashes(folder: str) -> dict[str, str]:
        return {path.name: sha256(path) for path in (tmp_path / folder).glob("[ms]*.[sn]*")}  # weights, samples.npz

    folders = ["models/mini/score", "models/mini/extractor", "models/mini/discriminator/d1", "data/mini/fake",
               "data/mini/guided/edm", "data/mini/guided/mean_prob"]  # fmt: skip
    params = tmp_path / "params.yaml"
    for word, row in STAGES:
        run_stage(word, params, **row)
    alone = {folder: hashes(folder) for folder in folders}
    write_params(tmp_path, tiny_settings({**sequential, **only("edm", "mean_prob"), "replicates": 2}))
    for word, row in STAGES:
        run_stage(word, params, 1, **row)
    assert not one.fake().exists(), "--replicate runs one of them alone"
    for word, row in STAGES:
        run_stage(word, params, 0, **row)
    for folder in folders:
        assert hashes(f"{folder}/r0") == alone[folder], folder
        assert all(hashes(f"{folder}/r1")[name] != value for name, value in alone[folder].items()), folder
    indices = [np.load(path.guided("edm") / "samples.npz")["index"] for path in (one, two)]
    assert np.array_equal(*indices), "replicates share the noise of evaluation samples"
    each = [hashes(f"models/mini/discriminator/d1/{name}") for name in ("r0", "r1")]
    shutil.rmtree(tmp_path / "models/mini/discriminator/d1")
    shown = succeed(tmp_path, *TORCHRUN, "dguide", "discriminator", "d1")
    assert shown.count("discriminator/d1\n") == 2, "each process trains and reports its replicate"
    assert [hashes(f"models/mini/discriminator/d1/{name}") for name in ("r0", "r1")] == each
    run_stage("evaluation", params)
    details = read_evaluation(layout.report, "mean_prob")
    assert (details["replicates"], len(details["fid_values"])) == (2, 2)
