"""The import rule: each room imports only from the rooms below it, and each library has its homes.

Imports inside functions count, too; only what they cost at start-up is another matter, and measured in a process.
Within a room, modules import each other without circles.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"dgemma_lsp": ROOT / "dgemma_lsp", "dgemma_model": ROOT / "model" / "dgemma_model"}

ROOMS = [  # top to bottom; rooms of one row do not know each other
    {"dgemma_lsp.__main__"},
    {"dgemma_lsp.command"},
    {"dgemma_lsp.server"},
    {"dgemma_lsp.pipeline", "dgemma_lsp.engine"},
    {"dgemma_lsp.documents", "dgemma_lsp.settings"},
    {"dgemma_model.train"},
    {"dgemma_model.evaluation"},
    {"dgemma_model.bench"},
    {"dgemma_model.infill"},
    {"dgemma_model.decoding"},
    {"dgemma_model.checkpoint"},
    {"dgemma_model.network", "dgemma_model.project"},
    {"dgemma_model.prompt"},
    {"dgemma_model.source"},
    {"dgemma_model.request", "dgemma_lsp.eagerness"},
]
RANK = {room: rank for rank, row in enumerate(ROOMS) for room in row}

EDITOR_KNOWS = {"dgemma_model.source", "dgemma_model.request"}
"""What every editor room may import of the model: no tensors."""
LOADERS = {"dgemma_lsp.server.server", "dgemma_lsp.command"}
"""Who may also load a model, when it is wanted."""
ENDS = {"dgemma_model.decoding.fill_end", "dgemma_model.decoding.time_budget"}
"""How a fill ends, wherever it is written: for `engine`, which has no tensors."""
LOADED = {"dgemma_model.infill", "dgemma_model.checkpoint", "dgemma_model.bench"}
JUDGES = {"dgemma_model.evaluation"}
"""Who judges fills, without tensors: for `eval` alone."""
TENSORS = {f"dgemma_model.{name}" for name in ("network", "checkpoint", "decoding", "train", "infill", "bench")}
NO_TENSORS = {*ENDS, "dgemma_model.network.qwen2_config"} | {
    f"dgemma_model.checkpoint.{name}"
    for name in (
        *("catalogue", "config", "errors", "machine", "selection", "store"),
        *("gguf.header", "gguf.tokenizer"),
        *("pulling.hub", "pulling.package_index", "pulling.partial", "pulling.pull", "pulling.sources"),
    )
}
"""Modules of those rooms that do without."""

HANDLERS = {f"dgemma_lsp.server.{name}" for name in ("server", "session", "completions", "code_actions")}

HOMES = {
    "torch": TENSORS | {"dgemma_lsp.command.check"},  # `dgemma-lsp check` reports on it
    "safetensors": {"dgemma_model.checkpoint", "dgemma_model.train"},
    "tokenizers": {"dgemma_model.prompt.tokenizer", "dgemma_model.train.corpus"},
    "gguf": {"dgemma_model.checkpoint.gguf.header"},
    "triton": {"dgemma_model.network.quantised.grouped_product"},
    "transformers": {"dgemma_model.train", "dgemma_model.bench"},
    "huggingface_hub": {"dgemma_model.checkpoint.pulling.hub"},
    "httpx2": {"dgemma_lsp.engine.connection"},
    "platformdirs": {"dgemma_model.checkpoint.store"},
    "filelock": {"dgemma_model.checkpoint.store"},
    "jinja2": {"dgemma_model.prompt.render_template"},
    "pygls": HANDLERS | {"dgemma_lsp.server.transport"},
    "lsprotocol": HANDLERS | {f"dgemma_lsp.server.{name}" for name in ("transport", "from_client", "to_client")},
    "tree_sitter": {
        f"dgemma_model.source.{name}"
        for name in (
            *("syntax", "structure", "outline", "undefined_names", "rename_sites"),
            *("fill_sites", "placeholders", "templates", "blocks", "bounded", "repeated_arguments"),
        )
    },
    "threading": {  # bounded waits, the model, standard input, the disk, batches
        "dgemma_model.checkpoint.pulling.hub", "dgemma_lsp.documents.disk",
        "dgemma_lsp.server.worker", "dgemma_lsp.server.streams", "dgemma_model.train.data",
    },
    "typer": {"dgemma_lsp.command.cli"},
}  # fmt: skip


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] != "__init__":
                found[".".join((package, *parts))] = path
    return found


MODULES = modules()


def room_of(module: str) -> str:
    """The room that a module is in; modules beside the rooms are rooms of their own."""
    return ".".join(module.split(".")[:2])


def is_among(module: str, names: set[str]) -> bool:
    """Whether `names` has the module or its room."""
    return module in names or room_of(module) in names


def imported(source: str) -> Iterator[str]:
    """The full name of everything that `source` imports."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "write imports in full"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def complaints(module: str, source: str) -> list[str]:
    """What `source`, as the content of `module`, imports against the rules."""
    wrong = []
    for name in imported(source):
        library = name.partition(".")[0]
        if library in HOMES and not is_among(module, HOMES[library]):
            wrong.append(f"{module} imports {name}, which lives in {sorted(HOMES[library])}")
        if library not in PACKAGES or room_of(name) == room_of(module) or name in PACKAGES:
            continue
        if RANK[room_of(name)] <= RANK[room_of(module)]:
            wrong.append(f"{module} imports {name}, which is in no room below it")
        allowed = EDITOR_KNOWS | (LOADED if is_among(module, LOADERS) else set())
        if module.startswith("dgemma_lsp.engine.") and name.rpartition(".")[0] in ENDS | {"dgemma_model.decoding"}:
            continue
        allowed |= JUDGES if module.startswith("dgemma_lsp.command.eval") else set()
        if module.startswith("dgemma_lsp.") and name.startswith("dgemma_model.") and not is_among(name, allowed):
            wrong.append(f"{module} imports {name}: editors know no tensors")
    return wrong


