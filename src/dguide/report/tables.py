"""Tables 1 to 4 as text cells, and the LaTeX and HTML that they are written to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from dguide.report import format as fmt
from dguide.report import published
from dguide.report.format import MISSING, fid_text, number, scientific
from dguide.report.gather import KIDS, Member, ReportData, Study
from discriminator_guidance.sampling.guidance import PROBABILITY_CLIP

SHARED = ("start", "seed", "epochs", "learning_rate", "weight_decay", "t_min", "published")  # that every member has
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


def _latex(text: str) -> str:
    # Anything else outside ASCII would need an engine or packages we cannot count on.
    return fmt.typeset(text).translate(LATEX).encode("ascii", "replace").decode("ascii").replace("\n", " ")


def sampling_table(data: ReportData) -> Table:
    """Table 1: the reproduction's sampling settings beside ours."""
    kinds = {"unguided": False, "guided": True}
    columns = {f"reproduction: {kind}": _column(published.TABLES, guided) for kind, guided in kinds.items()}
    columns |= {f"ours: {name}": _sampling(data, name) for name in data.settings["report"]["sampling"]}
    frame = pd.DataFrame(columns).rename_axis("setting").reset_index()
    return Table("table1", "Table 1. Sampling settings", frame)


def _column(texts: Mapping[str, Mapping[str, str]], guided: bool) -> dict[str, str]:
    return {**texts["sampling"], **(texts["guidance"] if guided else dict.fromkeys(texts["guidance"], MISSING))}


def _sampling(data: ReportData, name: str) -> dict[str, str]:
    sampler, guided, variant = data.settings["sampler"], data.settings["guided"], data.settings["variants"][name]
    evaluation, size, clip = data.evaluations[name], data.real.shape[1], scientific(PROBABILITY_CLIP)
    trained = data.settings["score"]["source"] == "train"
    low, high = map(scientific, variant["window"] or (guided["time_min"], guided["time_max"]))
    texts = {
        "data": data.settings["real"]["source"],
        "image size": f"{size}x{size}",
        "score network": "EDM, trained here" if trained else "EDM, released weights",
        "feature network": "Inception" if data.label() == "FID" else evaluation["fid_network"],
        "samples (N)": fmt.count(evaluation["n"]),
        "batch size": fmt.count(guided["batch_size"]),
        "steps (NFE)": f"{evaluation['steps']} ({2 * evaluation['steps'] - 1})",  # Heun: two a step, one in the last
        "sigma": f"{scientific(sampler['sigma_min'])} to {scientific(sampler['sigma_max'])}, rho {sampler['rho']:g}",
        "churn": scientific(variant["s_churn"]),
    }
    guidance = {
        "discriminators": ", ".join(variant["members"]).upper(),
        "w1": scientific(variant["w1"]),
        "w2": scientific(variant["w2"]),
        "guidance weight, (w1 + w2) / 2": scientific((variant["w1"] + variant["w2"]) / 2),
        "time window": f"[{low}, {high}]",
        "boosting": "on" if variant["boosting"] else "off",
        "probability clip": f"[{clip}, 1 - {clip}]",
    }
    return _column({"sampling": texts, "guidance": guidance}, bool(variant["members"]))


def discriminator_table(data: ReportData) -> Table:
    """Table 2: how the reproduction trained its discriminators, how we trained ours, and the losses of both."""
    rows, columns = [], published.TABLES["member_columns"]
    for member in data.members:
        kind = data.settings["members"][member.name]["published"]
        theirs = published.TABLES["members"].get(kind, [MISSING] * len(columns))
        row = {f"reproduction: {key}": text for key, text in zip(columns, theirs, strict=True)}
        rows.append({"member": member.name.upper()} | row | _member(data, member))
    return Table("table2", "Table 2. The discriminators", pd.DataFrame(rows).fillna(MISSING))


def _member(data: ReportData, member: Member) -> dict[str, str]:
    metrics, history, settings = member.metrics, member.history, data.settings["members"][member.name]
    row = {
        "ours: start": settings["start"].rpartition("/")[2],
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
        "ours, BCE: validation, best (epoch)": (
            f"{number(metrics['best_validation_loss'], 3)} ({fmt.count(metrics['best_epoch'])})"
        ),
        "ours, BCE: test": number(metrics["test_loss"], 3),
    }
    for part in ("train", "validation"):
        row[f"ours, accuracy: {part}, last"] = number(metrics[f"{part}_accuracy"], 3)
        row[f"ours, accuracy: {part}, best"] = number(history[f"{part}_accuracy"].max(), 3)
    section = data.settings["discriminator"]
    differing = {key: value for key, value in settings.items() if key not in SHARED and value != section[key]}
    special = ", ".join(f"{key} {value}" for key, value in differing.items())
    return row | ({"ours: settings of its own": special} if special else {})


def result_table(data: ReportData) -> Table:
    """Table 3: every variant's result beside the published one of the same kind, then the other published results."""
    columns, reference = published.TABLES["result_columns"], data.reference
    lines = {} if data.settings["cond"] else published.TABLES["results"]
    theirs = {name: dict(zip(columns, cells, strict=True)) for name, cells in lines.items()}
    kinds = {name: data.settings["variants"][name]["published"] for name in data.evaluations}
    none = dict.fromkeys(columns, MISSING)
    rows = [_ours(data, name) | theirs.get(kind, none) for name, kind in kinds.items()]
    fid, kid = f"ours: {data.label()} [95 %]", f"ours, generative: {data.label('KID')} [95 %]"
    rows.append({"variant": "training images", "guided by": "drawn again", fid: number(reference["floor"], 2)})
    rows.append({
        "variant": "held-out images",
        "ours: N": fmt.count(reference["holdout_n"]),
        fid: fmt.estimate(reference["holdout_fid"], reference["holdout_fid_ci95"]),
        f"ours: {data.label()}, de-biased": number(reference["holdout_fid_debiased"], 2),
        kid: fmt.estimate(reference["holdout_kid"], reference["holdout_kid_ci95"], 4),
    })  # fmt: skip
    for name, cells in theirs.items():
        if name not in kinds.values():
            rows.append({"variant": "not run here", "guided by": cells[columns[0]], **cells})
    return Table("table3", "Table 3. Results", pd.DataFrame(rows).fillna(MISSING))


