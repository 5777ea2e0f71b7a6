"""Whatever stands in a file of others, a reader succeeds or says in one line what is wrong; it writes nothing."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from ruamel.yaml import YAML

from discriminator_guidance import cli
from discriminator_guidance.artifacts.adm_checkpoint import read_adm_checkpoint
from discriminator_guidance.artifacts.edm_pickle import read_edm_pickle
from discriminator_guidance.artifacts.files import read_json, read_npz, write_json, write_npz
from discriminator_guidance.artifacts.image_files import read_images
from discriminator_guidance.artifacts.reference_statistics import read_statistics
from discriminator_guidance.artifacts.weights import load_weights, save_weights
from discriminator_guidance.config import listed_members, load_config, parse_config, refuse_rows_of_others
from discriminator_guidance.errors import UserError
from discriminator_guidance.networks.precision import resolve_compute
from discriminator_guidance.report import readers
from discriminator_guidance.report.gather import EVALUATION_KEYS
from discriminator_guidance.stages.layout import Layout
from discriminator_guidance.stages.networks import load_denoiser, load_extractor, load_fid_network
from tests.artifacts.lookalike import TINY, checkpoint, dumps, network
from tests.faults.bad_input import changed, changes, fuzzed, survives
from tests.report.conftest import evaluation

PROJECT = Path(__file__).resolve().parents[2]
TEXT = (PROJECT / "configs" / "mini.yaml").read_text(encoding="utf-8")
MINI = YAML(typ="safe", pure=True).load(TEXT)

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from([0, 1, 2**40, "../x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(data: object, path: tuple = ()) -> list[tuple]:
    """Every key of nested mappings and lists."""
    if isinstance(data, dict):
        return [p for key in data for p in [(*path, key), *places(data[key], (*path, key))]]
    return [p for i, entry in enumerate(data) for p in places(entry, (*path, i))] if isinstance(data, list) else []


PLACES = places(MINI)
WHOLE = parse_config(MINI, "configs/mini.yaml")


class Bar:
    """A progress bar that shows nothing."""

    def __call__(self, total: int):
        return self

    def __enter__(self):
        return lambda amount: None

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture
def file(tmp_path: Path):
    """Writes a file, and looks afterwards that it is alone."""
    path = tmp_path / "folder" / "file"
    path.parent.mkdir()
    yield path
    assert [found for found in tmp_path.rglob("*") if found.is_file()] in ([path], [])


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(PLACES), values, st.booleans()), min_size=1, max_size=3))
def test_settings(edits) -> None:
    data = copy.deepcopy(MINI)
    for path, value, remove in edits:
        place = data
        try:
            for key in path[:-1]:
                place = place[key]
            if remove:
                del place[path[-1]]
            else:
                place[path[-1]] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit took the place away
    survives("settings", lambda: parse_config(data, "configs/x.yaml"))


# Single sections: the parser takes most of a second for a whole profile.
STARTS = [0, *(TEXT.index(f"\n{key}:") + 1 for key in list(MINI)[1:]), len(TEXT)]
SECTIONS = [TEXT[start:end].encode() for start, end in pairwise(STARTS)]
TAGS = st.sampled_from(
    ["", "!!int ", "!!float ", "!!bool ", "!!null ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!pairs ",
     "!!map ", "!!seq ", "!!str ", "!own ", "!!python/name:os.system ", "&a "]
)  # fmt: skip
SCALARS = st.sampled_from(
    ["abc", "''", "'_'", "-", ".", "0x", "0b2", "1:99", "1e999999", "2001-99-99", "9" * 5000, "0x" + "f" * 5000, "*a",
     "<<", "=", '"\\ud800"', '"\\UFFFFFFFF"']
) | st.text(max_size=6)  # fmt: skip
YAML_VALUES = st.recursive(
    st.builds("{}{}".format, TAGS, SCALARS),
    lambda inner: (
        st.builds("{}[{}, {}]".format, TAGS, inner, inner) | st.builds("{}{{? {} : {}}}".format, TAGS, inner, inner)
    ),
    max_leaves=4,
)


@pytest.fixture
def profile(tmp_path: Path):
    """Writes a profile, and reads it as every command does."""
    (tmp_path / "configs").mkdir()

    def write(content: bytes) -> None:
        (tmp_path / "configs" / "x.yaml").write_bytes(content)

    write.read = lambda: load_config("x", tmp_path)
    return write


@fuzzed
@given(st.sampled_from(SECTIONS), changes)
def test_text_of_a_profile(profile, section, edits) -> None:
    profile(changed(section, edits))
    survives("text of a profile", profile.read)


@fuzzed
@given(st.sampled_from(list(MINI)), YAML_VALUES)
def test_values_of_a_profile(profile, key, value) -> None:
    profile(f"{key}: {value}\n".encode("utf-8", "surrogatepass"))
    survives("text of a profile", profile.read)


@fuzzed
@given(st.text(max_size=300) | st.sampled_from(["../configs/mini", "mini\n", "/", ".", "x" * 5000]))
def test_names_of_profiles(name) -> None:
    assert survives("names of profiles", lambda: load_config(name, PROJECT)) is None


@fuzzed
@given(st.dictionaries(st.sampled_from(["profile", "members", "tuned_members", "tuned_ensembles"]), values))
def test_lists_of_rows(file, lists) -> None:
    root = file.parent
    params = file.with_name("params.yaml")
    params.write_text(json.dumps({"profile": "mini"} | lists))  # JSON is YAML too
    try:
        survives("lists of rows", lambda: refuse_rows_of_others("mini", WHOLE, root))
        survives("lists of rows", lambda: listed_members("mini", root))
    finally:
        params.unlink()


def npz(**arrays: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


PICTURES = npz(images=np.zeros((3, 4, 4, 1), np.uint8), labels=np.arange(3))
STATISTICS = npz(mu=np.zeros(3), sigma=np.eye(3))


@fuzzed
@given(changes)
def test_arrays_of_pictures(file, edits) -> None:
    path = file.with_suffix(".npz")
    path.write_bytes(changed(PICTURES, edits))
    try:
        survives(".npz of pictures", lambda: read_images(path, 4, Bar()))
        survives(".npz of stages", lambda: read_npz(path, ["images", "labels"], "real"))
        survives(".npz of the report", lambda: readers.read_arrays(path, "real", ["images", "labels"]))
    finally:
        path.unlink()


@fuzzed
@given(changes)
def test_statistics(file, edits) -> None:
    file.write_bytes(changed(STATISTICS, edits))
    survives(".npz of statistics", lambda: read_statistics(file))


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    return buffer.getvalue()


IMAGES = {kind: picture(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP")}


@fuzzed
@given(st.sampled_from(sorted(IMAGES)), changes)
def test_pictures(tmp_path_factory, kind, edits) -> None:
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "a").mkdir()
    (folder / "a" / f"1.{kind.lower()}").write_bytes(changed(IMAGES[kind], edits))
    survives("pictures", lambda: read_images(folder, 8, Bar()))


def zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVE = zipped([("a/1.png", IMAGES["PNG"]), ("b/2.png", IMAGES["PNG"])])


@fuzzed
@given(changes)
def test_damaged_zips(file, edits) -> None:
    path = file.with_suffix(".zip")
    path.write_bytes(changed(ARCHIVE, edits))
    try:
        survives("damaged zips", lambda: read_images(path, 8, Bar()))
    finally:
        path.unlink()


NAMES = st.sampled_from(
    ["a/1.png", "b/2.png", "../1.png", "/etc/1.png", "a/../../1.png", "a\\1.png", "C:/1.png", "a//1.png", "./1.png",
     "a/1.png/", "dataset.json", ".hidden/1.png", "__MACOSX/1.png", "a/\x00.png", "\u202e.png", "a/" + "x" * 300,
     "a/" * 10000 + "1.png"]
) | st.text(min_size=1, max_size=10).filter(lambda name: "\x00" not in name)  # fmt: skip
CONTENTS = st.sampled_from([IMAGES["PNG"], IMAGES["JPEG"], b"", b"\x00" * 5000]) | st.builds(
    lambda labels: json.dumps(labels).encode(), values
)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@fuzzed
@given(st.lists(st.tuples(NAMES, CONTENTS, st.sampled_from([0, 0o120777, 0o100644, 0o020644])), min_size=1, max_size=4))
def test_hostile_zips(file, entries) -> None:
    path = file.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content, mode in entries:
            entry = zipfile.ZipInfo("x")
            entry.filename, entry.external_attr = name, mode << 16  # ZipInfo itself would mend the name
            archive.writestr(entry, content)
    try:
        survives("hostile zips", lambda: read_images(path, 8, Bar()))
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    save_weights(folder, {"a": torch.ones(3), "b.c": torch.zeros(2, 2)}, {"width": 3})
    return folder


@fuzzed
@given(edits=changes, which=st.sampled_from(["model.safetensors", "model.json"]))
def test_safetensors(weights, edits, which) -> None:
    path = weights / which
    content = path.read_bytes()
    path.write_bytes(changed(content, edits))
    try:
        survives("safetensors", lambda: load_weights(weights, "score"))
    finally:
        path.write_bytes(content)


@fuzzed
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "__metadata__"]),
        values
        | st.fixed_dictionaries({"dtype": st.sampled_from(["F32", "X"]), "shape": values, "data_offsets": values}),
        max_size=2,
    ),
    length=st.none() | st.integers(0, 2**64 - 1),
)  # fmt: skip
def test_safetensors_headers(weights, header, length) -> None:
    path = weights / "model.safetensors"
    content = path.read_bytes()
    text = json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(16))
    try:
        survives("safetensors headers", lambda: load_weights(weights, "score"))
    finally:
        path.write_bytes(content)


@fuzzed
@given(
    edits=st.dictionaries(
        st.sampled_from([*TINY, "self", "other"]),
        st.sampled_from([None, True, 0, -1, 3, 0.5, "x", [], [0], [[1]], {"a": 1}, 2**16, -(2**40), 10**9, 10**30])
        | st.sampled_from([[2**16, 1], [1] * 64, [1] * 10**5, "x" * 10**5, [10**9], [[0] * 10**4], {"x" * 10**5: 1}]),
        min_size=1,
        max_size=3,
    )
)
def test_arguments_of_networks(tmp_path_factory, edits) -> None:
    """Also where no checksum tells: files of before checksums have none."""
    layout = Layout(tmp_path_factory.mktemp("networks"), "x")
    for place, load in (("score", load_denoiser), ("extractor", load_extractor), ("fid_network", load_fid_network)):
        save_weights(layout.model(place), TINY_STATE, TINY | edits)
        survives("arguments of networks", lambda place=place, load=load: load(layout, CPU))


TINY_STATE = network(TINY).state_dict()
CPU = resolve_compute("cpu", "float32")
EDM = dumps(checkpoint(network(TINY), TINY, Path("canary")))


@fuzzed
@given(changes)
def test_edm_pickles(file, edits) -> None:
    file.write_bytes(changed(EDM, edits))
    survives("EDM pickles", lambda: read_edm_pickle(file))


def torch_file(zipped: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a.weight": torch.ones(2, 2), "b": torch.zeros(1)}, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


TORCH = {"zip": torch_file(True), "legacy": torch_file(False)}


@fuzzed
@given(st.sampled_from(sorted(TORCH)), changes)
def test_torch_files(file, kind, edits) -> None:
    file.write_bytes(changed(TORCH[kind], edits))
    survives("torch files", lambda: read_adm_checkpoint(file))


METRICS = evaluation("d0", 1, MINI["guided"]["variants"]["d0"])


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(sorted(METRICS)), values), min_size=1, max_size=3), changes, st.booleans())
def test_metrics(file, edits, bytes_edits, of_bytes) -> None:
    text = json.dumps(METRICS | dict(edits)).encode()
    file.write_bytes(changed(text, bytes_edits) if of_bytes else text)
    found = survives("JSON of metrics", lambda: readers.read_json(file, "evaluation", EVALUATION_KEYS))
    if found is not None:
        assert np.isfinite(found["fid"])
        assert found["fid_ci95"] is None or len(found["fid_ci95"]) == 2
    survives("JSON of stages", lambda: read_json(file, "evaluation"))


@fuzzed
@given(st.lists(st.tuples(st.sampled_from(sorted(METRICS)), values), max_size=2), changes, st.booleans())
def test_metrics_in_a_summary(finished, edits, bytes_edits, of_bytes) -> None:
    text = json.dumps(METRICS | dict(edits)).encode()
    (finished / "d0.json").write_bytes(changed(text, bytes_edits) if of_bytes else text)
    survives("JSON of metrics", lambda: cli.summary("mini"))


@pytest.fixture
def finished(tmp_path, monkeypatch) -> Path:
    """The evaluations of a finished study; its profile is taken as read, which costs most of a second."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("discriminator_guidance.config.load_config", lambda profile, root: WHOLE)
    for name in WHOLE.guided.variants:
        write_json(Layout(tmp_path, "mini").evaluation(name), METRICS)
    return Layout(tmp_path, "mini").evaluation("d0").parent


