"""Configuration errors: one line that names file, key, value and remedy."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from discriminator_guidance.config import Config, load_config, parse_config
from discriminator_guidance.errors import ConfigError

PROJECT = Path(__file__).resolve().parents[1]
MINI = YAML(typ="safe", pure=True).load((PROJECT / "configs" / "mini.yaml").read_text())


def changed(key: str, value: object = None, remove: bool = False) -> dict:
    data = copy.deepcopy(MINI)
    *parents, last = key.split(".") if "../" not in key else ["guided", "variants", "../x"]
    place = data
    for name in parents:
        place = place[name]
    if remove:
        del place[last]
    else:
        place[last] = value
    return data


DOWNLOAD = {
    "url": "https://example.org/a",
    "redirect_hosts": [],
    "size": None,
    "md5": None,
    "sha256": None,
    "path": "data/a",
    "by_hand": "example.org",
}
BAD = [
    ("sampler.steps", 1, "sampler.steps = 1", "greater than or equal to 2"),
    ("sampler.steps", "12", "sampler.steps = '12'", "valid integer"),
    ("sampler.steps", 12.5, "sampler.steps = 12.5", "valid integer"),
    ("sampler.stepz", 12, "stepz = 12", "spelling"),
    ("sampler.sigma_min", 100.0, "sampler", "must be below sigma_max"),
    ("score.training.learning_rate", 0, "score.training.learning_rate = 0", "greater than 0"),
    ("score.training.learning_rate", float("nan"), "score.training.learning_rate", "finite"),
    (
        "discriminator.members.d0.t_min",
        2.0,
        "discriminator.members.d0.t_min = 2.0",
        "less than 1",
    ),
    ("discriminator.split.test", 0.2, "discriminator.split", "must be 1"),
    ("discriminator.grid_times_per_image", 9, "discriminator", "must not exceed grid_times"),
    ("guided.variants.d0.members", ["d9"], "guided.variants.d0.members names 'd9'", "choose among d0, d1"),
    ("guided.variants.d0.weights", [0.5], "guided.variants.d0", "sum to 1"),
    ("guided.variants.d0.weights", [0.5, 0.5], "guided.variants.d0", "2 entries for 1 members"),
    ("guided.variants.d0.weights", [-1.0], "guided.variants.d0.weights", "greater than or equal to 0"),
    ("guided.variants.d0.weights", "even", "guided.variants.d0.weights = 'even'", "valid"),
    ("guided.variants.d0.rule", "median", "guided.variants.d0.rule = 'median'", "mean_probability"),
    ("guided.variants.edm", MINI["guided"]["variants"]["d0"], "guided", "unguided"),
    ("guided.variants.edm.w1", 1.0, "guided.variants.edm", "at least one member"),
    ("guided.time_min", 1.0, "guided", "must be below time_max"),
    ("guided.seed_start", 1000, "same sample indices", "move guided.seed_start"),
    ("study.tuning.seed_start", 1000999, "guided and study.tuning draw the same", "move study.tuning.seed_start"),
    ("study.tuning.seed_start", 1437, "fake and study.tuning draw the same", "move study.tuning.seed_start"),
    ("study.storage", "postgres", "study.storage = 'postgres'", "pattern"),
    ("study.discriminator.epochs", [20, 20], "study.discriminator.epochs", "below the high end"),
    ("study.discriminator.dropout", [0.0, 1.0], "study.discriminator.dropout", "less than 1"),
    ("study.discriminator.bagging", [0.5, 0.5], "study.discriminator.bagging", "must not repeat"),
    ("study.discriminator.model_channels", [48, 50], "names 50", "choose multiples of it"),
    ("factorial.members", ["d0", "d9"], "factorial.members names 'd9'", "choose rows of discriminator.members"),
    ("factorial.members", ["d0"], "factorial.members = ['d0']", "at least 2"),
    ("factorial.training_seeds", [1, 2, 2], "factorial", "must not repeat"),
    ("factorial.training_seeds", [1, 2], "factorial.training_seeds", "at least 3"),
    ("factorial.seed_start", 999200, "factorial and guided draw the same", "move factorial.seed_start"),
    ("factorial.seed_start", 0, "factorial and fake draw the same", "move factorial.seed_start"),
    ("factorial.training_images", 1439, "factorial.training_images needs 1439", "raise the other"),
    ("factorial.levels.boosting", [True, True], "factorial.levels", "the level True twice"),
    ("factorial.levels.init", ["fresh", "pretrained"], "factorial.levels", "pretrained is no level"),
    ("factorial.levels.steps", [12], "key factorial.levels.steps.1", "add it"),
    ("discriminator.members.d1.differs", {"init": "sequential", "after": "d2"}, "goes on from d2", "choose among d0"),
    ("discriminator.members.d1.differs", {"after": "d0"}, "after: d0 without init sequential", "add it to differs"),
    ("discriminator.members.d0.differs", {"reshuffle": False}, "factorial.members names 'd0'", "hides a factor"),
    ("real.source", "imagenet", "real.source = 'imagenet'", "digits"),
    ("real.holdout_fraction", 1.0, "real.holdout_fraction = 1.0", "less than 1"),
    ("fetch.files", {"a": DOWNLOAD | {"url": "http://example.org/a"}}, "fetch.files.a", "https://"),
    ("fetch.files", {"a": DOWNLOAD | {"url": "https://me:secret@example.org/a"}}, "fetch.files.a", "https://"),
    ("fetch.files", {"a": DOWNLOAD | {"path": "../a"}}, "fetch.files.a", "folder of the project"),
    ("fetch.files", {"a": DOWNLOAD | {"path": "/etc/a"}}, "fetch.files.a", "folder of the project"),
    ("fetch.files", {"a": DOWNLOAD | {"path": ".git/hooks/pre-commit"}}, "fetch.files.a", "folder of the project"),
    ("fetch.files", {"a": DOWNLOAD | {"md5": "C58F"}}, "fetch.files.a.md5 = 'C58F'", "pattern"),
    ("fetch.files", {"a": DOWNLOAD | {"size": 0}}, "fetch.files.a.size = 0", "greater than or equal to 1"),
    ("fetch.files", {"a": DOWNLOAD | {"by_hand": ""}}, "fetch.files.a.by_hand", "at least 1"),
    ("fetch.files", {"a": DOWNLOAD, "b": DOWNLOAD}, "fetch", "two files have the path data/a"),
    ("real.holdout_fraction", 0, "real", "above 0 without a holdout_path"),
    ("real.path", "digits.zip", "real", "source digits needs no path"),
    ("real.path", "", "real.path = ''", "at least 1 character"),
    ("real.holdout_path", "test.zip", "real", "for source images, not for digits"),
    ("real.note", "two\nlines", "real.note", "pattern"),
    ("real.note", 3, "real.note = 3", "valid string"),
    ("guided.variants.d0.w1", float("inf"), "guided.variants.d0.w1 = inf", "finite"),
    ("guided.variants.d0.w2", float("nan"), "guided.variants.d0.w2 = nan", "finite"),
    ("score.p_mean", float("nan"), "score.p_mean = nan", "finite"),
    ("discriminator.members.d0.t_min", 1.0, "discriminator.members.d0.t_min = 1.0", "less than 1"),
    ("guided.variants.d0_table1.w1", 0.0, "guided.variants.d0_table1", "without effect"),
    ("guided.variants.../x", MINI["guided"]["variants"]["d0"], "guided.variants", "pattern"),
    ("guided.trajectory_images", 1001, "guided.trajectory_images needs 1001", "lower the one"),
    ("evaluation.kid_subset_size", 5000, "evaluation.kid_subset_size needs 5000", "raise the other"),
    ("evaluation.neighborhood", 1000, "evaluation.neighborhood needs 1001", "raise the other"),
    ("real.image_size", 10, "real.image_size = 10 cannot be halved 2 times", "channel_mult"),
    ("score.network.model_channels", 7, "score.network.model_channels = 7", "multiple of 4"),
    ("score.network.attn_resolutions", [5], "score.network.attn_resolutions names 5", "16, 8, 4"),
    ("score.network.channel_mult", [], "score.network.channel_mult = []", "at least 1"),
    ("extractor.network.num_head_channels", 7, "extractor.network.num_head_channels = 7", "divisor of 24"),
    ("discriminator.network.num_head_channels", 7, "discriminator.network.num_head_channels = 7", "divisor of 48"),
    ("runtime.threads", 0, "runtime.threads = 0", "greater than or equal to 1"),
    ("runtime.threads", True, "runtime.threads = True", "valid integer"),
]


@pytest.mark.parametrize(("key", "value", "place", "remedy"), BAD, ids=[f"{k}={v}" for k, v, *_ in BAD])
def test_a_bad_value_is_one_line_that_names_file_key_and_remedy(key, value, place, remedy):
    with pytest.raises(ConfigError) as caught:
        parse_config(changed(key, value), "configs/x.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert "configs/x.yaml" in message
    assert place in message
    assert remedy in message


IMAGES = {"source": "images", "path": "train.zip", "holdout_path": None, "holdout_fraction": 0.1}
CIFAR = {"source": "cifar10", "path": "cifar.tar.gz", "holdout_path": None, "holdout_fraction": 0, "image_size": 32}
IMPOSSIBLE = [
    (IMAGES | {"path": None}, "source images needs a path"),
    (CIFAR | {"path": None}, "source cifar10 needs a path"),
    (CIFAR | {"image_size": 64}, "must not exceed the 32 pixels"),
    (CIFAR | {"holdout_fraction": 0.2}, "must be 0, because the held-out pictures are the test pictures of cifar10"),
    (CIFAR | {"holdout_path": "test.zip"}, "for source images, not for cifar10"),
    (IMAGES | {"holdout_fraction": 0}, "above 0 without a holdout_path"),
    (IMAGES | {"holdout_path": "test.zip"}, "must be 0, because the held-out pictures are test.zip"),
    (IMAGES | {"holdout_path": "train.zip", "holdout_fraction": 0}, "would not be held out"),
]


@pytest.mark.parametrize(("changes", "remedy"), IMPOSSIBLE)
def test_impossible_sources_are_one_line(changes, remedy):
    with pytest.raises(ConfigError, match=r"a valid real in configs/x\.yaml") as caught:
        parse_config(changed("real", MINI["real"] | changes), "configs/x.yaml")
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes", [IMAGES, CIFAR, IMAGES | {"holdout_path": "test.zip", "holdout_fraction": 0, "note": "JPEG re-encoded"}]
)
def test_possible_sources(changes):
    data = changed("real", MINI["real"] | changes)
    data["score"]["network"]["attn_resolutions"] = data["extractor"]["network"]["attention_resolutions"] = [8]
    real = parse_config(data, "configs/x.yaml").real
    assert real.source == changes["source"]
    assert real.note == changes.get("note")


def with_discriminators(**changes: object) -> dict:
    """The profile with changes of that section; a member's name stands for its differences."""
    data = changed("factorial.members", ["d4", "d5"])  # which wants members without peculiarities
    section = data["discriminator"]
    for key, value in changes.items():
        if key in section["members"]:
            section["members"][key]["differs"] = value
        else:
            section[key] = value
    return data


