"""The official files of Fashion-MNIST are read exactly, whoever packed them."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from dguide import sources
from dguide.sources import read_fashion
from discriminator_guidance.core.errors import InputError

COUNTS = {"train": 30, "t10k": 12}


def write_fashion(folder: Path, counts: dict[str, int]) -> dict[str, str]:
    """Write four files in the official format (a header, then values), with other images; their digests."""
    folder.mkdir(exist_ok=True)
    digests = {}
    for name in sources.FASHION_SHA256:
        part, kind = name.split("-")[:2]
        rng, count = np.random.default_rng(list(name.encode())), counts[part]
        shape, most = ((count, 28, 28), 256) if kind == "images" else ((count,), 10)
        header = np.array([0x0800 + len(shape), *shape], dtype=">u4").tobytes()
        content = header + rng.integers(0, most, shape, dtype=np.uint8).tobytes()
        digests[name] = hashlib.sha256(content).hexdigest()
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    return digests


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "FASHION_SHA256", write_fashion(tmp_path, COUNTS))
    return tmp_path


def test_images_and_labels(folder: Path) -> None:
    train, test = read_fashion(folder, 28)
    for images, part in ((train, "train"), (test, "t10k")):
        content = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
        assert images.images.shape == (COUNTS[part], 28, 28, 1)
        assert images.images.tobytes() == content[16:]
        labels = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
        assert images.labels.tolist() == [*labels[8:]]
    assert read_fashion(folder, 14)[1].images.shape == (12, 14, 14, 1)


def test_other_content_is_one_clear_error(folder: Path) -> None:
    path = folder / "t10k-labels-idx1-ubyte.gz"
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content, mtime=1))
    read_fashion(folder, 28)  # other bytes with the official content
    for broken in (gzip.compress(content[:-1]), path.read_bytes()[:-9], b"no archive"):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"t10k-labels.* is not the official file of Fashion-MNIST"):
            read_fashion(folder, 28)
