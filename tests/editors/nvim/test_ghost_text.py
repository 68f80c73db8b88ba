"""What is drawn, what is accepted, and what is dropped, in every Neovim at hand. The server says what a test wants."""

from __future__ import annotations

import pytest
from editor import SCRIPTED, Editor

pytestmark = pytest.mark.editors


def test_typed_along_and_astray(editor: Editor) -> None:
    editor.plan({"text": "value + 1"})
    editor.keys("ix = ")
    editor.wait_ghost("value + 1")
    assert editor.screen() == ["x = value + 1"]
    editor.plan(held=True)  # from here on the plugin is on its own
    editor.type("va")
    editor.wait_ghost("lue + 1")
    assert editor.screen() == ["x = value + 1"]
    editor.type("x")
    editor.wait_no_ghost()
    assert editor.lines() == ["x = vax"]


def test_accept_all(editor: Editor) -> None:
    editor.plan({"text": "value + 1"})
    editor.keys("ix = ")
    editor.wait_ghost("value + 1")
    editor.plan()
    editor.keys("<Tab>")
    assert (editor.lines(), editor.cursor(), editor.ghost()) == (["x = value + 1"], (0, 13), [])
    editor.keys("<Esc>u")
    assert editor.lines() == ["x = "]  # it is a step of its own


def test_a_retyped_closer_is_replaced(editor: Editor) -> None:
    editor.plan({"text": '"hi")', "covers": 1})
    editor.keys("iprint()  # said<C-o>0<C-o>f)")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan()
    if not editor.neovim.native:
        assert [mark[2] for mark in editor.ghost()] == ['"hi"']
        assert editor.screen() == ['print("hi")  # said']
    editor.keys("<Tab>")
    assert editor.lines() == ['print("hi")  # said']
    assert editor.cursor() == (0, len('print("hi")'))


def test_a_closer_typed_by_the_user_is_not_doubled(editor: Editor) -> None:
    editor.plan({"text": '"hi")', "covers": 1})
    editor.keys("iprint()<Left>")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan(held=True)
    editor.type('"h')
    editor.keys("<Tab>")
    assert editor.lines() == ['print("hi")']


def test_several_lines(editor: Editor) -> None:
    editor.plan({"text": "x in y:\n    print(x)\n\n    done()"})
    editor.keys("iz = 1<CR>for <CR>end<Up>")
    editor.keys("<End>")
    editor.wait_ghost("x in y:\n    print(x)\n\n    done()")
    assert editor.screen() == ["z = 1", "for x in y:", "    print(x)", "", "    done()", "end"]
    editor.plan()
    editor.keys("<Tab>")
    assert editor.lines() == ["z = 1", "for x in y:", "    print(x)", "", "    done()", "end"]
    assert editor.cursor() == (4, 10)


def test_several_lines_before_a_closer(editor: Editor) -> None:
    text = "a,\n\tb,\n)"
    editor.plan({"text": text, "covers": 1})
    editor.keys("ifoo():<Esc>")
    editor.keys("0f)i")
    editor.wait(editor.ghost, "something is drawn")
    if not editor.neovim.native:
        assert editor.screen() == ["foo(a,", "        b,", "):"]
    editor.plan()
    editor.keys("<Tab>")
    assert editor.lines() == ["foo(a,", "\tb,", "):"]
    assert editor.cursor() == (2, 1)


def test_word_by_word(editor: Editor) -> None:
    editor.plan({"text": 'f(a_1, "b"):\n    x', "covers": 1})
    editor.keys("idef )<Left>")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan(held=True)
    seen = []
    while editor.lua("return require('dgemma').visible()"):
        editor.keys("<M-Right>")
        seen.append("\n".join(editor.lines()))
    assert seen == [
        "def f)",
        "def f()",
        "def f(a_1)",
        "def f(a_1,)",
        'def f(a_1, ")',
        'def f(a_1, "b)',
        'def f(a_1, "b"):',
        'def f(a_1, "b"):\n    x',
    ]


def test_line_by_line(editor: Editor) -> None:
    editor.plan({"text": "x in y:\n    print(x)\n\n    done()"})
    editor.keys("ifor ")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan(held=True)
    editor.keys("<M-C-Right>")
    assert editor.lines() == ["for x in y:"]
    editor.wait_ghost("\n    print(x)\n\n    done()")
    editor.keys("<M-C-Right>")
    assert (editor.lines(), editor.cursor()) == (["for x in y:", "    print(x)"], (1, 12))
    editor.keys("<M-C-Right><M-C-Right>")
    assert editor.lines() == ["for x in y:", "    print(x)", "", "    done()"]
    assert editor.ghost() == []


