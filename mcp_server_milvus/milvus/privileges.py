"""What a role can be allowed to do. Milvus lists none of it by itself.

Sources: each privilege of 2.3 was granted on the real 2.3.5 (`tests/live/test_access_235.py`). Those of 2.5 are in its
documentation ("Grant Privilege or Privilege Group to Roles"), those of 3.0 in the protocol that pymilvus 3.0.2 speaks;
none of these could be tried.
"""

from mcp_server_milvus.milvus.capabilities import Backend, Version

SINCE: dict[Version, dict[str, str]] = {
    (2, 2, 0): {
        "Collection": "Load Release Compaction Insert Delete GetStatistics CreateIndex IndexDetail DropIndex Search"
        " Flush Query LoadBalance Import Upsert GetLoadingProgress GetLoadState CreatePartition DropPartition"
        " ShowPartitions HasPartition GetFlushState",
        "Global": "All CreateCollection DropCollection DescribeCollection ShowCollections CreateOwnership DropOwnership"
        " SelectOwnership ManageOwnership CreateResourceGroup DropResourceGroup DescribeResourceGroup"
        " ListResourceGroups TransferNode TransferReplica RenameCollection CreateDatabase DropDatabase ListDatabases"
        " FlushAll CreateAlias DropAlias DescribeAlias ListAliases",
        "User": "UpdateUser SelectUser",
    },
    (2, 5, 0): {
        "Global": "UpdateResourceGroups AlterDatabase DescribeDatabase BackupRBAC RestoreRBAC CreatePrivilegeGroup"
        " DropPrivilegeGroup ListPrivilegeGroups OperatePrivilegeGroup",
    },
    (3, 0, 0): {
        "Collection": "AddCollectionField AlterCollectionSchema CreateSnapshot DropSnapshot DescribeSnapshot"
        " ListSnapshots RestoreSnapshot RefreshExternalCollection",
        "Global": "GetImportProgress ListImport AddFileResource RemoveFileResource ListFileResources"
        " UpdateReplicateConfiguration GetReplicateConfiguration PinSnapshotData UnpinSnapshotData"
        " RestoreExternalSnapshot ExportSnapshot",
    },
}
"""Privileges by the type of object that they are about and the version that brought them."""


def privileges(backend: Backend) -> dict[str, list[str]]:
    """The privileges of this backend, by the type of object that they are about."""
    found: dict[str, list[str]] = {}
    for since, by_type in SINCE.items():
        if backend.version >= since:
            for object_type, names in by_type.items():
                found.setdefault(object_type, []).extend(names.split())
    return found


def object_type_of(privilege: str, backend: Backend) -> str | None:
    """What the privilege is about, or None for one that is not known here."""
    return next((kind for kind, names in privileges(backend).items() if privilege in names), None)
