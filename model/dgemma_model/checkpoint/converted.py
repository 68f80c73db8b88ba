"""Converted checkpoints: a `.gguf` file or published directory, read once and kept in the form that is served.

A directory: `weights.safetensors` holds the int8 matrices of `qwen2_weights` and is mapped, `config.json`
and `tokenizer.json` are in the published spelling, and `converted.json` says what they were made of and by which
version of this module. Beside them are the files of `mapped`. The directory is written beside its place and moved there
when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from dgemma_model.checkpoint import store
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gguf.file import GgufFile
from dgemma_model.checkpoint.mapped.packed_form import writer_form
from dgemma_model.checkpoint.mapped.tokenizer_form import tokenizer_of
from dgemma_model.checkpoint.published_causal import PublishedCausal
from dgemma_model.checkpoint.weights import WRITTEN, is_finite, write_tensors
from dgemma_model.network.config import ConfigError
from dgemma_model.network.int8 import Int8Weights, fastest_products
from dgemma_model.network.qwen2_config import Qwen2Config
from dgemma_model.network.qwen2_served import ServedQwen2
from dgemma_model.network.qwen2_weights import Layout, joined_layout, joined_weights
from dgemma_model.prompt.tokenizer import TokenizerError

VERSION = 1
"""Of the form; forms of other versions are converted anew."""
WEIGHTS, CONFIG, TOKENIZER, ORIGIN = "weights.safetensors", "config.json", "tokenizer.json", "converted.json"
HASH_BLOCK = 1 << 20


class ConvertedError(Exception):
    """A converted checkpoint that cannot be used, or could not be made; the message is for users."""


Progress = Callable[[float], None]
"""Is told which share of the work is done, from 0 to 1."""


def convert(source: Path, directory: Path, progress: Progress = lambda share: None) -> None:
    """Convert a `.gguf` file, or a directory of safetensors, into `directory`, in place of what is there.

    Weights are read, rounded and written one at a time, so that memory holds none of them twice.

    Raises:
        GgufError: the file cannot be used.
        CheckpointError: the directory cannot be used.
        ConvertedError: the result cannot be written.
    """
    opened = PublishedCausal(source) if source.is_dir() else GgufFile(source)
    tokenizer = opened.tokenizer_json()
    vocab_size, rows = _vocab_size(tokenizer), opened.config.vocab_size
    if vocab_size > rows:
        raise CheckpointError(
            f"{source.name} has {vocab_size} tokens but embeddings of {rows} only; it is damaged, download or copy it "
            "again"
        )
    layout = joined_layout(opened.config, vocab_size)
    digest = sha256(source)
    origin = {"version": VERSION, "source": source.name, "sha256": digest, "vocab_size": vocab_size}
    with replacing(directory) as new:
        tensors = _reported(joined_weights(opened.config, opened, vocab_size), len(layout), progress)
        write_tensors(new / WEIGHTS, layout, tensors)
        (new / TOKENIZER).write_text(tokenizer, "utf-8")
        for name, content in ((CONFIG, opened.config.to_json()), (ORIGIN, origin)):
            (new / name).write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        plain = Int8Weights(MappedWeights(new / WEIGHTS, layout), fastest_products(torch.device("cpu")))
        writer_form(new, opened.config, layout, digest).weights(plain)
        with suppress(TokenizerError):  # said when it is loaded
            tokenizer_of(new / TOKENIZER, digest)


def make(
    folder: Path, is_current: Callable[[], bool], write: Callable[[], None], say: store.Say = store.logger.warning
) -> None:
    """Have a form in `folder`: `write` it unless it is there. Of several processes one writes, and the others `say`
    that they wait, and use what it has made."""
    if is_current():
        return
    with store.hold_form(folder, say):
        if not is_current():
            write()


def is_current(directory: Path, source_sha256: str) -> bool:
    """Whether `directory` holds a form of the file with that hash, made by this version."""
    try:
        origin = read_json(directory / ORIGIN)
    except ConvertedError:
        return False
    return origin.get("version") == VERSION and origin.get("sha256") == source_sha256


def load(directory: Path, expected_sha256: str | None = None) -> ServedQwen2:
    """The network of a converted checkpoint; its tokenizer is in `directory / TOKENIZER`.

    Weights are mapped, and shared with other processes: matrices in the layout of this machine's products
    (`mapped.packed_form`), where that is possible.

    Raises:
        ConvertedError: the directory was made of another file than `expected_sha256` says or by another version of
            this program, or a file of it is missing, damaged or cut short.
    """
    origin, config = read_json(directory / ORIGIN), _config(directory)
    if origin.get("version") != VERSION:
        raise ConvertedError(f"{directory} was converted by another version of this program; convert it again")
    if expected_sha256 is not None and origin.get("sha256") != expected_sha256:
        raise ConvertedError(f"{directory} was converted from another file; convert it again")
    vocab_size = origin.get("vocab_size")
    if not isinstance(vocab_size, int) or not 1 <= vocab_size <= config.vocab_size:
        raise ConvertedError(f"{ORIGIN} in {directory} names {vocab_size!r} tokens; convert it again")
    layout = joined_layout(config, vocab_size)
    plain = Int8Weights(MappedWeights(directory / WEIGHTS, layout), fastest_products(torch.device("cpu")))
    return ServedQwen2(config, writer_form(directory, config, layout, str(origin.get("sha256"))).weights(plain))


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal digits; of a directory's files that hold weights, one after the other."""
    digest = hashlib.sha256()
    for part in PublishedCausal(path).files if path.is_dir() else [path]:
        with part.open("rb") as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _vocab_size(tokenizer: str) -> int:
    """How many ids the content of a `tokenizer.json` has, added tokens included."""
    content = json.loads(tokenizer)
    return 1 + max(map(int, (*content["model"]["vocab"].values(), *(token["id"] for token in content["added_tokens"]))))


