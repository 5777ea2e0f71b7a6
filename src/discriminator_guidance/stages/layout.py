"""Where every stage keeps its files: the folder names are the stage names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folders of one profile.

    Args:
        root: project folder.
        profile: profile name.
    """

    root: Path
    profile: str

    @property
    def real(self) -> Path:
        """train.npz, holdout.npz, card.json."""
        return self.root / "data" / self.profile / "real"

    @property
    def fake(self) -> Path:
        """samples.npz."""
        return self.root / "data" / self.profile / "fake"

    def guided(self, variant: str) -> Path:
        """samples.npz and trajectory.npz of a variant.

        Args:
            variant: its name.

        Returns:
            The folder.
        """
        return self.root / "data" / self.profile / "guided" / variant

    def model(self, word: str) -> Path:
        """Weights of `score`, `extractor` or `fid_network`.

        Args:
            word: the stage.

        Returns:
            The folder.
        """
        return self.root / "models" / self.profile / word

    def discriminator(self, member: str) -> Path:
        """Weights and test logits of a member.

        Args:
            member: its name.

        Returns:
            The folder.
        """
        return self.root / "models" / self.profile / "discriminator" / member

    @property
    def factorial(self) -> Path:
        """Members and cells of the factorial, each under a name of its own."""
        return self.root / "models" / self.profile / "factorial"

    @property
    def discriminator_reports(self) -> Path:
        """One folder for each member: metrics.json, history.csv, calibration.csv."""
        return self.report / "discriminator"

    @property
    def report(self) -> Path:
        """Tables, figures, index.html."""
        return self.root / "reports" / self.profile

    def evaluation(self, variant: str) -> Path:
        """The JSON of a variant.

        Args:
            variant: its name.

        Returns:
            The file.
        """
        return self.report / "evaluation" / f"{variant}.json"

    def influence(self, variant: str) -> Path:
        """How much each picture of a variant pulls on its Frechet distance.

        Args:
            variant: its name.

        Returns:
            The file.
        """
        return self.root / "data" / self.profile / "evaluation" / variant / "influence.npz"

    @property
    def study(self) -> Path:
        """Journals of the studies, and the weights of their trials."""
        return self.root / "models" / self.profile / "study"

    @property
    def study_reports(self) -> Path:
        """Tables and figures of the studies."""
        return self.report / "study"

    @property
    def partial(self) -> Path:
        """Unfinished work, safe to delete when nothing runs."""
        return self.root / ".partial" / self.profile

    @property
    def feature_cache(self) -> Path:
        """FID features by content, safe to delete."""
        return self.root / ".cache" / "features"
