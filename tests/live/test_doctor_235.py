"""`mcp-server-milvus doctor` and the real Milvus 2.3.5."""

from pathlib import Path

import pytest

from tests.test_doctor import Doctor

pytestmark = [pytest.mark.anyio, pytest.mark.live, pytest.mark.xdist_group("live with servers of their own")]


async def test_a_server_without_accounts_is_told_with_its_version_and_what_it_lacks(
    milvus_235: str, tmp_path: Path
) -> None:
    doctor = Doctor(tmp_path)
    found = await doctor.finds("--uri", milvus_235, code=0)
    assert found["Milvus"]["said"] == "Milvus 2.3.5 answers; no credentials set, none asked for"
    assert "hybrid search" in found["capabilities"]["said"]
    assert found["database"]["said"].startswith("default: ")
    assert not (doctor.data / ".engine").exists()
    found = await doctor.finds("--uri", milvus_235, "--db-name", "doctor_absent", code=1)
    assert "--db-name" in found["database"]["remedy"]
    assert found["Milvus"]["state"] == "ok"


async def test_a_wrong_password_is_told_apart_from_a_server_that_is_down(
    milvus_235_with_accounts: str, tmp_path: Path
) -> None:
    doctor = Doctor(tmp_path)
    for environment in ({"MILVUS_TOKEN": "root:wrong-9431"}, {}):
        found = await doctor.finds("--uri", milvus_235_with_accounts, code=1, **environment)
        assert found["network"]["state"] == "ok"
        assert found["Milvus"]["state"] == "failure"
        assert "authentication" in found["Milvus"]["said"]
        assert "MILVUS_TOKEN" in found["Milvus"]["remedy"]
    found = await doctor.finds("--uri", milvus_235_with_accounts, code=0, MILVUS_TOKEN="root:Milvus")
    assert found["Milvus"]["said"].endswith("credentials accepted")
