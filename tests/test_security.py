"""No source of the package does what would let a file, a name or an address run code; exceptions are named here."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

from tests.watching import noted, watched

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src" / "discriminator_guidance"

# Where a rule is broken on purpose, and what makes that safe.
EXCEPTIONS = {
    ("artifacts/cifar10.py", "import pickle"): "an Unpickler whose find_class knows three stand-ins and no real class",
    ("evaluation/inception.py", "NoTrainInceptionV3"): "unpickles weights that were written from tensors in memory",
    ("running.py", "import_module"): "a stage by its word, which is one of those in cli.py",
}

# The libraries that the package imports and what of each unpickles, imports or starts what a file or an address names
# (read in their sources); no module may name it. One that is new has to be looked at and given its line.
LIBRARIES = {
    "PIL": [],
    "filelock": [],
    "jinja2": ["FileSystemBytecodeCache", "MemcachedBytecodeCache", "NativeEnvironment"],
    "matplotlib": [],
    "mlflow": ["pyfunc", "load_model", "log_model", "save_model"],
    "numpy": [],  # load and allow_pickle: below
    "optuna": ["CmaEsSampler", "JournalRedisBackend", "JournalRedisStorage", "BaseJournalSnapshot"],
    "pandas": ["HDFStore", "read_hdf"],
    "pydantic": ["parse_raw", "parse_file", "ImportString", "PyObject"],
    "rich": [],
    "ruamel": [],  # YAML: below
    "safetensors": [],
    "scipy": [],
    "sqlalchemy": ["PickleType"],
    "torch": [
        "hub", "load_url", "load_state_dict_from_url", "PackageImporter", "cpp_extension", "load_inline",
        "all_gather_object", "gather_object", "send_object_list", "recv_object_list", "broadcast_object_list",
        "scatter_object_list", "rpc_sync", "rpc_async",
    ],  # load: below
    "torch_fidelity": ["create_feature_extractor", "FeatureExtractorInceptionV3", "calculate_metrics"],
    "torchmetrics": ["NoTrainInceptionV3", "InceptionScore", "LearnedPerceptualImagePatchSimilarity"],
    "typer": [],
}  # fmt: skip
IMPORTERS = {"import_module", "run_module", "run_path", "exec_module", "load_module", "SourceFileLoader"}
NAMED = IMPORTERS.union(*LIBRARIES.values())
LOADERS = {  # modules whose purpose is to run what they read, or that hide a pickle
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "imp", "code",
}  # fmt: skip
CALLS = {  # by the last two parts of their name
    "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle", "tempfile.mktemp", "hub.load", "jit.load",
    "shutil.unpack_archive", "ssl._create_unverified_context", "request.urlopen",
    "request.urlretrieve", "subprocess.getoutput", "subprocess.getstatusoutput",
}  # fmt: skip
METHODS = {"extractall", "read_pickle", "to_pickle", "unpickle"}
BUILTINS = {"eval", "exec", "compile", "__import__", "breakpoint"}


def breaches(text: str) -> Iterator[str]:
    """What a source does that it should not, each as a short phrase."""
    tree = ast.parse(text)
    called = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        names = [node.name] if isinstance(node, ast.alias) else [getattr(node, "attr", None), getattr(node, "id", None)]
        yield from (name for name in names if name in NAMED)
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in LOADERS)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] in LOADERS:
            yield f"import {node.module}"
        elif isinstance(node, ast.Call):
            yield from of_call(node)
        elif (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("torch.load", "np.load")
            and id(node) not in called
        ):
            yield f"{ast.unparse(node)} uncalled"  # handed on, it could be called with anything


def of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    last = name.split(".")[-1]
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if isinstance(call.func, ast.Name) and name in BUILTINS:
        yield name
    if ".".join(name.split(".")[-2:]) in CALLS or (isinstance(call.func, ast.Attribute) and last in METHODS):
        yield name
    if name in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
        yield name
    if name == "torch.load" and not constant(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and not constant(given.get("allow_pickle"), False):
        yield "np.load without allow_pickle=False"
    if "allow_pickle" in given and not constant(given["allow_pickle"], False):
        yield "allow_pickle"
    if "shell" in given and not constant(given["shell"], False):
        yield "shell"
    if "verify" in given and not constant(given["verify"], True):
        yield "verify"
    if last == "Environment" and not constant(given.get("autoescape"), True):
        yield "jinja2 without autoescape=True"
    if last == "YAML" and not constant(given.get("typ", ast.Constant("rt")), "safe", "rt"):  # both make plain data
        yield "YAML of another kind than safe"


def constant(node: ast.expr | None, *values: bool | str) -> bool:
    return isinstance(node, ast.Constant) and any(type(node.value) is type(v) and node.value == v for v in values)


def sources() -> dict[str, str]:
    files = [*SOURCE.rglob("*.py"), *(PROJECT / "scripts").glob("*.py")]
    return {
        str(path.relative_to(SOURCE if path.is_relative_to(SOURCE) else PROJECT)): path.read_text(encoding="utf-8")
        for path in files
    }


def imports() -> grimp.ImportGraph:
    return grimp.build_graph("discriminator_guidance", include_external_packages=True, cache_dir=None)


def test_the_search_reads_all_that_the_command_imports() -> None:
    graph = imports()
    starts = {"discriminator_guidance.cli", *graph.find_children("discriminator_guidance.stages")}  # see EXCEPTIONS
    reached = starts.union(*map(graph.find_upstream_modules, starts))
    own = {name.replace(".", "/") for name in reached if name.startswith("discriminator_guidance.")}
    read = {
        "discriminator_guidance/" + name.removesuffix(".py") for name in sources() if not name.startswith("scripts")
    }
    assert {name for name in read - own if not name.endswith("__init__")} == set(), "nothing imports it"


def test_every_library_that_is_imported_was_looked_at() -> None:
    libraries = {name for name in imports().modules if not name.startswith("discriminator_guidance")}
    assert libraries - sys.stdlib_module_names == set(LIBRARIES)


def test_no_source_opens_a_way_for_code_in_data() -> None:
    texts = sources()
    assert len(texts) > 100, "the search has lost the package"
    found = {(name, breach) for name, text in texts.items() for breach in breaches(text)}
    assert found == set(EXCEPTIONS)


@pytest.mark.parametrize(
    ("text", "breach"),
    [
        ("import pickle", "import pickle"),
        ("from pickle import load", "import pickle"),
        ("from yaml import load", "import yaml"),
        ("import joblib.externals", "import joblib.externals"),
        ("torch.load(path)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=False)", "torch.load without weights_only=True"),
        ("torch.load(path, weights_only=safe)", "torch.load without weights_only=True"),
        ("map(torch.load, paths)", "torch.load uncalled"),
        ("np.load(path)", "np.load without allow_pickle=False"),
        ("np.load(path, allow_pickle=True)", "allow_pickle"),
        ("np.lib.format.read_array(s, allow_pickle=True)", "allow_pickle"),
        ("eval(text)", "eval"),
        ("exec(text)", "exec"),
        ("os.system(text)", "os.system"),
        ("subprocess.run(text, shell=True)", "shell"),
        ("subprocess.run(text, shell=flag)", "shell"),
        ("archive.extractall(folder)", "archive.extractall"),
        ("torch.hub.load('a', 'b')", "torch.hub.load"),
        ("from torch.hub import load_state_dict_from_url as get", "load_state_dict_from_url"),
        ("mlflow.pytorch.load_model(uri)", "load_model"),
        ("optuna.samplers.CmaEsSampler()", "CmaEsSampler"),
        ("broadcast_object_list(told)", "broadcast_object_list"),
        ("importlib.import_module(name)", "import_module"),
        ("urllib.request.urlopen(address)", "urllib.request.urlopen"),
        ("Environment(loader=x)", "jinja2 without autoescape=True"),
        ("YAML(typ='unsafe')", "YAML of another kind than safe"),
        ("requests.get(address, verify=False)", "verify"),
    ],
)
def test_the_search_sees_what_it_looks_for(text: str, breach: str) -> None:
    assert breach in set(breaches(text))


@pytest.mark.parametrize(
    "text",
    [
        "torch.load(path, weights_only=True)",
        "np.load(path, allow_pickle=False)",
        "network.eval()",
        "re.compile(pattern)",
        "subprocess.run(['git'], check=False)",
        "YAML(typ='safe', pure=True)",
        "YAML()",
    ],
)
def test_the_search_leaves_what_is_safe(text: str) -> None:
    assert not set(breaches(text))


CONTROL = """
import multiprocessing, os, pathlib, pickle, subprocess
if __name__ == "__main__":
    pickle.loads(pickle.dumps(pathlib.PurePosixPath("a")))
    os.system("true")
    subprocess.run("true", shell=True)
    subprocess.run(["true"])
    worker = multiprocessing.get_context("spawn").Process(target=print)
    worker.start()
    worker.join()
