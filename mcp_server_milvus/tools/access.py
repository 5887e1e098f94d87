"""Users, roles, and what roles are allowed to do."""

import difflib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from mcp_server_milvus.app import App
from mcp_server_milvus.errors import Conflict, InvalidArgument, NotFound
from mcp_server_milvus.milvus.capabilities import Feature
from mcp_server_milvus.milvus.names import ANY, Name, NameOrAny, RoleName, UserName
from mcp_server_milvus.milvus.privileges import object_type_of, privileges
from mcp_server_milvus.milvus.results import fitting
from mcp_server_milvus.tool import BoundedOutput, Input, Output, tool
from mcp_server_milvus.vocabulary import Effect, Toolset

if TYPE_CHECKING:
    from mcp_server_milvus.milvus.client import Client

SHORTEST_PASSWORD, LONGEST_PASSWORD = 6, 72
"""Bytes. Milvus takes up to 256 by its own rule, and then bcrypt refuses more than 72."""


def _text(value: Any) -> Any:
    """The value itself. What pydantic says of one that is no text repeats it, and half a character is no text."""
    if not isinstance(value, str) or value.encode(errors="replace").decode() != value:
        raise ValueError("a password is a text")
    return value


def _fits(password: SecretStr) -> SecretStr:
    if not SHORTEST_PASSWORD <= len(password.get_secret_value().encode()) <= LONGEST_PASSWORD:
        raise ValueError(f"a password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} bytes")
    return password


Password = Annotated[SecretStr, BeforeValidator(_text), AfterValidator(_fits)]
"""A text that no message, log or representation repeats."""

GLOBAL = "Global"
"""What Milvus 2.3 calls the type of privileges that no collection can narrow."""


class _OnServer(Protocol):
    """Arguments that name a database, if only to connect to."""

    @property
    def db_name(self) -> str | None: ...


class ServerInput(Input):
    """What is asked of the whole server."""

    db_name: Name | None = None


class DoneOutput(Output):
    """That it is so now."""

    done: bool = True


class DroppedOutput(Output):
    """That it is gone."""

    dropped: bool = True


class CreatedOutput(Output):
    """That it is there."""

    created: bool = True


class ListUsersInput(Input):
    """Which user, if not all."""

    user_name: UserName | None = None
    db_name: Name | None = None


class User(Output):
    """A user and the roles that it has."""

    user_name: str
    roles: list[str]
    description: str | None = None


class UsersOutput(Output):
    """Users by name."""

    users: list[User]


@tool(toolset=Toolset.ACCESS, effect=Effect.READ)
async def list_users(app: App, args: ListUsersInput) -> UsersOutput:
    """Lists the users, or one, with their roles."""
    async with _accounts(app, args, "list_users") as client:
        names = [args.user_name] if args.user_name else sorted(await client.list_users())
        found = [user for name in names if (user := await _user(client, name))]
    if args.user_name and not found:
        raise _no_user(args.user_name)
    return UsersOutput(users=found)


class CreateUserInput(Input):
    """A new account."""

    user_name: UserName
    password: Password
    description: str | None = None
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.CREATE)
async def create_user(app: App, args: CreateUserInput) -> CreatedOutput:
    """Creates a user, without a role."""
    async with _accounts(app, args, "create_user") as client:
        if args.description is not None:
            client.backend.require(Feature.ACCOUNT_DESCRIPTIONS, where="description")
        await client.create_user(args.user_name, args.password.get_secret_value(), description=args.description)
    return CreatedOutput()


class UpdatePasswordInput(Input):
    """Whose, the one that it has, and the one that it gets."""

    user_name: UserName
    old_password: Annotated[SecretStr, BeforeValidator(_text)]
    new_password: Password
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.MODIFY)
async def update_password(app: App, args: UpdatePasswordInput) -> DoneOutput:
    """Gives a user a new password."""
    _require_another(app, args.user_name, "with a new password this server could not sign in any more")
    async with _accounts(app, args, "update_password") as client:
        await client.update_password(
            args.user_name, args.old_password.get_secret_value(), args.new_password.get_secret_value()
        )
    return DoneOutput()


class UserInput(Input):
    """Which user."""

    user_name: UserName
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.DELETE)
async def drop_user(app: App, args: UserInput) -> DroppedOutput:
    """Drops a user."""
    _require_another(app, args.user_name, "without it this server could not sign in any more")
    async with _accounts(app, args, "drop_user") as client:
        if not await _user(client, args.user_name):  # whom Milvus drops with success
            raise _no_user(args.user_name)
        await client.drop_user(args.user_name)
    return DroppedOutput()


class RolesOutput(Output):
    """Names, sorted."""

    roles: list[str]


@tool(toolset=Toolset.ACCESS, effect=Effect.READ)
async def list_roles(app: App, args: ServerInput) -> RolesOutput:
    """Lists the roles of this Milvus."""
    async with _accounts(app, args, "list_roles") as client:
        return RolesOutput(roles=sorted(cast("list[str]", await client.list_roles())))


