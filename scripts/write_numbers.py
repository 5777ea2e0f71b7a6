"""Write the results into README.md and docs/ from reports/: `make numbers`.

A block begins with <!-- numbers: NAME --> and ends with <!-- end -->. NAME is a function below.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from dguide.report.format import estimate, number
from dguide.settings import load_config
from dguide.stages.evaluation import adjusted_p
from discriminator_guidance import delivered_weight, sigma_from_tau, tau_from_sigma

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
REPORTS = ROOT / "reports"
GREY, BLUE, ORANGE = "#808080", "#0072B2", "#D55E00"  # legible on white and on black
STYLE = dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), GREY)
STYLE |= {"font.family": "DejaVu Sans", "font.size": 9, "savefig.transparent": True, "savefig.dpi": 200}

PREDICTED = {"few": (-53, -33), "few_double": (-78, -60), "tuned": (-87, -75)}  # in configs/fashion-biased.yaml
SHOWN = ("edm", "few", "few_double", "many_double", "tuned", "tuned_guided")  # in README's chart
# By label: profile, the row without guidance, and the rows with one discriminator with their markers; all 28x28.
GAINS: dict[str, tuple[str, str, dict[str, str]]] = {
    "1,000 iterations": ("fashion", "edm_early", {"early_1k": "o", "early_3k": "s", "early_10k": "D"}),
    "48,000 iterations": ("fashion", "half", {"half_1k": "o", "half_3k": "s", "half_10k": "D"}),
    "96,000 iterations": ("fashion", "edm", {"few": "o", "final_3k": "s", "whole": "p", "final_10k": "D"}),
    "a biased training set": ("fashion-six", "edm", {"few": "o"}),
}
LENGTHS = [*GAINS][:3]  # of the training of one network
SEEN = {  # discriminators of 10,000 images, by size, profile and name
    "16x16": {
        ("fashion-biased", "many"): ("a biased training set", ORANGE),
        ("fashion16", "final_10k"): ("balanced training", "#CC79A7"),
        ("fashion16", "permuted"): ("permuted labels", GREY),
    },
    "28x28": {
        ("fashion", "early_10k"): ("1,000 iterations", BLUE),
        ("fashion", "half_10k"): ("48,000 iterations", "#56B4E9"),
        ("fashion", "final_10k"): ("96,000 iterations", "#CC79A7"),
    },
}
COLORS = (BLUE, "#56B4E9", "#CC79A7", ORANGE)  # of GAINS
MARKERS = {"o": "1,000 images", "s": "3,000", "p": "5,000", "D": "10,000"}


def evaluated(profile: str, variant: str) -> dict[str, Any]:
    """Metrics and details of a variant."""
    files = [REPORTS / profile / folder / f"{variant}.json" for folder in ("evaluation", "details")]
    return {key: value for path in files for key, value in json.loads(path.read_text()).items()}


def table(headings: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, whose intervals do not break."""
    columns = zip(headings, *rows, strict=True)
    notes = ["<br><small>by&nbsp;seed</small>" * any("<small>" in cell for cell in cells) for _, *cells in columns]
    headings = [heading + note for heading, note in zip(headings, notes, strict=True)]
    first, *others = ("| " + " | ".join(cells) + " |" for cells in (headings, *rows))
    text = "\n".join([first, "|" + "---|" * len(headings), *others])
    return re.sub(r"\[(\S+), (\S+)\]", r"[\1,&nbsp;\2]", text)


def pair_of(profile: str, variant: str, other: str) -> pd.Series:
    """The paired differences of two variants."""
    pairs = pd.read_csv(REPORTS / profile / "details/differences.csv").set_index(["variant", "other"])
    return pairs.loc[(variant, other)]


def seeds(values: Sequence[float], sign: bool = False) -> str:
    """The values by training seed, as a line of small print below an interval; none of one seed."""
    digits = max(0, (1 if sign else 2) - int(np.floor(np.log10(np.abs(values).max()))))
    shown = "&nbsp;".join(f"{value:{'+' if sign else ''}z.{digits}f}" for value in values)
    return f"<br><small>{shown}</small>" if len(values) > 1 else ""


def percent(pair: pd.Series) -> str:
    """The relative change of the FID with its interval."""
    ratio, *bounds = (100 * (pair[key] - 1) for key in ("ratio", "ratio_low", "ratio_high"))
    return estimate(ratio, bounds, 0, sign=True)


def change_of(profile: str, name: str, other: str) -> str:
    """The relative change of the FID with its interval and, below, by training seed."""
    fids = (np.array(evaluated(profile, row)["fid_values"]) for row in (name, other))
    return percent(pair_of(profile, name, other)) + seeds(100 * (np.divide(*fids) - 1), sign=True)


