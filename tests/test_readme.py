"""The README's numbers are those of the committed evaluation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
NETWORKS = {"mini": "digits network", "cifar10-small": "CIFAR network"}
MEANING = {
    "edm": "no guidance",
    "d0": "D0, w1 = w2 = 2",
    "d1": "D1, w1 = w2 = 2",
    "d2": "D2, w1 = w2 = 2",
    "d3": "D3, w1 = w2 = 2",
    "d4": "D4, w1 = w2 = 2",
    "d5": "D5, w1 = w2 = 2",
    "d0_w1": "D0, w1 = w2 = 1",
    "ensemble_probability": "mean probability of six (Eq. 3), w1 = w2 = 2",
    "ensemble_logit": "mean logit of six, w1 = w2 = 2",
    "ensemble_clipped_logit": "clipped mean of raw logits, w1 = w2 = 2",
    "d0_table1": "D0 at the study's setting: w1 = 2, w2 = 0, boosting",
    "ensemble_probability_table1": "mean probability at the study's setting",
    "ensemble_clipped_logit_table1": "clipped raw logits at the study's setting (what the study ran)",
    "tuned": "winner of `dguide study discriminator`: D5's row, another seed",
    "ensemble_tuned": "winner of `dguide study ensemble`: weights, rule, w1, w2, window, boosting",
}


def results_block(profile: str = "mini") -> str:
    lines = [
        f"| variant | what | FID ({NETWORKS[profile]}) | difference to `edm` | precision / recall (k-NN) |",
        "|---|---|---|---|---|",
    ]
    evaluated = {path.stem: path for path in (PROJECT / "reports" / profile / "evaluation").glob("*.json")}
    for variant in [name for name in MEANING if name in evaluated]:
        meaning, r = MEANING[variant], json.loads(evaluated[variant].read_text())
        fid = f"{r['fid']:.2f} [{r['fid_ci95'][0]:.2f}, {r['fid_ci95'][1]:.2f}]"
        low, high = r["delta_fid_ci95"]
        delta = "" if variant == "edm" else f"{r['delta_fid_vs_edm']:+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(f"| `{variant}` | {meaning} | {fid} | {delta} | {r['precision']:.2f} / {r['recall']:.2f} |")
    return "\n".join(lines)


@pytest.mark.parametrize("profile", NETWORKS)
def test_results_are_those_of_the_committed_run(profile):
    text = (PROJECT / "README.md").read_text()
    start = f"compares this block with reports/{profile}/evaluation -->\n"
    block = text.split(start)[1].split("\n<!-- end of results")[0]
    assert block == results_block(profile), f"paste this into README.md:\n{results_block(profile)}"


def test_speed_is_that_of_the_committed_benchmark():
    rows = json.loads((PROJECT / "reports" / "mini" / "benchmark.json").read_text())
    lines = [
        "| row | pictures | plain way, s | this project, s | times as fast | % of peak |",
        "|---|---|---|---|---|---|",
    ]
    for r in rows:
        seconds = f"{r['reference_s']:.3g} | {r['ours_s']:.3g}"
        lines.append(
            f"| `{r['name']}` | {r['pictures']:,} | {seconds} | {r['ratio']:.2f} | {r['percent_of_peak']:.0f} |"
        )
    text = (PROJECT / "README.md").read_text()
    block = text.split("compares this block with reports/mini/benchmark.json -->\n")[1].split("\n<!-- end of speed")[0]
    assert block == "\n".join(lines)


def test_every_named_path_exists():
    import re

    text = (PROJECT / "README.md").read_text()
    for path in re.findall(r"`((?:evaluation|report|stages|configs|tests)/[\w./]+)`", text):
        inside = PROJECT / "src" / "discriminator_guidance" / path
        assert (PROJECT / path).exists() or inside.exists(), path
    for path in re.findall(r"\]\((?!http)([\w./]+)\)", text):
        assert (PROJECT / path).exists(), path


def test_every_make_target_and_command_exists():
    import re

    from typer.main import get_command

    from discriminator_guidance.cli import app

    text = (PROJECT / "README.md").read_text()
    makefile = (PROJECT / "Makefile").read_text()
    for target in set(re.findall(r"`make ([a-z-]+)", text)):
        assert f"\n{target}:" in makefile, target
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for command in set(re.findall(r"`dguide ([a-z_]+)", text)):
        assert command in commands, command
