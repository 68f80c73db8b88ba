"""The next place to change: shown as a diff, gone to, made; and hidden as soon as it is out of date."""

from __future__ import annotations

from typing import Any

import pytest
from editor import FAKE, SCRIPTED, Editor

pytestmark = pytest.mark.editors

MARKS = """
local namespace, found = vim.api.nvim_get_namespaces().dgemma_next_edit, {}
for _, mark in ipairs(vim.api.nvim_buf_get_extmarks(0, namespace, 0, -1, { details = true })) do
  local details, text = mark[4], {}
  for _, line in ipairs({ details.virt_text or {}, unpack(details.virt_lines or {}) }) do
    table.insert(text, table.concat(vim.tbl_map(function(chunk) return chunk[1] end, line)))
  end
  table.insert(found, { mark[2], mark[3], details.hl_group or '', details.end_col or -1, table.concat(text, '\\n') })
end
return found
"""
RENAMED = "def area(width):\n    half = width / 2\n    return half * width\n"


def marks(editor: Editor) -> list[list[Any]]:
    """Row, column, highlight, end column and virtual text of each mark."""
    return list(editor.lua(MARKS))


def shown(editor: Editor, row: int, first: int, last: int, text: str) -> None:
    """Wait until exactly this edit is drawn."""

    removed, added = [row, first, "DgemmaRemoved", last, ""], [row, last, "", -1, text]

    def is_shown() -> bool:
        found = marks(editor)
        return removed in found and added in found and len(found) == 3  # the third says which key makes it

    editor.wait(is_shown, f"{text!r} for {row}:{first}-{last} is drawn, not {marks(editor)}")


def gone(editor: Editor) -> None:
    editor.wait(lambda: not marks(editor), "nothing is drawn")
    assert editor.lua("return vim.fn.maparg('<M-CR>', 'n', false, true).desc") is None


@pytest.fixture
def renaming(bare: Editor) -> Editor:
    """The real server's next edits, after a parameter was renamed where it is defined."""
    bare.set_up(FAKE, settings={"next_edit": True})
    bare.open(RENAMED)
    bare.keys("fwcwside<Esc>")
    return bare


def test_it_is_shown_gone_to_and_made_until_none_is_left(renaming: Editor) -> None:
    shown(renaming, 1, 11, 16, "side")
    assert renaming.screen()[1].split("next edit: <M-CR>")[0].rstrip() == "    half = widthside / 2"
    renaming.keys("<M-CR>")
    assert (renaming.cursor(), renaming.lines()[1]) == ((1, 11), "    half = width / 2")
    renaming.keys("<M-CR>")
    assert (renaming.cursor(), renaming.lines()[1]) == ((1, 14), "    half = side / 2")
    shown(renaming, 2, 18, 23, "side")
    renaming.keys("<M-CR><M-CR>")
    assert renaming.lines() == RENAMED.replace("width", "side").splitlines()
    gone(renaming)
    renaming.keys("u")
    assert renaming.lines() == RENAMED.replace("width", "side", 2).splitlines(), "each is a step of its own to undo"


def test_the_jump_can_be_taken_back(renaming: Editor) -> None:
    shown(renaming, 1, 11, 16, "side")
    before = renaming.cursor()
    renaming.keys("<M-CR><C-o>")
    assert renaming.cursor() == before


def test_what_the_user_does_instead_hides_it(renaming: Editor) -> None:
    shown(renaming, 1, 11, 16, "side")
    renaming.keys("i")
    gone(renaming)
    renaming.keys("<Esc>")
    shown(renaming, 1, 11, 16, "side")
    renaming.nvim.command("Dgemma pause")
    gone(renaming)
    renaming.nvim.command("Dgemma resume")
    renaming.keys("jddk")
    renaming.lua("vim.wait(200)")
    gone(renaming)


def test_it_can_be_dismissed(renaming: Editor) -> None:
    shown(renaming, 1, 11, 16, "side")
    assert renaming.lua("return require('dgemma').dismiss()") is True
    gone(renaming)
    assert renaming.lua("return { require('dgemma').dismiss(), require('dgemma').next_edit() }") == [False, False]


def test_the_key_means_what_it_meant_before(bare: Editor) -> None:
    bare.set_up(FAKE, settings={"next_edit": True})
    bare.open(RENAMED)
    bare.nvim.command("nnoremap <buffer> <M-CR> Gox<Esc>")
    bare.keys("<M-CR>u1G0fwcwside<Esc>")
    shown(bare, 1, 11, 16, "side")
    bare.keys("<M-CR><M-CR>")
    shown(bare, 2, 18, 23, "side")
    bare.keys("<M-CR><M-CR>")
    gone_to = RENAMED.replace("width", "side").splitlines()
    bare.wait(lambda: not marks(bare), "nothing is drawn")
    assert bare.lines() == gone_to
    bare.keys("<M-CR>")
    assert bare.lines() == [*gone_to, "x"]


def test_it_is_off_by_default_and_asks_nothing(editor: Editor) -> None:
    editor.keys("ione<Esc>x")
    editor.lua("vim.wait(200)")
    assert "edit" not in editor.server("received")["kinds"]


def edit(row: int, first: int, last: int, text: str) -> dict[str, Any]:
    return {
        "text": text,
        "range": {"start": {"line": row, "character": first}, "end": {"line": row, "character": last}},
    }


def test_columns_are_counted_as_agreed_and_lines_may_be_added(bare: Editor) -> None:
    bare.set_up(SCRIPTED, settings={"next_edit": True})
    bare.open("naïve = '𝒙'; old\n")
    characters = {"utf-8": 17, "utf-16": 14, "utf-32": 13}
    column = characters[bare.lua("return vim.lsp.get_clients()[1].offset_encoding")]
    bare.plan(edits=[edit(0, column, column + 3, "new\nfour")])
    bare.keys("~")
    shown(bare, 0, 17, 20, "new\nfour")
    bare.keys("<M-CR><M-CR>")
    assert bare.lines() == ["Naïve = '𝒙'; new", "four"]
    assert bare.cursor() == (1, 3)


def test_an_answer_that_is_late_is_dropped(bare: Editor) -> None:
    bare.set_up(SCRIPTED, settings={"next_edit": True})
    bare.open("one two three\n")
    bare.plan(held=True, edits=[edit(0, 4, 7, "2")])
    bare.keys("~")
    bare.wait(lambda: bare.server("waiting") == 1, "it was asked")
    bare.keys("~")
    bare.wait(lambda: bare.server("waiting") == 2, "it was asked again")
    bare.server("release")
    bare.lua("vim.wait(100)")
    assert marks(bare) == []
    bare.server("release")
    shown(bare, 0, 4, 7, "2")


def test_far_away_it_says_where(bare: Editor) -> None:
    bare.set_up(SCRIPTED, settings={"next_edit": True})
    bare.open("one\n" * 80)
    bare.plan(edits=[edit(70, 0, 3, "two")])
    bare.keys("~")
    shown(bare, 70, 0, 3, "two")
    assert bare.screen()[0] == "One  next edit in line 71: <M-CR>"
    bare.keys("<M-CR>")
    assert bare.cursor() == (70, 0)
    assert "onetwo  next edit: <M-CR>" in bare.screen()
