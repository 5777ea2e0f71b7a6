"""What a profile reads from outside is refused before a stage computes: missing files and too few images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dguide.settings import Layout, load_config
from dguide.settings.inputs import check_inputs, missing_files
from discriminator_guidance.core.errors import UserError
from discriminator_guidance.core.files import write_json, write_npz

from .settings import MINI, PROJECT, read

ATTENTION = {"score": "attn_resolutions", "extractor": "attention_resolutions"}
AT_8 = {f"{word}.network.{key}": [8] for word, key in ATTENTION.items()}
IMAGES = {"source": "images", "path": "images.npz", "holdout_path": "images.npz", "image_size": 16}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"real.path": "x", "real.holdout_path": "x"}, "x, which real.path names; got no such file or folder; put it"),
        ({"evaluation.neighborhood": 79}, "evaluation.neighborhood; got 79; it must be at most 78, for 80 real images"),
        ({"evaluation.neighborhood": 18, "guided.images": 19}, "at most 17, for 80 real images and 19 samples"),
        ({"discriminator.images": 81}, "members.d0.images; got 81; there are 80 real images"),
        ({"real.holdout_fraction": 0.95}, "10 fake images and 3 held-out images; got 5, 100 and 95; give"),
        ({"real.holdout_fraction": 0.02}, "got 98, 100 and 2"),
        ({"fake.images": 9}, "got 80, 9 and 20"),
        ({"discriminator.split": {"train": 0.99, "validation": 0.005, "test": 0.005, "seed": 4}}, "and 0 for test"),
        ({"real.image_size": 32} | AT_8, "square images of 32 pixels or more in .*npz; got 16x16; crop them"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_there_is_not_enough_of_is_refused(tmp_path: Path, changes: dict[str, Any], complaint: str) -> None:
    few = {"real": MINI["real"] | IMAGES, "fake": MINI["fake"] | {"images": 100}, "study": None}
    write_npz(tmp_path / "images.npz", images=np.zeros((100, 16, 16, 1), np.uint8), labels=np.arange(100) % 2)
    check_inputs(read(few), Layout(tmp_path, "mini"))
    config = read(few | changes)
    with pytest.raises(UserError, match=complaint):
        check_inputs(config, Layout(tmp_path, "mini"))


def test_a_later_stage_counts_the_images_of_the_data_card(tmp_path: Path) -> None:
    layout, config = Layout(tmp_path, "mini"), read({})
    check_inputs(config, layout, "score")
    write_json(layout.real / "card.json", {"train": 9, "holdout": 9})
    with pytest.raises(UserError, match="got 9, 1438 and 9"):
        check_inputs(config, layout, "score")


def test_missing_files_are_named_with_their_key_and_the_way_to_get_them(tmp_path: Path) -> None:
    config = load_config(PROJECT / "configs/cifar10.yaml")
    missing = missing_files(config, tmp_path)
    assert missing["data/raw/cifar-10-binary.tar.gz"][0] == "real.path"
    assert missing["data/raw/cifar-10-binary.tar.gz"][1].startswith("`dguide fetch cifar10`, or by hand")
    assert missing["data/raw/discriminator_60.pt"][0] == "members.authors.start"
    assert missing["data/raw/discriminator_60.pt"][1].startswith("by hand from Google Drive")
    assert missing[str(config.fid_network.path)][1].startswith("`dguide fetch inception`")
    assert not [path for path in missing if "edm-fid" in path], "no setting names it"
    missing = missing_files(read({"evaluation.reference": "data/raw/elsewhere.npz"}), tmp_path)
    assert missing["data/raw/elsewhere.npz"][0] == "evaluation.reference"
    assert missing_files(read({}), PROJECT) == {}
