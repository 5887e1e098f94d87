"""Tokens that say "this very call may destroy this": signed, short-lived, and taken once.

A token is its time of expiry, a random number and a signature of these, of the call and of the state of what it would
destroy. All servers that share the data folder share the key and the numbers that were used.
"""

import base64
import hashlib
import hmac
import json
import logging
import os
import secrets
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio.to_thread

from mcp_server_milvus.errors import Denied

FOLDER, KEY = ".confirmations", "key"
KEY_BYTES = 32

EXPIRY_BYTES, NONCE_BYTES, CHECK_BYTES, MAC_BYTES = 6, 10, 2, 16
HEAD_BYTES = EXPIRY_BYTES + NONCE_BYTES
TOKEN_BYTES = HEAD_BYTES + 2 * CHECK_BYTES + MAC_BYTES
"""As base64 they are 48 characters. The checks only tell what is wrong with a token; the rest decides."""

KEPT_SECONDS = 3_600
"""How long after its expiry a used number is kept: clocks are put back now and then."""

EXPIRED = "it has expired"
USED = "it was used already"
CHANGED = "what would be lost has changed since it was given"
FOREIGN = "it was given for another call, or not by this server"

LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bound:
    """What a token is good for: digests of one call, and of the state that it finds."""

    call: bytes
    state: bytes

    @classmethod
    def of(cls, call: Any, state: Any) -> "Bound":
        """The digests of two values of which JSON can be made. Takes as long as that."""
        return cls(_digest(call), _digest(state))


class Signatures:
    """Gives tokens and takes them back.

    Where the data folder cannot be written, key and used numbers are in memory: tokens are then good in this process.
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir.expanduser().absolute() / FOLDER
        self._own_key = secrets.token_bytes(KEY_BYTES)
        self._used_here: dict[str, int] = {}
        self._using = threading.Lock()

    async def token(self, bound: Bound, seconds: float) -> str:
        """A token that is good for that time."""
        return await anyio.to_thread.run_sync(self._token, bound, seconds)

    async def taken(self, token: str, bound: Bound) -> str:
        """What is wrong with a token, or nothing: then it was good, and is not any more.

        Raises:
            Denied: the data folder has no room to note that it was used.
        """
        return await anyio.to_thread.run_sync(self._taken, token, bound)

    def digest(self, kind: str, text: str) -> str:
        """A digest in 64 hexadecimal characters, which tells nobody without the key what it is of. Reads a file."""
        return hmac.digest(self._key() or self._own_key, f"{kind}\0{text}".encode(), "sha256").hex()

    def _token(self, bound: Bound, seconds: float) -> str:
        expiry = _now() + int(1_000 * seconds)
        head = expiry.to_bytes(EXPIRY_BYTES) + secrets.token_bytes(NONCE_BYTES)
        return base64.urlsafe_b64encode(signed_token(self._key() or self._own_key, head, bound)).decode()

    def _taken(self, token: str, bound: Bound) -> str:
        raw = _decoded(token)
        shared_key = self._key()
        good = signed_token(shared_key or self._own_key, raw[:HEAD_BYTES], bound)
        if not hmac.compare_digest(raw, good):
            return _difference(raw, good)
        expiry = int.from_bytes(raw[:EXPIRY_BYTES])
        if expiry <= _now():
            return EXPIRED
        used = self._use if shared_key else self._use_here
        return "" if used(raw[:HEAD_BYTES].hex(), expiry) else USED

    def _key(self) -> bytes | None:
        """The key of all servers that share the folder, made when there is none; None where that cannot be."""
        try:
            self._folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.mkdir(mode=0o700, exist_ok=True)
            key = self._kept_key() if os.access(self._folder, os.W_OK) else b""
        except OSError as problem:
            LOGGER.warning("%s cannot be used, so confirmations are good in this process only: %s", KEY, problem)
            return None
        return key if len(key) == KEY_BYTES else None

    def _kept_key(self) -> bytes:
        path = self._folder / KEY
        with suppress(FileNotFoundError):
            return path.read_bytes()
        descriptor, name = tempfile.mkstemp(dir=self._folder)  # for the user's eyes only
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(KEY_BYTES))
                file.flush()
                os.fsync(descriptor)
            with suppress(FileExistsError):  # another server was faster: its key is everybody's
                os.link(name, path)
        finally:
            Path(name).unlink()
        return path.read_bytes()

    def _use(self, number: str, expiry: int) -> bool:
        """Whether the number had not been used, by any server."""
        self._forget_expired()
        try:
            os.close(os.open(self._folder / f"{expiry}-{number}", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return False
        except OSError as problem:
            raise Denied(
                f"nothing was done: the confirmation cannot be noted as used: {problem.strerror}",
                hint="the operator makes room in the server's data folder",
            ) from problem
        return True

    def _use_here(self, number: str, expiry: int) -> bool:
        with self._using:
            for each in [each for each, until in self._used_here.items() if _is_over(until)]:
                del self._used_here[each]
            if number in self._used_here:
                return False
            self._used_here[number] = expiry
            return True

    def _forget_expired(self) -> None:
        with suppress(OSError):
            for used in self._folder.iterdir():
                expiry = used.name.partition("-")[0]
                if expiry.isdecimal() and _is_over(int(expiry)):
                    used.unlink(missing_ok=True)


def _now() -> int:
    """Milliseconds of Unix time."""
    return time.time_ns() // 1_000_000


def _is_over(expiry: int) -> bool:
    return expiry + 1_000 * KEPT_SECONDS < _now()


def _digest(value: Any) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).digest()


def signed_token(key: bytes, head: bytes, bound: Bound) -> bytes:
    """The whole token with this expiry and number."""
    checks = b"".join(
        hmac.digest(key, name + head + each, "sha256")[:CHECK_BYTES]
        for name, each in ((b"call", bound.call), (b"state", bound.state))
    )
    begin = head + checks
    return begin + hmac.digest(key, b"token" + begin + bound.call + bound.state, "sha256")[:MAC_BYTES]


def _decoded(token: str) -> bytes:
    """The bytes of a token; as many others for what is none."""
    with suppress(ValueError):
        raw = base64.b64decode(token, altchars=b"-_", validate=True)
        if len(raw) == TOKEN_BYTES:
            return raw
    return bytes(TOKEN_BYTES)


def _difference(raw: bytes, good: bytes) -> str:
    """What is wrong with a token that is not the good one of its expiry and number."""
    state_at = HEAD_BYTES + CHECK_BYTES
    mac_at = state_at + CHECK_BYTES
    same_call = raw[HEAD_BYTES:state_at] == good[HEAD_BYTES:state_at]
    return CHANGED if same_call and raw[state_at:mac_at] != good[state_at:mac_at] else FOREIGN
