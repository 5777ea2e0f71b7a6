"""The profiles in configs/: valid, the reproduction's tables to the letter, and activated without losing edits."""

import shutil
from pathlib import Path

import pytest
from dvc.utils.serialize import load_yaml

from dguide.settings import load_config
from dguide.settings.config import check
from dguide.tools.profile import promote_winner, use_profile
from discriminator_guidance.core.errors import ConfigError
from discriminator_guidance.core.files import write_json

from .settings import PROJECT

PROFILES = {path.stem: load_config(path) for path in (PROJECT / "configs").glob("*.yaml")}
TABLE_2 = {  # epochs, learning rate, weight decay, t_min
    "d0": (60, 3e-4, 1e-7, 1e-5),
    "d1": (40, 1e-3, 1e-7, 1e-5),
    "d2": (40, 1e-4, 0.0, 0.01),
    "d3": (40, 1e-4, 1e-3, 1e-3),
    "d4": (40, 5e-5, 1e-9, 1e-3),
    "d5": (200, 1e-5, 1e-11, 1e-5),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with the profiles alone."""
    shutil.copytree(PROJECT / "configs", tmp_path / "configs")
    return tmp_path


@pytest.mark.parametrize("name", ["cifar10", "cifar10-cond"])
def test_sampling_is_table_1_and_training_table_2(name: str) -> None:
    config = PROFILES[name]
    sampler, guided, section = config.sampler, config.guided, config.discriminator
    settings = (sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho, sampler.s_churn)
    assert settings == (35, 0.002, 80.0, 7.0, 0.0)
    assert (guided.images, config.fake.images, guided.batch_size, config.real.image_size) == (50_000, 50_000, 64, 32)
    assert (guided.time_min, guided.time_max) == (0.01, 1.0)
    w1 = 1.0 if config.cond else 2.0  # the official code's weight for a conditional model
    for variant in ("authors", "d0_table1", "prob_table1", "clip_table1"):
        row = config.variants[variant]
        assert (row.w1, row.w2, row.boosting) == (w1, 0.0, True), variant
    assert (section.epoch_factor, section.learning_rate_factor, section.batch_size) == (1.0, 1.0, 64)
    for member, expected in TABLE_2.items():
        head = config.members[member]
        assert (head.epochs, head.learning_rate, head.weight_decay, head.t_min) == expected, member


@pytest.mark.parametrize("name", ["cifar10", "cifar10-cond", "cifar10-reproduction"])
def test_every_released_file_can_be_fetched(name: str) -> None:
    config = PROFILES[name]
    starts = {row.start for row in config.members.values() if row.start.startswith("data/raw/")}
    named = {config.real.path, config.score.path, config.extractor.path, config.fid_network.path, *starts}
    assert len(named) == 4 + (6 if name == "cifar10-reproduction" else 1)
    assert named <= {file.path for file in config.fetch.values()}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_written_whole_and_as_dvc_reads_it(project: Path, name: str) -> None:
    use_profile(project, name)
    params = project / "params.yaml"
    values = load_yaml(str(params))
    assert values["profile"] == name
    assert check([(values, params)]) == load_config(params) == PROFILES[name]
    assert "Table 1" in params.read_text()  # a comment of mini
    assert (name == "mini") == ("mini/" in params.read_text())
    if load_yaml(str(PROJECT / "params.yaml"))["profile"] == name:
        assert params.read_bytes() == (PROJECT / "params.yaml").read_bytes()


@pytest.mark.parametrize(
    ("overlay", "words"),
    [
        ("base: mini\nsampler: {stepz: 4}", ["own.yaml, line 2", "sampler.stepz", "did you mean steps?"]),
        ("base: mini\nfake:\n  images: 1", ["own.yaml, line 3", "fake.images"]),
        ("base: mini\nmembers: {d0: {seed: 1}}", ["own.yaml, line 2", "members.d0", "no entry 'start'"]),
        ("base: mini\nmembers: {}", ["own.yaml, line 2", "at least 1 item"]),
        ("base: none", ["none.yaml", "does not exist"]),
        ("base: fashion", ["fashion.yaml, the base of", "choose base: mini"]),
        ("base: mini\nprofile: x", ["own.yaml is x", "leave it out"]),
        ((PROJECT / "configs/mini.yaml").read_text(), ["profile", "is mini; write own"]),
        ((PROJECT / "configs/mini.yaml").read_text().replace("profile: mini", "profile: own"), ["score.path"]),
    ],
    ids=range(9),
)
def test_a_wrong_profile_is_named_with_the_file_that_says_it(project: Path, overlay: str, words: list[str]) -> None:
    (project / "configs/own.yaml").write_text(overlay)
    with pytest.raises(ConfigError) as caught:
        use_profile(project, "own")
    assert all(word in str(caught.value) for word in words), str(caught.value)
    with pytest.raises(ConfigError, match="choose one of: cifar10, "):
        use_profile(project, "../x")
    assert not (project / "params.yaml").exists()


def test_only_edits_of_params_block_a_profile(project: Path) -> None:
    params, mini = project / "params.yaml", project / "configs/mini.yaml"
    use_profile(project, "mini")
    mini.write_text(mini.read_text().replace("steps: 12", "steps: 14"))
    params.write_bytes(params.read_bytes().replace(b"\n", b"\r\n"))  # as git may check it out
    use_profile(project, "mini")
    assert load_config(params).sampler.steps == 14
    edited = params.read_text().replace("steps: 14", "steps: 15")
    params.write_text(edited)
    for name in ("mini", "fashion16"):
        with pytest.raises(ConfigError, match="--force"):
            use_profile(project, name)
    assert params.read_text() == edited
    use_profile(project, "fashion16", force=True)
    assert load_config(params).profile == "fashion16"


def test_every_profile_keeps_its_lock(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, kept = project / "dvc.lock", project / "reports/fashion16/dvc.lock"
    text = "    deps:\n    - path: data/faces/real\n    outs:\n    - path: data/{}/real\n"
    mini, other = map(text.format, ("mini", "fashion16"))
    lock.write_text(mini)
    use_profile(project, "mini")
    assert lock.read_text() == mini
    use_profile(project, "fashion16")
    assert not lock.exists()
    lock.write_text(other)
    monkeypatch.setattr("dguide.tools.profile._stamped", lambda text: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        use_profile(project, "mini", force=True)
    monkeypatch.undo()
    use_profile(project, "mini", force=True)
    assert (lock.read_text(), kept.read_text()) == (mini, other)


@pytest.mark.parametrize("profile", ["mini", "fashion16", "thin"])
def test_a_promoted_row_is_in_params_and_in_the_profile(project: Path, profile: str) -> None:
    (project / "configs/thin.yaml").write_text("base: mini\n")  # it has neither members nor variants of its own
    use_profile(project, profile)
    before = (project / "params.yaml").read_text().splitlines()
    row = {"needs": "discriminator/d0", "members": ["d0"], "w1": 1.5}
    write_json(project / f"reports/{profile}/study/ensemble.json", {"rows": {"variants": {"tuned_mean": row}}})
    promote_winner(project, "ensemble")
    for path in ("params.yaml", f"configs/{profile}.yaml"):
        assert load_config(project / path).variants["tuned_mean"].w1 == 1.5
        assert "edm" in load_config(project / path).report.describe
    after = [line for line in (project / "params.yaml").read_text().splitlines() if line not in before]
    assert [line.split(":")[0].strip() for line in after[1:]] == ["tuned_mean"]
    use_profile(project, "cifar10-small")  # what a command wrote is no edit
    rows = {"rows": {"members": {"edm": {}}, "variants": {"edm": row}}}
    write_json(project / "reports/cifar10-small/study/ensemble.json", rows)
    with pytest.raises(ConfigError, match="another variant edm"):
        promote_winner(project, "ensemble")
