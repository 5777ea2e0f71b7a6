"""The curve that goes with a training run."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from discriminator_guidance.report.training_curve import write_training_curve

MEMBER = "epoch,train_loss,train_accuracy,validation_loss,validation_accuracy\n1,0.7,0.5,0.7,0.5\n2,0.5,0.7,0.6,0.6\n"


@pytest.mark.parametrize("text", [MEMBER, "iteration,loss\n20,3.0\n40,1.0\n"])
def test_curves_are_drawn_and_a_second_time_the_same(tmp_path, text):
    (tmp_path / "history.csv").write_text(text)
    for name in ("a.png", "b.png"):
        write_training_curve(tmp_path / "history.csv", tmp_path / "curves" / name)
    first = tmp_path / "curves" / "a.png"
    assert first.read_bytes() == (tmp_path / "curves" / "b.png").read_bytes()
    assert np.asarray(Image.open(first).convert("L")).std() > 5


def test_other_numbers_give_another_picture(tmp_path):
    pictures = []
    for loss in ("1.0", "2.0"):
        (tmp_path / "history.csv").write_text(f"iteration,loss\n20,3.0\n40,{loss}\n60,0.5\n")
        write_training_curve(tmp_path / "history.csv", tmp_path / "a.png")
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] != pictures[1]