def test_nested_beyond_measure(tmp_path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[" * 100_000)
    assert survives("JSON of metrics", lambda: readers.read_json(path, "evaluation", EVALUATION_KEYS)) is None
    assert survives("JSON of stages", lambda: read_json(path, "evaluation")) is None


def test_a_bomb_is_refused_unopened(tmp_path) -> None:
    path = tmp_path / "bomb.zip"
    path.write_bytes(zipped([("a/1.png", bytes(2**27)), ("b/2.png", IMAGES["PNG"])]))
    assert path.stat().st_size < 2**20
    assert survives("hostile zips", lambda: read_images(path, 8, Bar())) is None


def test_the_untouched_files_are_read(tmp_path) -> None:
    """Or nothing above would show anything."""
    for name, content in (("a.npz", PICTURES), ("b.npz", STATISTICS), ("c.zip", ARCHIVE), ("d.pkl", EDM)):
        (tmp_path / name).write_bytes(content)
    assert len(read_images(tmp_path / "a.npz", 4, Bar()).images) == 3
    assert read_statistics(tmp_path / "b.npz")[0].tolist() == [0, 0, 0]
    assert len(read_images(tmp_path / "c.zip", 8, Bar()).images) == 2
    assert read_edm_pickle(tmp_path / "d.pkl")
    for kind, content in TORCH.items():
        (tmp_path / kind).write_bytes(content)
        assert set(read_adm_checkpoint(tmp_path / kind)) == {"a.weight", "b"}
    write_npz(tmp_path / "e.npz", x=np.ones(1))
    assert read_npz(tmp_path / "e.npz", ["x"], "s")["x"].tolist() == [1]


def test_hostile_names_stay_on_one_line(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        entry = zipfile.ZipInfo("x")
        entry.filename, entry.external_attr = "a/\r\n\x1b[31m\u2028.png", 0o120777 << 16
        archive.writestr(entry, b"")
    with pytest.raises(UserError) as caught:
        read_images(tmp_path / "a.zip", 8, Bar())
    assert str(caught.value).isprintable()