class MappedWeights(Mapping[str, Tensor]):
    """The tensors of a file, each in a mapping of its own, which goes when the tensor goes."""

    def __init__(self, path: Path, layout: Layout) -> None:
        """Check names, dtypes and shapes against `layout`."""
        self._path, self._layout = path, layout
        with self._opened() as file:
            stored = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            found = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in stored.items()}
        for name, (dtype, shape) in layout.items():
            if found.pop(name, None) != (WRITTEN[dtype], shape):
                raise self._error(f"has no tensor {name!r} of {list(shape)} {WRITTEN[dtype]}")
        if found:
            raise self._error(f"has the unexpected tensor {next(iter(found))!r}")

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._layout:
            raise KeyError(name)
        with self._opened() as file:
            tensor: Tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not is_finite(tensor):
            raise self._error(f"holds NaN or infinite values in {name!r}")
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._layout)

    def __len__(self) -> int:
        return len(self._layout)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        try:
            with safe_open(self._path, framework="pt") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise self._error(f"is missing or damaged ({error})") from error

    def _error(self, problem: str) -> ConvertedError:
        return ConvertedError(f"{self._path.name} in {self._path.parent} {problem}; convert the checkpoint again")


def _config(directory: Path) -> Qwen2Config:
    try:
        return Qwen2Config.from_json(read_json(directory / CONFIG))
    except ConfigError as error:
        raise ConvertedError(f"{CONFIG} in {directory} cannot be used ({error}); convert it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a converted checkpoint.

    Raises:
        ConvertedError: the file is missing or damaged.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConvertedError(f"{path.name} in {path.parent} cannot be read ({error}); convert it again") from error
    if not isinstance(content, dict):
        raise ConvertedError(f"{path.name} in {path.parent} is not a JSON object; convert it again")
    return content


def _reported(tensors: Iterator[tuple[str, Tensor]], count: int, progress: Progress) -> Iterator[tuple[str, Tensor]]:
    for done, tensor in enumerate(tensors, 1):
        yield tensor
        progress(done / count)


@contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """A new directory beside `directory` that takes its place when the block ends, and is removed if it fails."""
    new: Path | None = None
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=store.unfinished_prefix(directory), dir=directory.parent))
        yield new
        if directory.exists():
            directory.rename(new / "replaced")
        new.rename(directory)
        shutil.rmtree(directory / "replaced", ignore_errors=True)
    except OSError as error:
        raise ConvertedError(f"the converted checkpoint cannot be written to {directory}: {error}") from error
    finally:
        if new is not None:
            shutil.rmtree(new, ignore_errors=True)
