"""Study `factorial`: why the reproduction's ensemble scored FID 14.35, by sampling alone.

The full cube of rule, steps, w2 and boosting, for one discriminator and for all, in every training replicate; more
numbers of steps, and other sets of members, at the reproduction's w2 and boosting. All cells share their noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from itertools import product
from typing import Any

import numpy as np
import optuna
from scipy.special import expit

from dguide.artifacts import Layout, load_head
from dguide.settings import Config, Variant
from dguide.settings.sections import Rule
from dguide.studies.distances import GuidedDistances, distance_inputs, distance_settings
from dguide.studies.storage import StudyPlan
from dguide.studies.trials import begin, run_trials
from dguide.tracking import Tracker
from discriminator_guidance.guidance import PROBABILITY_CLIP
from discriminator_guidance.metrics.distances import debiased_distance
from discriminator_guidance.metrics.features import Doubles
from discriminator_guidance.noise import karras_sigmas, tau_from_sigma

WORD = "factorial"
RULES: tuple[Rule, Rule] = ("mean_probability", "clipped_logit_mean")  # ours and the reproduction's
HIGH_NOISE = 0.5  # VP time above which logits hold next to no information
EDGE = 1.001 * PROBABILITY_CLIP  # closer to 0 or 1 is pinned, up to the rounding of a log ratio
GROUPS = 300  # neighbouring samples whose mean influence is kept, so that journals stay small


@dataclass(frozen=True)
class Cell:
    """One trial."""

    set: str
    rule: Rule
    members: int  # the first ones of the set
    steps: int
    w2: float
    boosting: bool
    seed: int  # number of the training replicate


def run(config: Config, layout: Layout, recover_all: bool) -> dict[str, Any]:
    """Run the cells that are missing, each a trial; write what the complete ones say, also at an interruption."""
    from dguide.studies.factorial_record import write_results

    cells, layouts = planned_cells(config), layout.replicates(config.replicates)
    starts = {" ".join(map(str, asdict(cell).values())): asdict(cell) for cell in cells}
    study = begin(config, layout, plan(config, layouts), starts, recover_all)
    networks = cache(lambda seed: GuidedDistances(config, layouts[seed]))
    try:
        settings = config.studies.factorial.model_dump()
        run_trials(study, partial(_objective, config, networks), len(cells), config, settings)
    finally:
        result = write_results(study, cells, config, layout)
    return result


def plan(config: Config, layouts: Sequence[Layout]) -> StudyPlan:
    """The experiment; more replicates may be added to it."""
    section = config.studies.factorial
    members = sorted({name for names in section.sets.values() for name in names})
    own = {"factorial": section.model_dump(exclude={"threads"}), "seed": config.guided.seed}
    return StudyPlan(
        word=WORD,
        objective=f"FID ({config.fid_network.name}) of {section.images} samples",
        settings=own | distance_settings(config),
        inputs=distance_inputs(layouts, members),
    )


def planned_cells(config: Config) -> list[Cell]:
    """Every cell once: the reproduction's w2 and boosting first, which answer the question, then the other corners."""
    section, seeds = config.studies.factorial, range(config.replicates)
    (first, members), *others = section.sets.items()
    steps, w2, boosting = (both[1:] for both in (section.steps, section.w2, section.boosting))  # the reproduction's

    def cells(*levels: Sequence[Any]) -> list[Cell]:
        each: Iterator[Any] = product(*levels, seeds, RULES[::-1], (len(members), 1))
        return [Cell(first, rule, count, *at) for *at, rule, count in each]

    corner = cells((*section.steps[::-1], *section.more_steps), w2, boosting)
    theirs = [cell for cell in cells(steps, w2, boosting) if cell.rule == RULES[1] and cell.members > 1]
    added = [replace(cell, set=name, members=len(names)) for name, names in others for cell in theirs]
    return list(dict.fromkeys([*corner, *added, *cells(section.steps, section.w2, section.boosting)]))


def suggest(trial: optuna.Trial, config: Config) -> Cell:
    """The cell of an enqueued trial."""
    section = config.studies.factorial
    sizes, steps = sorted({1, *map(len, section.sets.values())}), (*section.steps, *section.more_steps)
    choices: dict[str, Sequence[Any]] = {"set": [*section.sets], "rule": RULES, "members": sizes, "steps": steps}
    choices |= {"w2": section.w2, "boosting": section.boosting}
    levels: dict[str, Any] = {name: trial.suggest_categorical(name, values) for name, values in choices.items()}
    return Cell(**levels, seed=trial.suggest_int("seed", 0, config.replicates - 1))


def cell_variant(cell: Cell, config: Config) -> Variant:
    """The variant by which a cell is sampled."""
    section = config.studies.factorial
    names = section.sets[cell.set][: cell.members]
    needs = "discriminator" if len(names) > 1 else f"discriminator/{names[0]}"
    levels: dict[str, Any] = {key: getattr(cell, key) for key in ("rule", "steps", "w2", "boosting")}
    return Variant(needs=needs, members=names, weights="equal", w1=section.w1, **levels)


def share_and_amplification(mistaken: Doubles) -> dict[str, float | None]:
    """The share of "probabilities" p of the clipped rule that it does not pin, and the mean of their 1 / (p (1 - p)).

    By the second the rule multiplies the gradient of the mean logit; it is None where all are pinned.
    """
    free = mistaken[(mistaken > EDGE) & (mistaken < 1 - EDGE)]
    amplification = float(np.mean(1 / (free * (1 - free)))) if free.size else None
    return {"share_in_unit": free.size / mistaken.size, "amplification": amplification}


def _objective(
    config: Config, networks: Callable[[int], GuidedDistances], trial: optuna.Trial, tracker: Tracker
) -> float:
    cell, section = suggest(trial, config), config.studies.factorial
    variant, own = cell_variant(cell, config), networks(cell.seed)
    heads = [load_head(own.layout, name, own.compute) for name in variant.members]
    span = config.guided.model_copy(update={"images": section.images, "seed_start": section.seed_start})
    features, log_ratios, _ = zip(*own.draws(variant, heads, span), strict=True)
    fid, influence = own.distance(features)
    found: dict[str, Any] = {"fid_debiased": debiased_distance(np.concatenate(features), own.reference)}
    if cell.rule == RULES[1]:
        shared = config.sampler
        times = tau_from_sigma(karras_sigmas(cell.steps, shared.sigma_min, shared.sigma_max, shared.rho)[:-1])
        noisy = np.concatenate(log_ratios, axis=1)[times.numpy() > HIGH_NOISE]
        found |= share_and_amplification(expit(noisy.astype(np.float64)))
    tracker.summary(found)
    groups = np.array_split(influence, min(len(influence), GROUPS))
    for key, value in {**found, "influence": [float(f"{group.mean():.9g}") for group in groups]}.items():
        trial.set_user_attr(key, value)
    return fid
