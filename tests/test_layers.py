"""Who may import whom, and who may touch what: read from the source, and from a fresh interpreter."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "mcp_server_milvus"
ROOT = Path(__file__).parents[1] / PACKAGE

MILVUS = {"pymilvus", "grpc", "milvus_lite", "numpy", "pandas", "pyarrow"}
"""What only milvus/ may import, and what a handshake must not wait for."""

EMBEDDING = {"fastembed", "huggingface_hub", "onnxruntime", "tokenizers"}
"""What only an embedder that is used imports: it takes seconds."""

PROTOCOL = {"mcp", "mcp_types", "starlette", "uvicorn", "sse_starlette"}
"""What only the parts that speak MCP may import."""

LAYERS = {
    "addresses": set[str](),
    "compact": set[str](),
    "garbage": set[str](),
    "guides": {"errors", "milvus", "vocabulary"},
    "instructions": {"settings", "vocabulary"},
    "errors": set[str](),
    "vocabulary": set[str](),
    "settings": {"vocabulary"},
    "reach": set[str](),
    "request_ids": set[str](),
    "policy": {"reach", "redaction", "settings", "vocabulary"},
    "limits": {"errors", "policy", "settings", "vocabulary"},
    "redaction": {"settings", "text"},
    "audit": {"errors", "milvus", "redaction", "settings", "signing"},
    "hosts": {"hosts", "redaction", "settings", "text", "titles", "vocabulary"},
    "meter": set[str](),
    "text": {"text"},
    "milvus": {"compact", "errors", "garbage", "milvus", "reach", "request_ids", "settings", "text", "vocabulary"},
    "embedding": {"embedding", "errors", "settings", "vocabulary"},
    "app": {
        *("audit", "embedding", "errors", "limits", "meter", "milvus", "policy", "reach", "settings", "signing"),
        "vocabulary",
    },
    "pieces": {"embedding", "errors", "milvus", "text", "vocabulary"},
    "filling": {"app", "embedding", "errors", "milvus", "pieces", "vocabulary"},
    "planning": {"embedding", "errors", "milvus", "text", "vocabulary"},
    "rebinding": {"app", "embedding", "errors", "milvus", "vocabulary"},
    "signing": {"errors"},
    "losses": {"app", "compact", "dropped", "errors", "losses", "milvus", "text", "tool", "undo", "vocabulary"},
    "diagnosing": {"app", "compact", "diagnosing", "errors", "milvus", "planning", "tool", "vocabulary"},
    "dropped": {"app", "errors", "milvus", "reach", "vocabulary"},
    "undo": {"app", "dropped", "errors", "milvus"},
    "restoring": {"app", "dropped", "errors", "milvus", "reach"},
    "tool": {"app", "errors", "vocabulary"},
    "tools": {
        *("addresses", "app", "compact", "diagnosing", "dropped", "embedding", "errors", "filling", "losses", "milvus"),
        *("pieces", "planning", "rebinding", "restoring", "settings", "text", "tool", "undo", "vocabulary"),
    },
}
"""The parts of the package that know no MCP, and what each may import of the others."""

READERS_OF_THE_ENVIRONMENT = {
    *("cli", "hosts.command", "settings", "titles", "tracing", "milvus.engine", "milvus.embedded"),
    "transports.workers",
}
"""`titles` takes the secrets out of the arguments, `hosts.command` looks for the folders of hosts, `tracing` is asked
for by standard variables; the others are an engine's `main`, and what processes inherit."""

MADE_TO_CHANGE = {
    *("Condition", "ContextVar", "Counter", "Event", "Lock", "OrderedDict", "Queue", "RLock", "Semaphore"),
    *("WeakKeyDictionary", "WeakSet", "WeakValueDictionary", "bytearray", "count", "cycle", "defaultdict", "deque"),
    *("dict", "list", "local", "set"),
}
CHANGES = {
    *("add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove", "setdefault", "sort"),
    "update",
}


@dataclass(frozen=True)
class Module:
    name: str
    tree: ast.Module

    @property
    def part(self) -> str:
        """The file or folder of the package that it belongs to."""
        return self.name.partition(".")[0]

    def imports(self) -> set[str]:
        return set(imported(ast.walk(self.tree)))

    def imports_when_imported(self) -> set[str]:
        return set(imported(executed(self.tree.body)))