def gains(profile: str, base: str, name: str, distance: str = "fid") -> list[tuple[float, float]]:
    """Cross-entropy of a row's discriminator and the change of the FID (or KID) in %, a pair a training seed."""
    record, without = evaluated(profile, name), np.array(evaluated(profile, base)[f"{distance}_values"])
    changes = 100 * (np.array(record[f"{distance}_values"]) / without - 1)
    return [*zip(record["cross_entropy_values"], changes, strict=True)]


def described(profile: str) -> dict[str, str]:
    """What the rows of a profile are."""
    texts = load_config(Path("configs") / f"{profile}.yaml").report.describe
    return {name: text for name, text in texts.items() if "/" not in name}


def baselines(profile: str) -> dict[str, str | None]:
    """The row from which each row of a profile differs."""
    return load_config(Path("configs") / f"{profile}.yaml").baselines


def results(
    profile: str,
    names: dict[str, str],
    more: dict[str, str],
    others: Mapping[str, str | None],
    unlabelled: bool = False,
) -> str:
    """A row a variant: FID, and its change from another row, if there is one; more: keys by heading."""
    rows = []
    for name, description in names.items():
        record, other = evaluated(profile, name), others.get(name)
        changes = ["", *[""] * unlabelled, ""]
        if other:
            pair = pair_of(profile, name, other)
            kid = [1000 * pair[f"kid_{key}"] for key in ("difference", "low", "high")]
            by_others = [without_labels(profile, name, other, by_seed=True)] if unlabelled else []
            changes = [percent(pair), *by_others, estimate(kid[0], kid[1:], 1, sign=True)]
        fid = estimate(record["fid"], (record["fid_low"], record["fid_high"])) + seeds(record["fid_values"])
        means = (np.mean(record[key]) if record[key] else None for key in more.values())
        rows.append([f"{description}: `{name}`", fid, *changes, *(number(mean, 2) for mean in means)])
    by_others = ["by [label-free features](glossary.md)"] * unlabelled
    return table(["", "FID (fashion network)", "change in %", *by_others, "change of KID x 1,000", *more], rows)


def biased() -> str:
    """Every row of profile fashion-biased."""
    more = {"precision": "precision", "total variation of classes": "total_variation_values"}
    rows = results("fashion-biased", described("fashion-biased"), more, baselines("fashion-biased"), unlabelled=True)
    apart = without_labels("fashion-biased", "tuned", "few_double")
    found = {name: 100 * (pair_of("fashion-biased", name, "edm")["ratio"] - 1) for name in PREDICTED}
    held = sum(low < found[name] < high for name, (low, high) in PREDICTED.items())
    ranges = ", ".join(f"`{name}` {low} to {high} %" for name, (low, high) in PREDICTED.items())
    of = [evaluated("fashion-biased", name) for name in described("fashion-biased")]
    points = pd.DataFrame(
        {key: [value for row in of for value in row[f"{key}_values"]] for key in ("fid", "total_variation")}
    )
    ranks = points.corr("spearman").loc["fid", "total_variation"]
    return f"""\
{rows}

FID and total variation have a rank correlation of {ranks:.2f} over rows and seeds.
By label-free features, `tuned` changes the FID of `few_double` by {apart} %. From an earlier run with five
other score networks, we predicted changes of {ranges}; {held} of {len(PREDICTED)} hold."""


def six() -> str:
    """What the clipped-logit rule, and a search of weights, do to the biased model: profile fashion-six."""
    rows = []
    texts = described("fashion-six")
    pairs = [(name, "edm", label) for name, label in texts.items() if name != "edm"]
    pairs.append(("tuned_mean", "few_double", f"the search, against {texts['few_double']} (planned)"))
    pairs.append(("clip_six", "tuned_mean", "six by clipped logit, against the search (planned, label-free)"))
    for name, other, label in pairs:
        changes = change_of("fashion-six", name, other), without_labels("fashion-six", name, other)
        record = evaluated("fashion-six", name)
        means = (record["precision"], np.mean(record["total_variation_values"]))
        rows.append([label, *changes, *(number(mean, 2) if other == "edm" else "" for mean in means)])
    return table(["guided", "change of the FID in %", "by label-free features", "precision", "total variation"], rows)


def larger() -> str:
    """The rows of profile fashion16 but `mean_prob`, which another table has."""
    texts = described("fashion16")
    rows = {name: texts[name] for name in texts if name != "mean_prob"}
    shown = results("fashion16", rows, {}, baselines("fashion16"), unlabelled=True)
    p, clipped = pair_of("fashion16", "final_10k", "edm")["p"], evaluated("fashion16", "clip_logit")["delta_p_adjusted"]
    floor = evaluated("fashion16", "edm")["floor"]
    return f"""\
{shown}

The planned p is {p:.2g}; that of `clip_logit`, adjusted, {clipped:.2g}. 2,000 real images have FID {floor:.2f}."""