WIDE = {"model_channels": 96, "num_res_blocks": 2, "num_head_channels": 24, "dropout": 0.0}


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"init": "pretrained"}, "needs the path of a discriminator under pretrained"),
        ({"d3": {"init": "pretrained"}}, "needs the path of a discriminator under pretrained"),
        ({"checkpoint": 55}, "checkpoint 55 must not exceed the 40 epochs of d1"),
        ({"d2": {"checkpoint": 41}}, "checkpoint 41 must not exceed the 40 epochs of d2"),
        ({"init": "sequential", "d2": {"network": WIDE}}, "d2 goes on from d1 and needs its network"),
        ({"d2": {"init": "sequential"}, "d1": {"network": WIDE}}, "d2 goes on from d1 and needs its network"),
        ({"bagging": 1.5}, "less than or equal to 1"),
        ({"d0": {"bagging": 0}}, "greater than 0"),
        ({"label_smoothing": 0.5}, "less than 0.5"),
        ({"d0": {"smoothing": 0.1}}, "spelling"),
    ],
)
def test_impossible_members_are_one_line(changes, remedy):
    with pytest.raises(ConfigError, match=r"configs/x\.yaml") as caught:
        parse_config(with_discriminators(**changes), "configs/x.yaml")
    assert remedy in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"init": "sequential", "d0": {"network": WIDE}, "d1": {"init": "fresh"}},
        {"init": "sequential", "network": WIDE, "d0": {"network": WIDE}},
        {"checkpoint": 35, "d0": {"checkpoint": 55}, "d5": {"checkpoint": "best"}},
        {"d0": {"init": "pretrained", "bagging": 1.0}, "pretrained": "head.pt"},
    ],
)
def test_possible_members(changes):
    assert parse_config(with_discriminators(**changes), "configs/x.yaml")


