"""The public API and the command without the extras."""

import sys
import tomllib
from pathlib import Path

from tests.commands import PROJECT, refused, run, succeed

BASE = {"numpy", "safetensors", "torch"}
# Run as a program: everything that only an extra brings is as if it were not installed.
PROGRAM = """
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
{code}
"""
EXAMPLE = """
import warnings, numpy as np, torch
from discriminator_guidance import *
guidance = DiscriminatorGuidance(lambda x_vp, tau: x_vp.mean(dim=(1, 2, 3)))
samples = sample(lambda x, sigma: x / (1 + sigma.view(-1, 1, 1, 1) ** 2), (8, 1, 4, 4), guidance=guidance, steps=4)
images = to_uint8(samples)
with warnings.catch_warnings(action="ignore"):  # it learns nothing
    trained = train_discriminator(*np.zeros((2, 10, 8, 8, 1), np.uint8), steps=1, progress=False)
network = train_features((np.zeros((10, 8, 8, 1), np.uint8), np.arange(10) % 2), iterations=1)
pixels = lambda x: x.flatten(1)[:, :2]
print(frechet_distance(images, images[::-1].copy(), network=pixels).low < 1e-6)
frechet_distance([images, images], images, network=pixels)
"""
LOADING = """
import sys
from discriminator_guidance.core.files import fit_network
from discriminator_guidance.networks.adm import EncoderUNet
from discriminator_guidance.networks.edm import EDMPrecond
common = {"model_channels": 8, "channel_mult": [1, 2]}
denoiser = {"img_resolution": 8, "img_channels": 1, "num_blocks": 1, "embedding_type": "fourier"}
encoder = {"image_size": 8, "in_channels": 1, "out_channels": 2, "num_res_blocks": 1, "attention_resolutions": [2]}
for build, arguments in ((EDMPrecond, denoiser | common), (EncoderUNet, encoder | {"num_head_channels": 8} | common)):
    fit_network(build, arguments, build(**arguments).state_dict(), "", "")
print("torch._dynamo" in sys.modules or "sympy" in sys.modules)
"""


def blocked() -> list[str]:
    """The modules of the extras, as they are imported."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert {name.split(">")[0] for name in project["dependencies"]} == BASE
    extras = [project["optional-dependencies"][key] for key in ("pipeline", "study", "eval", "diffusers")]
    names = [name.split(">")[0].split("[")[0] for extra in extras for name in extra]
    # torch itself brings jinja2.
    return [{"pillow": "PIL", "torch-fidelity": "torch_fidelity"}.get(name, name) for name in names if name != "jinja2"]


def program(code: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(blocked=blocked(), code=code)]


def test_the_api_runs_without_the_extras(tmp_path: Path) -> None:
    done = run(tmp_path, *program(LOADING + EXAMPLE))
    assert done.stdout.split() == ["False", "True"], "no compiler is loaded, and the distance is 0"
    assert "ConfigError: SciPy, for intervals over seeds, is missing" in done.stderr


def test_the_command_names_what_to_install(tmp_path: Path) -> None:
    main = "from dguide.__main__ import main; main()"
    refused(run(tmp_path, *program(main)), "typer", "pip install '.[pipeline,study,eval]'")


def test_importing_the_package_imports_nothing_else(tmp_path: Path) -> None:
    code = "import sys, discriminator_guidance; print('torch' in sys.modules or 'numpy' in sys.modules)"
    assert succeed(tmp_path, sys.executable, "-c", code).strip() == "False"