@cache
def modules() -> tuple[Module, ...]:
    return tuple(Module(name_of(path), ast.parse(path.read_text("utf-8"))) for path in sorted(ROOT.rglob("*.py")))


def name_of(path: Path) -> str:
    """`milvus.pool`; a folder's `__init__.py` has the folder's name, and the package's own the empty one."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


def executed(body: list[ast.stmt]) -> Iterator[ast.AST]:
    """What runs when a module is imported: not functions, a `__main__` block, or what is for type checkers."""
    for statement in body:
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                continue
            case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from executed(statement.orelse)
            case ast.ClassDef() | ast.If() | ast.With():
                yield from executed(statement.body)
                yield from executed(getattr(statement, "orelse", []))
            case ast.Try():
                yield from executed([*statement.body, *statement.orelse, *statement.finalbody])
            case _:
                yield from ast.walk(statement)


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Dotted names. `from a import b` is both `a` and `a.b`, of which the second need not be a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def of_the_package(imports: set[str]) -> set[str]:
    """The names within the package that are modules: `milvus.pool`."""
    names = {module.name for module in modules()}
    return {name.removeprefix(f"{PACKAGE}.") for name in imports if name.startswith(f"{PACKAGE}.")} & names


def of_others(imports: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in imports}


def last_name(expression: ast.expr) -> str:
    """`Lock` for `anyio.Lock`; empty for what has no name."""
    match expression:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def test_the_package_is_found() -> None:
    assert {"errors", "milvus", "milvus.pool", "tools", "transports.stdio"} <= {module.name for module in modules()}


def test_imports_are_absolute() -> None:
    found = [(m.name, node) for m in modules() for node in ast.walk(m.tree) if isinstance(node, ast.ImportFrom)]
    assert [name for name, node in found if node.level] == []


def test_only_the_milvus_folder_imports_pymilvus_and_what_comes_with_it() -> None:
    outside = {m.name: of_others(m.imports()) & MILVUS for m in modules() if m.part != "milvus"}
    assert {name: found for name, found in outside.items() if found} == {}


def test_what_imports_pymilvus_at_once_is_itself_imported_late_by_everything_outside_the_milvus_folder() -> None:
    slow = {m.name for m in modules() if of_others(m.imports_when_imported()) & MILVUS}
    assert slow
    while found := {
        m.name for m in modules() if m.name not in slow and of_the_package(m.imports_when_imported()) & slow
    }:
        slow |= found
    assert {name for name in slow if not name.startswith("milvus.")} == set()


@pytest.mark.parametrize(
    ("module", "slow"),
    [("cli", MILVUS | EMBEDDING | {"uvicorn", "httpx2"}), ("server", MILVUS | EMBEDDING)],  # the SDK imports the others
)
def test_importing_the_server_imports_nothing_that_is_slow(module: str, slow: set[str]) -> None:
    show = f"import sys, {PACKAGE}.{module}; print(*sorted({slow} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []


def test_only_the_embedders_import_what_embeds_and_only_when_they_are_used() -> None:
    found = {m.name: of_others(m.imports()) & EMBEDDING for m in modules()}
    assert {name for name, others in found.items() if others} == {"embedding.local"}
    assert {m.name for m in modules() if of_others(m.imports_when_imported()) & EMBEDDING} == set()
    at_once = {m.name for m in modules() if "httpx2" in of_others(m.imports_when_imported())}
    assert at_once == {"auth.oauth", "embedding.openai"}
    assert {m.name for m in modules() if of_the_package(m.imports_when_imported()) & at_once} == set()


def test_configuring_an_embedder_imports_and_connects_nothing() -> None:
    """A server that has one is as fast to start as one that has none."""
    show = f"""
