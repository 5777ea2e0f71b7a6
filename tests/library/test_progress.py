"""The line that shows how far work is."""

import re
import time

import pytest

from discriminator_guidance.core import runtime


def test_the_time_left_follows_from_the_speed_of_this_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(runtime.EVERY_S, False, 0.2)
    with runtime.progress("sampling", 600, "images") as advance:
        advance(500)  # which an earlier run had done
        time.sleep(0.3)
        advance(1)
    with runtime.progress("training", 600, "epochs") as advance:
        for epoch in range(1, 501):  # which a checkpoint had
            advance(to=epoch)
        time.sleep(0.3)
        advance(to=501)
    assert all(int(left) > 25 for left in re.findall(r"(\d+) s left", capsys.readouterr().err)[-1:])