class DescribeRoleInput(Input):
    """Which role, and where."""

    role_name: RoleName
    db_name: Name | None = Field(None, description="Default: all")


class Grant(Output):
    """One privilege of a role. * is every object, or every database."""

    privilege: str
    object_type: str
    object_name: str
    db_name: str


class RoleOutput(BoundedOutput):
    """A role and what it is allowed to do."""

    role_name: str
    description: str | None = None
    privileges: list[Grant]


@tool(toolset=Toolset.ACCESS, effect=Effect.READ)
async def describe_role(app: App, args: DescribeRoleInput) -> RoleOutput:
    """Describes a role: its privileges."""
    async with _accounts(app, args, "describe_role") as client:
        databases = [args.db_name] if args.db_name else [*await client.list_databases(), ANY]
        found = [cast("dict[str, Any]", await client.describe_role(args.role_name, db_name=name)) for name in databases]
    granted = list(dict.fromkeys(_grant(each) for described in found for each in described["privileges"]))
    shown = fitting([grant.model_dump() for grant in granted], app.settings.max_result_bytes)
    return RoleOutput(
        role_name=args.role_name,
        description=found[0].get("description") or None,
        privileges=granted[:shown],
        applied_limits=[f"{shown} of {len(granted)} privileges: name a db_name to see its own"]
        if shown < len(granted)
        else None,
    )


class CreateRoleInput(Input):
    """A new role."""

    role_name: RoleName
    description: str | None = None
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.CREATE)
async def create_role(app: App, args: CreateRoleInput) -> CreatedOutput:
    """Creates a role, without privileges."""
    async with _accounts(app, args, "create_role") as client:
        if args.description is not None:
            client.backend.require(Feature.ACCOUNT_DESCRIPTIONS, where="description")
        await client.create_role(args.role_name, description=args.description or "")
    return CreatedOutput()


class DropRoleInput(Input):
    """Which role."""

    role_name: RoleName
    force_drop: bool = Field(default=False, description="Even if it has privileges")
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.DELETE)
async def drop_role(app: App, args: DropRoleInput) -> DroppedOutput:
    """Drops a role."""
    async with _accounts(app, args, "drop_role") as client:
        if args.force_drop:
            client.backend.require(Feature.FORCE_DROP, where="force_drop")
        await client.drop_role(args.role_name, force_drop=args.force_drop)
    return DroppedOutput()


class UserRoleInput(Input):
    """Which role of which user."""

    user_name: UserName
    role_name: RoleName
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.MODIFY)
async def grant_role(app: App, args: UserRoleInput) -> DoneOutput:
    """Gives a user a role."""
    async with _accounts(app, args, "grant_role") as client:
        await client.grant_role(args.user_name, args.role_name)
    return DoneOutput()


@tool(toolset=Toolset.ACCESS, effect=Effect.MODIFY)
async def revoke_role(app: App, args: UserRoleInput) -> DoneOutput:
    """Takes a role from a user."""
    async with _accounts(app, args, "revoke_role") as client:
        await client.revoke_role(args.user_name, args.role_name)
    return DoneOutput()


class PrivilegeInput(Input):
    """Which privilege of which role, and on what."""

    role_name: RoleName
    privilege: NameOrAny = Field(description="Of list_privileges, or a privilege group")
    collection_name: NameOrAny = Field(ANY, description="Or the user, of UpdateUser and SelectUser")
    object_type: Literal["Collection", "Global", "User"] | None = None
    db_name: NameOrAny | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.MODIFY)
async def grant_privilege(app: App, args: PrivilegeInput) -> DoneOutput:
    """Allows a role something on one collection or all (*)."""
    async with _accounts(app, args, "grant_privilege") as client:
        db_name = app.database(args.db_name)
        if _is_new_form(client, args):
            await client.grant_privilege_v2(args.role_name, args.privilege, args.collection_name, db_name=db_name)
        else:
            kind = _object_type(client, args)
            if kind == GLOBAL and args.collection_name != "*":
                raise InvalidArgument(
                    f"{args.privilege} is about the whole of Milvus here, and would be granted for every collection",
                    hint="leave collection_name out to grant it so",
                )
            await client.grant_privilege(args.role_name, kind, args.privilege, args.collection_name, db_name=db_name)
    return DoneOutput()


@tool(toolset=Toolset.ACCESS, effect=Effect.MODIFY)
async def revoke_privilege(app: App, args: PrivilegeInput) -> DoneOutput:
    """Takes from a role what grant_privilege gave."""
    async with _accounts(app, args, "revoke_privilege") as client:
        db_name = app.database(args.db_name)
        if _is_new_form(client, args):
            await client.revoke_privilege_v2(args.role_name, args.privilege, args.collection_name, db_name=db_name)
        else:
            kind = _object_type(client, args)
            await client.revoke_privilege(args.role_name, kind, args.privilege, args.collection_name, db_name=db_name)
    return DoneOutput()


