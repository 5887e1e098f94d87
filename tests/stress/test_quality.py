"""Search with text finds what people judged to be relevant, and what says the same in other words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DATA = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not DATA.is_dir(), reason="the judged collections are not beside the project")
def test_search_with_text_is_as_good_as_its_two_legs_can_be() -> None:
    """The measures and their bounds are the benchmark's. Its processes are not traced, which would take minutes."""
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "quality", "--check", f"--data={DATA}"]
    untraced = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_PROCESS")}
    environment = untraced | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nDCG@10" in result.stdout
    assert "recall@1" in result.stdout
