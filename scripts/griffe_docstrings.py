"""For the API reference: sections of docstrings that the source leaves out, as it reads better without them."""

from typing import Any

import griffe


class Sections(griffe.Extension):
    """An extension of griffe, which reads the source for mkdocstrings."""

    def on_class_members(self, *, cls: griffe.Class, **options: Any) -> None:
        """Describe each field by the comment after it."""
        rows = []
        for field in cls.attributes.values():
            default = "" if field.value is None else f" Default: `{field.value}`"
            comment = field.source.partition("  # ")[2]
            if comment and "property" not in field.labels and not field.name.startswith("_"):
                rows.append(f"    {field.name}: {comment}.{default}")
        if cls.docstring and rows and "Attributes:" not in cls.docstring.value:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)

    def on_object(self, *, obj: griffe.Object, **options: Any) -> None:
        """Show a session of Python, which ends a docstring, as an example."""
        text, prompt, session = obj.docstring.value.partition("\n>>> ") if obj.docstring else ("", "", "")
        if obj.docstring and prompt:
            lines = [f"    {line}" for line in f">>> {session}".splitlines()]
            obj.docstring.value = "\n".join([text, "", "Examples:", *lines])