def tiny() -> str:
    """What each number of images gains after each length of training: profile fashion."""
    rows = []
    for label in LENGTHS:
        profile, base, marks = GAINS[label]
        names = {marker: name for name, marker in marks.items()}
        fids = [change_of(profile, names[key], base) if key in names else "" for key in "ospD"]
        rows.append([label, number(evaluated(profile, base)["fid"], 2), *fids])
        free = [without_labels(profile, names[key], base) if key in names else "" for key in "ospD"]
        rows.append(["label-free", "", *free])
    return table(["change of the FID in %", "FID before", "1,000 images", "3,000", "5,000", "10,000"], rows)


def changes(profile: str, hidden: Sequence[str]) -> list[list[str]]:
    """Rows of the change of FID and KID from the rows without guidance."""
    rows = []
    for name, label in described(profile).items():
        if (other := baselines(profile)[name]) is None or name in hidden:
            continue
        pair = pair_of(profile, name, other)
        kid = [1000 * pair[f"kid_{key}"] for key in ("difference", "low", "high")]
        by_others = without_labels(profile, name, other)
        shown = change_of(profile, name, other)
        rows.append([f"{label}: `{profile}/{name}`", shown, by_others, estimate(kid[0], kid[1:], 1, sign=True)])
    return rows


def small() -> str:
    """Other rows of profile fashion, and the losses that show whether training had ended."""
    curves = [(base, *marks) for _, base, marks in (GAINS[label] for label in LENGTHS)]
    crossed = [name for names in curves for name in names if name not in ("edm", "half", "whole")]
    headings = ["", "change of the FID in %", "by label-free features", "of KID x 1,000"]
    shown = table(headings, changes("fashion", crossed))
    edm, whole = evaluated("fashion", "edm"), evaluated("fashion", "whole")
    losses = json.loads((REPORTS / "fashion/holdout_loss.json").read_text())
    fall = 100 * (1 - np.mean(losses["late"]) / np.mean(losses["half"]))
    fid = estimate(edm["fid"], (edm["fid_low"], edm["fid_high"])) + seeds(edm["fid_values"])
    p = f"{pair_of('fashion', 'whole', 'edm')['p']:.2g}"
    last = 100 * (1 - np.mean(losses["final"]) / np.mean(losses["late"]))
    fell = f"{-fall:.1f} %, 48,000 to 67,200; {-last:.1f} %, to 96,000"
    end = [fid, p, span(whole["cross_entropy_values"], 3), fell]
    headings = ["FID of `edm`", "planned: p", "cross-entropies", "held-out loss, over iterations"]
    return f"{shown}\n\n{table(headings, [end])}"


def ensembles() -> str:
    """Averages of heads against one, and one against none: profile fashion-ensembles, p-values by Holm's method."""
    profile = "fashion-ensembles"
    labels = {name: label for name, label in described(profile).items() if name != "edm"}
    others = {name: "edm" if name == "one" else "one" for name in labels}
    pairs = pd.read_csv(REPORTS / profile / "details/differences.csv").to_dict("records")
    averages = {name: other for name, other in others.items() if name not in ("one", "whole", "tuned")}
    p = adjusted_p([pair for pair in pairs if pair["variant"] in averages], averages, ("seeds", "one"))
    p |= {"one": evaluated(profile, "one")["delta_p_adjusted"], "tuned": pair_of(profile, "tuned", "one")["p"]}
    rows = []
    for name, description in labels.items():
        record, pair = evaluated(profile, name), pair_of(profile, name, others[name])
        kid = [1000 * pair[f"kid_{key}"] for key in ("difference", "low", "high")]
        other = without_labels(profile, name, others[name])
        changes = [
            change_of(profile, name, others[name]),
            number(p.get(name), 3),
            other,
            estimate(kid[0], kid[1:], 1, sign=True),
        ]
        rows.append([description, number(record["fid"], 2), *changes])
    return table(["", "FID", "change in %", "p", "by label-free features", "change of KID x 1,000"], rows)


def without_labels_ratio(profile: str, name: str, other: str) -> list[float]:
    """The ratio of two FIDs by features that learned no labels, with its interval."""
    features = json.loads((REPORTS / profile / "unlabelled_features.json").read_text())
    assert features["images"] == evaluated(profile, name)["n"], f"run scripts/other_features.py of {profile} again"
    return list(features["variants"][name][f"against {other}"])


def without_labels(profile: str, name: str, other: str, by_seed: bool = False) -> str:
    """The relative change of the FID by features that learned no labels, with its interval, in %."""
    change, *interval = (100 * (value - 1) for value in without_labels_ratio(profile, name, other))
    features = json.loads((REPORTS / profile / "unlabelled_features.json").read_text())["variants"]
    fids = [features[row].get("fid_values", ()) for row in (name, other)]  # older files have none
    small = seeds(100 * (np.divide(*fids) - 1), sign=True) if by_seed and all(fids) else ""
    return estimate(change, interval, 0, sign=True) + small


