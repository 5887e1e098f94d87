"""The tokens file: what it may say, and what happens when it changes."""

import os
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest

from mcp_server_milvus.auth.tokens import MARK, TokensFile, entry_for, new_token
from mcp_server_milvus.auth.verifier import Verifier
from mcp_server_milvus.callers import CallerToken
from mcp_server_milvus.policy import Caller
from mcp_server_milvus.settings import SettingsError
from mcp_server_milvus.vocabulary import Scope

pytestmark = pytest.mark.anyio

LONG_AGO = 1_000_000_000
SOME_HASH = "ab" * 32
OTHER_HASH = "cd" * 32


def written(path: Path, text: str) -> Path:
    """The file with this text, as if it had been written long ago but for its size."""
    path.write_text(text)
    path.chmod(0o600)
    os.utime(path, (LONG_AGO, LONG_AGO + len(text)))
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


async def verifier_of(path: Path, text: str) -> Verifier:
    return Verifier(await TokensFile.opened(written(path, text)), None)


async def until_refused(verifier: Verifier, token: str) -> None:
    with anyio.fail_after(10):
        while await verifier.verify_token(token):
            await anyio.sleep(0.02)


async def test_a_token_is_its_bearers_with_all_limits(path: Path) -> None:
    token = new_token()
    limits = """
databases = ["prod"]
collections = ["docs_*", "notes"]
filter = 'tenant == "acme"'
key_prefix = "acme-"
expires = 2999-01-31
"""
    verified = await (await verifier_of(path, entry_for("acme", token) + limits)).verify_token(token)
    assert isinstance(verified, CallerToken)
    assert verified.caller == Caller(
        name="acme",
        scopes=frozenset({Scope.READ}),
        databases=("prod",),
        collections=("docs_*", "notes"),
        mandatory_filter='tenant == "acme"',
        key_prefix="acme-",
    )
    assert token not in repr(verified)


async def test_tokens_are_exchanged_while_both_work(path: Path) -> None:
    old, new = new_token(), new_token()
    hashes = [entry_for("x", each).split('"')[1] for each in (old, new)]
    verifier = await verifier_of(path, f'[tokens.one]\nsha256 = {hashes}\nscopes = ["read", "write"]')
    for token in (old, new):
        verified = await verifier.verify_token(token)
        assert verified is not None
        assert verified.caller.name == "one"
    assert {old, new}.isdisjoint(path.read_text())
    assert old.startswith(MARK)
    assert len(old) > 40


async def test_what_is_not_quite_a_token_is_none(path: Path) -> None:
    token = new_token()
    verifier = await verifier_of(path, entry_for("one", token))
    digest = entry_for("one", token).split('"')[1]
    for wrong in ("", token[:-1], token + " ", token.upper(), digest, "\udc80", "ÿ" * 100, "a" * 100_000):
        assert await verifier.verify_token(wrong) is None


