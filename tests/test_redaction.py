"""Nothing that is shown or kept holds a password, wherever it comes from."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from discriminator_guidance.config import load_config, parse_config
from discriminator_guidance.errors import ConfigError
from discriminator_guidance.redaction import redact

MINI = YAML(typ="safe", pure=True).load((Path(__file__).resolve().parents[1] / "configs" / "mini.yaml").read_text())
SECRET = "s3cret"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql+psycopg://db.example/study", "postgresql+psycopg://db.example/study"),
        ("(could not reach 'postgresql://anna:s3cret@db/x')", "(could not reach 'postgresql://***@db/x')"),
        ("postgresql://anna:s3/cret@db/x", "postgresql://***@db/x"),
        ("postgresql://anna:s3@cret@db/x", "postgresql://***@db/x"),
        ("anna:s3cret@db refused it", "***@db refused it"),
        ("postgresql://db/x?user=anna&password=s3cret", "postgresql://db/x?user=***"),
        ("configs/mini.yaml: a key, 3:4 and me@home", "configs/mini.yaml: a key, 3:4 and me@home"),
    ],
)
def test_of_an_address_host_and_path_are_shown(text: str, shown: str) -> None:
    assert redact(text) == shown


@given(
    user=st.text("abcXYZ019._-", min_size=1, max_size=8),
    password=st.text("qwk7!$%^&*()=+;,.:@/#?-_~", min_size=6, max_size=20).filter(lambda p: "//" not in p),
    before=st.text("abc (:", max_size=10),
)
def test_no_password_of_an_address_is_ever_shown(user: str, password: str, before: str) -> None:
    assert password not in redact(f"{before}postgresql://{user}:{password}@db.example:5432/study refused")


def test_a_word_without_end_is_hidden_at_once() -> None:
    assert redact(f"key {'x' * 10**6} is unknown") == "key *** is unknown"
    assert SECRET not in redact(f"{'a' * 600}:{SECRET}{'b' * 600}@db")


@given(
    keys=st.lists(
        st.sampled_from(["password", "pwd", "token", "odbc_connect", "sslmode", "", "pass%77ord"]),
        min_size=1,
        max_size=3,
    ),
    password=st.text("qwk7!$%^&*()=+;,.:@/#?-_~'\"[]{}<>", min_size=6, max_size=20).filter(lambda p: "//" not in p),
    around=st.sampled_from(["{}", "('{}')", 'at "{}": no']),
)
def test_no_value_of_a_query_is_ever_shown(keys: list[str], password: str, around: str) -> None:
    query = "&".join(f"{key}={password}" for key in keys)
    shown = redact(around.format(f"postgresql://db.example/study?{query}"))
    assert not any(password[start : start + 3] in shown for start in range(len(password) - 2) if "*" not in password)


SECRET_KEYS = ("pwd", "token", "odbc_connect", "secret", "key", "authentication", "options", "user", "", "PWD")


@pytest.mark.parametrize("key", SECRET_KEYS)
def test_an_address_with_a_key_that_may_hold_a_secret_is_refused_and_not_repeated(key: str) -> None:
    data = copy.deepcopy(MINI)
    data["study"]["storage"] = f"mssql+pyodbc://anna@db/study?sslmode=require&{key}={SECRET}"
    refuse(data)
    data["study"]["storage"] = f"postgresql://anna:{key}?{SECRET}@db/study?sslmode=require"
    refuse(data)


def refuse(data: dict) -> None:
    with pytest.raises(ConfigError, match=r"study\.storage.*a key that may hold a secret; take .*sslmode") as caught:
        parse_config(data, "configs/x.yaml")
    assert SECRET not in str(caught.value)


ADDRESSES = (
    f"postgresql+psycopg://anna:{SECRET}@db.example/study",
    f"postgresql+psycopg://anna:{SECRET}/{SECRET}@db.example/study",
    f"postgresql+psycopg://db.example/study?password={SECRET}",
    f"mysql://db.example/study?sslPassword={SECRET}",
    f"postgresql://anna:a#{SECRET}@db/study",
    f"postgresql://db/study?sslmode=require;PWD={SECRET}",
    f"mssql+pyodbc://db/study?odbc_connect=UID%3Danna%3BPWD%3D{SECRET}",
    f"postgresql://[anna:{SECRET}@db/study",
)


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_in_a_profile_is_refused_and_not_repeated(address: str) -> None:
    data = copy.deepcopy(MINI)
    data["study"]["storage"] = address
    with pytest.raises(
        ConfigError, match=r"study\.storage.*with a password; leave it out and set PGPASSWORD"
    ) as caught:
        parse_config(data, "configs/x.yaml")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        "postgresql+psycopg://anna@db.example/study",
        "postgresql://db/study?passfile=/home/anna/.pgpass&sslmode=verify-full",
    ],
)
def test_an_address_without_a_password_is_taken(address: str) -> None:
    data = copy.deepcopy(MINI)
    data["study"]["storage"] = address
    assert parse_config(data, "configs/x.yaml").study.storage == address


@pytest.mark.parametrize("key", ["storag", "storage", "seed"])
def test_errors_about_other_keys_do_not_show_it_either(key: str) -> None:
    data = copy.deepcopy(MINI)
    data["study"][key] = [ADDRESSES[0], f"anna:{SECRET}@db"]
    with pytest.raises(ConfigError) as caught:
        parse_config(data, "configs/x.yaml")
    assert SECRET not in str(caught.value)


def test_an_error_of_syntax_does_not_quote_it(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "x.yaml").write_text(f"study: {{storage: postgresql://anna:{SECRET}@db/x\n  seed: 3\n")
    with pytest.raises(ConfigError) as caught:
        load_config("x", tmp_path)
    assert SECRET not in str(caught.value)