@pytest.mark.parametrize(
    ("start", "free"), [(999_990, True), (999_991, False), (1_001_500, False), (1_002_999, False), (1_003_000, True)]
)
@pytest.mark.parametrize("other", ["fake", "study.tuning"])
def test_no_range_of_guided_samples_is_drawn_elsewhere(other, start, free):
    """Three ranges of 1,000 from 1,000,000 on, and ten samples of another use."""
    data = changed("guided.ranges", 3)
    data["factorial"]["training_images"] = 10
    section = data["fake"] if other == "fake" else data["study"]["tuning"]
    section |= {"seed": data["guided"]["seed"], "seed_start": start, "images": 10}
    if free:
        assert parse_config(data, "configs/x.yaml")
    else:
        with pytest.raises(ConfigError, match=f"{other}.* draw the same sample indices; move "):
            parse_config(data, "configs/x.yaml")


@pytest.mark.parametrize(
    "key", ["runtime", "real.note", "sampler.steps", "discriminator.members.d3.weight_decay", "report.dpi"]
)
def test_nothing_has_a_hidden_default(key):
    with pytest.raises(ConfigError, match=f"key {key} in configs/x.yaml; got no such key"):
        parse_config(changed(key, remove=True), "configs/x.yaml")


def leaves(model: type, prefix: str = "") -> list[str]:
    found = []
    for name, field in model.model_fields.items():
        assert field.is_required(), f"{prefix}{name} has a default"
        inner = field.annotation
        if isinstance(inner, type) and hasattr(inner, "model_fields"):
            found += leaves(inner, f"{prefix}{name}.")
        else:
            found.append(name)
    return found