def training() -> str:
    """How cross-entropies and changes of the FID rank alike."""

    def correlation(of: list[tuple[float, float]]) -> float:
        return float(pd.DataFrame(of).corr("spearman").loc[0, 1])

    curves = [GAINS[label] for label in LENGTHS]
    parts = [[point for name in rows for point in gains(profile, base, name)] for profile, base, rows in curves]
    total = [point for part in parts for point in part]
    within = span([correlation(part) for part in parts], 2)
    return f"""\
Cross-entropy and change of the FID have a rank correlation of {correlation(total):.2f} over these {len(total)} points,
of {within} within a length."""


def fid_networks() -> str:
    """How far a FID network with another training seed moves the changes of rows from their baselines."""
    moves, kept = list[tuple[float, str]](), list[bool]()
    profiles = ("fashion16", "fashion", "fashion-biased", "fashion-six")
    for profile in profiles:
        rows = json.loads((REPORTS / profile / "other_fid_network.json").read_text())["variants"]
        for name, other in baselines(profile).items():
            if other and name != "edm_early":  # no table has its change
                before, after = pair_of(profile, name, other)["ratio"] - 1, rows[name][f"against {other}"][0] - 1
                moves.append((100 * abs(after - before), f"`{name}` of `{profile}`"))
                kept.append(before * after > 0)
    signs = "every sign" if all(kept) else f"{sum(kept)} of {len(kept)} signs"
    *_, (most, _), (far, one), (farthest, other) = sorted(moves)
    return f"""\
In `{"`, `".join(profiles)}`, a FID network with another training seed leaves {signs}
and moves the changes in tables by at most {most:.1f} points ({one}: {far:.1f}; {other}: {farthest:.1f})."""


def cells(profile: str = "fashion16") -> pd.DataFrame:
    """The cells of a study `factorial`, a row a cell and training seed."""
    return pd.read_csv(REPORTS / profile / "study/factorial.csv")


def as_reproduced(steps: int, profile: str = "fashion16") -> pd.DataFrame:
    """FIDs at the reproduction's settings: a row a training seed, a column a number of members and a rule."""
    rows = cells(profile).query(f"set == 'fresh' and change == 'none' and steps == {steps}")
    return rows.pivot(index="seed", columns=["members", "rule"], values="fid")


def span(values: Any, digits: int = 1) -> str:
    """The range of values, or the value that all have."""
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else f"{low} to {high}"


def rule() -> str:
    """FIDs over five seeds by the clipped-logit rule and by probability, at the reproduction's settings."""
    labels = {
        (6, "clipped_logit_mean"): "six, by clipped logit",
        (1, "clipped_logit_mean"): "D0, by clipped logit",
        (6, "mean_probability"): "six, by mean probability",
        (1, "mean_probability"): "D0, by probability",
    }
    columns = [as_reproduced(steps) for steps in (12, 35)]
    rows = [[label, *(span(fids[key]) for fids in columns)] for key, label in labels.items()]
    return table(["discriminators", "12 steps", "35 steps"], rows)


CHANGES = {
    "none": "the reproduction's settings",
    "a_tenth": "logits x 0.1",
    "shifted_up": "logits + 0.3",
    "shifted_down": "logits - 0.3",
    "high_noise": "at VP time above 0.5 only",
    "low_noise": "at VP time below 0.5 only",
    "no_boosting": "without boosting",
    "both_orders": "12 steps, w1 = w2 = 1",
}


def clipped_cells(profile: str = "fashion16") -> pd.DataFrame:
    """The cells by the clipped-logit rule."""
    return cells(profile).query("rule == 'clipped_logit_mean'")


def interventions() -> str:
    """What changes of the reproduction's cell do to the FID and to the computed displacement, means over seeds."""
    shown = clipped_cells().query("set == 'fresh' and steps == 35 or change == 'both_orders'")
    means = shown.groupby(["change", "members"])[["fid", "displacement"]].mean()
    rows = []
    for change, label in CHANGES.items():
        one, six = (means.loc[(change, count)] for count in (1, 6))
        rows.append([label, *(number(of[key], 1) for of in (one, six) for key in ("fid", "displacement"))])
    return table(["by the clipped-logit rule", "D0: FID", "displacement", "six: FID", "displacement"], rows)


def over_seeds(clipped: pd.DataFrame) -> float:
    """The rank correlation of displacement and FID over the seeds of a cell, its mean over cells."""
    of_cells = clipped.groupby(["set", "members", "steps", "change"])
    return float(np.mean([cell["displacement"].corr(cell["fid"], "spearman") for _, cell in of_cells]))


