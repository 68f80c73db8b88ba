"""Laws of the plugin's arithmetic of suggestions, in the editor's own Lua."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pynvim
import pytest
from editor import PLUGIN
from hypothesis import given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.editors

TEXT = st.text("ab ()\"'é😀\n\t", max_size=12)
LINE = st.text("ab ()\"'é😀\t", max_size=6)
CLOSERS = st.text("()\"'é😀", max_size=3)

TAKE = """
local before, covered, after, text, share, by = ...
local suggestion = require('dgemma.suggestion')
local item = { insertText = text, range = {
  start = { line = 0, character = #before }, ['end'] = { line = 0, character = #before + #covered } } }
local buffer = vim.api.nvim_create_buf(false, true)
local line = before .. covered .. after
vim.api.nvim_buf_set_lines(buffer, 0, -1, true, { line })
local asked = { sequence = 1, tick = 1, row = 0, column = #before, line = line }
local left = suggestion.from_item(item, asked, function(_, character) return character end)
if not left then return nil end
local pieces, interleaved, at = suggestion.pieces(left), '', #before
for _, piece in ipairs(pieces) do
  interleaved = interleaved .. line:sub(at + 1, piece.column) .. piece.text
  at = piece.column
end
interleaved = interleaved .. line:sub(at + 1, #before + #covered)
local steps = 0
while left do
  local edit
  edit, left = suggestion.take(left, suggestion[by](left.text))
  vim.api.nvim_buf_set_text(buffer, edit.row, edit.first, edit.row, edit.last, edit.lines)
  steps = steps + 1
  assert(steps < 100)
end
local lines = vim.api.nvim_buf_get_lines(buffer, 0, -1, true)
vim.api.nvim_buf_delete(buffer, { force = true })
return { table.concat(lines, '\\n'), interleaved }
"""


@pytest.fixture(scope="module")
def lua() -> Iterator[pynvim.Nvim]:
    path = str(Path(sys.executable).with_name("nvim"))
    with pynvim.attach("child", argv=[path, "--embed", "--headless", "--clean", "-n", "-i", "NONE"]) as nvim:
        nvim.command(f"set rtp^={PLUGIN}")
        yield nvim


def is_subsequence(part: str, whole: str) -> bool:
    left = iter(whole)
    return all(character in left for character in part)


@settings(max_examples=300, deadline=None)
@given(LINE, CLOSERS, LINE, TEXT, st.sampled_from(["word_length", "line_length"]))
def test_taking_it_piece_by_piece_is_taking_it(
    lua: pynvim.Nvim, before: str, covered: str, after: str, text: str, by: str
) -> None:
    taken = lua.exec_lua(TAKE, before, covered, after, text, 0, by)
    if text == covered or not is_subsequence(covered, text):
        assert taken is None
        return
    whole, interleaved = taken
    assert whole == before + text + after
    assert interleaved == text


TYPE = """
local before, covered, text, typed = ...
local suggestion = require('dgemma.suggestion')
local shown = { row = 3, before = before, covered = covered, after = '!', text = text }
local line = before .. typed .. covered .. '!'
return suggestion.rest(shown, 3, #before + #typed, line)
"""


@settings(max_examples=300, deadline=None)
@given(LINE, CLOSERS, st.text("ab ()\"'é😀\n\t", min_size=1, max_size=12), st.integers(0, 12), st.booleans())
def test_typing_along_leaves_the_rest(
    lua: pynvim.Nvim, before: str, covered: str, text: str, count: int, astray: bool
) -> None:
    typed = text.partition("\n")[0][:count] + ("?" if astray else "")
    rest = lua.exec_lua(TYPE, before, covered, text, typed)
    left = text[len(typed) :]
    if astray or left == covered or not is_subsequence(covered, left):
        assert rest is None
    else:
        assert (rest["text"], rest["before"], rest["covered"]) == (left, before + typed, covered)
