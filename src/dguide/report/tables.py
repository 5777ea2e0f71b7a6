"""Tables 1 to 4 as text cells, and the LaTeX and HTML that they are written to."""

from operator import methodcaller
from typing import NamedTuple

import pandas as pd
from markupsafe import Markup

from dguide.report import format as fmt
from dguide.report.format import KIDS, MISSING, count, difference_text, fid_text, number, scientific
from dguide.report.gather import PUBLISHED, ReportData
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP

# By heading, settings that every member has for itself.
SCALED = {"epochs": "epochs", "learning rate": "learning_rate", "weight decay": "weight_decay", "t_min": "t_min"}
PUBLISHED_NOTE = "Published: cifar10, 50,000 samples, Inception features. "
LATEX = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "\n": " "}
)
_latex = methodcaller("translate", LATEX)


class Table(NamedTuple):
    """Text cells, in columns named "group: heading", or "heading" outside a group, and notes below them."""

    title: str
    frame: pd.DataFrame
    notes: list[str]


def latex(name: str, table: Table, note: str) -> str:
    r"""LaTeX, scaled to the text width; needs \usepackage{booktabs,graphicx}."""
    frame, title = _grouped(table.frame.rename(columns=_latex).map(_latex)), _latex(table.title)
    text = frame.to_latex(index=False, escape=False, caption=title, label=f"tab:{name}", multicolumn_format="l")
    notes = "".join(rf"\par\smallskip{{\footnotesize {_latex(line)}}}" + "\n" for line in (*table.notes, note) if line)
    text = text.replace(r"\begin{tabular}", r"\resizebox{\textwidth}{!}{\begin{tabular}")
    text = text.replace(r"\end{tabular}", r"\end{tabular}}").replace(r"\end{table}", notes + r"\end{table}")
    return "% needs \\usepackage{booktabs,graphicx}\n" + text


def html(table: Table) -> Markup:
    """An HTML table, of which pandas escapes every cell."""
    return Markup(_grouped(table.frame).to_html(index=False, border=0))  # noqa: S704


def _grouped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with two header rows, groups above headings."""
    pairs = [column.rpartition(": ")[::2] for column in frame.columns]
    return frame.set_axis(pd.MultiIndex.from_tuples(pairs), axis=1) if any(group for group, _ in pairs) else frame


def sampling_table(data: ReportData) -> Table:
    """Table 1: the reproduction's sampling settings beside ours."""
    settings, guided = data.settings, data.settings["guided"]
    theirs, trained = PUBLISHED["sampling"], settings["score"]["source"] == "train"
    published = {"reproduction: unguided": theirs, "reproduction: guided": theirs | PUBLISHED["guidance"]}
    columns = published if data.reproduces else {}
    for name in settings["report"]["sampling"]:
        variant = settings["variants"][name]
        columns[f"ours: {name}"] = {
            "data": settings["real"]["source"],
            "image size": f"{settings['real']['image_size']}x{settings['real']['image_size']}",
            "score network": "EDM, trained here" if trained else "EDM, released weights",
            "feature network": "Inception" if data.fid == "FID" else data.reference["fid_network"],
            "samples (N)": count(guided["images"]),
            "batch size": count(guided["batch_size"]),
            "steps (NFE)": f"{variant['steps']} ({data.evaluations[name]['nfe']})",
            "sigma": "{sigma_min:g} to {sigma_max:g}, rho {rho:g}".format(**variant),
            "churn": scientific(variant["s_churn"]),
        }
        if variant["members"]:
            low, high = variant["window"]
            columns[f"ours: {name}"] |= {
                "discriminators": ", ".join(variant["members"]).upper(),
                "w1": scientific(variant["w1"]),
                "w2": scientific(variant["w2"]),
                "guidance weight delivered": number(settings["delivered"][name], 2),
                "time window": f"[{scientific(low)}, {scientific(high)}]",
                "boosting": "on" if variant["boosting"] else "off",
                "probability clip": "[{0}, 1 - {0}]".format(scientific(PROBABILITY_CLIP)),
            }
    notes = [
        "w1 weighs guidance in the Euler step, w2 in the correction. Delivered: how far the sampler moves the mean of "
        "Gaussian data by an exact discriminator, relative to the exact flow; without churn and boosting.",
    ]
    if data.reproduces:
        notes.append("The paper takes 18 steps (NFE 35) without boosting; the reproduction took 35 steps.")
    frame = pd.DataFrame(columns).fillna(MISSING).rename_axis("setting").reset_index()
    return Table("Table 1. Sampling settings", frame, notes)


