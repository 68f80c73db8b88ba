"""A small random checkpoint in exactly the layout that DiffusionGemma is published in: shards with an index, a vision
tower, a Gemma-style tokenizer with the published special ids, a chat template of the published form."""

from __future__ import annotations

import json
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
from model_fixtures import SOURCE, changed_json, randomize
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    DiffusionGemmaConfig,
    DiffusionGemmaForBlockDiffusion,
    DiffusionGemmaGenerationConfig,
)

from dgemma_model.checkpoint import contract, published_layout
from dgemma_model.checkpoint import load as checkpoints
from dgemma_model.infill import Infiller
from dgemma_model.prompt.chat import ChatFormat, ChatFrame
from dgemma_model.prompt.tokenizer import Tokenizer

SPECIAL = {
    "<pad>": 0,
    "<eos>": 1,
    "<bos>": 2,
    "<unk>": 3,
    "<mask>": 4,
    "<|tool_response>": 50,
    "<|think|>": 98,
    "<|channel>": 100,
    "<channel|>": 101,
    "<|turn>": 105,
    "<turn|>": 106,
}
"""As published; "\\n" is 107."""

CHAT_TEMPLATE = """\
{%- macro strip_thinking(text) -%}
    {%- set ns = namespace(result='') -%}
    {%- for part in text.split('<channel|>') -%}
        {%- if '<|channel>' in part -%}
            {%- set ns.result = ns.result + part.split('<|channel>')[0] -%}
        {%- else -%}
            {%- set ns.result = ns.result + part -%}
        {%- endif -%}
    {%- endfor -%}
    {{- ns.result | trim -}}
{%- endmacro -%}
{{- bos_token -}}
{%- if enable_thinking | default(false) -%}
    {{- '<|turn>system\\n<|think|><turn|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
    {{- '<|turn>' + role + '\\n' -}}
    {%- if message['content'] is string -%}
        {{- strip_thinking(message['content']) if role == 'model' else message['content'] | trim -}}
    {%- else -%}
        {{- raise_exception('text only') -}}
    {%- endif -%}
    {{- '<turn|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|turn>model\\n' -}}
    {%- if not enable_thinking | default(false) -%}
        {{- '<|channel>thought\\n<channel|>' -}}
    {%- endif -%}
{%- endif -%}
"""

GENERATION = {
    "max_new_tokens": 256,
    "max_denoising_steps": 48,
    "sampler_config": {"_cls_name": "EntropyBoundSamplerConfig", "entropy_bound": 0.1},
    "t_min": 0.4,
    "t_max": 0.8,
    "stability_threshold": 1,
    "confidence_threshold": 0.005,
    "bos_token_id": 2,
    "eos_token_id": [1, 106, 50],
    "pad_token_id": 0,
}


@cache
def gemma_json() -> str:
    """A `tokenizer.json` with Gemma's structure: `▁` for spaces, byte fallback, long runs of blanks as tokens."""
    trained = tokenizers.Tokenizer(models.BPE())
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split("▁", "merged_with_next")]
    )
    trained.train_from_iterator([SOURCE, "é漢"], trainers.BpeTrainer(vocab_size=220, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    names = [f"<unused{i}>" for i in range(107)]
    for name, i in SPECIAL.items():
        names[i] = name
    blanks = ["\n" * i for i in range(1, 5)] + ["▁" * i for i in range(2, 9)] + ["\t", "\r", "<h1>"]
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*names, *blanks, *bytes_, *model["vocab"]]))}
    doubled = [[blank[0], blank[1:]] for blank in blanks if len(set(blank)) == 1 and len(blank) > 1]
    doubled += [[blank[: len(blank) // 2], blank[len(blank) // 2 :]] for blank in ("\n" * 4, "▁" * 4, "▁" * 8)]
    merges = [tuple(pair) for pair in doubled] + [tuple(pair) for pair in model["merges"]]
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab, merges, fuse_unk=True, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in SPECIAL])
    tokenizer.add_tokens([tokenizers.AddedToken("<h1>", normalized=False)])
    return tokenizer.to_str()


@cache
def gemma_tokenizer() -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(gemma_json()))


@cache
def gemma_of_transformers() -> Any:
    """The same tokenizer in `transformers`."""
    return AutoTokenizer.from_pretrained(_written(), local_files_only=True)


def text_config() -> dict[str, Any]:
    return {
        "vocab_size": gemma_tokenizer().vocab_size,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "num_global_key_value_heads": 1,
        "sliding_window": 64,
        "num_experts": 4,
        "top_k_experts": 2,
        "moe_intermediate_size": 8,
        "max_position_embeddings": 4096,
        "eos_token_id": [1, 106, 50],
        "pad_token_id": 0,
        "bos_token_id": 2,
    }


def write_gemma(directory: Path) -> Path:
    """Write the checkpoint into `directory`, which must not exist."""
    return Path(shutil.copytree(_written(), directory))


@cache
def _written() -> Path:
    _FOLDERS.append(tempfile.TemporaryDirectory(prefix="dgemma-test-"))
    directory = Path(_FOLDERS[-1].name) / "gemma"
    torch.manual_seed(3)
    config = DiffusionGemmaConfig(
        text_config=text_config(), vision_config=published_layout._vision_config(), canvas_length=256
    )
    model = DiffusionGemmaForBlockDiffusion(config).eval()
    randomize(model)
    model.generation_config = DiffusionGemmaGenerationConfig(**GENERATION)
    model.bfloat16().save_pretrained(directory, max_shard_size="60KB")
    assert len(list(directory.glob("model-*.safetensors"))) >= 2

    def as_published(content: dict[str, Any]) -> None:
        text = content["text_config"]
        text.pop("per_layer_config", None)
        text |= {key: text_config()[key] for key in ("global_head_dim", "num_global_key_value_heads")}

    changed_json(directory / "config.json", as_published)
    (directory / "tokenizer.json").write_text(gemma_json(), "utf-8")
    (directory / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "GemmaTokenizer",
                "bos_token": "<bos>",
                "eos_token": "<eos>",
                "pad_token": "<pad>",
                "unk_token": "<unk>",
                "mask_token": "<mask>",
                "add_bos_token": True,
            }
        )
    )
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return directory


_FOLDERS: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _loaded() -> contract.Checkpoint:
    return checkpoints.load(_written(), torch.device("cpu"), torch.float32)


@cache
def gemma_chat() -> ChatFormat:
    """The checkpoint's own formatter."""
    frame = ChatFrame.read(_written())
    assert frame is not None
    return ChatFormat(frame, gemma_tokenizer())


def gemma_infiller() -> Infiller:
    """A fresh infiller over the checkpoint; all share its weights."""
    return Infiller(_loaded(), torch.device("cpu"))