"""


def test_the_watch_sees_what_runs(tmp_path: Path) -> None:
    """Also in a child; tests of the pipeline, of tracking and of studies use it."""
    script = tmp_path / "control.py"
    script.write_text(CONTROL)
    environment = os.environ | watched(tmp_path / "log")
    subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, check=True)
    seen = noted(tmp_path / "log")
    assert {("__main__", "pathlib.PurePosixPath"), ("__main__", "a shell")} <= seen
    assert {who for who, _ in seen} == {"__main__", "multiprocessing.spawn"}


def test_no_template_marks_text_as_safe() -> None:
    templates = [path.read_text(encoding="utf-8") for path in (SOURCE / "report" / "templates").glob("*.html")]
    assert templates
    for text in templates:
        assert "|safe" not in text.replace(" ", "")
        assert "autoescape" not in text


def test_the_scripts_of_the_shell_evaluate_no_text() -> None:
    for path in (PROJECT / "scripts").glob("*.sh"):
        words = path.read_text(encoding="utf-8").split()
        assert "eval" not in words, path.name
        assert not {"curl", "wget"} & set(words), f"{path.name} loads something past the checks of `dguide fetch`"


def test_only_https_addresses_of_files_stand_in_the_profiles() -> None:
    from discriminator_guidance.config import load_config

    profiles = sorted(p.stem for p in (PROJECT / "configs").glob("*.yaml") if not p.stem.endswith(".tuned"))
    files = [file for name in profiles for file in load_config(name, PROJECT).fetch.files.values()]
    assert files
    assert all(file.url is None or file.url.startswith("https://") for file in files)


def test_no_committed_setting_holds_a_password() -> None:
    from discriminator_guidance.redaction import redact

    for path in [*(PROJECT / "configs").rglob("*.*"), PROJECT / "params.yaml", PROJECT / ".dvc" / "config"]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "://" in line:
                assert redact(line.split("#")[0]) == line.split("#")[0], f"{path.name}: {redact(line)}"


def test_every_promise_names_a_test_that_exists() -> None:
    import re

    named = set(re.findall(r"`(tests/[\w/]+\.py)`", (PROJECT / "SECURITY.md").read_text(encoding="utf-8")))
    assert named
    assert {name for name in named if not (PROJECT / name).is_file()} == set()