import sys
from {PACKAGE}.embedding.embedders import Embedders
from {PACKAGE}.settings import load_settings
base = {{"embedder": "fastembed", "embedders": {{"code": {{"backend": "openai", "model": "m"}}}}}}
embedders = Embedders(load_settings(base).all_embedders)
embedders.named()
print(*sorted({EMBEDDING | MILVUS} & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-c", show], check=True, capture_output=True, text=True)
    assert result.stdout.split() == []


@pytest.mark.parametrize("part", LAYERS)
def test_a_part_imports_only_what_lies_below_it(part: str) -> None:
    wrong = {
        m.name: {name for name in of_the_package(m.imports()) if name.partition(".")[0] not in LAYERS[part]}
        for m in modules()
        if m.part == part and m.name != "tools"
    }
    assert {name: found for name, found in wrong.items() if found} == {}


@pytest.mark.parametrize("part", LAYERS)
def test_a_part_may_import_only_what_it_does_import(part: str) -> None:
    imported_parts = {
        name.partition(".")[0] for m in modules() if m.part == part for name in of_the_package(m.imports())
    }
    assert LAYERS[part] - imported_parts == set()


@pytest.mark.parametrize("part", LAYERS)
def test_a_part_that_is_not_at_the_edge_knows_no_mcp(part: str) -> None:
    assert {m.name: found for m in modules() if m.part == part and (found := of_others(m.imports()) & PROTOCOL)} == {}


def test_a_tool_imports_the_standard_library_pydantic_and_anyio() -> None:
    allowed = {PACKAGE, "anyio", "pydantic", *sys.stdlib_module_names}
    assert {m.name: found for m in tools() if (found := of_others(m.imports()) - allowed)} == {}


def test_a_tool_imports_no_other_tool() -> None:
    found = {m.name: {name for name in of_the_package(m.imports()) if name.startswith("tools.")} for m in tools()}
    assert {name: others for name, others in found.items() if others} == {}


def tools() -> list[Module]:
    """Without the catalogue, which imports them all."""
    return [m for m in modules() if m.name.startswith("tools.")]


def test_only_the_command_line_and_the_settings_read_the_environment_and_the_arguments() -> None:
    readers = {m.name for m in modules() if {"os.environ", "os.getenv", "sys.argv"} & {*m.imports(), *attributes(m)}}
    assert readers <= READERS_OF_THE_ENVIRONMENT


def attributes(module: Module) -> Iterator[str]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def test_the_only_broad_except_is_in_the_server() -> None:
    assert [m.name for m in modules() for node in ast.walk(m.tree) if is_broad(node)] == ["calls"]


def is_broad(node: ast.AST) -> bool:
    """Whether it catches `Exception` or everything, by `except` or by `suppress`."""
    match node:
        case ast.ExceptHandler(type=None):
            return True
        case ast.ExceptHandler(type=ast.Tuple(elts=caught)):
            pass
        case ast.ExceptHandler(type=ast.expr() as only):
            caught = [only]
        case ast.Call(func=function, args=caught) if last_name(function) == "suppress":
            pass
        case _:
            return False
    return any(last_name(each) in {"Exception", "BaseException"} for each in caught)


def test_importing_a_module_does_nothing() -> None:
    """A statement at the top of a module defines or imports something; only `python -m` runs something."""
    doing = [
        f"{m.name}:{node.lineno}"
        for m in modules()
        for node in executed(m.tree.body)
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant) and not m.name.endswith("__main__")
    ]
    assert doing == []


def test_no_module_holds_state_but_for_the_id_of_the_call_under_way() -> None:
    assert [f"{m.name}: {found}" for m in modules() for found in state(m)] == ["request_ids: UNDER_WAY is a ContextVar"]


def state(module: Module) -> Iterator[str]:
    """What is made to change, or is changed, at the top of the module. A table that nothing writes to is a constant."""
    tops = dict(assigned(module.tree.body))
    for name, value in tops.items():
        match value:
            case ast.List(elts=[]) | ast.Dict(keys=[]):
                yield f"{name} begins empty"
            case ast.Call(func=function) if last_name(function) in MADE_TO_CHANGE:
                yield f"{name} is a {last_name(function)}"
            case _:
                pass
    for node in ast.walk(module.tree):
        match node:
            case ast.Global(names=names):
                yield f"global {', '.join(names)}"
            case ast.Subscript(value=ast.Name(id=name), ctx=ast.Store() | ast.Del()) if name in tops:
                yield f"{name}[…] is written on line {node.lineno}"
            case ast.Call(func=ast.Attribute(ast.Name(id=name), change)) if name in tops and change in CHANGES:
                yield f"{name}.{change}() on line {node.lineno}"
            case _:
                pass


def assigned(body: list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for statement in body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                yield name, value
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield name, value
            case _:
                pass