def _ours(data: ReportData, name: str) -> dict[str, str]:
    evaluation, variant, baseline = data.evaluations[name], data.settings["variants"][name], data.baseline
    weights = f"{scientific(variant['w1'])} / {scientific(variant['w2'])} / {'on' if variant['boosting'] else 'off'}"
    deltas = {key: None if name == baseline else evaluation[f"delta_{key}"] for key in ("fid", *KIDS)}
    row = {
        "variant": name,
        "guided by": fmt.variant_text(variant, data.settings["sampler"]),
        "ours: w1 / w2 / boosting": weights if variant["members"] else MISSING,
        "ours: steps (NFE)": f"{evaluation['steps']} ({evaluation['nfe']})",
        "ours: N": fmt.samples_text(evaluation),
        f"ours: {data.label()} [95 %]": fid_text(evaluation),
        f"ours: {data.label()}, de-biased": number(evaluation["fid_debiased"], 2),
    }
    row |= {f"ours: difference from {other} [95 %]": difference_text(data, name, other) for other in data.compared}
    row["ours: adjusted p"] = number(evaluation["delta_p_adjusted"], 3)
    for kid, suffix in zip(KIDS, ("", ", held-out"), strict=True):
        heading, bounds = f"ours, generative: {data.label('KID')}{suffix}", evaluation[f"delta_{kid}_ci95"]
        row[f"{heading} [95 %]"] = fmt.estimate(evaluation[kid], evaluation[f"{kid}_ci95"], 4)
        row[f"{heading}, difference from {baseline} [95 %]"] = fmt.estimate(deltas[kid], bounds, 4, sign=True)
    for key in ("precision", "recall"):
        row[f"ours, generative: k-NN {key}"] = number(evaluation[key], 3)
    for score, heading in (("precision",) * 2, ("recall",) * 2, ("accuracy",) * 2, ("auroc", "AUROC")):
        row[f"ours, discriminator as classifier: {heading}"] = number(evaluation[f"discriminator_{score}"], 3)
    return row


def difference_text(data: ReportData, name: str, other: str) -> str:
    """A variant's difference from another with its interval; a dash from itself."""
    difference = data.differences.get((name, other))
    return MISSING if difference is None else difference.text


def ensemble_table(data: ReportData) -> Table:
    """Table 4: every ensemble whose members were all sampled alone in the same way, beside those members."""
    rows, label, change = [], f"{data.label()} [95 %]", "ensemble's difference [95 %] from"
    for name, from_mean in data.from_members().items():
        record = data.evaluations[name]["against_members"]
        alone = {member: data.evaluations[variant] for member, variant in record["alone"].items()}
        best, *_, worst = sorted(alone, key=lambda member: alone[member]["fid"])
        rows.append({
            "ensemble": name,
            "of": fmt.variant_text(data.settings["variants"][name], data.settings["sampler"]),
            f"{label}: ensemble": fid_text(data.evaluations[name]),
            f"{label}: mean of its members": number(record["fid"], 2),
            f"{label}: best member": f"{best.upper()} {fid_text(alone[best])}",
            f"{label}: worst member": f"{worst.upper()} {fid_text(alone[worst])}",
            f"{change}: the mean of its members": from_mean.text,
            f"{change}: its best member": difference_text(data, name, record["alone"][best]),
            **{f"{change}: {other}": difference_text(data, name, other) for other in data.compared},
        })  # fmt: skip
    return Table("table4", "Table 4. Ensembles beside their members", pd.DataFrame(rows))


def study_table(study: Study, shown: int = 10) -> Table:
    """The best complete trials of a search, or all rows of a factorial."""
    frame = study.rows
    if {"number", "value", "state"} <= set(frame):
        frame = frame[frame["state"] == "complete"].sort_values(["value", "number"]).head(shown)
    frame = frame.drop(columns=["state", "seconds", "note"], errors="ignore")
    frame.columns = [name.removeprefix("params_") for name in map(str, frame)]
    named = frame.rename(columns={"number": "trial", "grid": "began with"})
    cells = named.map(lambda value: scientific(float(f"{value:.4g}")) if isinstance(value, float) else str(value))
    return Table(study.name, f"Study {study.name}", cells)


def variants_frame(data: ReportData) -> pd.DataFrame:
    """Every number of every evaluation, unrounded."""
    rows = [{"variant": name, **evaluation} for name, evaluation in data.evaluations.items()]
    return pd.DataFrame(rows).drop(columns="against_members")


def curves_frame(data: ReportData) -> pd.DataFrame:
    """Training curves in long form for `dvc plots`: member, split, epoch, loss, accuracy."""
    columns, parts = ["member", "split", "epoch", "loss", "accuracy"], []
    for member in data.members:
        for split in ("train", "validation"):
            curve = member.history.rename(columns={f"{split}_loss": "loss", f"{split}_accuracy": "accuracy"})
            parts.append(curve.assign(member=member.name, split=split)[columns])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