async def test_an_expired_token_is_none(path: Path) -> None:
    token = new_token()
    now = datetime.now(UTC)
    for expires, works in (
        (now.date().isoformat(), False),  # not on that day any more
        ((now + timedelta(days=2)).date().isoformat(), True),
        ((now - timedelta(seconds=1)).isoformat(), False),
        ((now + timedelta(hours=1)).isoformat(), True),
    ):
        verifier = await verifier_of(path, f"{entry_for('one', token)}\nexpires = {expires}")
        assert bool(await verifier.verify_token(token)) is works


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tokens.a]\nsha256 = 'hunter2-in-the-clear'\nscopes = ['read']", "must be the SHA-256 of a token"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH.upper()}'\nscopes = ['read']", "must be the SHA-256 of a token"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'", "tokens.a.scopes: Field required"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = []", "tokens.a.scopes"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['root']", "'read', 'write' or 'admin'"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nfilters = 'x'", "tokens.a.filters"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nfilter = ' '", "tokens.a.filter"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nfilter = 'a == 1) or (b == 1'", "closes nothing"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nfilter = 'a == \"b'", "is not closed"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nfilter = 'a == 010'", "is not understood here"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\ncollections = []", "tokens.a.collections"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\ndatabases = ['']", "tokens.a.databases"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nkey_prefix = 'a'", "of no use without filter"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nexpires = 'soon'", "must be a date"),
        (f"[tokens.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']\nexpires = 2030-01-01T00:00:00", "its offset"),
        (f"[tokens.local]\nsha256 = '{SOME_HASH}'\nscopes = ['read']", "no token can be named local"),
        (f"[tokens.'a:b']\nsha256 = '{SOME_HASH}'\nscopes = ['read']", "tokens.a:b"),
        (f"[token.a]\nsha256 = '{SOME_HASH}'\nscopes = ['read']", "token"),
        (f"[tokens.a]\nsha256 = ['{SOME_HASH}', '{SOME_HASH}']\nscopes = ['read']", "listed twice"),
        ("tokens", "cannot be read as TOML"),
        (
            "\n".join(
                f"[tokens.{tenant}]\nsha256 = '{sha256}'\nscopes = ['read']\n"
                f"filter = 't == {tenant}'\nkey_prefix = '{key}'"
                for tenant, sha256, key in ((1, SOME_HASH, "a"), (2, OTHER_HASH, "ab"))
            ),
            "neither may begin with the other",
        ),
    ],
)
async def test_a_file_that_would_let_in_more_than_was_meant_is_refused(path: Path, text: str, said: str) -> None:
    with pytest.raises(SettingsError) as refused:
        await verifier_of(path, text)
    assert said in str(refused.value)
    assert "hunter2" not in str(refused.value)


async def test_two_tokens_of_one_tenant_may_share_its_prefix(path: Path) -> None:
    of_acme = "scopes = ['read']\nfilter = 't == 1'\nkey_prefix = 'a'\n"
    await verifier_of(
        path, f"[tokens.a]\nsha256 = '{SOME_HASH}'\n{of_acme}[tokens.b]\nsha256 = '{OTHER_HASH}'\n{of_acme}"
    )


async def test_a_missing_file_is_refused(path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        await TokensFile.opened(path)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no POSIX modes")
async def test_a_file_that_others_may_write_is_refused_and_one_that_they_may_read_is_remarked(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(path, entry_for("one", new_token()))
    for mode in (0o620, 0o602):
        path.chmod(mode)
        with pytest.raises(SettingsError, match="chmod 600"):
            await TokensFile.opened(path)
    path.chmod(0o644)
    await TokensFile.opened(path)
    assert "others than its owner may read" in caplog.text


async def test_a_removed_token_stops_and_a_new_one_works_without_a_restart(path: Path) -> None:
    old, new = new_token(), new_token()
    verifier = await verifier_of(path, entry_for("old", old))
    assert await verifier.verify_token(old)
    written(path, entry_for("newer", new))
    await until_refused(verifier, old)
    assert await verifier.verify_token(new)


async def test_a_broken_file_changes_nothing_and_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    kept, added = new_token(), new_token()
    verifier = await verifier_of(path, entry_for("kept", kept))
    for broken in ("[tokens", ""):
        if broken:
            written(path, broken)
        else:
            path.unlink()
        caplog.clear()
        with anyio.fail_after(10):
            while "the tokens stay as they were" not in caplog.text:
                assert await verifier.verify_token(kept)
                await anyio.sleep(0.02)
    written(path, f"{entry_for('kept', kept)}\n{entry_for('added', added)}")
    with anyio.fail_after(10):
        while not await verifier.verify_token(added):
            await anyio.sleep(0.02)
    assert caplog.text.count("the tokens stay as they were") == 1


async def test_a_file_in_the_middle_of_being_written_is_not_read(path: Path) -> None:
    """The limits of an entry may not be there yet."""
    token = new_token()
    verifier = await verifier_of(path, f"{entry_for('one', token)}\nfilter = 't == 1'")
    path.write_text(entry_for("one", token))
    begun = time.monotonic()
    later = time.time()
    while time.monotonic() - begun < 1.5:  # it is looked at twice
        later += 1
        os.utime(path, (later, later))
        verified = await verifier.verify_token(token)
        assert verified is not None
        assert verified.caller.mandatory_filter == "t == 1"
        await anyio.sleep(0.02)
