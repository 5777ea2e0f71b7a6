"""The folders of every stage, which have the names of the stages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

REPLICATED = ("score", "extractor", "fake", "discriminator", "guided")  # stages that run once for each replicate
DIVISIBLE = ("fake", "guided", "evaluation")  # stages whose result does not depend on how many processes divide them


def work_apart(word: str, replicates: int, processes: int) -> bool:
    """Whether each process of torchrun runs whole replicates of a stage alone, and the processes share nothing.

    So do those of a stage that trains if no process is idle, and always of the FID network: distances must not depend
    on the number of processes.
    """
    return word not in DIVISIBLE and (replicates >= processes or word == "fid_network")


@dataclass(frozen=True)
class Layout:
    """The folders of one profile in the project folder `root`, or of one of its training replicates."""

    root: Path
    profile: str
    replicate: str = ""  # "r0": what has training seeds of its own lies in a folder of this name; "" with one replicate

    def replicates(self, count: int) -> list[Layout]:
        """The folders of each replicate."""
        return [replace(self, replicate=f"r{number}" if count > 1 else "") for number in range(count)]

    @property
    def real(self) -> Path:
        """train.npz, holdout.npz, card.json, grid.png."""
        return self.root / "data" / self.profile / "real"

    @property
    def fake(self) -> Path:
        """samples.npz, grid.png."""
        return self.root / "data" / self.profile / "fake" / self.replicate

    def guided(self, variant: str) -> Path:
        """samples.npz, trajectory.npz, grid.png of a variant."""
        return self.root / "data" / self.profile / "guided" / variant / self.replicate

    def model(self, word: str) -> Path:
        """model.safetensors, config.json, history.csv of `score`, `extractor` or `fid_network`."""
        return self.root / "models" / self.profile / word / ("" if word == "fid_network" else self.replicate)

    def discriminator(self, member: str) -> Path:
        """Weights and test logits of a member."""
        return self.root / "models" / self.profile / "discriminator" / member / self.replicate

    def start(self, path: str) -> Path:
        """The start of a member: a network of this replicate, or a released file."""
        return self.root / path / (self.replicate if path.startswith("models/") else "")

    @property
    def report(self) -> Path:
        """Tables, figures, index.html, and what other stages report."""
        return self.root / "reports" / self.profile

    def discriminator_report(self, member: str) -> Path:
        """metrics.json, history.csv, calibration.csv of a member."""
        return self.report / "discriminator" / member / self.replicate

    def evaluation(self, variant: str) -> Path:
        """The metrics of a variant that DVC compares."""
        return self.report / "evaluation" / f"{variant}.json"

    def evaluated(self, variant: str) -> Path:
        """The folder of details.json and of influence.npz, for paired differences."""
        return self.root / "data" / self.profile / "evaluation" / variant

    def details(self, variant: str) -> Path:
        """The other results of a variant, as stage `report` shows them: scores, settings, seeds."""
        return self.report / "details" / f"{variant}.json"

    @property
    def study(self) -> Path:
        """Journals, tables and figures of the studies."""
        return self.report / "study"

    @property
    def trials(self) -> Path:
        """Samples of the trials of studies."""
        return self.root / "data" / self.profile / "study"

    @property
    def partial(self) -> Path:
        """Shards and checkpoints of interrupted stages; safe to delete when nothing runs."""
        return self.root / ".partial" / self.profile / self.replicate
