"""Stage `extractor`."""

from __future__ import annotations

from .conftest import Study
from .trained_checks import TrainedStage


class TestExtractor(TrainedStage):
    word = "extractor"

    def test_other_times_train_another_network(self, study: Study, tmp_path):
        study.ensure("extractor")
        other = Study(tmp_path)
        other.settings["extractor"]["uniform_time_fraction"] = 0.0
        other.run("real")
        other.run("extractor")
        curves = [s.layout.model("extractor") / "history.csv" for s in (study, other)]
        assert curves[0].read_bytes() != curves[1].read_bytes()
