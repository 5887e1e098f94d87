"""What Linux tells of a process: its memory, which elsewhere is no number and fits no bound, and its children."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

KIBIBYTES_OF_MB = 1_024


def peak_memory(pid: int) -> float:
    """MB that the process had at most."""
    return _megabytes(pid, "VmHWM")


def memory(pid: int) -> float:
    """MB that the process has now."""
    return _megabytes(pid, "VmRSS")


def child(command: list[str]) -> int:
    """The number of the process that this one has started with the command; 0 if there is none."""
    for pid, facts in _processes():
        if facts.get("PPid") == str(os.getpid()) and _command(pid) == command:
            return pid
    return 0


def _megabytes(pid: int, fact: str) -> float:
    facts = next((facts for each, facts in _processes() if each == pid), dict[str, str]())
    return int(facts[fact].split()[0]) / KIBIBYTES_OF_MB if fact in facts else math.nan


def _processes() -> Iterator[tuple[int, dict[str, str]]]:
    for status in Path("/proc").glob("[0-9]*/status"):
        with suppress(OSError):
            lines = status.read_text().splitlines()
            yield int(status.parent.name), dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _command(pid: int) -> list[str]:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[:-1]
    return []