def discriminator_table(data: ReportData) -> Table:
    """Table 2: how the reproduction trained its discriminators, how we trained ours, and the losses of both."""
    rows, section = [], data.settings["discriminator"]
    columns = PUBLISHED["member_columns"] if data.reproduces else []
    for name, settings in data.settings["members"].items():
        metrics, history = data.metrics[name], data.histories[name]
        kind = "a whole network" if settings["kind"] == "whole" else "a head on the extractor's features"
        kind += f", {count(settings['images'])} images" if settings["images"] else ""
        start, best = settings["start"].rpartition("/")[2], number(metrics["best_validation_loss"], 3)
        best += f" ({scientific(metrics['best_epoch'] and round(metrics['best_epoch'], 1))})"
        theirs = PUBLISHED["members"].get(settings["published"], [MISSING] * len(columns))
        row = {
            "member": name.upper(),
            "what it is": data.settings["report"]["describe"].get(f"discriminator/{name}", kind),
            **{f"reproduction: {key}": text for key, text in zip(columns, theirs, strict=True)},
            "ours: start": start if settings["kind"] == "head" or start != "extractor" else MISSING,
            **{f"ours: {heading}": scientific(metrics[key]) for heading, key in SCALED.items()},
            "ours: batch": count(settings["batch_size"]),
            **{f"ours: {key}": count(metrics[key]) for key in ("iterations", "parameters")},
            "ours, BCE: train, used": number(metrics["train_loss"], 3),
            "ours, BCE: train, best": number(history["train_loss"].min(), 3),
            "ours, BCE: validation, used": number(metrics["validation_loss"], 3),
            "ours, BCE: validation, best (epoch)": best,
            "ours, BCE: test": number(metrics["test_loss"], 3),
        }
        for part in ("train", "validation"):
            row[f"ours, accuracy: {part}, used"] = number(metrics[f"{part}_accuracy"], 3)
            row[f"ours, accuracy: {part}, best"] = number(history[f"{part}_accuracy"].max(), 3)
        shared = section | {"kind": "head", "fakes": None}
        others = [key for key in settings if key in shared and key not in ("seed", "batch_size", *SCALED.values())]
        if special := [f"{key} {settings[key]}" for key in others if settings[key] != shared[key]]:
            row["ours: settings of its own"] = ", ".join(special)
        rows.append(row)
    notes = [
        "BCE: binary cross-entropy in nats, 0.693 for a coin toss. Best: over the epochs. Used, test: of those used.",
        f"{data.runs}, on one split of real and unguided fake images; no intervals.",
    ]
    if data.reproduces:
        notes.append("The reproduction's BCE, of its last logged epoch, has other data and networks: not comparable.")
    return Table("Table 2. The discriminators", pd.DataFrame(rows).dropna(axis=1, how="all").fillna(MISSING), notes)


def result_table(data: ReportData) -> Table:
    """Table 3: every variant's result beside the published one of the same kind, then the other published results."""
    columns, reference, cond = PUBLISHED["result_columns"], data.reference, data.settings["cond"]
    published = PUBLISHED["results"] if data.reproduces and not cond else {}
    theirs = {name: dict(zip(columns, cells, strict=True)) for name, cells in published.items()}
    kinds = {name: data.settings["variants"][name]["published"] for name in data.evaluations}
    rows = [_result(data, name) | theirs.get(kind, {}) for name, kind in kinds.items()]
    fid, kid = f"ours: {data.fid} [95 %]", f"ours, generative: {data.kid} [95 %]"
    rows.append({"variant": "training images", "what it is": "drawn again", fid: number(reference["floor"], 2)})
    rows.append({
        "variant": "held-out images",
        "ours: N": count(reference["holdout_n"]),
        fid: fmt.estimate(reference["holdout_fid"], reference["holdout_fid_ci95"]),
        f"ours: {data.fid}, de-biased": number(reference["holdout_fid_debiased"], 2),
        kid: fmt.estimate(reference["holdout_kid"], reference["holdout_kid_ci95"], 4),
    })  # fmt: skip
    others = [cells for name, cells in theirs.items() if name not in kinds.values()]
    rows += [{"variant": "not run here", "what it is": cells[columns[0]], **cells} for cells in others]
    notes = [
        f"{PUBLISHED_NOTE if theirs else ''}Ours: {data.settings['real']['source']}{' with classes' if cond else ''}, "
        f"{fmt.samples_text(reference)} samples, {reference['fid_network']} features, {data.reference_images}; "
        f"KID, held-out, against {count(reference['holdout_n'])} other images.",
        f"Intervals cover {data.noise}, with the reference fixed. Differences are paired by sample index, and negative "
        "where the row is better. Adjusted p: by Holm's method over all rows but the planned comparison.",
        *fmt.signs(data.fid, data.from_baseline, data.baseline_text),
        "De-biased: by the grouped jackknife; a distance of N images lies above that of infinitely many.",
    ]
    if data.reproduces:
        notes.append("The reproduction's precision and recall are scores of the discriminator as a classifier.")
    return Table("Table 3. Results", pd.DataFrame(rows).fillna(MISSING), notes)


