"""No file, name or address runs code: not by the sources, and not while a tiny study runs."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

from .commands import PROJECT, succeed

SOURCE = PROJECT / "src/discriminator_guidance"
UNPICKLERS = {
    "checkpoints/edm_pickle.py",
    "checkpoints/weights.py",
    "data/cifar10.py",
}  # allow-lists
LOADERS = {"_pickle", "cloudpickle", "code", "dill", "joblib", "marshal", "shelve", "yaml"}
FORBIDDEN = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "pickle.load", "pickle.loads",
             "pickle.Unpickler", "torch.hub.load", "pd.read_pickle"}  # fmt: skip
METHODS = {"extractall", "unsafe_load", "read_pickle", "load_state_dict_from_url", "download_url_to_file"}
REQUIRED = {"torch.load": "weights_only", "np.load": "allow_pickle", "numpy.load": "allow_pickle"}
SAFE = {"weights_only": True, "allow_pickle": False, "shell": False, "verify": True}


def breaches(text: str) -> Iterator[str]:
    """What a source does that it should not."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [name.name for name in node.names]
            yield from (f"import {name}" for name in names if name.split(".")[0] in {*LOADERS, "pickle"})
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {keyword.arg: keyword.value for keyword in node.keywords}
        if name in FORBIDDEN or (isinstance(node.func, ast.Attribute) and node.func.attr in METHODS):
            yield name
        if name in REQUIRED and REQUIRED[name] not in given:
            yield f"{name} without {REQUIRED[name]}"
        for keyword, safe in SAFE.items():
            if keyword in given and ast.unparse(given[keyword]) != str(safe):
                yield f"{keyword}={ast.unparse(given[keyword])}"
        if "YAML" in name and any(ast.unparse(value) == "'unsafe'" for value in given.values()):
            yield name


def test_no_source_loads_what_could_run() -> None:
    for path in SOURCE.rglob("*.py"):
        name = str(path.relative_to(SOURCE))
        allowed = {"import pickle"} if name in UNPICKLERS else set()
        assert set(breaches(path.read_text())) <= allowed, name


def test_the_search_finds_what_it_looks_for() -> None:
    assert set(breaches("import pickle, dill\ntorch.load(x)\nnp.load(x, allow_pickle=True)\neval(x)")) == {
        "import pickle", "import dill", "torch.load without weights_only", "allow_pickle=True", "eval"
    }  # fmt: skip


PROGRAM = """
import sys
from pathlib import Path
from tests.stages.conftest import prepare_study, run_stage, tiny_settings
import discriminator_guidance.stages.discriminator, discriminator_guidance.stages.evaluation
tiny = prepare_study(Path(sys.argv[1]), tiny_settings())
found = []
sys.addaudithook(lambda event, given: found.append(given) if event in ("pickle.find_class", "marshal.load") else None)
for stage, *name in (["score"], ["discriminator", "d0"], ["guided", "edm"], ["guided", "d0"], ["evaluation", "d0"]):
    run_stage(stage, tiny, *name)
print("found", found)
"""


def test_a_study_unpickles_nothing(tmp_path: Path) -> None:
    assert "found []\n" in succeed(PROJECT, sys.executable, "-c", PROGRAM, str(tmp_path))
