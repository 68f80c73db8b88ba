"""Reads checkpoints of the Qwen2 and Llama families, which are served from a converted form on disk."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from dgemma_model.checkpoint import converted, store
from dgemma_model.checkpoint.config import Policy, Quantize, read_json
from dgemma_model.checkpoint.contract import Checkpoint, Progress
from dgemma_model.checkpoint.drafters.stored import drafter_of
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.gguf.header import GgufError
from dgemma_model.checkpoint.mapped.tokenizer_form import tokenizer_of
from dgemma_model.network.contract import CodeNetwork
from dgemma_model.prompt.fim import Fim, LeftOnly, has_markers
from dgemma_model.prompt.format import PromptFormat


class CausalCode:
    """See `Family`. What such a directory says of itself goes before the policy that was fitted to the family."""

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type

    def load(
        self,
        directory: Path,
        config: Mapping[str, Any],
        device: torch.device,
        dtype: torch.dtype,
        progress: Progress,
        quantize: Quantize | None = None,
    ) -> Checkpoint:
        """See `Family`; a directory that is not of a converted form (`checkpoint.converted`) is converted first."""
        if quantize is not None:
            raise CheckpointError(
                f"--quantize is about experts, which {self.model_type} checkpoints do not have; without it, this one "
                "is served in 8 bits"
            )
        if not (directory / converted.ORIGIN).is_file():
            directory = converted_form(directory, progress)
        source = str(read_json(directory / converted.ORIGIN).get("sha256"))
        tokenizer = tokenizer_of(directory / converted.TOKENIZER, source)
        try:
            network = converted.load(directory)
        except converted.ConvertedError as error:
            raise CheckpointError(str(error)) from error
        drafter = drafter_of(directory, network, source)
        progress(1.0)
        written: PromptFormat = Fim(tokenizer) if has_markers(tokenizer) else LeftOnly(tokenizer)
        own = read_json(directory / "dgemma.json")
        its = {"name": directory_name(directory), "token_cost": network.token_cost}
        policy = Policy.from_json(fitted_policy() | its | own)
        writer = network if drafter is None else drafter.writer
        return Checkpoint(directory, writer, written, policy, self, drafter=drafter)

    def served(self, network: CodeNetwork, products: torch.dtype) -> CodeNetwork:
        """See `Family`: converted forms are loaded as they are served."""
        return network


def fitted_policy() -> dict[str, Any]:
    """What was fitted to Qwen2.5-Coder-0.5B, whose relatives behave alike: the content of a `dgemma.json`."""
    return read_json(Path(str(files("dgemma_model") / "checkpoint" / "qwen2.json")), required=True)


def directory_name(directory: Path) -> str:
    """What to call the checkpoint of a converted form: that of the store, or of the file it was made from."""
    source = read_json(directory / converted.ORIGIN).get("source")
    folder = directory.parent
    if folder.parent == store.root() and not folder.name.startswith("."):
        return store.name_of(folder)
    return Path(str(source)).stem


def converted_form(
    source: Path, progress: Progress = lambda share: None, say: store.Say = store.logger.warning
) -> Path:
    """The converted form of a `.gguf` file or published directory: made now if it is missing, stale or damaged. `say`
    is told where another process makes it and this one waits.

    Raises:
        CheckpointError: it cannot be used, or the form cannot be written.
    """
    try:
        known = store.stored_at(source)
        hashes = {file.name: file.sha256 for file in known.files} if known is not None else {}
        digest = hashes.get(source.name) or converted.sha256(source)
        folder = store.converted_folder(source, digest)
        converted.make(
            folder,
            lambda: converted.is_current(folder, digest),
            lambda: converted.convert(source, folder, progress),
            say,
        )
        return folder
    except OSError as error:
        raise CheckpointError(f"{source} cannot be read: {error.strerror or error}") from error
    except (GgufError, converted.ConvertedError) as error:
        raise CheckpointError(str(error)) from error
