"""Discriminators are kept in folders and on a hub, with what is known of them; mistakes are one line."""

import sys
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from discriminator_guidance import TrainedDiscriminator, frechet_distance, load_discriminator
from discriminator_guidance.core.noise import to_uint8
from discriminator_guidance.core.settings import SplitSettings
from discriminator_guidance.networks.adm import MemberLogits
from tests.commands import run
from tests.library.hub import FILES, Hub
from tests.library.test_training import BRIEF, FIRST, REAL, encoder, train
from tests.stages.released import classifier_file

AT = REAL[:2], torch.tensor(0.1)


def doubled(x_vp: Tensor, tau: Tensor) -> Tensor:
    return 2 * x_vp


@pytest.mark.parametrize(("extractor", "options"), [(None, {}), (encoder(), {}), (encoder(), {"finetune": True})])
def test_a_saved_discriminator_is_the_one_that_was_trained(extractor: Any, options: dict, tmp_path: Path) -> None:
    trained = train(*FIRST, extractor, **BRIEF, **options)
    trained.save(tmp_path / "digits")
    with torch.inference_mode():
        again = TrainedDiscriminator.load(tmp_path / "digits")
    assert not any(weights.is_inference() for weights in again.network.parameters()), "they may guide"
    assert torch.equal(again(*AT), trained(*AT))
    assert (again.losses, again.calibration, again.about) == (trained.losses, trained.calibration, trained.about)
    assert again.history == [pytest.approx(row) for row in trained.history]
    assert torch.equal(load_discriminator(tmp_path / "digits")(*AT).flatten(), trained(*AT))
    card = (tmp_path / "digits" / "README.md").read_text()
    rows = [f"| {time:.2g} | {loss:.3f} | {error:.3f} |" for time, (loss, error) in trained.losses.items()]
    assert all(text in card for text in ("# digits", '"real": 20', '"test": 4', '"steps": 20', *rows))


PROGRAM = """
import torch, discriminator_guidance as dg
trained = dg.TrainedDiscriminator.load("kept")
trained.push_to_hub("user/digits")
at = torch.ones(2, 1, 8, 8), torch.tensor(0.1)
assert torch.equal(dg.TrainedDiscriminator.from_pretrained("user/digits", revision="main")(*at), trained(*at))
assert torch.equal(dg.load_discriminator("user/digits")(*at)[0], trained(*at))
dg.from_pretrained("user/absent")
"""


def test_a_discriminator_goes_to_a_hub_and_comes_back(tmp_path: Path) -> None:
    train(*FIRST, encoder(), **BRIEF).save(tmp_path / "kept")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path), "HF_TOKEN": "x"}
        done = run(tmp_path, sys.executable, "-c", PROGRAM, **address)
        server.shutdown()
    assert 'from_pretrained("user/digits")' in FILES["README.md"].decode()
    assert "InputError: user/absent is no folder, and no repository on the Hub that can be read: " in done.stderr


def load_64x64_classifier(folder: Path) -> None:
    classifier_file(folder / "64x64_classifier.pt", 3, 64)
    load_discriminator(folder / "64x64_classifier.pt")


def load_two_that_were_saved(folder: Path) -> None:
    for name in ("a", "b"):
        train(*FIRST, **BRIEF).save(folder / name)
    load_discriminator(folder / "a", folder / "b")


def folder_without(name: str) -> Callable[[Path], object]:
    def load(folder: Path) -> object:
        train(*FIRST, **BRIEF).save(folder)
        (folder / name).unlink()
        return (load_discriminator if name == "config.json" else TrainedDiscriminator.load)(folder)

    return load


IMAGES = np.zeros((20, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"precision": "bf16"}, "precision is 'bf16'; it must be one of float32, .*bfloat16"),
        ({"precision": "tf32"}, "precision is tf32, and device cpu is not CUDA; choose float32 or auto"),
        ({"split": {"train": 1}}, "split is {'train': 1}; it must be a SplitSettings"),
        ({"split": SplitSettings(train=0.97, validation=0.02, test=0.01)}, "no fake one .* test; .* raise split.test"),
        ({"checkpoint": 3}, "checkpoint is 3 of 2 epochs, or rows of the curve; lower it"),
        (lambda at: train(*FIRST, **BRIEF).save(at) or TrainedDiscriminator.load(at, "cud"), "'cud'; choose cpu"),
        ({"lr": 1.0}, "no argument lr; allowed are .*learning_rate"),
        ({"extractor": lambda x_vp, tau: x_vp.flatten(1)}, r"maps are \(2, 64\); reshape them to \(N, C, S, S\)"),
        ({"extractor": lambda x_vp, tau: [x_vp]}, "maps are <class 'list'>; reshape them"),
        (lambda _: train((IMAGES, IMAGES[:, 0, 0, 0]), lambda x, sigma: 0 * x, **BRIEF), "takes no labels .* alone"),
        ({"extractor": encoder(), "start": MemberLogits(encoder())}, "start a MemberLogits; .* none or a"),
        ({"extractor": encoder(), "finetune": True, "start": torch.nn.Linear(2, 1)}, "a EncoderUNet, start a Linear"),
        (load_discriminator, "model.safetensors does not exist; save it again"),
        (folder_without("config.json"), "config.json does not exist; save it again, or download"),
        (load_two_that_were_saved, r"a is no extractor; .* DiscriminatorGuidance\(\[a, b\]\)"),
        (load_64x64_classifier, "64x64_classifier.pt is .*times are those of the cosine schedule and no VP times"),
        (folder_without("tested.npz"), "tested.npz .*No such file.*; save it again"),
        (lambda _: train(*FIRST, doubled, **BRIEF).save("x"), "no `arguments`"),
        (lambda _: frechet_distance(IMAGES, IMAGES, baseline=IMAGES[:9], network=len), "9 and 20 images.*give as many"),
        (lambda _: frechet_distance([], IMAGES, network=len), "the sets have no images"),
        (lambda at: (at / "README.md").touch() or train(*FIRST, **BRIEF).save(at), "of something else; choose another"),
        (lambda _: to_uint8(torch.zeros(1, 3, 8, 8, dtype=torch.uint8)), "samples are torch.uint8, not floats"),
        (lambda _: frechet_distance(IMAGES, IMAGES, network=lambda x: (x,)), "returns no tensor .N, d."),
    ],
)
def test_a_wrong_call_is_one_line(call: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=said) as caught:
        train(*FIRST, **{**BRIEF, **call}) if isinstance(call, dict) else call(tmp_path)
    assert len(str(caught.value).splitlines()) == 1
