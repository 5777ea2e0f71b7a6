"""Stage `fake`."""

from __future__ import annotations

import shutil

import numpy as np
import torch

from discriminator_guidance.artifacts.files import read_json

from .conftest import Study
from .resumption import interrupt_and_resume


def test_samples_of_the_declared_index_range(study: Study):
    study.ensure("fake")
    samples = np.load(study.layout.fake / "samples.npz")
    assert samples["index"].tolist() == list(range(40))
    assert samples["images"].shape == (40, 8, 8, 1)
    assert samples["images"].std() > 5  # pictures, not a constant


def test_a_sample_is_its_index_whatever_the_batch_and_shard(study: Study, tmp_path):
    study.ensure("fake")
    whole = np.load(study.layout.fake / "samples.npz")["images"]
    again = Study(tmp_path)
    shutil.copytree(study.layout.model("score"), again.layout.model("score"))
    again.settings["fake"] |= {"images": 11, "seed_start": 20, "batch_size": 5, "shard_size": 7}
    again.settings["factorial"] |= {"training_images": 11}
    again.run("fake")
    part = np.load(again.layout.fake / "samples.npz")["images"]
    # Convolutions round differently in other batches: one grey level at most.
    assert np.abs(part.astype(int) - whole[20:31].astype(int)).max() <= 1


def test_a_killed_run_resumes_to_the_same_bytes(study: Study, tmp_path, monkeypatch):
    study.ensure("fake")
    again = interrupt_and_resume(study, tmp_path, monkeypatch, "fake")
    assert (again.layout.fake / "samples.npz").read_bytes() == (study.layout.fake / "samples.npz").read_bytes()


def test_halved_batches_stand_with_the_samples_and_in_the_record_of_what_learns_from_them(study, tmp_path, monkeypatch):
    from discriminator_guidance.stages import sampling

    study.ensure("fake"), study.ensure("extractor")
    again, original = Study(tmp_path, settings=study.settings), sampling.sample
    for folder in ("models", "data"):
        shutil.copytree(study.root / folder, again.root / folder)
    at_once = again.config.fake.batch_size

    def exhausted(denoiser, guidance, latents, *rest):
        if len(latents) > at_once // 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(denoiser, guidance, latents, *rest)

    monkeypatch.setattr(sampling, "sample", exhausted)
    again.run("fake")
    drawn, usual = (np.load(s.layout.fake / "samples.npz") for s in (again, study))
    assert drawn["halved_batches"].tolist() == [at_once // 2]
    assert "halved_batches" not in usual.files
    again.run("discriminator", "d0")
    metrics = read_json(again.layout.discriminator_reports / "d0" / "metrics.json", "discriminator")
    assert metrics["fake_halved_batches"] == [at_once // 2]
    assert "halved_batches" not in metrics