class PrivilegesOutput(Output):
    """What grant_privilege takes on this backend."""

    privileges: dict[str, list[str]] = Field(description="By the type of object that they are about")
    privilege_groups: dict[str, list[str]] | None = Field(None, description="Those built in too, and what is in each")


@tool(toolset=Toolset.ACCESS, effect=Effect.READ)
async def list_privileges(app: App, args: ServerInput) -> PrivilegesOutput:
    """Lists the privileges that there are, and the privilege groups."""
    async with _accounts(app, args, "list_privileges") as client:
        has_groups = client.backend.has(Feature.PRIVILEGE_GROUPS)
        groups: list[dict[str, Any]] = await client.list_privilege_groups() if has_groups else []
        return PrivilegesOutput(
            privileges=privileges(client.backend),
            privilege_groups={group["privilege_group"]: sorted(group["privileges"]) for group in groups} or None,
        )


class PrivilegeGroupInput(Input):
    """Which group."""

    group_name: Name
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.CREATE)
async def create_privilege_group(app: App, args: PrivilegeGroupInput) -> CreatedOutput:
    """Creates an empty privilege group."""
    async with _accounts(app, args, "create_privilege_group", Feature.PRIVILEGE_GROUPS) as client:
        await client.create_privilege_group(args.group_name)
    return CreatedOutput()


@tool(toolset=Toolset.ACCESS, effect=Effect.DELETE)
async def drop_privilege_group(app: App, args: PrivilegeGroupInput) -> DroppedOutput:
    """Drops a privilege group."""
    async with _accounts(app, args, "drop_privilege_group", Feature.PRIVILEGE_GROUPS) as client:
        await client.drop_privilege_group(args.group_name)
    return DroppedOutput()


class AlterPrivilegeGroupInput(Input):
    """What comes into which group, and what leaves it."""

    group_name: Name
    add: list[Name] = Field(default_factory=list[Name])
    remove: list[Name] = Field(default_factory=list[Name])
    db_name: Name | None = None


@tool(toolset=Toolset.ACCESS, effect=Effect.MODIFY)
async def alter_privilege_group(app: App, args: AlterPrivilegeGroupInput) -> DoneOutput:
    """Changes what is in a privilege group."""
    if not args.add and not args.remove:
        raise InvalidArgument("alter_privilege_group: give privileges to add or to remove")
    async with _accounts(app, args, "alter_privilege_group", Feature.PRIVILEGE_GROUPS) as client:
        if args.add:
            await client.add_privileges_to_group(args.group_name, args.add)
        if args.remove:
            await client.remove_privileges_from_group(args.group_name, args.remove)
    return DoneOutput()


@asynccontextmanager
async def _accounts(
    app: App, args: "_OnServer", where: str, feature: Feature = Feature.ACCOUNTS
) -> "AsyncGenerator[Client]":
    """A client of a Milvus that has the feature. `*` as the database of a privilege is none to connect to."""
    db_name = None if args.db_name == ANY else args.db_name
    async with app.clients.client(app.database(db_name)) as client:
        client.backend.require(feature, where=where)
        yield client


def _require_another(app: App, user_name: str, reason: str) -> None:
    """Nothing, unless this server itself signs in as the user."""
    user, separator, _ = app.settings.credentials.partition(":")
    if separator and user == user_name:
        raise Conflict(
            f"{user_name!r} is the account that this server uses: {reason}",
            hint="do it with another client, and give this server its new credentials",
        )


async def _user(client: "Client", user_name: str) -> User | None:
    """The user, or None when there is no such user."""
    found = cast("dict[str, Any]", await client.describe_user(user_name))
    if not found:
        return None
    return User(user_name=user_name, roles=sorted(found["roles"]), description=found.get("description") or None)


def _no_user(user_name: str) -> NotFound:
    return NotFound(f"there is no user {user_name!r}", hint="list_users shows what there is")


def _grant(described: dict[str, Any]) -> Grant:
    return Grant(**{name: described[name] for name in Grant.model_fields})


def _is_new_form(client: "Client", args: PrivilegeInput) -> bool:
    """Whether the server finds the object type by itself; who names one means the older form."""
    return args.object_type is None and client.backend.has(Feature.PRIVILEGE_GROUPS)


def _object_type(client: "Client", args: PrivilegeInput) -> str:
    """The type of what the privilege is about."""
    object_type = args.object_type or object_type_of(args.privilege, client.backend)
    if object_type is None:
        known = [name for names in privileges(client.backend).values() for name in names]
        close = difflib.get_close_matches(args.privilege, known, n=1)
        raise InvalidArgument(
            f"privilege: {client.backend} has no {args.privilege!r}{f' (did you mean {close[0]}?)' if close else ''}",
            hint="list_privileges shows what there is; * needs object_type",
        )
    return object_type


TOOLS = (
    list_users,
    create_user,
    update_password,
    drop_user,
    list_roles,
    describe_role,
    create_role,
    drop_role,
    grant_role,
    revoke_role,
    list_privileges,
    grant_privilege,
    revoke_privilege,
    create_privilege_group,
    alter_privilege_group,
    drop_privilege_group,
)
