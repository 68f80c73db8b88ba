"""The import rule: each layer imports only what lies below it, and each library has its homes.

Imports inside functions count, too; only what they cost at start-up is another matter, and measured in a process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"dgemma_lsp": ROOT / "dgemma_lsp", "dgemma_model": ROOT / "model" / "dgemma_model"}

LAYERS = [  # top to bottom; what shares a row does not know each other
    {"dgemma_lsp.__main__"},
    {"dgemma_lsp.cli"},
    {"dgemma_lsp.bench", "dgemma_lsp.evaluate"},
    {"dgemma_lsp.server", "dgemma_lsp.terminal", "dgemma_lsp.keystrokes"},
    {"dgemma_lsp.completions", "dgemma_lsp.editing"},
    {"dgemma_lsp.session"},
    {"dgemma_lsp.transport", "dgemma_lsp.protocol"},
    {"dgemma_lsp.worker"},
    {"dgemma_lsp.actions", "dgemma_lsp.watched"},
    {"dgemma_lsp.suggest"},
    {"dgemma_lsp.context", "dgemma_lsp.cleanup", "dgemma_lsp.fill_kind", "dgemma_lsp.trees", "dgemma_lsp.notebooks"},
    {"dgemma_lsp.documents", "dgemma_lsp.memory", "dgemma_lsp.next_edit"},
    {"dgemma_lsp.workspace"},
    {"dgemma_lsp.edits", "dgemma_lsp.settings", "dgemma_lsp.exclusions"},
    {"dgemma_lsp.text"},
    {"dgemma_model.train.several_holes", "dgemma_model.train.repeats"},
    {"dgemma_model.train.evaluate", "dgemma_model.train.export", "dgemma_model.train.fit_judge"},
    {"dgemma_model.evaluation.calibration"},
    {"dgemma_model.evaluation.report"},
    {"dgemma_model.evaluation.judging", "dgemma_model.evaluation.baselines"},
    {"dgemma_model.evaluation.surroundings"},
    {"dgemma_model.evaluation.held_out", "dgemma_model.evaluation.execution"},
    {"dgemma_model.evaluation.cases", "dgemma_model.evaluation.sandbox"},
    {"dgemma_model.train.train"},
    {"dgemma_model.train.grow"},
    {"dgemma_model.train.data", "dgemma_model.train.corpus"},
    {"dgemma_model.train.holes"},
    {"dgemma_model.bench"},
    {"dgemma_model.infill"},
    {f"dgemma_model.{name}" for name in ("verified", "denoised", "widths", "judge", "beams")},
    {"dgemma_model.stopping", "dgemma_model.causal", "dgemma_model.review"},
    {"dgemma_model.sampler", "dgemma_model.checkpoint", "dgemma_model.prompt_cache"},
    {"dgemma_model.chat"},
    {"dgemma_model.canvas", "dgemma_model.constraint", "dgemma_model.fused"},
    {"dgemma_model.products"},
    {"dgemma_model.network"},
    {"dgemma_model.copying"},
    {"dgemma_model.elsewhere"},
    {"dgemma_model.tokenizer", "dgemma_model.config", "dgemma_model.hub", "dgemma_model.threads"},
    {"dgemma_model.excerpt", "dgemma_model.anytime", "dgemma_model.targets", "dgemma_model.names"},
    {"dgemma_model.python_names", "dgemma_model.python_syntax"},
    {"dgemma_model.outline"},
    {"dgemma_model.syntax"},
    {"dgemma_model.request", "dgemma_model.languages"},
]
RANK = {module: rank for rank, layer in enumerate(LAYERS) for module in layer}

PLAIN = {
    f"dgemma_model.{name}"
    for name in (
        "excerpt",
        "targets",
        "names",
        "outline",
        "python_names",
        "python_syntax",
        "syntax",
        "languages",
        "request",
    )
}
"""What every editor module may import of the model."""
LOADERS = {"dgemma_lsp.server", "dgemma_lsp.terminal", "dgemma_lsp.bench", "dgemma_lsp.evaluate"}
"""Who may also load a model, when it is wanted."""
LOADED = {"dgemma_model.infill", "dgemma_model.checkpoint", "dgemma_model.bench"}
JUDGES = {module for module in RANK if module.startswith("dgemma_model.evaluation.")}
"""Who judges fills, without tensors: for `dgemma_lsp.evaluate` alone."""
TENSORS = {
    f"dgemma_model.{name}"
    for name in ("infill", "verified", "denoised", "widths", "stopping", "causal", "review", "sampler", "checkpoint")
} | {
    f"dgemma_model.{name}"
    for name in ("beams", "judge", "prompt_cache", "constraint", "fused", "products", "network", "threads", "bench")
}
TRAINING = {module for module in RANK if module.startswith("dgemma_model.train.")}

HANDLERS = {f"dgemma_lsp.{name}" for name in ("server", "session", "completions", "editing")}

HOMES = {
    "torch": TENSORS | TRAINING | {"dgemma_lsp.terminal"},  # `dgemma-lsp check` reports on it
    "safetensors": {"dgemma_model.checkpoint"} | TRAINING,
    "tokenizers": {"dgemma_model.tokenizer", "dgemma_model.train.corpus"},
    "transformers": TRAINING | {"dgemma_model.bench"},
    "huggingface_hub": {"dgemma_model.hub"},
    "jinja2": {"dgemma_model.chat"},
    "pygls": HANDLERS | {"dgemma_lsp.transport"},
    "lsprotocol": HANDLERS | {"dgemma_lsp.transport", "dgemma_lsp.protocol"},
    "tree_sitter": {f"dgemma_model.{name}" for name in ("syntax", "outline", "python_names", "targets", "names")},
    "threading": {"dgemma_lsp.worker", "dgemma_lsp.transport", "dgemma_model.train.data"},  # model, stdin, batches
    "pathspec": {"dgemma_lsp.exclusions"},
    "typer": {"dgemma_lsp.cli"},
}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[-1] != "__init__":
                found[".".join((package, *parts))] = path
    return found


MODULES = modules()


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
        if library in HOMES and module not in HOMES[library]:
            wrong.append(f"{module} imports {name}, which lives in {sorted(HOMES[library])}")
        if name not in RANK:
            continue
        if RANK[name] <= RANK[module]:
            wrong.append(f"{module} imports {name}, which is no layer below it")
        allowed = (
            PLAIN | (LOADED if module in LOADERS else set()) | (JUDGES if module == "dgemma_lsp.evaluate" else set())
        )
        if module.startswith("dgemma_lsp.") and name.startswith("dgemma_model.") and name not in allowed:
            wrong.append(f"{module} imports {name}: editors know no tensors")
    return wrong


def test_every_module_has_its_layer() -> None:
    assert sorted(set(MODULES) - set(RANK)) == []


@pytest.mark.parametrize("module", sorted(set(MODULES) & set(RANK)))
def test_imports_point_down(module: str) -> None:
    assert complaints(module, MODULES[module].read_text("utf-8")) == []


def test_packages_import_the_standard_library_only() -> None:
    """`import dgemma_model.request` runs its package's `__init__`: were that heavy, everything would be."""
    inits = [path for folder in PACKAGES.values() for path in folder.rglob("__init__.py")]
    names = {name.partition(".")[0] for path in inits for name in imported(path.read_text("utf-8"))}
    assert names - sys.stdlib_module_names == set()


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dgemma_lsp.edits", "from dgemma_lsp import documents"),
        ("dgemma_lsp.context", "import dgemma_lsp.cleanup"),
        ("dgemma_lsp.suggest", "def f():\n    from dgemma_model.infill import Infiller"),
        ("dgemma_lsp.server", "from dgemma_model import network"),
        ("dgemma_lsp.suggest", "import torch.nn as nn"),
        ("dgemma_lsp.bench", "from dgemma_model.evaluation.report import Row"),
        ("dgemma_lsp.evaluate", "from dgemma_model.train.evaluate import held_out_files"),
        ("dgemma_model.excerpt", "from tree_sitter import Parser"),
        ("dgemma_model.infill", "from transformers import AutoTokenizer"),
        ("dgemma_lsp.suggest", "from threading import Lock"),
        ("dgemma_model.syntax", "from dgemma_lsp.edits import Edit"),
    ],
)
def test_a_wrong_import_is_found(module: str, source: str) -> None:
    assert complaints(module, source)


def test_a_relative_import_is_found() -> None:
    with pytest.raises(AssertionError):
        list(imported("from . import edits"))


TORCH_FREE = sorted(
    module for module in MODULES if module not in TENSORS | TRAINING and not module.endswith("__main__")
)


def test_what_is_torch_free_leaves_torch_out() -> None:
    assert "dgemma_lsp.server" in TORCH_FREE
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
    assert len(MODULES[module].read_text("utf-8").splitlines()) <= 600


def test_every_module_is_in_the_readmes_tree() -> None:
    words = (ROOT / "README.md").read_text("utf-8").split()
    assert [path.name for path in MODULES.values() if path.name not in words] == []
