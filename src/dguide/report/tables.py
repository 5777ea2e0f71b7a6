"""Tables 1 to 4 as text cells, and the CSV, Markdown, LaTeX and HTML that they are written to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dguide.report import format as fmt
from dguide.report import published
from dguide.report.format import MISSING, number, scientific, switch
from dguide.report.gather import BASELINES, REFERENCE, Member, ReportData, Study

SAMPLING_COLUMNS = (REFERENCE, "d0", "d0_table1")
PLAIN_MEAN = "mean_prob"
SHARED = ("start", "seed", "epochs", "learning_rate", "weight_decay", "t_min")  # settings that every member has
LATEX = str.maketrans(
    {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
     "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
     "|": r"\textbar{}", "[": "{[}", "]": "{]}", "\u00a0": "~", "–": "--", "−": "$-$", "×": r"$\times$",
     "±": r"$\pm$", "ä": r"\"a", "“": "``", "”": "''"}
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A finished table of text cells; columns are named "group: heading", or "heading" outside a group."""

    name: str
    title: str
    frame: pd.DataFrame

    def markdown(self, notes: Sequence[str]) -> str:
        """GitHub Markdown with title and notes."""
        body = self.frame.rename(columns=_markdown).map(_markdown).to_markdown(index=False, disable_numparse=True)
        return "\n".join([f"**{_markdown(self.title)}**", "", body, "", *(f"- {_markdown(n)}" for n in notes)]) + "\n"

    def latex(self, notes: Sequence[str]) -> str:
        r"""LaTeX, ASCII only, scaled to the text width; needs \usepackage{booktabs,graphicx}."""
        frame = _grouped(self.frame.rename(columns=_latex).map(_latex))
        text: str = frame.to_latex(
            index=False, escape=False, caption=_latex(self.title), label=f"tab:{self.name}", multicolumn_format="l"
        )
        footnotes = "".join(rf"\par\smallskip{{\footnotesize {_latex(note)}}}" + "\n" for note in notes)
        text = text.replace(r"\begin{tabular}", r"\resizebox{\textwidth}{!}{\begin{tabular}")
        text = text.replace(r"\end{tabular}", r"\end{tabular}}").replace(r"\end{table}", footnotes + r"\end{table}")
        return "% needs \\usepackage{booktabs,graphicx}\n" + text

    def html(self) -> str:
        """An escaped HTML table."""
        return _grouped(self.frame.map(fmt.typeset)).to_html(index=False, border=0)


