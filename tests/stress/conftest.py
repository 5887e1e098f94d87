"""The servers that other tests use too."""

from tests.live.conftest import milvus_235, milvus_235_server, milvus_235_with_accounts, mortal_milvus_235

__all__ = ["milvus_235", "milvus_235_server", "milvus_235_with_accounts", "mortal_milvus_235"]
