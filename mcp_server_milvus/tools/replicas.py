"""Where loaded collections are held: replicas, and the resource groups of query nodes that hold them."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, WithJsonSchema

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import NotFound
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.names import Name
from mcp_server_milvus.tool import Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset


class DescribeReplicaInput(Input):
    """Whose replicas."""

    collection_name: Name
    db_name: Name | None = None


class Shard(Output):
    """One shard of a replica, by the numbers of its nodes."""

    leader: int
    nodes: list[int]


class Replica(Output):
    """One replica, by the numbers of its nodes."""

    replica_id: str
    resource_group: str
    nodes: list[int]
    shards: list[Shard]
    outbound_nodes: dict[str, int] | None = None


class DescribeReplicaOutput(Output):
    """Every replica of the collection."""

    replicas: list[Replica]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def describe_replica(app: App, args: DescribeReplicaInput) -> DescribeReplicaOutput:
    """Tells on which nodes a loaded collection is."""
    async with app.clients.client(app.database(args.db_name)) as client:
        client.backend.require(Feature.REPLICA_PLACEMENT, where="describe_replica")
        return DescribeReplicaOutput(replicas=[_replica(each) for each in await client.replicas(args.collection_name)])


class TransferReplicaInput(Input):
    """How many replicas of a collection, and between which resource groups."""

    source: Name
    target: Name
    collection_name: Name
    num_replica: int
    db_name: Name | None = None


class DoneOutput(Output):
    """That it is so now."""

    done: bool = True


@tool(toolset=Toolset.OPERATIONS, effect=Effect.MODIFY)
async def transfer_replica(app: App, args: TransferReplicaInput) -> DoneOutput:
    """Moves replicas from one resource group to another."""
    async with app.clients.client(app.database(args.db_name)) as client:
        client.backend.require(Feature.REPLICA_PLACEMENT, where="transfer_replica")
        await client.transfer_replica(args.source, args.target, args.collection_name, args.num_replica)
    return DoneOutput()


class ResourceGroupsInput(Input):
    """Nothing but the database to connect to."""

    db_name: Name | None = None


class ResourceGroup(Output):
    """A group: its nodes, and the replicas that they hold by collection."""

    name: str
    capacity: int
    available_nodes: int
    nodes: list[int] | None = None
    loaded_replicas: dict[str, int] | None = None
    outgoing_nodes: dict[str, int] | None = None
    incoming_nodes: dict[str, int] | None = None
    config: dict[str, Any] | None = None


class ResourceGroupsOutput(Output):
    """Groups by name."""

    resource_groups: list[ResourceGroup]


@tool(toolset=Toolset.OPERATIONS, effect=Effect.READ)
async def list_resource_groups(app: App, args: ResourceGroupsInput) -> ResourceGroupsOutput:
    """Lists the groups of query nodes with nodes, replicas and config."""
    async with app.clients.client(app.database(args.db_name)) as client:
        client.backend.require(Feature.RESOURCE_GROUPS, where="list_resource_groups")
        names = sorted(await client.list_resource_groups())
        return ResourceGroupsOutput(
            resource_groups=[_group(await client.describe_resource_group(name)) for name in names]
        )


class ResourceGroupInput(Input):
    """Which group."""

    name: Name
    db_name: Name | None = None


class Nodes(Input):
    """A number of query nodes."""

    node_num: int


class GroupConfig(Input):
    """How many nodes a group asks for and takes, and with which groups it exchanges them."""

    requests: Nodes | None = None
    limits: Nodes | None = None
    transfer_from: list[Name] = Field(default_factory=list[Name])
    transfer_to: list[Name] = Field(default_factory=list[Name])


Config = Annotated[GroupConfig, WithJsonSchema({"type": "object"})]
"""A configuration whose schema is told by an example, which is shorter."""

EXAMPLE = '{"requests":{"node_num":1},"limits":{"node_num":2},"transfer_from":["g"],"transfer_to":[]}'


class CreateResourceGroupInput(Input):
    """A new group."""

    name: Name
    config: Config | None = Field(None, description=EXAMPLE)
    db_name: Name | None = None


class CreatedOutput(Output):
    """That it is there."""

    created: bool = True


@tool(toolset=Toolset.OPERATIONS, effect=Effect.CREATE)
async def create_resource_group(app: App, args: CreateResourceGroupInput) -> CreatedOutput:
    """Creates a group of query nodes."""
    async with app.clients.client(app.database(args.db_name)) as client:
        client.backend.require(Feature.RESOURCE_GROUPS, where="create_resource_group")
        if args.config:
            client.backend.require(Feature.RESOURCE_GROUP_CONFIG, where="config")
        await client.create_configured_group(args.name, _protocol(args.config) if args.config else None)
    return CreatedOutput()


class UpdateResourceGroupsInput(Input):
    """New configurations by group."""

    configs: dict[Name, Config] = Field(description="By group; as in create_resource_group")
    db_name: Name | None = None


@tool(toolset=Toolset.OPERATIONS, effect=Effect.MODIFY)
async def update_resource_groups(app: App, args: UpdateResourceGroupsInput) -> DoneOutput:
    """Replaces the configurations of resource groups."""
    async with app.clients.client(app.database(args.db_name)) as client:
        client.backend.require(Feature.RESOURCE_GROUP_CONFIG, where="update_resource_groups")
        await client.configure_groups({name: _protocol(config) for name, config in args.configs.items()})
    return DoneOutput()


class DroppedOutput(Output):
    """That it is gone."""

    dropped: bool = True


@tool(toolset=Toolset.OPERATIONS, effect=Effect.DELETE)
async def drop_resource_group(app: App, args: ResourceGroupInput) -> DroppedOutput:
    """Drops an empty resource group."""
    async with app.clients.client(app.database(args.db_name)) as client:
        client.backend.require(Feature.RESOURCE_GROUPS, where="drop_resource_group")
        if args.name not in await client.list_resource_groups():  # which Milvus drops with success
            raise NotFound(f"there is no resource group {args.name!r}", hint="list_resource_groups shows what there is")
        await client.drop_resource_group(args.name)
    return DroppedOutput()


def _replica(described: Any) -> Replica:
    return Replica(
        replica_id=str(described.replicaID),
        resource_group=described.resource_group_name,
        nodes=sorted(described.node_ids),
        shards=[Shard(leader=shard.leaderID, nodes=sorted(shard.node_ids)) for shard in described.shard_replicas],
        outbound_nodes=dict(described.num_outbound_node) or None,
    )


def _group(described: Any) -> ResourceGroup:
    """Without the addresses of its nodes."""
    config = described.config
    return ResourceGroup(
        name=described.name,
        capacity=described.capacity,
        available_nodes=described.num_available_node,
        nodes=sorted(node.node_id for node in described.nodes) or None,
        loaded_replicas=dict(described.num_loaded_replica) or None,
        outgoing_nodes=dict(described.num_outgoing_node) or None,
        incoming_nodes=dict(described.num_incoming_node) or None,
        config={
            "requests": {"node_num": config.requests.node_num},
            "limits": {"node_num": config.limits.node_num},
            "transfer_from": [each.resource_group for each in config.transfer_from],
            "transfer_to": [each.resource_group for each in config.transfer_to],
        }
        if described.HasField("config")
        else None,
    )


def _protocol(config: GroupConfig) -> Mapping[str, Any]:
    """The configuration as Milvus's `ResourceGroupConfig` has it."""
    return {
        **config.model_dump(include={"requests", "limits"}, exclude_none=True),
        "transfer_from": [{"resource_group": name} for name in config.transfer_from],
        "transfer_to": [{"resource_group": name} for name in config.transfer_to],
    }


TOOLS = (
    describe_replica,
    transfer_replica,
    list_resource_groups,
    create_resource_group,
    update_resource_groups,
    drop_resource_group,
)
