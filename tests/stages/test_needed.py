"""Files of others that a profile names: asked for before compute, and no longer than they are needed."""

from __future__ import annotations

from pathlib import Path

import pytest

from discriminator_guidance.config import Config
from discriminator_guidance.errors import InputError
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.needed import files_read, missing_files, refuse_missing
from tests.project_files import project_config

CIFAR10 = project_config("cifar10")
KEYS = ["real.path", "score.path", "extractor.path", "fid_network.path"]


def put(root: Path, *paths: str | Path) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"")


def changed(section: str, **changes: object) -> Config:
    return CIFAR10.model_copy(update={section: getattr(CIFAR10, section).model_copy(update=changes)})


def test_a_file_is_missing_until_it_is_here_or_its_stage_has_used_it(tmp_path):
    layout = Layout(tmp_path, "cifar10")
    assert list(missing_files(CIFAR10, layout)) == KEYS
    put(tmp_path, CIFAR10.real.path, layout.model("score") / "model.safetensors")
    assert list(missing_files(CIFAR10, layout)) == ["extractor.path", "fid_network.path"]


def test_a_released_member_is_asked_for_where_it_is_to_run_and_has_not_run(tmp_path):
    layout = Layout(tmp_path, "cifar10")
    assert list(missing_files(CIFAR10, layout, "d0")) == KEYS
    key = "discriminator.members.authors.path"
    assert missing_files(CIFAR10, layout, "authors")[key].endswith("discriminator_60.pt")
    put(tmp_path, *(getattr(CIFAR10, word).path for word in ("real", "score", "extractor", "fid_network")))
    refuse_missing(CIFAR10, layout, "fake", ["d0", "d1"])
    with pytest.raises(InputError, match=r"none at \S+discriminator_60\.pt.*-S 'members=\[d0,d2\]'`$"):
        refuse_missing(CIFAR10, layout, "fake", {"d2", "authors", "d0"})
    put(tmp_path, layout.discriminator("authors") / "model.safetensors")
    refuse_missing(CIFAR10, layout, "fake", ["d0", "authors"])


def test_optional_files_are_asked_for_where_a_setting_names_them(tmp_path):
    layout = Layout(tmp_path, "cifar10")
    assert [*KEYS, "evaluation.reference_statistics"] == list(
        missing_files(changed("evaluation", reference_statistics="data/r.npz"), layout)
    )
    pretrained = changed("discriminator", init="pretrained", pretrained="data/head.pt")
    assert "discriminator.pretrained" in missing_files(pretrained, layout)
    unused = changed("discriminator", pretrained="data/head.pt")
    assert "discriminator.pretrained" not in missing_files(unused, layout)


def test_what_only_reads_a_file_runs_without_the_others_and_what_computes_does_not(tmp_path):
    layout = Layout(tmp_path, "cifar10")
    put(tmp_path, CIFAR10.real.path, CIFAR10.score.path)
    for word in ("real", "score", "evaluation", "report"):
        refuse_missing(CIFAR10, layout, word)
    for word in ("extractor", "fid_network", "fake", "discriminator", "guided"):
        with pytest.raises(InputError) as caught:
            refuse_missing(CIFAR10, layout, word)
        message = str(caught.value)
        assert "32x32_classifier.pt (extractor.path)" in message
        assert "(fid_network.path)" in message
        assert "uncond-vp.pkl" not in message
        assert "dguide fetch --profile cifar10 --list" in message
        assert "\n" not in message


def test_files_that_a_stage_reads_itself():
    assert files_read(CIFAR10, "score") == [CIFAR10.score.path]
    assert files_read(CIFAR10, "discriminator", "authors") == ["data/downloads/discriminator_60.pt"]
    assert files_read(CIFAR10, "discriminator", "d0") == files_read(CIFAR10, "evaluation") == []
    assert files_read(changed("evaluation", reference_statistics="data/r.npz"), "evaluation") == ["data/r.npz"]
    assert files_read(project_config("mini"), "score") == []


def test_a_profile_without_a_registry_does_not_send_anyone_to_fetch(tmp_path):
    small = project_config("cifar10-small")
    with pytest.raises(InputError, match=r"train\.zip \(real\.path\).*put them there") as caught:
        refuse_missing(small, Layout(tmp_path, "cifar10-small"), "real")
    assert "fetch" not in str(caught.value)


def test_a_profile_that_needs_nothing_runs_everywhere(tmp_path):
    mini, layout = project_config("mini"), Layout(tmp_path, "mini")
    for word in ("real", "score", "fake", "discriminator", "guided"):
        refuse_missing(mini, layout, word, ["d0"])
