"""What everybody on the machine reads of a process: its command line. Secrets leave it before anything else happens."""

import json
import os
import sys
from collections.abc import Iterator, Sequence

CARRIED = "_MCP_SERVER_MILVUS_FLAGS"
"""Environment variable in which the flags with secrets travel from a process to its successor, as JSON."""

SECRET_FLAGS = frozenset({"--token", "--milvus-token", "--password", "--embed-api-key", "--metrics-token"})
ADDRESS_FLAGS = frozenset({"--uri", "--milvus-uri"})
"""Flags of which the value may have credentials in it: `http://user:password@host`."""


def without_secrets_in_title() -> list[str]:
    """The arguments of this process, once no secret is among those that others see.

    Where some are, the process becomes another one with the same id, standard streams and arguments, in whose
    environment, which only its owner reads, they are. On Windows only the owner reads the command line, too.
    """
    given = sys.argv[1:]
    carried: list[str] = json.loads(os.environ.pop(CARRIED, "[]"))
    secret, plain = apart(given)
    interpreter = sys.orig_argv[: len(sys.orig_argv) - len(given)]
    if secret and sys.platform != "win32" and [*interpreter, *given] == sys.orig_argv:
        flags = json.dumps([*carried, *secret])
        os.execve(sys.executable, [*interpreter, *plain], os.environ | {CARRIED: flags})  # noqa: S606
    return [*carried, *given]


def apart(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The flags with secrets, each with its value, and the other arguments."""
    secret: list[str] = []
    plain: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            plain += [argument, *rest]
            break
        flag, equals, value = argument.partition("=")
        given = [argument] if equals or flag not in SECRET_FLAGS | ADDRESS_FLAGS else [argument, *_next(rest)]
        hidden = flag in SECRET_FLAGS or (flag in ADDRESS_FLAGS and "@" in (value or given[-1]))
        (secret if hidden else plain).extend(given)
    return secret, plain


def _next(rest: Iterator[str]) -> list[str]:
    return [value for value in (next(rest, None),) if value is not None]
