"""Full-text search finds what people judged to be relevant."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CRANFIELD = ROOT.parent / "shared" / "data" / "cranfield"


@pytest.mark.skipif(not CRANFIELD.is_dir(), reason="the Cranfield collection is not beside the project")
def test_full_text_search_of_cranfield_is_as_good_as_bm25_can_be() -> None:
    """The metric and its bound are the benchmark's."""
    command = [sys.executable, str(ROOT / "tools" / "bench.py"), "quality", "--check", f"--cranfield={CRANFIELD}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=240)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "nDCG@10" in result.stdout
