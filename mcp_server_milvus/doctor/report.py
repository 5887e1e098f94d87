"""Runs the checks, one after the other, and prints what they find."""

import dataclasses
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import anyio

from mcp_server_milvus.app import open_app
from mcp_server_milvus.doctor import database, embedders, installation, serving
from mcp_server_milvus.doctor.finding import Examined, Finding, State, failure, ok, seconds_of_a_check
from mcp_server_milvus.redaction import Secrets
from mcp_server_milvus.settings import Settings
from mcp_server_milvus.text.visible import visible

Check = Callable[[Examined], Awaitable[Finding | None]]

FOUND_FAILURES = 1
WIDTH = 18
COLORS = {State.OK: "32", State.WARNING: "33", State.FAILURE: "31"}

BEFORE: dict[str, Check] = {
    "extras": installation.check_extras,
    "tools": serving.check_tools,
    "data folder": installation.check_data_folder,
    "disk": installation.check_disk,
    "undo": installation.check_undo,
    "files folder": installation.check_files,
    "audit": installation.check_audit,
    "engine": database.check_engine,
    "network": database.check_network,
    "TLS": database.check_tls,
    "Milvus": database.check_milvus,
    "capabilities": database.check_capabilities,
    "database": database.check_database,
}
AFTER: dict[str, Check] = {
    "bound collections": embedders.check_bindings,
    "port": serving.check_port,
    "access": serving.check_access,
    "certificate": serving.check_certificate,
}
"""What comes before and after the embedders, each with its name. A check that does not apply finds nothing."""


class Report:
    """What was found so far: lines for people as they come, or one JSON object at the end."""

    def __init__(self, *, as_json: bool, colors: bool = False) -> None:
        self._as_json = as_json
        self._colors = colors
        self._findings: list[Finding] = []
        self.secrets = Secrets()

    def add(self, finding: Finding) -> None:
        """Keeps it, and prints it at once where people read along."""
        shown = dataclasses.replace(finding, said=self._clean(finding.said), remedy=self._clean(finding.remedy))
        self._findings.append(shown)
        if not self._as_json:
            print(self._line(shown), flush=True)

    def end(self) -> int:
        """Prints the summary, or the JSON object. Returns the exit code."""
        counts = Counter(finding.state for finding in self._findings)
        if self._as_json:
            found = [dataclasses.asdict(finding) for finding in self._findings]
            summary = {state.value: counts[state] for state in State}
            print(json.dumps({"ok": not counts[State.FAILURE], "summary": summary, "findings": found}, indent=2))
        else:
            print(f"\n{counts[State.OK]} ok, {counts[State.WARNING]} warnings, {counts[State.FAILURE]} failures")
        return FOUND_FAILURES if counts[State.FAILURE] else 0

    def without_settings(self, problem: str) -> int:
        """All that can be told when the settings themselves are wrong. Returns the exit code."""
        self.add(installation.packages())
        self.add(failure("settings", problem, "correct it, then run doctor again: nothing else could be checked"))
        return self.end()

    def _clean(self, text: str) -> str:
        return visible(" ".join(self.secrets.masked(text).split()))

    def _line(self, finding: Finding) -> str:
        mark = f"{finding.state.value:<7}"
        if self._colors:
            mark = f"\033[{COLORS[finding.state]}m{mark}\033[0m"
        line = f"{mark}  {finding.check:<{WIDTH}}  {finding.said}"
        return f"{line}\n{'':{WIDTH + 11}}-> {finding.remedy}" if finding.remedy else line


async def examine(settings: Settings, origins: dict[str, str], report: Report) -> int:
    """Runs every check that applies. Writes nothing into a database; an embedded engine is let go at the end."""
    report.secrets = Secrets.of(settings)
    report.add(installation.packages())
    for finding in installation.settings_in_force(settings, origins):
        report.add(finding)
    within = seconds_of_a_check(settings)
    quicker = settings.model_copy(update={"timeout": 0.9 * within})  # so that the pool's own words come first
    async with open_app(quicker) as app:
        examined = Examined(settings, origins, app)
        for name, check in checks(settings):
            if finding := await bounded(name, check, examined, within):
                report.add(finding)
    return report.end()


def checks(settings: Settings) -> Iterator[tuple[str, Check]]:
    """In the order in which one thing needs another."""
    yield from BEFORE.items()
    for name in settings.all_embedders:
        yield f"embedder {name}", partial(embedders.check_embedder, name=name)
    if not settings.all_embedders:
        yield "embedder", no_embedder
    yield from AFTER.items()


async def no_embedder(_: Examined) -> Finding:
    return ok("embedder", "none; texts are searched by their words")


async def bounded(name: str, check: Check, examined: Examined, seconds: float) -> Finding | None:
    """What the check finds within that time, or that it had too little."""
    try:
        with anyio.fail_after(seconds):
            return await check(examined)
    except TimeoutError:
        return failure(name, f"no answer within {seconds:g} s", "see the lines above; --timeout gives more time")
    except OSError as error:
        return failure(name, f"{error.strerror or error}", "give this user the rights that it lacks, then run again")
