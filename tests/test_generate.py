import io
import json
import re
import runpy
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import pytest

from mcp_server_milvus.errors import NotFound, Unavailable
from mcp_server_milvus.settings import FILE_ONLY, Settings, default_data_dir
from mcp_server_milvus.tools import TOOLS

ROOT = Path(__file__).parents[1]
BLOCKS = ("hosts", "tools", "settings", "errors")
EMPTY = (
    "# A project\n" + "\n".join(f"<!-- {block}: begin --><!-- {block}: end -->" for block in BLOCKS) + "\nThe end.\n"
)


@dataclass
class Ran:
    """What a run of the generator came to."""

    returncode: int
    stdout: str
    stderr: str


class Project:
    """A folder with the generator and a README of its own; the code that it describes is the real one."""

    def __init__(self, folder: Path) -> None:
        self.readme = folder / "README.md"
        self.contracts = folder / "tools" / "contracts"
        self._script = folder / "tools" / "generate.py"

    def generate(self, *arguments: str) -> Ran:
        return generate(self._script, *arguments)


def generate(script: Path, *arguments: str) -> Ran:
    """Runs in this process: an interpreter of its own takes seconds, and these are many."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
    return Ran(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project just generated, to be copied."""
    folder = tmp_path_factory.mktemp("generated")
    (folder / "tools").mkdir()
    for name in ("generate.py", "support.json"):
        shutil.copy(ROOT / "tools" / name, folder / "tools")
    (folder / "README.md").write_text(EMPTY, "utf-8")
    result = Project(folder).generate()
    assert (result.returncode, result.stderr) == (0, "")
    return folder


@pytest.fixture
def project(generated: Path, tmp_path: Path) -> Project:
    return Project(shutil.copytree(generated, tmp_path / "project"))


def test_the_contracts_and_the_tables_of_this_project_are_up_to_date() -> None:
    result = generate(ROOT / "tools" / "generate.py", "--check")
    assert (result.returncode, result.stderr) == (0, "")


def test_what_was_just_generated_is_up_to_date(project: Project) -> None:
    assert {path.stem for path in project.contracts.iterdir()} == {tool.name for tool in TOOLS}
    assert project.generate("--check").returncode == 0
    assert project.generate().stdout == ""


def test_the_text_around_the_tables_stays(project: Project) -> None:
    text = project.readme.read_text("utf-8")
    assert text.startswith("# A project\n<!-- hosts: begin -->\n| host |")
    assert text.endswith("|\n<!-- errors: end -->\nThe end.\n")


def test_each_tool_setting_and_error_has_one_row(project: Project) -> None:
    lines = project.readme.read_text("utf-8").splitlines()
    for tool in TOOLS:
        [row] = [line for line in lines if line.startswith(f"| `{tool.name}` |")]
        assert re.search(rf"\| {tool.toolset} \| .* \| {tool.effect} \| (yes|no|\?) \| (yes|no|\?) \|$", row)
    for name in Settings.model_fields.keys() - FILE_ONLY:
        assert sum(f"`MILVUS_MCP_{name.upper()}`" in line for line in lines) == 1
    assert f"| `{NotFound.code}` | {NotFound.__doc__} | no |" in lines
    assert f"| `{Unavailable.code}` | {Unavailable.__doc__} | yes |" in lines


def test_the_folder_of_this_machine_is_not_told(project: Project) -> None:
    text = project.readme.read_text("utf-8")
    assert str(Path.home()) not in text
    assert str(default_data_dir()) not in text


def test_check_names_a_contract_that_was_edited_and_writes_nothing(project: Project) -> None:
    edited = project.contracts / "search.json"
    edited.write_text(json.dumps({"name": "search"}), "utf-8")
    result = project.generate("--check")
    assert result.returncode == 1
    assert result.stderr == "tools/contracts/search.json is not up to date: run tools/generate.py\n"
    assert json.loads(edited.read_text("utf-8")) == {"name": "search"}


def test_check_names_an_example_that_was_edited(project: Project) -> None:
    example = project.readme.with_name("claude_config.example.json")
    assert json.loads(example.read_text("utf-8"))["mcpServers"].keys() == {"milvus"}
    example.write_text("{}", "utf-8")
    result = project.generate("--check")
    assert (result.returncode, result.stderr) == (
        1,
        "claude_config.example.json is not up to date: run tools/generate.py\n",
    )


def test_check_names_a_contract_that_is_missing(project: Project) -> None:
    (project.contracts / "search.json").unlink()
    result = project.generate("--check")
    assert result.returncode == 1
    assert "tools/contracts/search.json" in result.stderr
    assert not (project.contracts / "search.json").exists()


def test_the_contract_of_a_tool_that_is_gone_is_named_and_then_removed(project: Project) -> None:
    gone = project.contracts / "old_tool.json"
    gone.write_text("{}", "utf-8")
    result = project.generate("--check")
    assert (result.returncode, gone.exists()) == (1, True)
    assert "tools/contracts/old_tool.json" in result.stderr
    assert project.generate().returncode == 0
    assert not gone.exists()


def test_check_names_a_readme_whose_tables_were_edited(project: Project) -> None:
    project.readme.write_text(project.readme.read_text("utf-8").replace("| `search` |", "| `find` |"), "utf-8")
    result = project.generate("--check")
    assert result.returncode == 1
    assert result.stderr == "README.md is not up to date: run tools/generate.py\n"


@pytest.mark.parametrize("block", BLOCKS)
def test_a_missing_marker_is_said_in_words(project: Project, block: str) -> None:
    project.readme.write_text(EMPTY.replace(f"<!-- {block}: end -->", ""), "utf-8")
    result = project.generate("--check")
    assert result.returncode == 1
    assert f"README.md lacks the markers <!-- {block}: begin --> and <!-- {block}: end -->" in result.stderr


def test_a_missing_readme_is_said_in_words_and_the_contracts_are_written(project: Project) -> None:
    project.readme.unlink()
    (project.contracts / "search.json").unlink()
    result = project.generate()
    assert (result.returncode, result.stderr) == (1, "README.md is missing: its tables have no place\n")
    assert (project.contracts / "search.json").is_file()
