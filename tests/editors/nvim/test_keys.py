"""A key means what it meant before, unless a suggestion is visible; and Tab even then, where it has something to do."""

from __future__ import annotations

from pathlib import Path

import pytest
from editor import SCRIPTED, Editor, Neovim

pytestmark = pytest.mark.editors

SOMETHING = {"text": "one"}


def show_something(editor: Editor, keys: str = "ix = ") -> None:
    editor.plan(SOMETHING)
    editor.keys(keys)
    editor.wait_ghost("one")
    editor.plan(held=True)


@pytest.mark.parametrize(
    "keys",
    [
        "i\tx<Tab>y<Esc>",
        ":set expandtab sw=4 sts=4<CR>iab<Tab>c<Tab><Tab>d<BS>e<Esc>",
        "ia<M-Right>b<Esc>",
        "ia b<Esc>i<M-C-Right>c<Esc>",
        "ia<CR>b<M-[>c<M-]>d<Esc>",
        ":iabbrev abc alphabet<CR>iabc<C-]>d abc<C-]><Esc>",
        "ione<Tab>two<Esc>.u.",
        "i<C-v><Tab><C-k>e:<Esc>",
    ],
)
def test_without_a_suggestion_keys_do_what_they_do_without_the_plugin(
    neovim: Neovim, tmp_path: Path, keys: str
) -> None:
    def outcome(folder: str, *, with_plugin: bool) -> tuple[list[str], tuple[int, int], str]:
        editor = Editor(neovim, tmp_path / folder)
        editor.nvim.command("filetype plugin off | filetype indent off")
        if with_plugin:
            editor.set_up(SCRIPTED)
            editor.open()
        editor.keys(keys)
        found = editor.lines(), editor.cursor(), editor.nvim.api.get_mode()["mode"]
        editor.close()
        return found

    assert outcome("with", with_plugin=True) == outcome("without", with_plugin=False)


def test_tab_in_the_popup_menu(editor: Editor) -> None:
    editor.nvim.command(
        "set completeopt=menuone,noinsert,noselect | inoremap <expr> <Tab> pumvisible() ? '<C-n>' : 'T'"
    )
    editor.keys("ioneself onerous<CR>x = ")
    show_something(editor, " ")
    editor.plan({"text": "erous()"})
    editor.type("on")
    editor.nvim.input("<C-x><C-n>")
    editor.wait(lambda: editor.nvim.funcs.pumvisible(), "the menu is there")
    editor.wait_ghost("erous()")
    editor.keys("<Tab>")
    assert editor.lines()[1] in ("x =  oneself", "x =  onerous")


def test_tab_in_a_snippet(editor: Editor) -> None:
    editor.nvim.command(
        "inoremap <expr> <Tab> v:lua.vim.snippet.active({'direction': 1}) ? '<Cmd>lua vim.snippet.jump(1)<CR>' : 'T'"
    )
    editor.plan(SOMETHING)
    editor.keys("i")
    editor.lua("vim.snippet.expand('f(${1:first}, ${2:second})$0')")
    editor.keys("a")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan(held=True)
    editor.keys("<Tab>")
    editor.keys("b")
    assert editor.lines() == ["f(a, b)"]


@pytest.mark.parametrize("plugin", ["cmp", "luasnip"])
def test_tab_in_what_another_plugin_shows(editor: Editor, plugin: str) -> None:
    call = {"cmp": "visible", "luasnip": "locally_jumpable"}[plugin]
    editor.lua(
        "local name, call = ... package.loaded[name] = { [call] = function() return _G.shown end }", plugin, call
    )
    editor.nvim.command("inoremap <Tab> T")
    show_something(editor)
    editor.lua("_G.shown = true")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = T"]
    show_something(editor, " ")
    editor.lua("_G.shown = false")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = T one"]


def test_tab_indents_before_a_suggestion_that_is_indented(editor: Editor) -> None:
    editor.plan({"text": "    return x"})
    editor.keys("idef f(x):<CR>")
    editor.wait_ghost("    return x")
    editor.plan(held=True)
    editor.keys("<Tab>")
    assert editor.lines() == ["def f(x):", "\t"]


USERS = {
    "string": "vim.keymap.set('i', '<Tab>', 'U', { remap = %s })",
    "another mapping": "vim.keymap.set('i', '<Plug>u', 'U'); vim.keymap.set('i', '<Tab>', '<Plug>u', { remap = true })",
    "function": "vim.keymap.set('i', '<Tab>', function() vim.api.nvim_put({ 'U' }, 'c', false, true) end)",
    "expression": "vim.keymap.set('i', '<Tab>', function() return 'U' end, { expr = true })",
    "keys of an expression": "vim.keymap.set('i', '<Tab>', function() return 'X<BS>U' end, { expr = true })",
    "Vim script": "vim.cmd([[inoremap <silent> <expr> <Tab> 'U' .. '']])",
    "itself": "vim.cmd([[imap <Tab> <Tab><BS>U]])",
    "of the buffer": "vim.keymap.set('i', '<Tab>', 'U', { buffer = true })",
}


@pytest.mark.parametrize("kind", USERS)
def test_mappings_of_the_user(bare: Editor, kind: str) -> None:
    bare.nvim.command("filetype plugin off | filetype indent off")
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.lua(USERS[kind].replace("%s", "false"))
    bare.set_up(SCRIPTED)
    bare.nvim.command("set filetype=python")
    bare.wait_attached()
    bare.keys("ia<Tab>b<Tab><Tab>c")
    assert bare.lines() == ["aUbUUc"]
    show_something(bare, " = ")
    bare.keys("<Tab>d<Tab>e")
    assert bare.lines() == ["aUbUUc = onedUe"]