def test_part_of_it_is_accepted_then_typed(editor: Editor) -> None:
    editor.plan({"text": "value + other"})
    editor.keys("ix = ")
    editor.wait_ghost("value + other")
    editor.plan(held=True)
    editor.keys("<M-Right>")
    editor.wait_ghost(" + other")
    editor.type(" +")
    editor.wait_ghost(" other")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = value + other"]


def test_candidates(editor: Editor) -> None:
    first, second, third = {"text": "one"}, {"text": "two"}, {"text": "three"}
    editor.plan(first, invoked=[first, second, third])
    editor.keys("ix = ")
    editor.wait_ghost("one")
    editor.keys("<M-]>")
    editor.wait(lambda: "two" in editor.screen()[0] and "(2/3)" in editor.screen()[0], "the second is drawn")
    editor.keys("<M-]>")
    editor.wait(lambda: "three" in editor.screen()[0], "the third is drawn")
    editor.keys("<M-]>")
    editor.wait(lambda: "one" in editor.screen()[0], "the first is drawn again")
    editor.keys("<M-[>")
    editor.wait(lambda: "three" in editor.screen()[0], "the third is drawn again")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = three"]
    assert editor.server("received")["kinds"].count(1) == 1


def test_no_other_candidate(editor: Editor) -> None:
    editor.plan({"text": "one"})
    editor.keys("ix = ")
    editor.wait_ghost("one")
    editor.keys("<M-]>")
    editor.wait(lambda: "(1/1)" in editor.screen()[0], "it is said to be the only one")
    editor.keys("<Tab>")
    assert editor.lines() == ["x = one"]


def test_dismissed(editor: Editor) -> None:
    editor.plan({"text": "one"})
    editor.keys("ix = ")
    editor.wait_ghost("one")
    editor.keys("<C-]>")
    assert editor.ghost() == []
    editor.keys("<Tab>")
    assert editor.lines() == ["x = \t"]
    editor.wait_ghost("one")


def test_asked_for(bare: Editor) -> None:
    bare.set_up(SCRIPTED, automatic=False)
    bare.open()
    bare.plan({"text": "one"})
    bare.keys("ix = ")
    bare.keys("<M-\\>")
    bare.wait_ghost("one")
    assert bare.server("received")["kinds"] == [1]


def test_late_answers_are_dropped(editor: Editor) -> None:
    editor.plan({"text": "one"}, held=True)
    editor.keys("ix")
    editor.wait(lambda: editor.server("waiting") == 1, "the first request arrived")
    editor.keys("y")
    editor.wait(lambda: editor.server("waiting") == 2, "the second request arrived")
    editor.plan({"text": "old"}, held=True)
    editor.server("release")
    assert editor.ghost() == []
    editor.plan({"text": "new"}, held=True)
    editor.server("release")
    editor.wait_ghost("new")
    editor.keys("<Tab>")
    assert editor.lines() == ["xynew"]


def test_answers_in_the_wrong_order(editor: Editor) -> None:
    editor.plan({"text": "one"}, held=True)
    editor.keys("ix")
    editor.wait(lambda: editor.server("waiting") == 1, "the first request arrived")
    editor.keys("y")
    editor.wait(lambda: editor.server("waiting") == 2, "the second request arrived")
    editor.plan({"text": "new"}, held=True)
    editor.server("release", last=True)
    editor.wait_ghost("new")
    editor.plan({"text": "old"}, held=True)
    editor.server("release")
    assert [mark[2] for mark in editor.ghost()] == ["new"]


def test_the_text_changed_under_a_request(editor: Editor) -> None:
    editor.keys("ifirst<CR>x")
    editor.plan({"text": "one"}, held=True)
    editor.keys("y")
    editor.wait(lambda: editor.server("waiting") == 1, "the request arrived")
    editor.lua("vim.api.nvim_buf_set_lines(0, 0, 0, false, { 'above' }); vim.cmd('stopinsert')")
    editor.server("release")
    assert editor.ghost() == []
    assert editor.lines() == ["above", "first", "xy"]


@pytest.mark.parametrize("leave", ["<Esc>", "<Up>", "<Left>", "<C-o>:split<CR>"])
def test_leaving_the_place(editor: Editor, leave: str) -> None:
    editor.keys("iabove<CR>x = ")
    editor.plan({"text": "one"})
    editor.keys(" ")
    editor.wait_ghost("one")
    editor.plan()
    editor.keys(leave)
    editor.wait_no_ghost()
    assert editor.lines() == ["above", "x =  "]


