"""No source of the package does what would let a file, a name or an address run code; exceptions are named here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
SOURCE = PROJECT / "src" / "discriminator_guidance"

# Where a rule is broken on purpose, and what makes that safe.
EXCEPTIONS = {
    ("artifacts/cifar10.py", "import pickle"): "an Unpickler whose find_class knows three stand-ins and no real class",
}

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
