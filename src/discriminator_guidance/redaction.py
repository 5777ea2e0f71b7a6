"""Addresses and messages as they may be shown, logged and kept: without the secrets in them."""

from __future__ import annotations

import re

LONG = 500  # characters of a word; what follows takes time by their square


def redact(text: str) -> str:
    """Hide what addresses in a text carry besides host and path.

    Args:
        text: anything that is to be shown.

    Returns:
        The text with `user:password@`, the values of a query and words without end replaced by `***`; rather too much
        than too little.
    """
    text = re.sub(rf"\S{{{LONG},}}", "***", text)
    text = re.sub(r"\S+", _without_query, text)
    text = re.sub(r"//\S*@", "//***@", text)
    text = re.sub(r"[^\s'\"/@:]+:(?!//)[^\s@]+@", "***@", text)
    # Up to the next space: a password may hold &, quotes and brackets.
    return re.sub(r"([?&][^=&\s]*=)\S+", r"\1***", text)


def _without_query(word: re.Match[str]) -> str:
    """Nothing of a word with an @ in its query: on either side of it may be the rest of a password."""
    front, at, _ = word[0].rpartition("@")
    return "***" if at and re.search(r"[?&][^=&]*=", front) else word[0]