def test_an_answer_after_insert_mode(editor: Editor) -> None:
    editor.plan({"text": "one"}, held=True)
    editor.keys("ix")
    editor.wait(lambda: editor.server("waiting") == 1, "the request arrived")
    editor.keys("<Esc>")
    editor.server("release")
    assert editor.ghost() == []
    assert "$/cancelRequest" in editor.server("received")["methods"]


def test_positions_beyond_ascii(editor: Editor) -> None:
    editor.plan({"text": "'ü😀')", "covers": 1, "typed": 1})
    editor.keys("ié😀(')  # 😀<Esc>0f)i")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan()
    editor.keys("<Tab>")
    assert editor.lines() == ["é😀('ü😀')  # 😀"]


def test_a_file_with_crlf(editor: Editor) -> None:
    file = editor.open("a\r\nb\r\n", "windows.py")
    assert editor.lines() == ["a", "b"]
    editor.plan({"text": " =\r\n    1"})
    editor.keys("A")
    editor.wait(editor.ghost, "something is drawn")
    editor.plan()
    editor.keys("<Tab><Esc>:write<CR>")
    assert file.read_bytes() == b"a =\r\n    1\r\nb\r\n"


@pytest.mark.parametrize(
    "item",
    [
        {"text": "one", "covers": 1},  # would delete the bracket
        {"text": ")", "covers": 1},  # writes what is there
        {"text": "one", "typed": 1},  # would replace what was typed
        {"text": ""},
    ],
)
def test_what_would_do_more_than_it_shows_is_not_shown(editor: Editor, item: dict[str, object]) -> None:
    editor.keys("if()<Left>")
    editor.plan(item)
    before = len(editor.server("received")["kinds"])
    editor.keys("x")
    editor.wait(lambda: len(editor.server("received")["kinds"]) > before, "a request was answered")
    editor.keys("")
    assert editor.ghost() == []
    editor.keys("<Tab>")
    assert editor.lines() == ["f(x\t)"]


def test_the_command_of_an_item_is_sent_once_all_is_accepted(editor: Editor) -> None:
    editor.plan({"text": "one two", "command": "test.accepted"})
    editor.keys("ix = ")
    editor.wait_ghost("one two")
    editor.plan()
    editor.keys("<M-Right>")
    assert editor.server("received")["commands"] == []
    editor.keys("<Tab>")
    editor.wait(lambda: editor.server("received")["commands"], "the command was sent")
    assert editor.server("received")["commands"] == [["test.accepted", ["one two"]]]
    assert editor.lines() == ["x = one two"]


def test_keys_typed_ahead(editor: Editor) -> None:
    """Keys that arrive together are handled before anything is drawn anew."""
    editor.plan({"text": "value + 1"})
    editor.keys("ix = ")
    editor.wait_ghost("value + 1")
    editor.plan()
    editor.keys("va<Tab>;<CR>y")
    assert editor.lines() == ["x = value + 1;", "y"]


def test_keys_typed_ahead_astray(editor: Editor) -> None:
    editor.plan({"text": "value + 1"})
    editor.keys("ix = ")
    editor.wait_ghost("value + 1")
    editor.plan()
    editor.keys("vo<Tab>;")
    assert editor.lines() == ["x = vo\t;"]


def test_a_macro_does_not_depend_on_suggestions(editor: Editor) -> None:
    editor.plan({"text": "one"})
    editor.keys("qaix = <Tab>1<Esc>q")
    assert editor.lines() == ["x = \t1"]
    editor.keys("o<Esc>@a")
    assert editor.lines() == ["x = \t1", "x = \t1"]
    assert editor.ghost() == []


SENTENCE = "def f(a, b): return [a, {'k': b}, (a < b)]  # é\n"


def test_two_hundred_keystrokes(editor: Editor) -> None:
    """While suggestions come and go at every key, the buffer is what was typed."""
    editor.lua("vim.bo.autoindent, vim.bo.indentexpr, vim.bo.formatoptions = false, '', ''")
    editor.plan({"text": "a)\n    b"}, {"text": "zz"})
    typed = (SENTENCE * 5)[:200]
    editor.keys("i")
    editor.type(typed)
    editor.wait(editor.ghost, "the last one is drawn")
    editor.keys("<Esc>")
    assert "\n".join(editor.lines()) == typed
    assert editor.ghost() == []
