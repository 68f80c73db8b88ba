"""A checkpoint in the layout in which DiffusionGemma is published: it loads, fills, equals `transformers`, and what is
wrong with it is said before its weights are read."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gemma_fixtures import gemma_tokenizer, write_gemma
from model_fixtures import changed_json, worst
from safetensors.torch import load_file, save_file
from test_checkpoint import load, load_in_transformers
from test_network import CLOSE, our_logits, their_logits

from dgemma_model.checkpoint import diffusion_gemma
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.weights import free_memory
from dgemma_model.infill import Infiller
from dgemma_model.prompt.chat import ChatFormat
from dgemma_model.request import Excerpt, FillRequest

CPU = torch.device("cpu")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_gemma(tmp_path / "gemma")


def test_it_loads_and_says_that_the_vision_tower_is_skipped(directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "dgemma_model"):
        loaded = load(directory)
    stored = [name for file in directory.glob("*.safetensors") for name in load_file(file)]
    assert loaded.skipped == sum("vision" in name for name in stored) > 5
    assert f"{loaded.skipped} tensors of the vision tower were skipped" in caplog.text
    assert loaded.network.config.eos_token_ids == (1, 106, 50)
    assert loaded.network.config.canvas_length == 256
    assert loaded.sampler.max_denoising_steps == 48 and loaded.sampler.entropy_bound == 0.1
    assert (loaded.sampler.t_min, loaded.sampler.t_max) == (0.4, 0.8)
    assert isinstance(loaded.format, ChatFormat) and loaded.tokenizer.encode("a b") == gemma_tokenizer().encode("a b")


def test_it_gives_the_logits_of_transformers(directory: Path) -> None:
    ours, theirs = load(directory), load_in_transformers(directory)
    vocab = ours.network.vocab_size
    prompt, canvas, signal = torch.randint(vocab, (1, 90)), torch.randint(vocab, (1, 12)), torch.randn(1, 12, vocab)
    for mine, reference in zip(
        our_logits(ours.network, prompt, canvas, signal), their_logits(theirs, prompt, canvas, signal), strict=True
    ):
        assert worst(mine, reference) < CLOSE


def test_it_fills_in_a_terminal(directory: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"id": 1, "prefix": "def area(w, h):\n    return ", "suffix": "\n"}) + "\n")
    command = [sys.executable, "-m", "dgemma_lsp", "fill", "--batch", str(tasks), "--checkpoint", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["id"] == 1 and answer["text"]


def test_the_embedded_checkpoint_needs_none_of_it() -> None:
    program = (
        "import sys\n"
        "from dgemma_model.infill import Infiller\n"
        "from dgemma_model.request import Excerpt, FillRequest\n"
        "*_, draft = Infiller.load(device='cpu').fill(FillRequest(Excerpt('x = ', ''), max_tokens=2))\n"
        "heavy = {'transformers', 'huggingface_hub', 'httpx'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_this_one_needs_no_transformers(directory: Path) -> None:
    program = (
        "import sys\n"
        "from dgemma_model.infill import Infiller\n"
        "from dgemma_model.request import Excerpt, FillRequest\n"
        "request = FillRequest(Excerpt('x = ', ''), max_tokens=4, max_denoising_steps=2)\n"
        "*_, draft = Infiller.load(sys.argv[1], 'cpu').fill(request)\n"
        "assert draft.done and 'transformers' not in sys.modules and 'huggingface_hub' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(directory)], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------- broken

Change = Callable[[dict[str, torch.Tensor]], object]
UP, EXPERTS = "model.decoder.layers.0.mlp.up_proj.weight", "model.decoder.layers.3.experts.down_proj"


def shards(directory: Path) -> list[Path]:
    return sorted(directory.glob("model-*.safetensors"))


def holding(directory: Path, name: str) -> Path:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    return directory / index["weight_map"][name]


def with_tensors(name: str, change: Change) -> Callable[[Path], None]:
    """Spoils the shard that holds the tensor `name`."""

    def spoil(directory: Path) -> None:
        path = holding(directory, name)
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, metadata={"format": "pt"})

    return spoil


def truncate_last_shard(directory: Path) -> None:
    last = shards(directory)[-1]
    last.write_bytes(last.read_bytes()[:-100])


def nan_first_and_truncated_last(directory: Path) -> None:
    first = load_file(shards(directory)[0])
    with_tensors(next(iter(first)), lambda tensors: [tensor.fill_(float("nan")) for tensor in tensors.values()])(
        directory
    )
    truncate_last_shard(directory)


def other_turns(directory: Path) -> None:
    path = directory / "tokenizer.json"
    path.write_text(path.read_text("utf-8").replace("<turn|>", "<end_of_turn>"), "utf-8")


def quantised(directory: Path) -> None:
    changed_json(directory / "config.json", lambda config: config.update(quantization_config={"quant_method": "fp8"}))


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "a truncated shard": (truncate_last_shard, r"model-0000(\d)-of-0000\1\.safetensors.*damaged.*again"),
    "a truncated shard, before any weight is read": (nan_first_and_truncated_last, r"-of-.*damaged"),
    "a missing shard": (lambda d: shards(d)[1].unlink(), r"model-00002-of-0000\d\.safetensors is missing.*again"),
    "a missing tensor": (with_tensors(UP, lambda t: t.pop(UP)), rf"missing.*'{UP}'.*incomplete"),
    "a wrong shape": (
        with_tensors(EXPERTS, lambda t: t.update({EXPERTS: t[EXPERTS][:2].contiguous()})),
        rf"{EXPERTS}.*\[2, 24, 8\].*\[4, 24, 8\]",
    ),
    "a NaN in one weight": (
        with_tensors(EXPERTS, lambda t: t[EXPERTS][1, 2, 3].fill_(float("nan"))),
        rf"'{EXPERTS}' holds NaN.*again",
    ),
    "a tensor of another architecture": (
        with_tensors(UP, lambda t: t.update(x=torch.ones(1))),
        "unexpected tensor 'x'",
    ),
    "a quantised one": (quantised, r"quantised.*format of FP8.*4 bits while they are loaded"),
    "no template": (lambda d: (d / "chat_template.jinja").unlink(), "chat_template.jinja.*instruction-tuned"),
    "no end of a turn": (other_turns, r"no token '<turn\|>'.*not known here"),
    "a template that fails": (
        lambda d: (d / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
        "the chat template fails: no",
    ),
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_broken_is_named_at_load(directory: Path, how: str) -> None:
    spoil, words = BROKEN[how]
    spoil(directory)
    with pytest.raises(CheckpointError) as raised:
        Infiller.load(str(directory), "cpu")
    assert re.search(words, str(raised.value)), str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_loaded_checkpoint_does_not_notice_that_its_files_change(directory: Path) -> None:
    for path in shards(directory):
        save_file({name: tensor.float() for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
    loaded = load(directory)
    before = loaded.network.state_dict()["layers.0.mlp.up_proj.weight"].clone()
    for path in shards(directory):
        with path.open("r+b") as file:
            file.seek(5000)
            file.write(bytes(path.stat().st_size - 5000))
    assert torch.equal(loaded.network.state_dict()["layers.0.mlp.up_proj.weight"], before)


# ------------------------------------------------------------------- memory


def test_memory_is_looked_at_before_a_weight_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tensors(UP, lambda tensors: tensors[UP].fill_(float("nan")))(directory)  # would be found on reading
    monkeypatch.setattr(diffusion_gemma, "free_memory", lambda device: 1000)
    with pytest.raises(CheckpointError, match=r"not enough memory on cpu.*1 kB are free"):
        load(directory)


def test_memory_that_runs_out_while_loading_is_said(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.\nmore")

    monkeypatch.setattr(diffusion_gemma, "placed", full)
    with pytest.raises(CheckpointError, match=r"memory of cpu ran out.*\(CUDA out of memory.*1\.00 GiB\.\)"):
        load(directory)


def test_free_memory_is_known_where_it_can_be() -> None:
    free = free_memory(CPU)
    assert free is None or 2**20 < free < 2**45
    assert free_memory(torch.device("mps")) is None


def test_several_holes_are_filled_through_the_face(directory: Path) -> None:
    excerpt = Excerpt("def f(a):\n    b = ", "\n", ("\n    # 漢 <turn|>\n    return ",))
    *_, draft = Infiller.load(str(directory), "cpu").fill(FillRequest(excerpt, max_denoising_steps=2, max_tokens=8))
    assert draft.done and len(draft.texts) == 2
