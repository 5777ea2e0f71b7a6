"""The official CIFAR-10 layout is read exactly; nothing in it is executed."""

from __future__ import annotations

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from discriminator_guidance.artifacts import cifar10
from discriminator_guidance.artifacts.cifar10 import read_cifar10
from discriminator_guidance.errors import InputError

from .cifar_lookalike import (
    NAMES,
    array,
    batch,
    contents,
    dictionary,
    listed,
    meta,
    number,
    rows_of,
    text,
    trust,
    write_archive,
)


def ignore(_: int) -> None:
    pass


@pytest.fixture
def archive(tmp_path, monkeypatch) -> Path:
    path = tmp_path / cifar10.ARCHIVE
    write_archive(path, contents())
    trust(monkeypatch, path)
    return path


def read_parts(tmp_path, monkeypatch, **changed: bytes):
    path = tmp_path / cifar10.ARCHIVE
    write_archive(path, contents(**changed))
    trust(monkeypatch, path)
    return read_cifar10(path, 32, ignore)


def message_of(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_cifar10(path, 32, ignore)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_lookalike_is_what_the_official_loader_expects():
    rows, labels = rows_of("data_batch_2", 12)
    loaded = pickle.loads(batch("data_batch_2"), encoding="bytes")
    assert (loaded[b"data"] == rows).all()
    assert loaded[b"data"].dtype == np.uint8
    assert loaded[b"labels"] == labels
    assert pickle.loads(meta(), encoding="bytes")[b"label_names"][3] == b"cat"


def test_pictures_labels_and_names(archive):
    done = []
    train, test = read_cifar10(archive, 32, done.append)
    assert train.images.shape == (60, 32, 32, 3)
    assert test.images.shape == (12, 32, 32, 3)
    assert train.classes == test.classes == NAMES
    assert sum(done) == len(cifar10.PARTS)
    for index, part in enumerate(cifar10.TRAIN):
        rows, labels = rows_of(part, 12)
        here = slice(12 * index, 12 * index + 12)
        assert train.labels[here].tolist() == labels
        assert (train.images[here, 5, 7, 2] == rows[:, 2 * 1024 + 5 * 32 + 7]).all()
    assert test.labels.tolist() == rows_of(cifar10.TEST, 12)[1]


@pytest.mark.parametrize("inner", ["", cifar10.FOLDER])
def test_an_unpacked_folder_gives_the_same(archive, tmp_path, monkeypatch, inner):
    folder = tmp_path / "unpacked"
    (folder / inner).mkdir(parents=True)
    for name, content in contents().items():
        (folder / inner / name).write_bytes(content)
    trust(monkeypatch, parts=contents())
    for ours, theirs in zip(read_cifar10(folder, 32, ignore), read_cifar10(archive, 32, ignore), strict=True):
        assert (ours.images == theirs.images).all()
        assert (ours.labels == theirs.labels).all()
    (folder / inner / "data_batch_3").write_bytes(batch("data_batch_4"))
    assert cifar10.MD5["data_batch_3"] in message_of(folder)
    (folder / inner / "data_batch_3").unlink()
    assert "data_batch_3; got no such file" in message_of(folder)


def test_unicode_keys(tmp_path, monkeypatch):
    train, _ = read_parts(tmp_path, monkeypatch, data_batch_1=batch("data_batch_1", unicode_keys=True))
    assert train.labels[:12].tolist() == rows_of("data_batch_1", 12)[1]


def test_smaller_pictures_are_averages(archive):
    full, small = read_cifar10(archive, 32, ignore)[0], read_cifar10(archive, 16, ignore)[0]
    assert small.images.shape == (60, 16, 16, 3)
    mean = full.images.reshape(60, 16, 2, 16, 2, 3).mean(axis=(2, 4))
    assert np.abs(small.images - mean).max() <= 0.5


def test_official_checksum_is_required(tmp_path, monkeypatch):
    path = tmp_path / cifar10.ARCHIVE
    write_archive(path, contents())
    assert "170,498,071 bytes" in message_of(path)
    assert "a part of it" in message_of(path)
    monkeypatch.setattr(cifar10, "ARCHIVE_BYTES", path.stat().st_size)
    assert "md5 c58f30108f718f92721af3b95e74349a" in message_of(path)


def test_truncated_archive(archive, monkeypatch):
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    assert "a part of it" in message_of(archive)
    trust(monkeypatch, archive)
    assert "a whole archive" in message_of(archive)


def test_missing_file_and_missing_member(tmp_path, monkeypatch):
    assert "no such file or folder" in message_of(tmp_path / "nowhere.tar.gz")
    path = tmp_path / cifar10.ARCHIVE
    write_archive(path, {name: content for name, content in contents().items() if name != "data_batch_5"})
    trust(monkeypatch, path)
    assert "data_batch_5" in message_of(path)


def test_a_link_is_not_followed(tmp_path, monkeypatch):
    path, secret = tmp_path / cifar10.ARCHIVE, tmp_path / "secret"
    secret.write_bytes(batch("data_batch_1"))
    parts = contents()
    del parts["data_batch_1"]
    write_archive(path, parts)
    with tarfile.open(tmp_path / "linked.tar.gz", "w:gz") as linked, tarfile.open(path) as old:
        for member in old:
            linked.addfile(member, old.extractfile(member))
        for kind, target in ((tarfile.SYMTYPE, str(secret)), (tarfile.LNKTYPE, f"{cifar10.FOLDER}/data_batch_2")):
            link = tarfile.TarInfo(f"{cifar10.FOLDER}/data_batch_1")
            link.type, link.linkname = kind, target
            linked.addfile(link)
    trust(monkeypatch, tmp_path / "linked.tar.gz")
    assert "data_batch_1" in message_of(tmp_path / "linked.tar.gz")


def call(module: str, name: str, *arguments: bytes) -> bytes:
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR"


HOSTILE = {
    "os.system": lambda mark: call("os", "system", text(f"touch {mark}")),
    "posix.system": lambda mark: call("posix", "system", text(f"touch {mark}")),
    "builtins.eval": lambda mark: call("builtins", "eval", text(f"open({mark!r}, 'w')")),
    "builtins.open": lambda mark: b"c__builtin__\nopen\n(" + text(mark) + text("w") + b"tR",
    "builtins.getattr": lambda mark: call("builtins", "getattr", b"cnumpy\nndarray\n", text("tofile")),
    "pathlib.Path.touch": lambda mark: call("pathlib", "Path.touch", text(mark)),
    "numpy.core.multiarray.scalar": lambda mark: call("numpy.core.multiarray", "scalar", number(1)),
    "subprocess.Popen": lambda mark: b"csubprocess\nPopen\n" + listed([text("touch"), text(mark)]) + b"\x85\x81",
}
PLACES = {
    "instead of everything": lambda evil: b"\x80\x02" + evil + b".",
    "as data": lambda evil: batch("data_batch_3", data=evil),
    "among labels": lambda evil: batch("data_batch_3", labels=listed([listed([evil])])),
    "under an unknown key": lambda evil: batch("data_batch_3", extra=listed([listed([evil])])),
    "as array state": lambda evil: batch("data_batch_3", data=array(np.zeros((1, 3072), np.uint8))[:-2] + evil + b"tb"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_by_name_and_never_run(tmp_path, monkeypatch, name, place):
    mark = tmp_path / "ran"
    evil = PLACES[place](HOSTILE[name](str(mark)))
    with pytest.raises(InputError, match=r"data_batch_3; got the global") as caught:
        read_parts(tmp_path, monkeypatch, data_batch_3=evil)
    assert name.removeprefix("builtins.") in str(caught.value)
    assert not mark.exists()


def test_a_pickle_cannot_change_the_stand_ins(tmp_path, monkeypatch):
    attack = b"cnumpy\nndarray\nN}" + text("pixels") + number(1) + b"s\x86b"
    with pytest.raises(InputError):
        read_parts(tmp_path, monkeypatch, data_batch_3=batch("data_batch_3", extra=attack))
    assert cifar10._Array.pixels is None


ODD = {
    "floats": batch("data_batch_3", data=array(np.zeros((12, 3072), np.uint8), dtype=b"f4")),
    "objects": batch("data_batch_3", data=array(np.zeros((12, 3072), np.uint8), dtype=b"O8")),
    "a column too few": batch("data_batch_3", data=array(np.zeros((12, 3071), np.uint8))),
    "too few labels": batch("data_batch_3", labels=listed([number(1)] * 11)),
    "label 10": batch("data_batch_3", labels=listed([number(10)] * 12)),
    "label in words": batch("data_batch_3", labels=listed([text(b"1")] * 12)),
    "data in words": batch("data_batch_3", data=text(b"pixels")),
    "no data": dictionary({b"labels": listed([])}),
    "a list": b"\x80\x02" + listed([number(1)]) + b".",
    "cut off": batch("data_batch_3")[:-100],
    "empty": b"",
    "noise": bytes(range(256)),
}


@pytest.mark.parametrize("case", ODD)
def test_another_layout_is_one_clear_error(tmp_path, monkeypatch, case):
    with pytest.raises(InputError, match="data_batch_3") as caught:
        read_parts(tmp_path, monkeypatch, data_batch_3=ODD[case])
    assert "\n" not in str(caught.value)


def test_names_must_be_ten(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"10 label_names in batches\.meta"):
        read_parts(tmp_path, monkeypatch, **{cifar10.META: dictionary({b"label_names": listed([text(b"cat")])})})