def _result(data: ReportData, name: str) -> dict[str, str]:
    evaluation, p = data.evaluations[name], data.evaluations[name]["delta_p_adjusted"]
    row = {
        "variant": name,
        "what it is": fmt.variant_text(data.settings, name),
        "ours: steps (NFE)": f"{evaluation['steps']} ({evaluation['nfe']})",
        "ours: N": fmt.samples_text(evaluation),
        f"ours: {data.fid} [95 %]": fid_text(evaluation),
        f"ours: {data.fid}, de-biased": number(evaluation["fid_debiased"], 2),
        f"ours: difference from {data.baseline_text} [95 %]": difference_text(data.from_baseline.get(name)),
        "ours: adjusted p": "below 0.001" if p is not None and p < 0.0005 else number(p, 3),
    }
    for kid, suffix in zip(KIDS, ("", ", held-out"), strict=True):
        heading, bounds = f"ours, generative: {data.kid}{suffix}", evaluation[f"delta_{kid}_ci95"]
        row[f"{heading} [95 %]"] = fmt.estimate(evaluation[kid], evaluation[f"{kid}_ci95"], 4)
        change = MISSING if name == data.baseline else fmt.estimate(evaluation[f"delta_{kid}"], bounds, 4, sign=True)
        row[f"{heading}, difference from {data.baseline_text} [95 %]"] = change
    if evaluation["replicates"] > 1:
        row[f"ours: {data.fid}, each seed"] = ", ".join(number(value, 2) for value in evaluation["fid_values"])
    row |= {f"ours, generative: k-NN {key}": number(evaluation[key], 3) for key in ("precision", "recall")}
    for score in ("precision", "recall", "accuracy", "AUROC"):
        row[f"ours, discriminator as classifier: {score}"] = number(evaluation[f"discriminator_{score.lower()}"], 3)
    return row


def ensemble_table(data: ReportData) -> Table:
    """Table 4: every ensemble whose members were all sampled alone in the same way, beside those members."""
    rows, label, change = [], f"{data.fid} [95 %]", "ensemble's difference [95 %] from"
    records = {name: row["against_members"] for name, row in data.evaluations.items() if row["against_members"]}
    for name, record in records.items():
        alone = {member: data.evaluations[variant] for member, variant in record["alone"].items()}
        best, *_, worst = sorted(alone, key=lambda member: alone[member]["fid"])
        rows.append({
            "ensemble": name,
            "of": fmt.variant_text(data.settings, name),
            f"{label}: ensemble": fid_text(data.evaluations[name]),
            f"{label}: mean of its members": number(record["fid"], 2),
            f"{label}: best member": f"{best.upper()} {fid_text(alone[best])}",
            f"{label}: worst member": f"{worst.upper()} {fid_text(alone[worst])}",
            f"{change}: the mean of its members": difference_text(record),
            f"{change}: its best member": difference_text(data.differences[name, record["alone"][best]]),
            f"{change}: {data.baseline_text}": difference_text(data.from_baseline.get(name)),
        })  # fmt: skip
    notes = [
        f"N = {fmt.samples_text(data.reference)} samples each, paired by index. Intervals cover {data.noise}.",
        "Negative where the ensemble is better. The best member is chosen on the same samples, which favours it.",
        *fmt.signs(data.fid, records, "the mean of the members"),
    ]
    return Table("Table 4. Ensembles beside their members", pd.DataFrame(rows), notes)


def study_table(data: ReportData, word: str) -> Table:
    """The ten best complete trials of a search, or the cells of a factorial."""
    rows, notes = data.studies[word], [f"{data.fid}, and displacement in standard deviations, mean over replicates."]
    if word == "factorial":
        cell = ["set", "rule", "members", "steps", "change"]
        rows = rows.groupby(cell, sort=False)[["fid", "displacement"]].mean().reset_index()
    else:
        rows = rows[rows["state"] == "complete"].nsmallest(10, "value")
        notes = ["The ten best complete trials, each run once on tuning samples: the best of many is partly luck."]
        notes.append(f"All rows: reports/{data.settings['profile']}/study/{word}.csv")
    cells = rows.map(lambda value: scientific(value) if isinstance(value, float) else str(value))
    return Table(f"Study {word}", cells, notes)


def curves_frame(data: ReportData) -> pd.DataFrame:
    """Training curves in long form, for `dvc plots`."""
    rows = [
        (name, split, row["epoch"], row[f"{split}_loss"], row[f"{split}_accuracy"])
        for name, history in data.histories.items()
        for split in ("train", "validation")
        for row in history.to_dict("records")
    ]
    return pd.DataFrame(rows, columns=["member", "split", "epoch", "loss", "accuracy"])
