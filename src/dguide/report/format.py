"""Numbers, intervals and names as tables, figures and the page print them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "–"
INCEPTION = "inception"  # the feature network of published FID values, which need no other name
PAPERS_WINDOW = [0.01, 1.0]  # of VP times; others are named
KIDS = {"kid": "KID", "kid_holdout": "held-out KID"}
RULE_NAMES = {
    "mean_probability": "mean probability",
    "mean_logit": "mean logit",
    "clipped_logit_mean": "clipped logit, as in the reproduction's code",
    "shrunk_mean_logit": "mean logit, shrunk where members disagree",
}


def verdict(bounds: Sequence[float]) -> str:
    """The side of zero on which a 95 % interval of a difference in FID lies; lower FID is better."""
    return "better" if bounds[1] < 0 else "worse" if bounds[0] > 0 else "indistinguishable"


def signs(fid: str, differences: Mapping[str, Mapping[str, Any]], other: str) -> list[str]:
    """The rows in which the difference of a KID from `other` has another sign than that of FID, or that none has."""
    sentences = list[str]()
    against = f", against {other}, {{}}" if len(differences) > 1 else ""
    for kid, kid_name in KIDS.items():
        rows = [name for name, row in differences.items() if row["difference"] * row[f"{kid}_difference"] < 0]
        sentences += [f"{fid} and {kid_name} disagree in sign{against.format('for ' + ', '.join(rows))}."] * bool(rows)
    return sentences or [f"{fid}, {' and '.join(KIDS.values())} agree in sign{against.format('in every row')}."]


def fid_label(network: str, metric: str = "FID") -> str:
    """FID, or for example "FID (digits network)" of features other than Inception's."""
    return metric if network == INCEPTION else f"{metric} ({network})"


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A fixed count of decimals, or a dash for None, NaN and infinity; what rounds to zero has no sign."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:z.{digits}f}"
    return f"+{text}" if sign and float(text) > 0 else text


def estimate(value: float | None, bounds: Sequence[float], digits: int = 2, sign: bool = False) -> str:
    """A value with its 95 % interval, 4.06 [3.80, 4.32]; more decimals where half its width has not two digits."""
    if value is None:
        return MISSING
    half_width = (bounds[1] - bounds[0]) / 2
    if 0 < half_width < math.inf:
        digits = max(digits, min(9, 1 - math.floor(math.log10(half_width))))
    return f"{number(value, digits, sign)} [{', '.join(number(bound, digits, sign) for bound in bounds)}]"


def fid_text(evaluation: Mapping[str, Any]) -> str:
    """FID with its interval."""
    return estimate(evaluation["fid"], (evaluation["fid_low"], evaluation["fid_high"]))


def difference_text(difference: Mapping[str, Any] | None) -> str:
    """A difference in FID with its interval; a dash for None, the difference of a variant from itself."""
    if difference is None:
        return MISSING
    return estimate(difference["difference"], (difference["low"], difference["high"]), sign=True)