def test_every_key_is_required_and_explained_in_the_file():
    text = (PROJECT / "configs" / "mini.yaml").read_text().splitlines()
    explained = {line.split(":")[0].strip() for line in text if "#" in line}
    plain = {"w1", "w2", "members", "rule", "weights", "boosting"}  # explained together at `variants`
    known = {
        "model_channels", "channel_mult", "num_blocks", "dropout", "num_res_blocks", "num_head_channels",
        "iterations", "batch_size", "learning_rate", "weight_decay", "seed", "channels",
    }  # fmt: skip
    for key in leaves(Config):
        if key not in plain | known:
            assert key in explained or any(f"{key}:" in line for line in text), key


def test_numbers_in_exponent_form_are_numbers():
    assert load_config("mini", PROJECT).discriminator.members["d0"].learning_rate == 3e-4


def test_where_files_come_from_enters_no_result():
    with_file, without = (parse_config(changed("fetch.files", files), "x") for files in ({"a": DOWNLOAD}, {}))
    assert with_file.fetch.files["a"].path == "data/a"
    assert with_file.model_dump() == without.model_dump()
    assert with_file.model_dump_json() == without.model_dump_json()


def test_frozen():
    config = load_config("mini", PROJECT)
    with pytest.raises(ValueError, match="frozen"):
        config.sampler.steps = 3


def test_unknown_profile_names_the_known_ones():
    with pytest.raises(ConfigError, match=r"configs/nano.yaml; got no such file; choose one of: .*mini"):
        load_config("nano", PROJECT)


@pytest.mark.parametrize("name", ["../configs/mini", "configs/mini", "", ".mini", "m" * 65, "n" * 300, "mini\n", "é"])
def test_what_is_no_name_of_a_profile_becomes_no_path(name):
    with pytest.raises(ConfigError, match=r"a profile's name: at most 64 letters.*choose one of: .*mini"):
        load_config(name, PROJECT)


ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(12)
)


@pytest.mark.parametrize(
    "text",
    [
        "a: [1,", "- 1\n- 2", "", "\x00", "a: 1\na: 2", "a: " + "[" * 500, "a: 2001-99-99", "a: " + "9" * 5000,
        "a: 0x" + "f" * 5000, "a: !!int abc", "a: !!int ''", "a: !!float abc", "a: !!bool abc", "a: !!binary ''",
        "a: !!omap [{b: 1}, {b: 1}]",
        "a: &a [*a]", ALIASES, 'a: "\\UFFFFFFFF"', 'a: "\\ud800"', "a: {[b]: c}",
    ],
    ids=lambda text: repr(text[:20]),
)  # fmt: skip
def test_files_that_are_not_a_profile(tmp_path, text):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "x.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config("x", tmp_path)
    assert "\n" not in str(caught.value)
    assert "configs/x.yaml" in str(caught.value)


@pytest.mark.parametrize("name", ["inception", "Inception v3", "like INCEPTION"])
def test_a_trained_network_cannot_pass_for_inception(name: str):
    with pytest.raises(ConfigError, match="must not say Inception"):
        parse_config(changed("fid_network.name", name), "configs/mini.yaml")
