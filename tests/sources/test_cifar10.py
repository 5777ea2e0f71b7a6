"""The official CIFAR-10 layout is read exactly."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from dguide import sources
from dguide.sources import read_cifar10
from discriminator_guidance.core.errors import InputError

from .cifar_lookalike import NAMES, batch, contents, rows_of, write_archive, write_official


def message_of(path: Path) -> str:
    with pytest.raises(InputError, match="not the official CIFAR-10 archive") as caught:
        read_cifar10(path, 32)
    return str(caught.value)


def test_images_labels_and_names(tmp_path, monkeypatch):
    path = write_official(tmp_path / "c.tar.gz", monkeypatch)
    train, test = read_cifar10(path, 32)
    assert train.images.shape == (60, 32, 32, 3)
    assert test.images.shape == (12, 32, 32, 3)
    assert train.classes == test.classes == NAMES
    for index, part in enumerate(sources.CIFAR10_TRAIN):
        rows, labels = rows_of(part)
        here = slice(12 * index, 12 * index + 12)
        assert train.labels[here].tolist() == labels.tolist()
        assert (train.images[here, 5, 7, 2] == rows[:, 2 * 1024 + 5 * 32 + 7]).all()
    assert test.labels.tolist() == rows_of(*sources.CIFAR10_TEST)[1].tolist()
    small = read_cifar10(path, 16)[0].images
    assert np.abs(small - train.images.reshape(60, 16, 2, 16, 2, 3).mean(axis=(2, 4))).max() <= 0.5


def test_the_official_checksum_is_required(tmp_path, monkeypatch):
    path = tmp_path / "c.tar.gz"
    md5 = write_archive(path, contents())
    assert f"md5 {sources.CIFAR10_MD5}" in message_of(path)
    assert f"have md5 {md5}" in message_of(path)
    assert "No such file" in message_of(tmp_path / "none")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    monkeypatch.setattr(sources, "CIFAR10_MD5", hashlib.md5(path.read_bytes()).hexdigest())
    assert "dguide fetch cifar10" in message_of(path)


def test_another_layout_is_one_clear_error(tmp_path, monkeypatch):
    message_of(write_official(tmp_path / "c.tar.gz", monkeypatch, data_batch_3=batch("data_batch_3")[:-100]))
