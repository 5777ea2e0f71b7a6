"""Settings that contradict each other are refused with what to do about it."""

from typing import Any

import pytest

from dguide.settings import plain
from discriminator_guidance.core.errors import ConfigError

from .settings import MINI, read

D0, D1 = "models/mini/discriminator/d0", "models/mini/discriminator/d1"
FRESH, TF32 = MINI["members"]["d0"], MINI["runtime"] | {"training_precision": "tf32"}
WIDE = {"model_channels": 96}  # the other keys are those of section discriminator
FILE = {"url": "https://example.org/a", "hash": None, "path": "data/raw/a", "by_hand": "example.org"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"runtime": TF32 | {"sampling_precision": "float32"}}, "members.d0 .*mixes float32 and tf32"),
        ({"real.holdout_fraction": 0}, "holdout_fraction .*is 0; write 0 where .* else .* above 0"),
        ({"real.holdout_path": "b.zip", "real.holdout_fraction": 0}, "is b.zip, and digits has one source"),
        ({"real.image_size": 10}, "real.image_size .*is 10, .* halve 2 times"),
        ({"score.path": "data/other/real"}, "score.path .*is 'data/other/real'; choose among data/mini/real"),
        ({"extractor.network.attention_resolutions": [7]}, "extractor.network .*attends at 7 pixels"),
        ({"extractor": {"source": "adm", "path": "data/raw/a"}, "real.image_size": 24}, "choose among 8, 16, 32, 64"),
        ({"extractor.network.num_head_channels": 7}, "extractor.network.num_head_channels .*use a divisor of 24"),
        ({"fid_network.name": "like Inception"}, "fid_network.name .*is 'like Inception'"),
        ({"score.snapshots": {"late": 400}}, "score.snapshots .*has 400, after the last iteration"),
        ({"discriminator.checkpoint": 55}, "members.d1.checkpoint .*is 55 of 40 epochs"),
        ({"discriminator.images": 1439}, "members.d0.images .*is 1439, and fake.images 1438"),
        ({"members.d0.start": D1}, "members.d0.start .*is .* choose among models/mini/extractor"),
        ({"members.d1": FRESH | {"start": D0, "network": WIDE}}, "members.d1 .*continues .*d0 with another kind,"),
        ({"members.d1": FRESH | {"start": "data/raw/a.pt", "kind": "whole"}}, "whole, but data/raw/a.pt is a head"),
        ({"members.d1.split": {"train": 0.7, "validation": 0.1, "test": 0.2}}, "members.d1.split .*is {'train': 0.7,"),
        ({"members.d1.images": 500}, "variants.mean_prob.members .*differ in their images"),
        ({"replicates": 2, "guided.seed": 1010, "guided.seed_start": 1000}, "seed_start .*is 1000, whose .* fake"),
        ({"guided.seed_start": 1000}, "guided.seed_start .*is 1000, whose sample indices fake draws too; move it"),
        ({"variants.d0.needs": "discriminator"}, "is 'discriminator'; choose among discriminator/d0"),
        ({"variants.d0.members": ["d9"]}, "variants.d0.members .*is 'd9'; choose among d0"),
        ({"variants.d0.weights": "fitted"}, "write rule: mean_logit"),
        ({"variants.mean_logit.weights": "fitted", "variants.mean_logit.logit_shift": 1}, "logit_shift out"),
        ({"variants.d0.weights": [0.5, 0.5]}, "write one a member"),
        ({"variants.d0.w1": 0.0, "variants.d0.w2": 0.0}, "variants.d0.members .*is .'d0'., w1 0, w2 0"),
        ({"variants.d0_table1.w1": 0.0, "variants.d0_table1.w2": 1.0}, "boosting .*is true, and w1, .* is 0"),
        ({"evaluation.baseline": "d0"}, "evaluation.baseline .*is 'd0'; choose among edm"),
        ({"variants.edm.baseline": "edm"}, "variants.edm.baseline .*is 'edm'; choose among"),
        ({"report.primary": ["d0", "d0"]}, "report.primary .*is 'd0'"),
        ({"cond": True}, "study.ensemble.fitted .*is true, which is not for a class-conditional profile"),
        ({"study.discriminator.model_channels": [48, 50]}, "model_channels .*has 50; use multiples of 24"),
        ({"study.seed": 2**32}, "study.seed .*is 4294967296"),
        ({"study.factorial.changes": {"none": {}}}, "study.factorial.changes .*has the name none"),
        ({"study.discriminator.epochs": [9, 3]}, "the low end 9 must be below"),
        ({"study.ensemble.w1": [0.0, 1.0]}, "study.ensemble.w1 .*leaves out 2.0 of variants.mean_prob"),
        ({"study.ensemble.rules": ["mean_logit"]}, "study.ensemble.rules .*leaves out mean_probability of variants"),
        ({"variants.d0.sigma_min": 90}, "variants.d0.sigma_min .*is 90 and must be below sigma_max 80"),
        ({"members.d0.published": "d00"}, "members.d0.published .*d00"),
        ({"fetch": {"a": FILE | {"path": "data/raw/../../a"}}}, "pattern"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_contradiction_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        read(changes)


@pytest.mark.parametrize(("address", "remedy"), [("postgresql://", "PGPASSWORD"), ("postgresql:/", "match pattern")])
def test_a_password_is_refused_and_not_repeated(address: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"study.storage .*{remedy}") as caught:
        read({"study.storage": f"{address}me:secret@host/db"})
    assert "secret" not in str(caught.value)


def test_a_possible_combination_is_accepted() -> None:
    assert read({"guided.seed_start": 1000, "guided.seed": 11})


def test_the_papers_own_method_of_one_discriminator_is_a_profile() -> None:
    row, rows = {"needs": "discriminator/d0", "members": ["d0"]}, MINI["variants"]
    report = {"primary": ["d0", "edm"], "samples": ["d0"], "log_ratios": ["d0"], "sampling": ["d0"]}
    single = {"members": {"d0": FRESH}, "variants": {"edm": rows["edm"], "d0": row}, "study": None}
    config = read({**single, "report": MINI["report"] | report})
    assert (config.variants["d0"].w1, config.variants["d0"].window) == (2.0, (0.01, 1.0))
    with pytest.raises(ConfigError, match="study: null"):
        _ = config.studies


def test_a_member_takes_what_its_row_leaves_out_from_the_section() -> None:
    member = (config := read({"members.own": FRESH | {"flip": True, "checkpoint": 2}})).members["own"]
    assert (member.flip, member.checkpoint, member.reshuffle, member.label_smoothing) == (True, 2, True, 0.0)
    assert member.network == config.discriminator.network


def test_mini_says_every_key_of_every_section() -> None:
    def compare(written: Any, complete: Any, at: str) -> None:
        if isinstance(complete, dict) and not at.endswith(".changes"):  # which names only what a cell changes
            assert set(complete) - set(written) <= {"precision", "gain"}, at
            for key in written:
                compare(written[key], complete[key], f"{at}.{key}")

    rows = ("members", "variants")
    compare({key: value for key, value in MINI.items() if key not in rows}, plain(read({}), *rows), "")
