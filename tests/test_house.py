"""The house: imports run one way, there is no circle, no file is too long, and every file says what it is for."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import loraweave

SOURCE = Path(loraweave.__file__).parent

# From the ground up: a room may import those before it, never one that comes after. Within a room files may import each
# other, but not in a circle.
ORDER = (
    ("errors", "foreign"),
    ("amounts", "quiet", "files", "heartbeat", "locks", "paths", "shapes", "stopping", "terminal", "registration"),
    ("lowrank",),
    ("card", "config_checks", "peft_type"),
    ("config",),
    ("adapters",),
    ("tuner",),
    ("integrations",),
    ("bases", "tasks"),
    ("data",),
    ("runs",),
    ("training",),
    ("estimate",),
    ("evaluation",),
    ("experts", "export"),
    ("pages",),
    ("serving",),
    ("analysis",),
    ("comparison",),
    ("commands",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ORDER) for room in rooms}
MOST_LINES = 400


def modules() -> dict[str, Path]:
    """Every module of the package by its name without `loraweave.`; the package itself is its public face."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if parts and "quickstart" not in parts:
            found[".".join(parts)] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """The modules of the package that a file imports, wherever in it and for whomever, and the lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; all are absolute"
            module = node.module or ""
            for alias in node.names if module.split(".")[0] == "loraweave" else ():
                whole = f"{module}.{alias.name}".removeprefix("loraweave.")
                yield (whole if whole in MODULES else module.removeprefix("loraweave.")), node.lineno
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("loraweave."):
                    yield alias.name.removeprefix("loraweave."), node.lineno


def test_every_room_has_its_floor():
    rooms = {name.split(".")[0] for name in MODULES}
    assert rooms <= set(FLOOR), f"not in the order of the house: {sorted(rooms - set(FLOOR))}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name: str):
    room = name.split(".")[0]
    for imported, line in imports(MODULES[name]):
        other = imported.split(".")[0]
        if other in FLOOR and other != room:
            assert FLOOR[other] <= FLOOR[room], f"{MODULES[name]}:{line}: {room} imports {other}, which stands above it"


def test_there_is_no_circle():
    """Among files, wherever in them the imports stand: what is imported late is a circle all the same."""
    graph = {name: {i for i, _ in imports(path) if i in MODULES and i != name} for name, path in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            for imported in graph[name]:
                if not imported.startswith(f"{name}."):  # a package's face hands on what is in it
                    visit(imported, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("folder", ["src", "tests", "benchmarks", "scripts", "examples"])
def test_no_file_is_too_long(folder: str):
    root = SOURCE.parents[1] / folder
    if not root.is_dir():
        pytest.skip(f"installed without {folder}/")
    long = {
        str(p): n for p in root.rglob("*.py") if (n := len(p.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert not long, f"over {MOST_LINES} lines: {long}"


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_file_says_what_it_is_for(name: str):
    assert ast.get_docstring(ast.parse(MODULES[name].read_text(encoding="utf-8"))), f"{MODULES[name]}: no first lines"


@pytest.mark.parametrize("package", sorted(SOURCE.rglob("__init__.py")), ids=lambda path: path.parent.name)
def test_a_dotted_name_means_one_thing(package: Path):
    """What a package takes from its modules has a name that none of these has: `package.name` would be either."""
    inside = {path.stem for path in package.parent.glob("*.py")} | {
        path.parent.name for path in package.parent.glob("*/__init__.py")
    }
    here = ".".join(("loraweave", *package.parent.relative_to(SOURCE).parts))
    for node in ast.parse(package.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and node.module != here:
            both = inside & {alias.asname or alias.name for alias in node.names}
            assert not both, f"{package}:{node.lineno}: {both} is a module and what is imported from {node.module}"