def law() -> str:
    """What was predicted of the clipped-logit rule on Fashion-MNIST, and found."""
    clipped, fids = clipped_cells(), as_reproduced(35)
    doubled = int((fids[6, "clipped_logit_mean"] >= 2 * fids[6, "mean_probability"]).sum())
    correlation = clipped["displacement"].corr(clipped["fid"], "spearman")
    means = clipped.groupby(["set", "members", "steps", "change"])[["displacement", "fid"]].mean()
    of_means = means["displacement"].corr(means["fid"], "spearman")
    within = [group["displacement"].corr(group["fid"], "spearman") for _, group in clipped.groupby("seed")]
    rows = [
        [
            "six by clipped logit have at least twice the FID of six by mean probability",
            f"{doubled} of {len(fids)} seeds",
        ],
        [
            "displacement and FID have a rank correlation above 0.8",
            f"{correlation:.2f} of {len(clipped)} cells and seeds",
        ],
        ["", f"{of_means:.3f} of {len(means)} cell means{', missed' if of_means <= 0.8 else ''}"],
        ["", f"{span(within, 2)} within a seed"],
        ["", f"{over_seeds(clipped):.2f} over seeds, mean of {len(means)} cells"],
    ]
    return table(["predicted", "found"], rows)


def cifar() -> str:
    """What guidance gains on CIFAR-10 at 16x16."""

    def row(name: str) -> list[str]:
        record = evaluated("cifar10-small", name)
        return [number(record["fid"], 2), "" if name == "edm" else change_of("cifar10-small", name, "edm")]

    p = pair_of("cifar10-small", "d0_double", "edm")["p"]
    elsewhere = ("mean_prob", "edm_35", "clip_one_35", "clip_six_35")  # on other pages
    labels = {name: text for name, text in described("cifar10-small").items() if name not in elsewhere}
    labels["d0_double"] = labels["d0_double"].replace("(planned)", f"(planned; p = {p:.2g})")
    rows = [[label, *row(name)] for name, label in labels.items()]
    return table(["", "FID (CIFAR network)", "change in %"], rows)


def cifar_rule() -> str:
    """What was predicted of the clipped-logit rule on CIFAR-10 at 16x16, and found."""
    clipped = clipped_cells("cifar10-small")
    correlation = clipped["displacement"].corr(clipped["fid"], "spearman")
    within = [group["displacement"].corr(group["fid"], "spearman") for _, group in clipped.groupby("seed")]
    rule, fids = {"clip_six_35": "six", "clip_one_35": "D0"}, {}
    for name in ("edm_35", *rule):
        fids[name] = np.array(evaluated("cifar10-small", name)["fid_values"])
    twice = sum(fids["clip_six_35"] >= 2 * fids["edm_35"])
    p = {name: pair_of("cifar10-small", name, "edm_35")["p"] for name in rule}
    shifted = clipped.query("set == 'fresh' and change in ('none', 'shifted_up', 'shifted_down')")
    hits = {
        count: [group["displacement"].idxmax() == group["fid"].idxmax() for _, group in of.groupby("seed")]
        for count, of in shifted.groupby("members")
    }
    told = "; ".join(
        f"{name}: {sum(hits[count])} of {len(hits[count])} seeds" for count, name in ((6, "six"), (1, "D0"))
    )
    rows = [
        [
            "displacement and FID have a rank correlation above 0.8",
            f"{correlation:.2f} of {len(clipped)} cells and seeds",
        ],
        ["", f"{span(within, 2)} within a seed"],
        ["", f"{over_seeds(clipped):.2f} over seeds, mean of {len(clipped) // clipped['seed'].nunique()} cells"],
        ["of logits + 0, + 0.3 and - 0.3, those that move samples farthest have the largest FID", told],
        [
            "N = 2,000: both raise the FID, p < 0.05",
            "; ".join(f"{rule[name]}: p = {p[name]:.2g}{', missed' if p[name] > 0.05 else ''}" for name in rule),
        ],
        ["N = 2,000: six double it in three seeds", f"{twice} of {len(fids['edm_35'])} seeds"],
    ]
    shown = [["no guidance", number(fids["edm_35"].mean(), 2) + seeds(fids["edm_35"]), ""]]
    for name, label in rule.items():
        fid = number(fids[name].mean(), 2) + seeds(fids[name])
        shown.append([label, fid, change_of("cifar10-small", name, "edm_35")])
    measured = table(["by clipped logit, 35 steps", "FID", "change in %"], shown)
    return f"{table(['predicted', 'found'], rows)}\n\n{measured}"


