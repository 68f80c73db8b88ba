"""DiffusionGemma with rounded experts: what is chosen, what it needs, the form on disk, and what is wrong with it."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gemma_fixtures import write_gemma
from model_fixtures import changed_json, random_network, tiny_config
from qwen2_fixtures import write_gguf
from safetensors.torch import load_file, save_file
from test_published_layout import EXPERTS, holding, with_tensors
from test_quantised_experts import logits, with_rounded_experts

from dgemma_model.bench.published_shape import published_config
from dgemma_model.checkpoint import diffusion_gemma, published_layout, store
from dgemma_model.checkpoint.config import QUANTIZE, Quantize
from dgemma_model.checkpoint.contract import Checkpoint
from dgemma_model.checkpoint.errors import CheckpointError
from dgemma_model.checkpoint.load import load
from dgemma_model.checkpoint.quantised import budget, form, source_hash
from dgemma_model.checkpoint.quantised.budget import BITS, budget_of, chosen_budget
from dgemma_model.infill import CACHE_BYTES, Infiller, kept_bytes
from dgemma_model.network.diffusion_gemma import Network
from dgemma_model.request import Excerpt, FillRequest

GB = 10**9
CPU, GPU = torch.device("cpu"), torch.device("cuda:0")


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DGEMMA_CHECKPOINTS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return write_gemma(tmp_path / "gemma")


def loaded(directory: Path, quantize: Quantize | None) -> Checkpoint:
    return load(directory, CPU, torch.float32, quantize=quantize)


def form_folder(root: Path, bits: int = 4) -> Path:
    (folder,) = (root / store.CONVERTED_ELSEWHERE).glob(f"*/experts-{bits}bit")
    return folder


# --------------------------------------------------------------------- budget


def test_the_published_shape_fits_18_gb_in_four_bits() -> None:
    needed = budget_of(published_config(), "4bit", GPU)
    assert needed.total <= 18 * GB
    assert 11.6 * GB < needed.experts < 11.8 * GB and 4.8 * GB < needed.others < 4.9 * GB
    assert needed.cache > 0.98 * GB and needed.canvas > 0.3 * GB
    words = str(needed)
    assert re.fullmatch(
        r"17\.9 GB: experts 11\.7 GB \(4bit\), other weights 4\.8 GB, a cache of 4,096 tokens 1\.0 GB, a canvas of 256 "
        r"\d+ MB",
        words,
    ), words


def test_a_budget_counts_what_a_network_holds() -> None:
    config = tiny_config(hidden_size=32, moe_intermediate_size=32)
    for quantize in QUANTIZE:
        network = budget.shape_of(config, quantize).to(torch.bfloat16)
        experts = sum(tensor.nbytes for name, tensor in network.state_dict().items() if ".experts." in name)
        whole = sum(tensor.nbytes for tensor in network.state_dict().values())
        needed = budget_of(config, quantize, GPU)
        assert (needed.experts, needed.others) == (experts, whole - experts)


@pytest.mark.parametrize(("free", "chosen"), [(80, "none"), (32, "8bit"), (18, "4bit"), (None, "none")])
def test_what_fits_is_chosen(free: int | None, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "has_kernel", lambda device: True)
    found = chosen_budget(published_config(), GPU, None if free is None else free * GB)
    assert found.quantize == chosen and (free is None or found.total <= free * GB)


def test_too_little_memory_is_said_with_the_numbers_of_all_forms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "has_kernel", lambda device: True)
    with pytest.raises(CheckpointError) as raised:
        chosen_budget(published_config(), GPU, 12 * GB)
    numbers = r"12\.0 GB are free; none needs 51\.9 GB: .*; 8bit needs 29\.3 GB: .*; 4bit needs 17\.9 GB: .*embedded"
    assert re.search(r"not enough memory on cuda:0: nothing fits, " + numbers, str(raised.value))


def test_what_would_fit_is_said_where_what_is_wanted_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "has_kernel", lambda device: True)
    with pytest.raises(CheckpointError, match=r"--quantize none does not fit, 24\.0 GB.*; pass --quantize 4bit$"):
        chosen_budget(published_config(), GPU, 24 * GB, "none")
    assert chosen_budget(published_config(), GPU, 24 * GB, "4bit").quantize == "4bit"


def test_prompts_that_are_kept_leave_room_on_a_full_gpu() -> None:
    assert kept_bytes(GPU, 40 * GB) == kept_bytes(GPU, None) == CACHE_BYTES["cuda"]
    assert kept_bytes(GPU, GB) == GB // 2
    assert kept_bytes(CPU, 1000) == CACHE_BYTES["cpu"]


def test_a_gpu_without_the_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="4bit need the package triton on cuda:0; `pip install triton`"):
        chosen_budget(published_config(), GPU, 24 * GB, "4bit")
    with pytest.raises(CheckpointError, match=r"nothing fits, 24\.0 GB are free; none needs 51\.9 GB"):
        chosen_budget(published_config(), GPU, 24 * GB)
    assert chosen_budget(published_config(), CPU, None, "4bit").quantize == "4bit"


def test_odd_experts_stay_as_they_are() -> None:
    odd = replace(tiny_config(), moe_intermediate_size=7)
    assert chosen_budget(odd, CPU, None).quantize == "none"
    with pytest.raises(CheckpointError, match="rows of 7 weights cannot be rounded in pairs; pass --quantize none"):
        chosen_budget(odd, CPU, None, "4bit")


def test_what_is_needed_is_said_before_a_weight_is_read(
    directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*args: Any) -> None:
        assert re.search(
            r"needed on cpu: [^;]+experts [^;]+\(4bit\)[^;]+a canvas of 256 [^;]+; .+ are free", caplog.text
        )
        raise CheckpointError("said")

    monkeypatch.setattr(diffusion_gemma, "form_of", stop)
    with caplog.at_level(logging.INFO, "dgemma_model"), pytest.raises(CheckpointError, match="said"):
        loaded(directory, "4bit")


# ----------------------------------------------------------------------- form


@pytest.mark.parametrize("quantize", ["4bit", "8bit"])
def test_a_loaded_checkpoint_computes_what_rounding_its_experts_gives(directory: Path, quantize: Quantize) -> None:
    plain, small = loaded(directory, "none").network, loaded(directory, quantize).network
    bits = BITS[quantize]
    assert bits is not None and isinstance(plain, Network)
    torch.testing.assert_close(logits(small), logits(with_rounded_experts(plain, bits)), rtol=1e-4, atol=1e-5)


def test_it_fills(directory: Path) -> None:
    infiller = Infiller.load(str(directory), "cpu", quantize="4bit")
    *_, draft = infiller.fill(FillRequest(Excerpt("def f(a):\n    return ", "\n"), max_denoising_steps=2, max_tokens=8))
    assert draft.done


def test_the_form_is_made_once_and_mapped(
    directory: Path, root: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares: list[float] = []
    first = load(directory, CPU, torch.float32, shares.append, "4bit")
    assert shares == sorted(shares) and shares[-1] == 1
    weights = form_folder(root) / form.WEIGHTS
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(weights))]
    assert mapped
    monkeypatch.setattr(form, "_write", None)  # would fail
    monkeypatch.setattr(source_hash, "_read_hash", None)
    again = loaded(directory, "4bit")
    assert torch.equal(logits(first.network), logits(again.network))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_other_weights_are_kept_in_bfloat16(directory: Path, root: Path) -> None:
    loaded(directory, "4bit")
    tensors = load_file(form_folder(root) / form.WEIGHTS)
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    assert all(
        dtype == torch.bfloat16 for name, dtype in kinds.items() if ".experts." not in name or "row_scales" in name
    )
    assert kinds["layers.0.experts.down_codes"] == torch.uint8
    source = load_file(holding(directory, "model.decoder.layers.0.mlp.up_proj.weight"))
    assert torch.equal(tensors["layers.0.mlp.up_proj.weight"], source["model.decoder.layers.0.mlp.up_proj.weight"])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def spoil_scales(folder: Path) -> None:
    tensors = load_file(folder / form.WEIGHTS)
    tensors["layers.0.experts.down_row_scales"][0, 0] = torch.inf
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, folder / form.WEIGHTS)


def lose_a_tensor(folder: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / form.WEIGHTS).items()}
    del tensors["norm.weight"]
    save_file(tensors, folder / form.WEIGHTS)


SPOILT: dict[str, tuple[Callable[[Path], object], str]] = {
    "weights cut short": (lambda folder: cut(folder / form.WEIGHTS), "missing or damaged"),
    "no weights": (lambda folder: (folder / form.WEIGHTS).unlink(), "missing or damaged"),
    "no origin": (lambda folder: (folder / form.ORIGIN).unlink(), "cannot be read"),
    "an origin cut short": (lambda folder: cut(folder / form.ORIGIN), "cannot be read"),
    "another version": (lambda folder: changed_json(folder / form.ORIGIN, lambda c: c.update(version=0)), "version"),
    "of other files": (
        lambda folder: changed_json(folder / form.ORIGIN, lambda c: c.update(sha256="0")),
        "other files",
    ),
    "a tensor is missing": (lose_a_tensor, "no tensor 'norm.weight'"),
    "numbers that are none": (spoil_scales, "NaN or infinite"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_spoilt_form_is_named_and_made_anew(
    directory: Path, root: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = logits(loaded(directory, "4bit").network)
    spoil, words = SPOILT[how]
    spoil(form_folder(root))
    found = logits(loaded(directory, "4bit").network)
    assert torch.equal(found, expected)
    assert re.search(f"{words}.*made anew", caplog.text), caplog.text
    caplog.clear()
    loaded(directory, "4bit")
    assert "made anew" not in caplog.text


def test_changed_weights_are_noticed(directory: Path) -> None:
    before = logits(loaded(directory, "4bit").network)
    with_tensors(EXPERTS, lambda tensors: tensors[EXPERTS].mul_(-1))(directory)
    assert not torch.equal(logits(loaded(directory, "4bit").network), before)


def test_a_conversion_that_is_killed_leaves_nothing_that_is_used(directory: Path, root: Path) -> None:
    program = (
        "import os, sys, torch; from pathlib import Path; from dgemma_model.checkpoint.load import load; "
        "stop = lambda share: os._exit(9) if share > 0.5 else None; "
        "load(Path(sys.argv[1]), torch.device('cpu'), torch.float32, stop, '4bit')"
    )
    assert subprocess.run([sys.executable, "-c", program, str(directory)], check=False).returncode == 9
    assert not list((root / store.CONVERTED_ELSEWHERE).glob("*/experts-4bit"))
    loaded(directory, "4bit")


def test_damaged_weights_are_named_and_leave_no_form(directory: Path, root: Path) -> None:
    with_tensors(EXPERTS, lambda tensors: tensors[EXPERTS][1, 2, 3].fill_(float("nan")))(directory)
    with pytest.raises(CheckpointError, match=f"'{EXPERTS}' holds NaN.*again"):
        loaded(directory, "4bit")
    assert not list((root / store.CONVERTED_ELSEWHERE).glob("*/*bit"))


def test_a_full_disk_is_said_with_the_numbers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = form.shutil.disk_usage("/")
    monkeypatch.setattr(form.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(
        CheckpointError, match=r"kept on disk, and .* has 1 kB free for \d+ kB; make room there, or set"
    ):
        loaded(directory, "4bit")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_store_that_cannot_be_written_is_said(directory: Path, root: Path) -> None:
    root.mkdir(mode=0o500)
    with pytest.raises(CheckpointError, match="cannot be written"):
        loaded(directory, "4bit")


def test_a_checkpoint_of_the_store_keeps_its_form_beside_it(directory: Path, root: Path) -> None:
    folder = root / "diffusion"
    root.mkdir()
    directory.rename(folder)
    files = tuple(
        store.StoredFile(path.name, path.stat().st_size, source_hash._read_hash(path), "hub")
        for path in sorted(folder.iterdir())
    )
    store.Stored("diffusion", folder, "hub", None, None, files).write()
    loaded(folder, "4bit")
    assert (folder / store.CONVERTED / "experts-4bit" / form.WEIGHTS).is_file()
    assert not (root / store.CONVERTED_ELSEWHERE).exists()


PEAK = """
import sys
from pathlib import Path
import torch
from dgemma_model.checkpoint import diffusion_gemma
from model_fixtures import tiny_config

