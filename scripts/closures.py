"""Fill `closures/<stage>` with links to what that stage's result depends on: its module and all that it imports.

DVC watches one folder a stage in place of thirty files: it reads and writes dvc.lock as a whole after every stage, and
with a list of files for each that took seconds. `tests/test_dvc.py` compares the links with the imports.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from discriminator_guidance.artifacts.closure import SOURCE, import_closure

PROJECT = Path(__file__).resolve().parents[1]
# What a stage reads beside its modules.
TEMPLATES = {"report": SOURCE / "report" / "templates"}


def main() -> None:
    """Make the links of every stage that dvc.yaml names anew."""
    shutil.rmtree(PROJECT / "closures", ignore_errors=True)
    for stage in sorted(set(re.findall(r"- closures/(\w+)", (PROJECT / "dvc.yaml").read_text(encoding="utf-8")))):
        folder = PROJECT / "closures" / stage
        folder.mkdir(parents=True)
        templates = TEMPLATES[stage].iterdir() if stage in TEMPLATES else ()
        for file in (*import_closure(f"stages.{stage}"), *templates):
            link = folder / ".".join(file.relative_to(SOURCE).parts)
            link.symlink_to(os.path.relpath(file, folder))


if __name__ == "__main__":
    main()