def test_mappings_made_later(editor: Editor) -> None:
    editor.lua("vim.keymap.set('i', '<Tab>', 'U')")
    editor.keys("ia<Tab>b")
    show_something(editor, " = ")
    editor.keys("<Tab>")
    assert editor.lines() == ["aUb = one"]


def test_mappings_are_given_back(editor: Editor) -> None:
    def maps(key: str) -> object:
        return editor.lua("return vim.fn.maparg(..., 'i', false, true).desc or false", key)

    assert maps("<M-Right>") == "dgemma: accept word"
    editor.lua("vim.keymap.set('i', '<M-]>', 'mine', { buffer = true })")
    editor.lua("vim.lsp.buf_detach_client(0, vim.lsp.get_clients({ name = 'dgemma' })[1].id)")
    editor.wait(lambda: maps("<M-Right>") is False, "the key is free again")
    assert editor.lua("return vim.fn.maparg('<M-]>', 'i')") == "mine"


def test_a_buffers_own_mapping_is_given_back(bare: Editor) -> None:
    bare.nvim.command(f"edit {bare.home}/module.py")
    bare.lua("vim.keymap.set('i', '<Tab>', 'U', { buffer = true })")
    bare.set_up(SCRIPTED)
    bare.wait_attached()
    bare.lua("vim.lsp.buf_detach_client(0, vim.lsp.get_clients({ name = 'dgemma' })[1].id)")
    bare.keys("i<Tab>")
    bare.wait(lambda: bare.lua("return vim.fn.maparg('<Tab>', 'i')") == "U", "the mapping is back")
    assert bare.lines() == ["U"]


# ------------------------------------------------------------- other plugins

MAPS_OVER = """
vim.keymap.set('i', '<Tab>', '<C-e>', { buffer = true, desc = 'blink.cmp' })
vim.keymap.set('i', '<M-Right>', '<C-e>', { buffer = true, desc = 'cmp.utils.keymap.set_map' })
vim.keymap.set('i', '<M-]>', function() end, { buffer = true, desc = '[copilot] next suggestion' })
"""
"""As these plugins map keys of a buffer: the first two pass them on, the third does not."""


def health(editor: Editor) -> str:
    editor.nvim.command("checkhealth dgemma")
    return "\n".join(editor.lines())


def test_keys_that_another_plugin_has_taken_are_said_once(editor: Editor) -> None:
    editor.lua(MAPS_OVER)
    for _ in range(2):
        editor.keys("i<Esc>")
        editor.wait(editor.notices, "it is said")
    said = "dgemma: keys that are mapped already: <M-]> (next) by [copilot] next suggestion; see :checkhealth dgemma"
    assert editor.notices() == [said]
    shown = health(editor)
    assert "<M-]> (next) is also mapped by: [copilot] next suggestion, which comes first" in shown
    assert "setup({ keys = { next = '<C-l>' } })" in shown
    for key, plugin in (("<Tab> (accept)", "blink.cmp"), ("<M-Right> (accept_word)", "nvim-cmp")):
        assert f"{key} is also mapped by: {plugin}; it is for whoever has something to show" in shown


def test_a_key_that_is_passed_on_is_no_matter(bare: Editor) -> None:
    bare.lua("vim.keymap.set('i', '<M-[>', function() end, { desc = '[copilot] prev suggestion' })")
    bare.lua("vim.keymap.set('i', '<M-\\\\>', 'asked')")
    bare.set_up(SCRIPTED, keys={"suggest": False})
    bare.open()
    bare.keys("i<Esc>")
    bare.lua("vim.wait(100)")
    assert bare.notices() == []
    assert "<M-[> (previous) is also mapped by: [copilot] prev suggestion; it is" in health(bare)


def test_a_key_to_ask_by_that_the_user_has_mapped_is_said(bare: Editor) -> None:
    bare.lua("vim.keymap.set('i', '<M-\\\\>', 'asked')")
    bare.set_up(SCRIPTED)
    bare.open()
    bare.keys("i<Esc>")
    bare.wait(bare.notices, "it is said")
    assert "<M-\\> (suggest) by asked" in bare.notices()[0]


@pytest.mark.parametrize("keys", [False, {"accept": False, "accept_word": "<C-f>"}])
def test_keys_that_were_not_asked_for(bare: Editor, keys: object) -> None:
    bare.nvim.command("filetype plugin off | filetype indent off")
    bare.set_up(SCRIPTED, keys=keys)
    bare.open()
    show_something(bare)
    bare.keys("<Tab>")
    assert bare.lines() == ["x = \t"]
    assert bare.lua("return vim.fn.maparg('<C-f>', 'i', false, true).desc or false") == (
        "dgemma: accept word" if keys else False
    )


def test_functions_for_keys_of_ones_own(bare: Editor) -> None:
    bare.set_up(SCRIPTED, keys=False)
    bare.open()
    accept = "require('dgemma').accept() or vim.api.nvim_put({ 'no' }, 'c', false, true)"
    bare.lua(f"vim.keymap.set('i', '<C-f>', function() return {accept} end)")
    show_something(bare)
    bare.keys("<C-f><C-f>")
    assert bare.lines() == ["x = oneno"]