def load(directory, **sizes):
    config, cpu = tiny_config(**sizes), torch.device("cpu")
    return diffusion_gemma.load_network(Path(directory), config, cpu, torch.float32, quantize=sys.argv[3])

def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024

load(sys.argv[1])  # what is loaded once
Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
before = peak()
load(sys.argv[2], **{sizes!r})
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux")
def test_memory_stays_small_while_experts_are_rounded(tmp_path: Path) -> None:
    sizes = {"hidden_size": 256, "moe_intermediate_size": 512, "num_experts": 64}
    published_layout.save(random_network(tiny_config()), tmp_path / "small")
    published_layout.save(random_network(tiny_config(**sizes)), tmp_path / "large")
    weights = (tmp_path / "large" / "model.safetensors").stat().st_size
    assert weights > 150e6
    program = [sys.executable, "-c", PEAK.format(sizes=sizes), str(tmp_path / "small"), str(tmp_path / "large")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    whole, rounded = (
        int(subprocess.run([*program, quantize], env=environment, capture_output=True, text=True, check=True).stdout)
        for quantize in ("none", "4bit")
    )
    assert whole > weights  # what is measured shows copies of the weights
    assert rounded < 0.5 * weights


# --------------------------------------------------------------- command line


def test_a_fill_in_a_terminal_says_what_it_needs(directory: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    tasks.write_text(json.dumps({"id": 1, "prefix": "def area(w, h):\n    return ", "suffix": "\n"}) + "\n")
    command = [sys.executable, "-m", "dgemma_lsp", "fill", "--batch", str(tasks), "--checkpoint", str(directory)]
    done = subprocess.run([*command, "--quantize", "4bit"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert re.search(r"needed on cpu: .*\(4bit\), .* are free", done.stderr)
    assert json.loads(done.stdout)["text"]
    done = subprocess.run([*command, "--quantize", "3bit"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "'8bit'" in done.stderr


def test_a_checkpoint_without_experts_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path)
    with pytest.raises(CheckpointError, match="--quantize is about experts, which qwen2 checkpoints do not have"):
        load(path, CPU, torch.float32, quantize="4bit")