def averaging() -> str:
    """Six discriminators by mean probability against one."""
    labels = {"mini": " (one seed, weight 2, N = 500)", "fashion16": "", "cifar10-small": ""}
    rows = []
    for profile, more in labels.items():
        pair = pair_of(profile, "mean_prob", "d0")
        fids = (np.array(evaluated(profile, row)["fid_values"]) for row in ("mean_prob", "d0"))
        difference = estimate(pair["difference"], (pair["low"], pair["high"]), sign=True)
        rows.append([f"`{profile}`{more}", difference + seeds(np.subtract(*fids), sign=True)])
    return table(["six by mean probability against D0 (weight 1, N = 2,000)", "difference in FID"], rows)


def speed() -> str:
    """Full-size networks beside what published code computes: docs/benchmark.json, by `dguide benchmark --json`."""
    rows = {row["name"]: row for row in json.loads((ROOT / "docs/benchmark.json").read_text())}
    labels = {"discriminator_training": "training", "guided_fp32": "guided sampling", "frechet_2048": "FID of features"}
    conditions = rows["guided_fp32"]["conditions"]
    ratios = [[label, f"x {rows[name]['ratio']:.1f}"] for name, label in labels.items()]
    shown = table(["CIFAR-10, float32", "speed"], ratios)
    return f"{shown}\n\n*{conditions['threads']} CPU threads, {conditions['device']}, torch {conditions['torch']}.*"


def repeated() -> str:
    """How far an earlier run with the same seeds on another CPU is from the reported one: earlier_run.json."""
    profile = "fashion-biased"
    fids = json.loads((REPORTS / profile / "earlier_run.json").read_text())["fid_values"]
    logs = {name: np.log([values, evaluated(profile, name)["fid_values"]]) for name, values in fids.items()}
    single = max(np.abs(np.expm1(earlier - now)).max() for earlier, now in logs.values())
    means = max(abs(np.expm1(np.mean(earlier - now))) for earlier, now in logs.values())
    pairs = [(of, logs[other]) for name, of in logs.items() if (other := baselines(profile)[name])]
    changes = max(abs(np.diff(np.exp(np.mean(of - without, axis=1)))[0]) for of, without in pairs)
    told = [f"{np.ceil(100 * value):.0f}" for value in (single, means, changes)]
    return f"""\
There, an earlier run of `fashion-biased` with these seeds had single FIDs within {told[0]} % of those reported, means
over five seeds within {told[1]} %, and changes by guidance or fine-tuning within {told[2]} points."""


def use() -> str:
    """Who should guide, with the seconds of training: reports/fashion-biased/costs.json, by scripts/costs.py."""
    costs = json.loads((REPORTS / "fashion-biased/costs.json").read_text())
    config = load_config(Path("configs/fashion-biased.yaml"))
    drawn = config.fake.images * (1 + len(config.fake.networks))
    seconds = {"tuned": costs["score_iteration"] * config.score.finetuned["tuned"].iterations}
    for name, images in (("few", 1000), ("many", 10000)):  # a fake image for each real one
        seconds[name] = costs["stages"][f"discriminator/{name}"] + costs["stages"]["fake"] * images / drawn
    tens = {name: f"{round(value, -1):.0f}" for name, value in seconds.items()}
    fine_tune = (
        "fine-tune it: that lowered a biased model's FID more than weight 2, "
        "not significantly by [label-free features](appendix.md#a-biased-model)"
    )
    unlike, alike = "and its samples differ from your images", "and it trained long on images like yours"
    guide = "guide it; compare weights 1 and 2 on held-out images"
    expect = "expect little: twice the steps gained more, except for a tiny model. There, compare weights 1 and 2"
    rows = [
        [f"you may train its weights, {unlike}", fine_tune, "1,000", tens["tuned"]],
        [f"you can only call it, {unlike}", guide, "1,000", tens["few"]],
        [f"you can only call it, {alike}", expect, "10,000", tens["many"]],
    ]
    shown = table(["your model", "then", "images", "seconds"], rows)
    guided = ("few", "few_double", "many", "many_double")
    slower = span([costs["stages"][f"guided/{name}"] / costs["stages"]["guided/edm"] for name in guided])
    about = f"`fashion-biased`, one busy CPU core. Guided sampling took {slower} times the seconds"
    return f"{shown}\n\n*Seconds of training and of the samples for it: {about}.*"


