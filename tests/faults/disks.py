"""A sampler whose disks are full or read-only: a process of its own that may mount file systems, see `test_disks`.

unshare --mount --map-root-user python -m tests.faults.disks FOLDER
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from discriminator_guidance.artifacts.partial import PartialWork, sealed_files, unsealed
from tests.stages.conftest import Study, import_module
from tests.stages.untrained import untrained_study

from .meeting import meet, prepare
from .nursery import forked, outputs

SAMPLER = ("guided", "--variant", "edm")
PAGE = 4096


@contextmanager
def mounted(place: Path, options: str) -> Iterator[None]:
    """A file system in memory at a place."""
    place.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def pages(path: Path) -> int:
    """Bytes that a file takes in memory."""
    return -(-path.stat().st_size // PAGE) * PAGE


def sampled(study: Study) -> dict[str, object]:
    """Run the sampler; what it said and what it left."""
    ((code, told),) = meet(study, [SAMPLER])
    shards = [unsealed(path) is not None for path in sealed_files(study.layout.partial)]
    return {"code": code, "told": told, "outputs": outputs(study), "shards": shards}


def main() -> None:
    """See the module."""
    folder, results = Path(sys.argv[1]), {}
    import_module("discriminator_guidance.stages.guided")
    study = Study(folder / "project")
    study.settings["guided"]["trajectory_images"] = study.settings["guided"]["images"]  # so that shards are large
    prepare(study)
    assert forked(lambda: untrained_study(study.root)) == 0, "what the sampler needs could not be made"
    place, partial = study.layout.guided("edm"), study.layout.partial

    def anew() -> None:
        for path in place.iterdir():
            path.unlink()

    def undisturbed() -> None:
        with patch.object(PartialWork, "remove", lambda work: None):
            study.run("guided", "edm")

    assert forked(undisturbed) == 0, "the undisturbed run failed"
    wanted, shards = outputs(study), [pages(path) for path in sealed_files(partial)]
    subprocess.run(["rm", "-r", partial], check=True)

    anew()
    with mounted(place, f"size={2 * PAGE}"):
        results["full output"] = sampled(study)
    results["full output, room again"] = sampled(study)

    anew()
    with mounted(place, "ro"):
        results["read-only output"] = sampled(study)
    results["read-only output, writable again"] = sampled(study)

    anew()
    with mounted(partial, f"size={shards[0] + 4 * PAGE}"):  # the first shard and the claim
        results["full disk under shards"] = sampled(study)
        subprocess.run(["mount", "-o", "remount,size=10M", partial], check=True)
        results["full disk under shards, room again"] = sampled(study)

    anew()
    with mounted(partial, "ro"):
        results["read-only disk under shards"] = sampled(study)
    results["read-only disk under shards, writable again"] = sampled(study)
    print(json.dumps({"wanted": wanted, "shards": len(shards), "results": results}))


if __name__ == "__main__":
    main()
