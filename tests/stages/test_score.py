"""Stage `score`."""

from __future__ import annotations

from .conftest import Study
from .trained_checks import TrainedStage


class TestScore(TrainedStage):
    word = "score"

    def test_the_saved_weights_are_the_average(self, study: Study, tmp_path):
        """Without averaging (a decay near 0) the same training ends in other weights."""
        study.ensure("score")
        other = Study(tmp_path)
        other.settings["score"]["ema_decay"] = 1e-6
        other.run("real")
        other.run("score")
        weights = [s.layout.model("score") / "model.safetensors" for s in (study, other)]
        assert weights[0].read_bytes() != weights[1].read_bytes()
        curves = [s.layout.model("score") / "history.csv" for s in (study, other)]
        assert curves[0].read_bytes() == curves[1].read_bytes()