def found() -> str:
    """README's findings in four sentences, and their samples."""

    def gain(profile: str, *pair: str) -> float:
        return float(100 * (1 - pair_of(profile, *pair)["ratio"]))

    few, tuned = (gain("fashion-biased", name, "edm") for name in ("few", "tuned"))
    early, end = gain("fashion", "early_10k", "edm_early"), gain("fashion", "final_10k", "edm")
    late = gain("fashion16", "final_10k", "edm")
    native = [gain("fashion-six", name, "edm") for name in ("few", "tuned")]
    n, large = evaluated("fashion", "final_10k")["n"], evaluated("fashion16", "final_10k")["n"]
    others = {evaluated("fashion-biased", "few")["n"], evaluated("fashion-six", "clip_six")["n"]}
    assert others == {n}, "the caption gives one number of samples"
    fids = (as_reproduced(35, profile)[6] for profile in ("fashion16", "cifar10-small"))
    garments, cifar = (of["clipped_logit_mean"] / of["mean_probability"] for of in fids)
    times = {2: "doubled", 3: "tripled"}[int(garments.min())]
    twice, seeds = sum(cifar >= 2), len(cifar)
    return f"""\
- **Guidance partly corrects a model's training bias**: with 1,000 balanced images, weight 1 lowers the FID by
  {few:.0f} % (28x28: {native[0]:.0f} %).
- **Where you may train the model, fine-tuning on these images lowers it by {tuned:.0f} % ({native[1]:.0f} %)**; by
  [label-free features](docs/glossary.md), not significantly more than weight 2.
- **Without such a bias, 10,000 images lower a tiny network's FID by {early:.0f} % early in training**, less than longer
  training does; at convergence, by {end:.0f} %; late, a larger network's (16x16) by {late:.0f} %.
- **A missing sigmoid may explain why the reproduction's six discriminators had FID 14.35 (one: 2.08)**: with its
  sampler, it at least {times} our six's FID on Fashion-MNIST, and in {twice} of {seeds} seeds on 16x16 CIFAR-10. With
  our sampler, against prediction, it lowered [a biased model](docs/ensemble.md#on-a-biased-model)'s FID.

*Fashion-MNIST; five seeds of {n:,} samples (larger network: {large:,}; reproduction's sampler: 300).*"""


def fid_figure(profile: str, names: Sequence[str], file: str) -> None:
    """A chart of the FIDs of some rows, a point a training seed."""
    records = [evaluated(profile, name) for name in names]
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.3 * len(names)), layout="constrained")
    for place, (name, record) in enumerate(zip(names, records, strict=True)):
        color = GREY if name == "edm" else ORANGE if name == "tuned" else BLUE
        axes.plot(record["fid_values"], [place] * len(record["fid_values"]), "o", color=color, alpha=0.6, markersize=5)
        axes.plot(record["fid"], place, "|", color=color, markersize=16, markeredgewidth=2)
    axes.set(
        xscale="log",
        xlabel=f"FID ({records[0]['fid_network']}), lower is better, log scale\npoints: training seeds, bar: mean",
    )
    axes.set_yticks(range(len(names)), [described(profile)[name] for name in names])
    axes.margins(x=0.06)
    axes.set_ylim(len(names) - 0.5, -0.5)
    values = [value for record in records for value in record["fid_values"]]
    ticks = [tick for tick in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20) if min(values) / 1.5 < tick < max(values) * 1.5]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=GREY, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(ROOT / f"docs/images/{file}.png", metadata={"Software": None})


def gain_figure() -> None:
    """Changes of FID and KID by one discriminator against its cross-entropy on test images, a point a training seed."""
    figure, panels = plt.subplots(1, 2, figsize=(7, 3.8), layout="constrained")
    for axes, distance in zip(panels, ("fid", "kid"), strict=True):
        for color, (profile, base, rows) in zip(COLORS, GAINS.values(), strict=True):
            for name, marker in rows.items():
                points = gains(profile, base, name, distance)
                axes.plot(*zip(*points, strict=True), marker, color=color, alpha=0.8, markersize=5)
        axes.margins(0.06)
        axes.axhline(0, color=GREY, linewidth=0.8)
        axes.axvline(np.log(2), color=GREY, linewidth=0.8, linestyle=":")
        axes.set(title=f"change of the {distance.upper()} in %", xlabel="cross-entropy (dotted: chance)")
        axes.spines[["top", "right"]].set_visible(False)
    marks: dict[str, Any] = {"color": GREY, "ls": "none", "mfc": "none"}
    handles = [Line2D([], [], color=color, marker="o", ls="none", label=label)
               for color, label in zip(COLORS, GAINS, strict=True)]  # fmt: skip
    handles += [Line2D([], [], marker=marker, label=text, **marks) for marker, text in MARKERS.items()]
    figure.legend(handles=handles, frameon=False, labelcolor=GREY, loc="outside lower center", ncols=4, columnspacing=1)
    figure.savefig(ROOT / "docs/images/gain.png", metadata={"Software": None})


