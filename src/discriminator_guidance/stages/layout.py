"""Where every stage keeps its files: the folder names are the stage names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folders of one profile in the project folder `root`."""

    root: Path
    profile: str

    @property
    def real(self) -> Path:
        """train.npz, holdout.npz, card.json, grid.png."""
        return self.root / "data" / self.profile / "real"

    @property
    def fake(self) -> Path:
        """samples.npz, grid.png."""
        return self.root / "data" / self.profile / "fake"

    def guided(self, variant: str) -> Path:
        """samples.npz, trajectory.npz, grid.png of a variant."""
        return self.root / "data" / self.profile / "guided" / variant

    def model(self, word: str) -> Path:
        """model.safetensors, model.json, history.csv of `score`, `extractor` or `fid_network`."""
        return self.root / "models" / self.profile / word

    def discriminator(self, member: str) -> Path:
        """Weights and test logits of a member."""
        return self.root / "models" / self.profile / "discriminator" / member

    @property
    def report(self) -> Path:
        """Tables, figures, index.html, and what other stages report."""
        return self.root / "reports" / self.profile

    def discriminator_report(self, member: str) -> Path:
        """metrics.json, history.csv, calibration.csv of a member."""
        return self.report / "discriminator" / member

    def evaluation(self, variant: str) -> Path:
        """The metrics of a variant that DVC compares."""
        return self.report / "evaluation" / f"{variant}.json"

    def evaluated(self, variant: str) -> Path:
        """What an evaluation leaves besides its metrics: details.json, and influence.npz for paired differences."""
        return self.root / "data" / self.profile / "evaluation" / variant

    def details(self, variant: str) -> Path:
        """The other results of a variant, as stage `report` shows them: scores, settings, seeds, hashes."""
        return self.report / "details" / f"{variant}.json"

    def influence(self, variant: str) -> Path:
        """The influence of each sample of a variant on its Frechet distance."""
        return self.evaluated(variant) / "influence.npz"

    @property
    def study(self) -> Path:
        """Journals, tables and figures of the studies."""
        return self.report / "study"

    @property
    def partial(self) -> Path:
        """Shards and checkpoints of interrupted stages; safe to delete when nothing runs."""
        return self.root / ".partial" / self.profile