def _grouped(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with two header rows, groups above headings."""
    pairs = [column.rpartition(": ")[::2] for column in frame.columns]
    return frame.set_axis(pd.MultiIndex.from_tuples(pairs), axis=1) if any(group for group, _ in pairs) else frame


def _markdown(text: str) -> str:
    escaped = re.sub(r"([\\`*|]|(?<=\])\()", r"\\\1", text)
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")


def _latex(text: str) -> str:
    # Anything else outside ASCII would need an engine or packages we cannot count on.
    return fmt.typeset(text).translate(LATEX).encode("ascii", "replace").decode("ascii").replace("\n", " ")


def sampling_table(data: ReportData) -> Table:
    """Table 1: the reproduction's sampling settings beside ours."""
    columns = {
        "reproduction: unguided": published.SAMPLING | dict.fromkeys(published.GUIDANCE, MISSING),
        "reproduction: guided": published.SAMPLING | published.GUIDANCE,
        **{f"ours: {name}": _sampling(data, name) for name in SAMPLING_COLUMNS if name in data.evaluations},
    }
    frame = pd.DataFrame(columns).rename_axis("setting").reset_index()
    return Table("table1", "Table 1. Sampling settings", frame)


def _sampling(data: ReportData, name: str) -> dict[str, str]:
    sampler, guided, variant = data.settings["sampler"], data.settings["guided"], data.settings["variants"][name]
    found, size, clip = data.evaluations[name], data.real.shape[1], scientific(data.probability_clip)
    trained = data.settings["score"]["source"] == "train"
    low, high = map(scientific, variant["window"] or (guided["time_min"], guided["time_max"]))
    texts = {
        "data": data.settings["real"]["source"],
        "image size": f"{size}x{size}",
        "score network": "EDM, trained here" if trained else "EDM, released weights",
        "feature network": "Inception" if data.label() == "FID" else found["fid_network"],
        "samples (N)": fmt.count(found["n"]),
        "batch size": fmt.count(guided["batch_size"]),
        "steps (NFE)": f"{found['steps']} ({2 * found['steps'] - 1})",  # Heun: two a step, one in the last
        "sigma": f"{scientific(sampler['sigma_min'])} to {scientific(sampler['sigma_max'])}, rho {sampler['rho']:g}",
        "churn": scientific(sampler["s_churn"] if variant["s_churn"] is None else variant["s_churn"]),
    }
    guidance = {
        "discriminators": fmt.members_text(variant["members"]),
        "w1": scientific(variant["w1"]),
        "w2": scientific(variant["w2"]),
        "guidance weight, (w1 + w2) / 2": scientific((variant["w1"] + variant["w2"]) / 2),
        "time window": f"[{low}, {high}]",
        "boosting": switch(variant["boosting"]),
        "probability clip": f"[{clip}, 1 - {clip}]",
    }
    return texts | (guidance if variant["members"] else dict.fromkeys(guidance, MISSING))


def discriminator_table(data: ReportData) -> Table:
    """Table 2: how the reproduction trained its discriminators, how we trained ours, and the losses of both."""
    rows = []
    for member in data.members:
        theirs = published.MEMBERS.get(member.name, [MISSING] * len(published.MEMBER_COLUMNS))
        row = {f"reproduction: {key}": text for key, text in zip(published.MEMBER_COLUMNS, theirs, strict=True)}
        rows.append({"member": member.name.upper()} | row | _member(data, member))
    return Table("table2", "Table 2. The discriminators", pd.DataFrame(rows).fillna(MISSING))


def _member(data: ReportData, member: Member) -> dict[str, str]:
    metrics, history, settings = member.metrics, member.history, data.settings["members"][member.name]
    best = f"{number(metrics['best_validation_loss'], 3)} ({fmt.count(metrics['best_epoch'])})"
    row = {
        "ours: epochs": fmt.count(metrics["epochs"]),
        "ours: learning rate": scientific(metrics["learning_rate"]),
        "ours: weight decay": scientific(metrics["weight_decay"]),
        "ours: t_min": scientific(metrics["t_min"]),
        "ours: batch": fmt.count(data.settings["discriminator"]["batch_size"]),
        "ours: iterations": fmt.count(metrics["iterations"]),
        "ours: parameters": fmt.count(metrics["parameters"]),
        "ours, BCE: train, last": number(metrics["train_loss"], 3),
        "ours, BCE: train, best": number(history["train_loss"].min(), 3),
        "ours, BCE: validation, last": number(metrics["validation_loss"], 3),
        "ours, BCE: validation, best (epoch)": best,
        "ours, BCE: test": number(metrics["test_loss"], 3),
        "ours, accuracy: train, last": number(metrics["train_accuracy"], 3),
        "ours, accuracy: train, best": number(history["train_accuracy"].max(), 3),
        "ours, accuracy: validation, last": number(metrics["validation_accuracy"], 3),
        "ours, accuracy: validation, best": number(history["validation_accuracy"].max(), 3),
    }
    own = ", ".join(f"{key} {value}" for key, value in settings.items() if key not in SHARED and value is not None)
    return row | ({"ours: settings of its own": own} if own else {})


def result_table(data: ReportData) -> Table:
    """Table 3: every variant's result beside the published one of the same kind, then the other published results."""
    columns, ours = published.RESULT_COLUMNS, {name: published.SAME_KIND.get(name, name) for name in data.evaluations}
    kind = {} if data.settings["cond"] else published.RESULTS
    theirs = {name: dict(zip(columns, cells, strict=True)) for name, cells in kind.items()}
    none = dict.fromkeys(columns, MISSING)
    rows = [_ours(data, name) | theirs.get(published_name, none) for name, published_name in ours.items()]
    fid, edm = f"ours: {data.label()} [95 %]", data.reference
    floor = {"guided by": "drawn again", fid: number(edm["floor"], 2)}
    holdout = {
        "ours: N": fmt.count(edm["holdout_n"]),
        fid: fmt.estimate(edm["holdout_fid"], edm["holdout_fid_ci95"]),
        f"ours: {data.label()}, de-biased": number(edm["holdout_fid_debiased"], 2),
        f"ours, generative: {data.label('KID')} [95 %]": fmt.estimate(edm["holdout_kid"], edm["holdout_kid_ci95"], 4),
    }
    rows += [{"variant": "training images"} | floor, {"variant": "held-out images"} | holdout]
    for name, cells in theirs.items():
        if name not in ours.values():
            rows.append({"variant": "not run here", "guided by": cells[columns[0]], **cells})
    return Table("table3", "Table 3. Results", pd.DataFrame(rows).fillna(MISSING))


def _ours(data: ReportData, name: str) -> dict[str, str]:
    found, variant, kid = data.evaluations[name], data.settings["variants"][name], data.label("KID")
    weights = f"{scientific(variant['w1'])} / {scientific(variant['w2'])} / {switch(variant['boosting'])}"
    row = {
        "variant": name,
        "guided by": fmt.variant_text(variant),
        "ours: w1 / w2 / boosting": weights if variant["members"] else MISSING,
        "ours: steps (NFE)": f"{found['steps']} ({found['nfe']})",
        "ours: N": fmt.samples_text(found),
        f"ours: {data.label()} [95 %]": fid_text(found),
        f"ours: {data.label()}, de-biased": number(found["fid_debiased"], 2),
    }
    if found["replicates"] > 1:
        row[f"ours: {data.label()} [95 %, sampling only]"] = fmt.estimate(found["fid"], found["fid_ci95_sampling"])
    for baseline in BASELINES:
        if baseline in data.evaluations:
            row[f"ours: difference from {baseline} [95 %]"] = _difference(data, name, baseline)
        if baseline == REFERENCE and found["replicates"] > 1:
            row[f"ours: difference from {baseline} [95 %, sampling only]"] = fmt.estimate(
                None if name == REFERENCE else found["delta_fid"], found["delta_ci95_sampling"], sign=True
            )
        if baseline == REFERENCE:
            row["ours: adjusted p"] = number(data.adjusted_p.get(name), 3)
    row |= {
        f"ours, generative: {kid} [95 %]": fmt.estimate(found["kid_all"], found["kid_ci95"], 4),
        f"ours, generative: {kid}, difference from {REFERENCE} [95 %]": fmt.estimate(
            None if name == REFERENCE else found["delta_kid"], found["delta_kid_ci95"], 4, sign=True
        ),
        f"ours, generative: {kid}, held-out": number(found["kid_holdout"], 4),
        f"ours, generative: {kid}, held-out, difference from {REFERENCE} [95 %]": fmt.estimate(
            None if name == REFERENCE else found["delta_kid_holdout"], found["delta_kid_holdout_ci95"], 4, sign=True
        ),
        "ours, generative: k-NN precision": number(found["precision"], 3),
        "ours, generative: k-NN recall": number(found["recall"], 3),
    }
    for score, heading in (("precision",) * 2, ("recall",) * 2, ("accuracy",) * 2, ("auroc", "AUROC")):
        row[f"ours, discriminator as classifier: {heading}"] = number(found[f"discriminator_{score}"], 3)
    return row


def fid_text(found: Mapping[str, Any]) -> str:
    """FID with its interval."""
    return fmt.estimate(found["fid"], (found["fid_low"], found["fid_high"]))


def _difference(data: ReportData, name: str, baseline: str) -> str:
    difference = data.difference(name, baseline)
    return MISSING if difference is None else difference.text


def ensemble_table(data: ReportData) -> Table:
    """Table 4: every ensemble whose members were all sampled alone in the same way, beside those members."""
    rows, label = [], f"{data.label()} [95 %]"
    for name, standing in data.standings.items():
        alone = {member: data.evaluations[variant] for member, variant in standing.alone.items()}
        members = sorted(alone, key=lambda member: alone[member]["fid"])
        verdicts = [difference.verdict for difference in standing.from_each.values()]
        rows.append({
            "ensemble": name,
            "of": fmt.variant_text(data.settings["variants"][name]),
            "start of its members": start_text(data, list(alone)),
            f"{label}: ensemble": fid_text(data.evaluations[name]),
            f"{label}: mean of its members": number(standing.mean_fid, 2),
            f"{label}: best member": f"{members[0].upper()} {fid_text(alone[members[0]])}",
            f"{label}: worst member": f"{members[-1].upper()} {fid_text(alone[members[-1]])}",
            "ensemble's difference [95 %] from: the mean of its members": standing.from_mean.text,
            "ensemble's difference [95 %] from: its best member": standing.from_each[members[0]].text,
            f"ensemble's difference [95 %] from: {REFERENCE}": _difference(data, name, REFERENCE),
            f"ensemble's difference [95 %] from: {PLAIN_MEAN}": _difference(data, name, PLAIN_MEAN),
            "members it is: better than": f"{verdicts.count('better')} of {len(verdicts)}",
            "members it is: worse than": f"{verdicts.count('worse')} of {len(verdicts)}",
        })  # fmt: skip
    return Table("table4", "Table 4. Ensembles beside their members", pd.DataFrame(rows))


def start_text(data: ReportData, members: Sequence[str]) -> str:
    """The starts of members: "fresh", or for example "1 of 6 fresh, 5 of 6 sequential"."""
    starts = Counter(_start(data.settings["members"][name]) for name in members)
    return ", ".join(kind if len(starts) == 1 else f"{n} of {len(members)} {kind}" for kind, n in starts.items())


def _start(member: Mapping[str, Any]) -> str:
    if member["start"].startswith("models/"):
        return "fresh" if member["start"].endswith("/extractor") else "sequential"
    return "pretrained" if member["epochs"] else "released"


def study_table(study: Study, shown: int = 10) -> Table:
    """The best complete trials of a search, or all rows of a factorial."""
    frame = pd.DataFrame() if study.rows is None else study.rows
    if {"number", "value", "state"} <= set(frame):
        frame = frame[frame["state"] == "complete"].sort_values(["value", "number"]).head(shown)
    frame = frame.drop(columns=["state", "seconds", "note"], errors="ignore")
    frame.columns = [name.removeprefix("params_") for name in map(str, frame)]
    named = frame.rename(columns={"number": "trial", "grid": "began with"})
    cells = named.map(lambda value: scientific(float(f"{value:.4g}")) if isinstance(value, float) else str(value))
    return Table(study.name, f"Study {study.name}", cells)


def variants_frame(data: ReportData) -> pd.DataFrame:
    """Every number of every evaluation, unrounded; lists are joined by +."""
    rows = []
    for name, found in data.evaluations.items():
        shown = {key: value for key, value in found.items() if key not in ("samples_sha256", "provenance")}
        row = {key: "+".join(map(str, v)) if isinstance(v, list) else v for key, v in shown.items()}
        for baseline in BASELINES[1:]:
            if (difference := data.difference(name, baseline)) is not None:
                row[f"delta_fid_{baseline}"] = difference.value
                row[f"delta_low_{baseline}"], row[f"delta_high_{baseline}"] = difference.bounds
        rows.append({"variant": name} | row)
    return pd.DataFrame(rows)


def curves_frame(data: ReportData) -> pd.DataFrame:
    """Training curves in long form for `dvc plots`: member, split, epoch, loss, accuracy."""
    columns, parts = ["member", "split", "epoch", "loss", "accuracy"], []
    for member in data.members:
        for split in ("train", "validation"):
            curve = member.history.rename(columns={f"{split}_loss": "loss", f"{split}_accuracy": "accuracy"})
            parts.append(curve.assign(member=member.name, split=split)[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