def seen_figure() -> None:
    """The share of test images that discriminators tell apart at each noise level, a line a training seed."""
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.8), sharey=True, layout="constrained")
    for axes, (size, curves) in zip(panels, SEEN.items(), strict=True):
        for (profile, member), (label, color) in curves.items():
            for file in sorted((REPORTS / profile / "discriminator" / member).glob("r*/calibration.csv")):
                bins = pd.read_csv(file)
                right = bins["fraction_real"].where(bins["bin_low"] >= 0.5, 1 - bins["fraction_real"])  # p > 0.5: real
                sums = (
                    pd.DataFrame({"right": right * bins["count"], "count": bins["count"]}).groupby(bins["time"]).sum()
                )
                sigma = sigma_from_tau(torch.tensor(sums.index.to_numpy()))
                axes.plot(
                    sigma, 100 * sums["right"] / sums["count"], color=color, alpha=0.7, linewidth=1.2, label=label
                )
                label = None
        axes.axhline(50, color=GREY, linewidth=0.8, linestyle=":")
        axes.set(title=size, xscale="log", xlabel="noise level (standard deviation)")
        axes.set_xticks([0.01, 0.1, 1, 10], ["0.01", "0.1", "1", "10"])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, labelcolor=GREY)
    panels[1].get_legend().set_loc((0.02, 0.12))  # above the line of chance
    panels[0].set_ylabel("told apart, in %")
    figure.savefig(ROOT / "docs/images/seen.png", metadata={"Software": None})


def law_figure() -> None:
    """FID by the clipped-logit rule against the displacement that is computed from logits and gradients."""
    clipped = clipped_cells()
    alone, changed = clipped["set"] != "fresh", clipped["change"] != "none"
    kinds = {
        "D0, and six, at 12 and 35 steps": (clipped[~alone & ~changed], BLUE, "o"),
        "D1 to D5 alone": (clipped[alone], GREY, "D"),
        "changed logits, noise levels, steps or boosting": (clipped[changed], ORANGE, "s"),
    }
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for label, (shown, color, marker) in kinds.items():
        axes.plot(shown["displacement"], shown["fid"], marker, color=color, label=label, alpha=0.7, markersize=4)
    axes.set(yscale="log", xlabel="displacement in standard deviations, computed", ylabel="FID (fashion network)")
    axes.set_yticks([2, 5, 10, 20], ["2", "5", "10", "20"])
    axes.yaxis.set_minor_locator(NullLocator())
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, labelcolor=GREY, loc="upper left")
    figure.savefig(ROOT / "docs/images/law.png", metadata={"Software": None})


def delivered_figure() -> None:
    """The weight that samplers deliver at four ranges of noise levels."""
    edges = torch.tensor([0.002, 0.3, 1.0, 3.6, 80.0], dtype=torch.float64)
    labels = ("up to 0.3", "0.3 to 1", "1 to 3.6", "above 3.6")
    figure, panels = plt.subplots(1, 2, figsize=(7, 2.4), sharey=True, layout="constrained")
    for axes, (w1, w2) in zip(panels, ((2.0, 0.0), (1.0, 1.0)), strict=True):
        for place, (steps, color) in enumerate(zip((12, 18, 35), (ORANGE, BLUE, GREY), strict=True)):
            windows = tau_from_sigma(edges).unfold(0, 2, 1).tolist()
            weights = [delivered_weight((low, high), steps=steps, w1=w1, w2=w2) for low, high in windows]
            axes.bar(np.arange(4) + 0.25 * (place - 1), weights, 0.22, color=color, label=f"{steps} steps")
        axes.axhline(1, color=GREY, linewidth=0.8, linestyle=":")
        axes.set_xticks(range(4), labels)
        axes.set(title=f"w1 = {w1:g}, w2 = {w2:g}", xlabel="guidance at noise levels")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("weight delivered")
    panels[0].legend(frameon=False, labelcolor=GREY)
    figure.savefig(ROOT / "docs/images/delivered.png", metadata={"Software": None})


def pages() -> Iterator[Path]:
    """Where blocks may be."""
    yield ROOT / "README.md"
    yield from sorted((ROOT / "docs").glob("*.md"))


if __name__ == "__main__":
    blocks = {
        function.__name__: function
        for function in (
            biased,
            six,
            larger,
            tiny,
            small,
            training,
            fid_networks,
            rule,
            interventions,
            law,
            averaging,
            ensembles,
            cifar,
            cifar_rule,
            found,
            speed,
            repeated,
            use,
        )
    }
    with mpl.rc_context(STYLE):
        fid_figure("fashion-biased", SHOWN, "found")
        fid_figure("fashion-six", [*described("fashion-six")], "six")
        gain_figure()
        delivered_figure()
        seen_figure()
        law_figure()
    for page in pages():
        parts = re.split(r"(<!-- numbers: (\w+) -->\n).*?(<!-- end -->)", page.read_text(), flags=re.DOTALL)
        for at in range(2, len(parts), 4):  # text, begin, name, end, text, ...
            parts[at] = f"{blocks[parts[at]]()}\n"
        page.write_text("".join(parts))