def answer(fid: str, settings: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    """What a comparison, a row of differences.csv, came to: by FID, and whether KID agrees."""
    other, variant = planned["other"], planned["variant"]
    rows = [f"{name} ({variant_text(settings, name)})" for name in (other, variant)]
    ratio, *bounds = (100 * (planned[key] - 1) for key in ("ratio", "ratio_low", "ratio_high"))
    difference = f"paired difference in {fid} {difference_text(planned)}, {estimate(ratio, bounds, 0, True)} %."
    compared = f"Against {rows[0]}, {rows[1]} is {verdict((planned['low'], planned['high']))}: {difference}"
    return " ".join([compared, *signs(fid, {variant: planned}, other)])


def scientific(value: float | None) -> str:
    """A setting: 1e-5, 0.01, 2; a dash for None and NaN."""
    return MISSING if value is None or math.isnan(value) else f"{value:g}".replace("e-0", "e-")


def count(value: float | None) -> str:
    """A whole number with thousands separated: 50,000."""
    return MISSING if value is None else f"{int(value):,}"


def variant_text(settings: Mapping[str, Any], name: str) -> str:
    """What `report.describe` says, or members, rule, weight and more: "d0, d1, mean logit, weight 1, 35 steps"."""
    variant, sampler, described = settings["variants"][name], settings["sampler"], settings["report"]["describe"]
    if name in described:
        return str(described[name])
    members, weights, auto, window = (variant[key] for key in ("members", "weights", "autoguidance", "window"))
    if members:
        shares = [""] * len(members) if isinstance(weights, str) else [f" {share:.2f}" for share in weights]
        parts = [f"{name}{share}" for name, share in zip(members, shares, strict=True)]
        if weights == "fitted" or len(members) > 1 or variant["rule"] != "mean_probability":
            parts.append("weights fitted by noise level" if weights == "fitted" else RULE_NAMES[variant["rule"]])
        w1, w2 = (scientific(variant[key]) for key in ("w1", "w2"))
        parts.append(f"weight {w1}" if w1 == w2 else f"w1 = {w1}, w2 = {w2}")
    else:
        parts = ["no guidance"]
    parts += ["boosting"] if variant["boosting"] else []
    parts += [f"network {variant['network']}"] if variant["network"] else []
    parts += [f"autoguidance by {auto['network']}, weight {auto['weight']:g}"] if auto else []
    differ = [key for key in sampler if key not in ("w1", "w2", "boosting", "steps") and variant[key] != sampler[key]]
    parts += [f"{key} {variant[key]:g}" for key in differ]
    if members and [*window] != PAPERS_WINDOW:
        parts += [f"VP time {scientific(window[0])} to {scientific(window[1])}"]
    parts += [f"against {variant['baseline']}"] if variant["baseline"] else []
    scale, shift = variant["logit_scale"], variant["logit_shift"]
    parts += [f"logits x {scale:g} {shift:+g}"] if (scale, shift) != (1.0, 0.0) else []
    parts += [f"{variant['steps']} steps"] if variant["steps"] != sampler["steps"] else []
    return ", ".join(parts)


def samples_text(record: Mapping[str, Any]) -> str:
    """The number of samples of an evaluation: 50,000, or 5 x 2,000 of as many training replicates."""
    return count(record["n"]) if record["replicates"] == 1 else f"{record['replicates']} x {count(record['n'])}"


def baseline_text(baselines: Mapping[str, str | None]) -> str:
    """What the differences of all variants refer to, in a heading."""
    names = {*baselines.values()} - {None}
    return str(names.pop()) if len(names) == 1 else "the row's baseline"


def summary_rows(settings: Mapping[str, Any], evaluations: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row of text for each variant: what the command prints, and the page's first table."""
    rows, baselines = list[dict[str, str]](), settings["baselines"]
    baseline = baseline_text(baselines)
    for name, evaluation in evaluations.items():
        itself = baselines[name] is None
        delta_fid, delta_kid = (None if itself else evaluation[key] for key in ("delta_fid", "delta_kid"))
        bounds = evaluation["delta_low"], evaluation["delta_high"]
        rows.append({
            "variant": name,
            "what it is": variant_text(settings, name),
            fid_label(evaluation["fid_network"]): fid_text(evaluation),
            f"difference from {baseline}": estimate(delta_fid, bounds, sign=True),
            "verdict": MISSING if itself else verdict(bounds),
            fid_label(evaluation["fid_network"], "KID"): estimate(evaluation["kid"], evaluation["kid_ci95"], 4),
            f"KID, difference from {baseline}": estimate(delta_kid, evaluation["delta_kid_ci95"], 4, sign=True),
            "precision": number(evaluation["precision"], 2),
            "recall": number(evaluation["recall"], 2),
            "N": samples_text(evaluation),
        })  # fmt: skip
    return rows
