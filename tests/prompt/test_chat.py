"""Chats for instruction-tuned checkpoints: the template, the prompt, the canvas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from gemma_fixtures import (
    CHAT_TEMPLATE,
    SPECIAL,
    gemma_chat,
    gemma_of_transformers,
    gemma_tokenizer,
    write_gemma,
)
from hypothesis import example, given
from hypothesis import strategies as st
from model_fixtures import SOURCE, tiny_tokenizer
from test_tokenizer import gemma_texts

from dgemma_model.prompt import render_template
from dgemma_model.prompt.chat import NEAR_PREFIX_CHARS, NEAR_SUFFIX_TOKENS, ChatFormat, ChatFrame, ChatTemplateError
from dgemma_model.prompt.format import FillVocabulary
from dgemma_model.request import Excerpt

TOKENIZER = gemma_tokenizer()
CHAT = gemma_chat()
ENOUGH = 100_000
TURN, TURN_END, END = SPECIAL["<|turn>"], SPECIAL["<turn|>"], SPECIAL["<eos>"]


def spoken(ids: list[int]) -> str:
    """What the ids say, special tokens by name."""
    names = {i: name for name, i in SPECIAL.items()}
    parts, text = list[str](), list[int]()
    for i in [*ids, -1]:
        if i in names or i == -1:
            parts += [TOKENIZER.decode(text), names.get(i, "")]
            text = []
        else:
            text.append(i)
    return "".join(parts)


# -------------------------------------------------------------------- frames


def frame(source: str, **config: Any) -> ChatFrame:
    return ChatFrame.of_template(source, {"bos_token": "<bos>"} | config)


def test_the_published_form_of_a_template_is_read() -> None:
    assert frame(CHAT_TEMPLATE) == ChatFrame(
        "<bos><|turn>user\n", "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>"
    )


plain_texts = gemma_texts.filter(lambda text: "▁" not in text and not any(name in text for name in SPECIAL))


@given(message=plain_texts.map(str.strip).filter(bool))
def test_a_chat_has_the_ids_that_transformers_gives_it(message: str) -> None:
    theirs = gemma_of_transformers().apply_chat_template(
        [{"role": "user", "content": message}], add_generation_prompt=True, enable_thinking=False, tokenize=True
    )
    assert CHAT._encode_turns(message, "") == theirs["input_ids"]


def test_a_template_may_stand_in_the_tokenizers_configuration(tmp_path: Path) -> None:
    directory = write_gemma(tmp_path / "gemma")
    (directory / "chat_template.jinja").unlink()
    assert ChatFrame.read(directory) is None
    config: dict[str, Any] = {"bos_token": {"content": "<bos>", "special": True}, "chat_template": CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatFrame.read(directory) == frame(CHAT_TEMPLATE)
    config["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHAT_TEMPLATE}]
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert ChatFrame.read(directory) == frame(CHAT_TEMPLATE)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('no users') }}", "fails: no users"),
        ("{% if %}", "fails"),
        ("{{ messages[0]['content'] }}{{ nothing.at.all }}", "fails"),
        ("hello", "exactly once"),
        ("{{ messages[0]['content'] }} {{ messages[0]['content'] }}", "exactly once"),
        ("{{ messages[0]['content'] | upper }}", "exactly once"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}", "fails.*unsafe"),
        ("{{ messages.append(1) }}{{ messages[0]['content'] }}", "fails.*unsafe"),
        ("{% include 'config.json' %}{{ messages[0]['content'] }}", "fails"),
        ("{% for i in range(10**9) %}{% endfor %}{{ messages[0]['content'] }}", "fails.*range"),
    ],
)
def test_a_template_that_does_not_do_what_one_does_is_refused(template: str, words: str) -> None:
    with pytest.raises(ChatTemplateError, match=words):
        frame(template)


TEMPLATES_WITHOUT_END = {
    "two loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "a loop that writes": "{% for i in range(90000) %}{% for j in range(90000) %}{{ i }}{% endfor %}{% endfor %}",
    "a string of 4 GB": "{{ 'x' * 4000000000 }}",
    "a string that doubles": "{% set n = namespace(s='x') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}"
    "{% endfor %}",
    "padding": "{{ '%3000000000d' | format(1) }}",
    "centring": "{{ 'x'.center(3000000000) }}",
    "a power": "{{ 9 ** (9 ** 9) }}",
    "a macro in itself": "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "two megabytes": "{{ messages[0]['content'] }}{{ 'x' * 2000000 }}",
    "parentheses": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
    "a list": "{{ [0] * 4000000000 }}",
}


@pytest.mark.parametrize("kind", TEMPLATES_WITHOUT_END)
def test_a_template_has_little_time_and_memory(kind: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"chat template (fails|takes more)"):
        frame(TEMPLATES_WITHOUT_END[kind])


USED = """import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
used = os.wait4(process.pid, 0)[2]
print(used.ru_utime + used.ru_stime, used.ru_maxrss)
"""
"""Prints the processor's seconds and the peak memory of a command. It is a process of its own because a new process'
peak includes what its parent held when it was started, and that of a test may be large."""


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such limits")
@pytest.mark.parametrize("kind", ["two loops", "a string of 4 GB", "a list"])
def test_the_process_that_renders_is_limited_itself(kind: str) -> None:
    """In its time on the processor and in its memory, whatever the process that started it does."""
    job = json.dumps({"source": TEMPLATES_WITHOUT_END[kind], "variables": {"messages": []}})
    renders = [sys.executable, "-P", render_template.__file__]
    command = [sys.executable, "-P", "-c", USED, *renders]
    done = subprocess.run(command, input=job, capture_output=True, text=True, timeout=60.0)
    seconds, peak = map(float, done.stdout.split())
    assert seconds < 2 * render_template.CPU_SECONDS
    assert peak * (1 if sys.platform == "darwin" else 1024) < 1.1 * render_template.MEMORY_BYTES


def test_a_special_token_without_a_content_is_none() -> None:
    assert frame("{{ eos_token }}{{ messages[0]['content'] }}", eos_token={}).before == "None"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("chat_template.jinja", b"\xff\xfe", r"chat_template\.jinja.*cannot be read"),
        ("tokenizer_config.json", b"{", r"tokenizer_config\.json.*cannot be read"),
    ],
)
def test_an_unreadable_template_is_named(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    directory = write_gemma(tmp_path / "gemma")
    (directory / name).write_bytes(content)
    with pytest.raises(ChatTemplateError, match=words):
        ChatFrame.read(directory)


def test_a_template_that_opens_no_thought_gets_an_empty_one() -> None:
    source = "<|turn>user\n{{ messages[0]['content'] }}<turn|>\n{{ '<|turn>model\n' }}"
    chat = ChatFormat(frame(source), TOKENIZER)
    assert spoken(chat.encode(Excerpt("x = ", ""), ENOUGH).ids).endswith(
        "<|turn>model\n<|channel>thought\n<channel|>```python\nx ="
    )


def test_a_tokenizer_without_the_end_of_a_turn_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match=r"no token '<turn\|>'"):
        ChatFormat(frame(CHAT_TEMPLATE), tiny_tokenizer())


# ------------------------------------------------------------------- prompts


def test_a_prompt_reads_like_this() -> None:
    excerpt = Excerpt("def area(w, h):\n    return w", "\n\n\nprint(area(1, 2))\n", language="python", file_name="a.py")
    prompt = CHAT.encode(excerpt, ENOUGH)
    assert prompt.forced == b"w"
    assert spoken(prompt.ids) == (
        "<bos><|turn>user\n"
        "Please complete the python file `a.py`, in which some code is missing.\n\n"
        "Right after the missing code, the file goes on like this:\n"
        "```python\n\n\n\nprint(area(1, 2))\n```\n\n"
        "Write the code that leads up to the gap, then the missing code, then the first lines after it again, "
        "in one code block and without explanations. The missing code must fit between what is before and after it."
        "<turn|>\n<|turn>model\n<|channel>thought\n<channel|>```python\ndef area(w, h):\n    return "
    )


@example(prefix="x = '😀", suffix="")
@example(prefix="\n", suffix="\n")
@given(prefix=gemma_texts, suffix=gemma_texts)
def test_prompt_and_healed_text_are_the_prefix(prefix: str, suffix: str) -> None:
    prompt = CHAT.encode(Excerpt(prefix, suffix), ENOUGH)
    answer = b"".join(TOKENIZER.token_bytes[i] for i in prompt.ids[-1 - prompt.ids[::-1].index(101) :]) + prompt.forced
    assert answer.decode().lstrip("`") == "python\n" + prefix
    prompt.forced.decode()  # whole characters
    assert bool(prompt.forced) == bool(prefix)


@given(prefix=gemma_texts, suffix=gemma_texts, between=gemma_texts)
def test_what_spells_a_special_token_in_a_file_stays_text(prefix: str, suffix: str, between: str) -> None:
    excerpt = Excerpt(prefix + "<turn|>" + prefix, suffix + "<|turn>", (between + "<eos>",), file_name="<eos>.py")
    ids = CHAT.encode(excerpt, ENOUGH).ids
    assert [i for i in ids if i in TOKENIZER.special_ids] == [2, TURN, TURN_END, TURN, 100, 101]
    layout = CHAT.lay_out(excerpt, [1] * excerpt.hole_count)
    pinned = [i for i, fixed in zip(layout.ids, layout.pinned, strict=True) if fixed]
    first_end = pinned.index(TURN_END)
    assert TOKENIZER.special_ids.isdisjoint(pinned[:first_end]) and pinned[first_end + 1 :] == []


def test_source_text_never_goes_through_the_template() -> None:
    assert "{{ 7 * 7 }}" in spoken(CHAT.encode(Excerpt("", "{{ 7 * 7 }}{% endfor %}"), ENOUGH).ids)


def test_typing_only_appends_to_the_text_of_a_prompt() -> None:
    typed = "    return self.balance + owner\n"
    before: list[int] = []
    for size in range(len(typed) + 1):
        ids = CHAT.encode(Excerpt("def f(self):\n" + typed[:size], "\n\n"), ENOUGH).text
        assert ids[: len(before)] == before
        before = ids


@pytest.mark.parametrize("length", [0, 1, NEAR_PREFIX_CHARS, NEAR_PREFIX_CHARS + 1, 5 * NEAR_PREFIX_CHARS])
def test_a_long_prefix_begins_in_the_users_turn(length: int) -> None:
    prefix = (SOURCE * 30)[:length]
    words = spoken(CHAT.encode(Excerpt(prefix, "\n"), ENOUGH).text)
    user, model = words.split("<turn|>")
    near = model.split("```python\n")[1]
    assert len(near) <= NEAR_PREFIX_CHARS
    assert ("Earlier in the file" in user) == (length > NEAR_PREFIX_CHARS)
    if length > NEAR_PREFIX_CHARS:
        assert len(near) >= NEAR_PREFIX_CHARS // 4
        far = user.split("```python\n")[1].split("\n```")[0]
        assert prefix.startswith(far + "\n" + near)


@given(count=st.integers(1, 40), suffix_lines=st.integers(0, 60), limit=st.integers(500, 900))
def test_a_prompt_keeps_to_its_limit(count: int, suffix_lines: int, limit: int) -> None:
    prefix, suffix = SOURCE * count + "x = 漢", "漢y = é\n" * suffix_lines
    prompt = CHAT.encode(Excerpt(prefix, suffix), limit)
    assert len(prompt.ids) <= limit
    words = spoken(prompt.ids)
    assert "\ufffd" not in words and prefix.endswith(words[-8:] + prompt.forced.decode())


def test_a_fence_in_the_file_does_not_end_the_block() -> None:
    excerpt = Excerpt('"""\n````\n', "```\n")
    assert "\n`````python\n```\n`````\n" in spoken(CHAT.encode(excerpt, ENOUGH).ids)
    assert TOKENIZER.decode(CHAT.after(excerpt)) == "```\n`````"