def test_every_module_is_in_a_room() -> None:
    assert sorted({room_of(module) for module in MODULES} - set(RANK)) == []


def test_the_rooms_can_be_taken_in_at_a_glance() -> None:
    assert len(ROOMS) <= 15
    folders = {path.parent for path in MODULES.values()}
    for folder in folders:
        assert len([path for path in folder.glob("*.py") if path.name != "__init__.py"]) <= 16, folder
    for folder in {path.parent for path in (ROOT / "tests").rglob("test_*.py")}:
        assert len(list(folder.glob("*.py"))) <= 20, folder


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    assert complaints(module, MODULES[module].read_text("utf-8")) == []


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of a circle of imports, if there is one."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        module: {name for name in imported(path.read_text("utf-8")) if name in MODULES}
        for module, path in MODULES.items()
    }
    assert circle(graph) == []
    assert circle(graph | {"dgemma_model.request": {"dgemma_model.infill"}})


def test_packages_import_the_standard_library_only() -> None:
    """`import dgemma_model.request` runs its package's `__init__`: were that heavy, everything would be."""
    inits = [path for folder in PACKAGES.values() for path in folder.rglob("__init__.py")]
    names = {name.partition(".")[0] for path in inits for name in imported(path.read_text("utf-8"))}
    assert names - sys.stdlib_module_names == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dgemma_lsp.documents.edits", "from dgemma_lsp.pipeline import context"),
        ("dgemma_lsp.pipeline.context", "import dgemma_lsp.server.worker"),
        ("dgemma_lsp.pipeline.suggest", "def f():\n    from dgemma_model.infill import Infiller"),
        ("dgemma_lsp.server.server", "from dgemma_model.network import served"),
        ("dgemma_lsp.pipeline.suggest", "import torch.nn as nn"),
        ("dgemma_lsp.command.bench", "from dgemma_model.evaluation.report import Row"),
        ("dgemma_lsp.command.eval_run", "from dgemma_model.train.losses import held_out_files"),
        ("dgemma_model.source.excerpt", "from tree_sitter import Parser"),
        ("dgemma_model.infill", "from transformers import AutoTokenizer"),
        ("dgemma_lsp.pipeline.suggest", "from threading import Lock"),
        ("dgemma_model.source.syntax", "from dgemma_lsp.documents.edits import Edit"),
        ("dgemma_model.prompt.chat", "from dgemma_model.network.diffusion_gemma import Cache"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert complaints(module, source)


def test_a_relative_import_is_found() -> None:
    with pytest.raises(AssertionError):
        list(imported("from . import edits"))


TORCH_FREE = sorted(
    module
    for module in MODULES
    if module in NO_TENSORS or not (is_among(module, TENSORS) or module.endswith("__main__"))
)


def test_what_is_torch_free_leaves_torch_out() -> None:
    assert "dgemma_lsp.server.server" in TORCH_FREE
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        "    heavy = {'torch', 'transformers'} & set(sys.modules)\n"
        "    assert not heavy, f'{name} imports {heavy}'\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *TORCH_FREE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("module", sorted(MODULES))
def test_no_file_is_too_long(module: str) -> None:
    long = module.startswith(("dgemma_model.network.", "dgemma_model.train."))
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= (600 if long else 400)
