"""Metrics against the golden vectors of pytorch-fid, torch-fidelity, prdc and the EDM / DG formula.

Set 1 is the generated set, set 2 the real one. Cases (`in/<case>/features_1`), neighborhoods (`precision_k3`)
and KID settings are taken from the file. Tolerances are those of its README, unless `meta` has an `agreement`
that states the `recommended_atol` of an array, as the files of networks do.
"""

import re
from dataclasses import dataclass

import numpy as np
import pytest

from discriminator_guidance.metrics import distances
from discriminator_guidance.metrics.distances import KernelSet, frechet_influence, gaussian_of_features, kid_influence
from tests.golden.vectors import Vectors, find
from tests.metrics.sets import gaussian_statistics

# What the product does not compute: F score, density and coverage; the Inception score, its logits and order.
UNCOVERED = re.compile(
    r"out/\w+/((f_score|density|coverage)_k\d+|(shuffled|plain)_s\d+_(mean|std)|(mu|sigma)_[12]|mean_term)"
    r"|in/\w+/(logits|permutation_\w+)"
)
INPUTS = re.compile(r"in/\w+/(features|kid_index)_[12]")

# Tolerances of the README: (relative, absolute) by the name of an array inside its case.
TOLERANCES = {
    r"(mu|sigma)_[12]|mean_term|trace_sqrt": (1e-9, 0.0),
    r"fid_exact_svd": (1e-10, 0.0),
    r"fid_(pytorch_fid|edm_dg|torch_fidelity)": (1e-10, 0.0),
    r"fid_pytorch_fid_self": (0.0, 1e-11),
    r"fid_torch_fidelity_f32feat": (1e-6, 0.0),
    r"kid_(mean|std|subset_mmd2)|mmd2_unbiased_first_m": (1e-9, 0.0),
    r"kid_mean_f32": (2e-5, 0.0),
    r"(prdc_)?(precision|recall)_k\d+": (0.0, 1e-7),  # torch-fidelity's are float32 means
}
# At deficient rank, matrix square roots and eigenvalues of products stay this near to the exact value.
DEFICIENT = (0.0, 2e-6)


@dataclass(frozen=True)
class Case:
    """A pair of feature sets of a golden file, with all that was computed from it."""

    vectors: Vectors
    name: str

    def __str__(self) -> str:
        return f"{self.vectors.path.stem}-{self.name}"

    def given(self, quantity: str) -> np.ndarray:
        return self.vectors.arrays[f"in/{self.name}/{quantity}"]

    @property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        return self.given("features_1").astype(np.float64), self.given("features_2").astype(np.float64)

    @property
    def kid_indices(self) -> tuple[np.ndarray, np.ndarray]:
        return self.given("kid_index_1").astype(np.int64), self.given("kid_index_2").astype(np.int64)

    @property
    def quantities(self) -> list[str]:
        names = self.vectors.names(f"out/{self.name}/")
        return [name.split("/")[2] for name in names if not UNCOVERED.fullmatch(name)]

    def tolerance(self, quantity: str) -> tuple[float, float]:
        declared = self.vectors.meta.get("agreement", {}).get(f"out/{self.name}/{quantity}")
        if declared is not None:
            return 0.0, float(declared["recommended_atol"])
        deficient = any(len(rows) <= rows.shape[1] for rows in self.features)
        if deficient and re.fullmatch(r"fid_(pytorch_fid|edm_dg|torch_fidelity|pytorch_fid_self)", quantity):
            return DEFICIENT
        return next(bounds for pattern, bounds in TOLERANCES.items() if re.fullmatch(pattern, quantity))


def cases_of(vectors: Vectors) -> list[Case]:
    return [Case(vectors, name.split("/")[1]) for name in vectors.names("in/") if name.endswith("/features_1")]


FILES = [Vectors(path) for path in find(lambda vectors: bool(cases_of(vectors)))]
CASES = [case for vectors in FILES for case in cases_of(vectors)]


def kid_of_subsets(case: Case, index_1: np.ndarray, index_2: np.ndarray) -> np.ndarray:
    """Our KID of each pair of subsets (rows of indices)."""
    generated, real = case.features
    pairs = zip(index_1, index_2, strict=True)
    return np.array([kid_influence(KernelSet.of(generated[i]), KernelSet.of(real[j]))[0] for i, j in pairs])


def computed(case: Case, quantity: str) -> list[float | np.ndarray]:
    """Every value of ours that an array of the file must equal."""
    generated, real = case.features
    if quantity == "trace_sqrt":
        (mu_1, sigma_1), (mu_2, sigma_2) = gaussian_statistics(generated), gaussian_statistics(real)
        distance, _ = frechet_influence(generated, gaussian_of_features(real))
        return [(np.sum((mu_1 - mu_2) ** 2) + np.trace(sigma_1) + np.trace(sigma_2) - distance) / 2]
    if quantity.startswith("fid_"):
        reference = gaussian_of_features(generated if quantity == "fid_pytorch_fid_self" else real)
        return [frechet_influence(generated, reference)[0]]
    if match := re.fullmatch(r"(?:prdc_)?(precision|recall)_k(\d+)", quantity):
        return [distances.precision_recall(generated, real, int(match[2]))[match[1] == "recall"].mean]
    if quantity.startswith("kid_"):
        values = kid_of_subsets(case, *case.kid_indices)
        whole = {"kid_std": values.std(), "kid_subset_mmd2": values}
        return [whole.get(quantity, values.mean())]
    if quantity == "mmd2_unbiased_first_m":
        rows = np.arange(min(len(generated), len(real)))[None]
        return list(kid_of_subsets(case, rows, rows))
    raise AssertionError(f"nothing of ours is compared with {quantity}")


@pytest.mark.parametrize(("case", "quantity"), [(c, q) for c in CASES for q in c.quantities], ids=str)
def test_array(case: Case, quantity: str) -> None:
    relative, absolute = case.tolerance(quantity)
    reference = case.vectors.arrays[f"out/{case.name}/{quantity}"]
    for value in computed(case, quantity):
        np.testing.assert_allclose(value, reference, rtol=relative, atol=absolute)


def test_no_array_is_skipped_silently() -> None:
    assert CASES, "the golden folder has no file with features"
    for vectors in FILES:
        compared = {f"out/{c.name}/{q}" for c in cases_of(vectors) for q in c.quantities}
        assert compared == {n for n in vectors.arrays if not UNCOVERED.fullmatch(n) and not INPUTS.fullmatch(n)}