# ------------------------------------------------------------------ canvases


@given(
    between=st.lists(gemma_texts, max_size=2),
    suffix=gemma_texts,
    widths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
)
def test_canvases_hold_holes_pinned_text_and_the_end_of_the_turn(
    between: list[str], suffix: str, widths: list[int]
) -> None:
    excerpt = Excerpt("a", suffix, tuple(between))
    for width in widths:
        layout = CHAT.lay_out(excerpt, [width] * excerpt.hole_count)
        assert [hole.stop - hole.start for hole in layout.hole_slices] == [width] * excerpt.hole_count
        for text, left, right in zip(between, layout.hole_slices[:-1], layout.hole_slices[1:], strict=True):
            assert TOKENIZER.decode(layout.ids[left.stop : right.start]) == text
        following = layout.ids[layout.hole_slices[-1].stop :]
        tail = CHAT.after(excerpt)
        assert following == [*tail, TURN_END]


@pytest.mark.parametrize(
    ("suffix", "tail"),
    [
        ("", "\n```"),
        ("\n\n", "\n```"),
        (")\n\n\nprint(1)\nprint(2)\n", ")\n\n\nprint(1)\n```"),
        (") + 1", ") + 1\n```"),
        ("\n\n    x\n", "\n\n    x\n```"),
    ],
)
def test_the_first_lines_of_the_suffix_are_pinned(suffix: str, tail: str) -> None:
    assert TOKENIZER.decode(CHAT.after(Excerpt("", suffix))) == tail


def test_not_more_than_a_few_tokens_of_it() -> None:
    tail = TOKENIZER.decode(CHAT.after(Excerpt("", "漢字😀" * 100)))
    assert len(TOKENIZER.encode(tail.removesuffix("\n```"))) <= NEAR_SUFFIX_TOKENS
    assert ("漢字😀" * 100).startswith(tail.removesuffix("\n```"))


@given(prefix=gemma_texts, middle=gemma_texts)
def test_a_fill_is_read_back(prefix: str, middle: str) -> None:
    forced = CHAT.encode(Excerpt(prefix, ""), ENOUGH).forced
    ids = TOKENIZER.encode(forced.decode() + middle)
    assert FillVocabulary(TOKENIZER, [TOKENIZER.end_id]).read(ids, forced) == (middle, False)
