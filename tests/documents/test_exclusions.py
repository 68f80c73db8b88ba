"""Which documents are never read, and the rule that says so."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dgemma_lsp.documents.exclusions import MAX_CHARS, MAX_LINE_CHARS, Exclusions, path_of, size_rule


def files(root: Path, **contents: str) -> None:
    for name, content in contents.items():
        path = root / name.replace("__", "/").replace("DOT", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def rule(root: Path, name: str) -> str | None:
    return Exclusions([root.as_uri()]).rule((root / name).as_uri())


@pytest.mark.parametrize(
    "name",
    [".env", ".env.local", "prod.env", "server.pem", "id_rsa", "id_ed25519", "secrets.yaml", ".aws/config", "a.key",
     ".ssh/known_hosts", "credentials.json", ".NETRC", "terraform.tfvars"],
)  # fmt: skip
def test_what_looks_secret(tmp_path: Path, name: str) -> None:
    said = rule(tmp_path, name)
    assert said is not None and said.startswith("looks secret")


@pytest.mark.parametrize(
    "name", [".env.example", "id_rsa.pub", "secrets.py", "environment.py", "keys.py", "config.json", "settings.json"]
)
def test_what_only_sounds_secret(tmp_path: Path, name: str) -> None:
    assert rule(tmp_path, name) is None


def test_gitignore_says_which_line(tmp_path: Path) -> None:
    files(tmp_path, DOTgitignore="# made\n\nbuild/\n*.gen.py\n!kept.gen.py\n")
    assert rule(tmp_path, "build/deep/a.py") == ".gitignore: build/"
    assert rule(tmp_path, "a.gen.py") == ".gitignore: *.gen.py"
    assert rule(tmp_path, "kept.gen.py") is None
    assert rule(tmp_path, "build.py") is None


def test_an_inner_file_has_the_last_word_but_not_over_a_hidden_folder(tmp_path: Path) -> None:
    files(tmp_path, DOTgitignore="*.log\nhidden/\n", inner__DOTgitignore="!*.log\n", hidden__DOTgitignore="!*\n")
    assert rule(tmp_path, "a.log") is not None
    assert rule(tmp_path, "inner/a.log") is None
    assert rule(tmp_path, "hidden/a.py") == ".gitignore: hidden/"


def test_our_own_file_adds_to_it(tmp_path: Path) -> None:
    files(tmp_path, DOTgitignore="!private/\n", DOTdgemmaignore="private/\n")
    assert rule(tmp_path, "private/a.py") == ".dgemmaignore: private/"


def test_a_rule_counts_as_soon_as_it_is_written(tmp_path: Path) -> None:
    exclusions, file = Exclusions([tmp_path.as_uri()]), (tmp_path / "a.py").as_uri()
    assert exclusions.rule(file) is None
    files(tmp_path, DOTgitignore="a.py\n")
    assert exclusions.rule(file) == ".gitignore: a.py"
    files(tmp_path, DOTgitignore="another.py\n")
    assert exclusions.rule(file) is None


def test_rules_above_the_folder_count_up_to_the_repository(tmp_path: Path) -> None:
    files(tmp_path, DOTgitignore="*.py\n", repo__DOTgit__info__exclude="mine.py\n", repo__DOTgitignore="x/\n")
    inner = tmp_path / "repo" / "sub"
    assert rule(inner, "a.py") is None  # the file above the repository is none of its business
    assert rule(inner, "x/a.py") == ".gitignore: x/"
    assert rule(inner, "mine.py") == ".git/info/exclude: mine.py"


def test_each_folder_of_a_workspace_has_its_own(tmp_path: Path) -> None:
    files(tmp_path, one__DOTdgemmaignore="a.py\n", two__b="")
    exclusions = Exclusions([(tmp_path / name).as_uri() for name in ("one", "two")])
    assert exclusions.rule((tmp_path / "one" / "a.py").as_uri()) is not None
    assert exclusions.rule((tmp_path / "two" / "a.py").as_uri()) is None


def test_it_agrees_with_git(tmp_path: Path) -> None:
    patterns = "*.o\n!keep.o\n/top.txt\ndoc/**/gen\nsub/\n**/deep/*.py\na b\\ \n[xy].c\n"
    files(tmp_path, DOTgitignore=patterns, in__DOTgitignore="!top.o\ntop.txt\n/only.py\n")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    names = ["a.o", "keep.o", "top.txt", "in/top.txt", "doc/x/y/gen", "doc/gen/z", "sub/a", "in/sub/a.py", "x.c", "z.c",
             "q/deep/a.py", "q/deep/e/a.py", "in/top.o", "in/only.py", "in/p/only.py", "in/a.o"]  # fmt: skip
    said = subprocess.run(
        ["git", "-C", str(tmp_path), "check-ignore", "--no-index", "--stdin"],
        input="\n".join(names), text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert [name for name in names if rule(tmp_path, name)] == said.stdout.splitlines()


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///a/b%20c.py", "/a/b c.py"),
        ("vscode-notebook-cell:/a/n.ipynb#W0sZmlsZQ%3D%3D", "/a/n.ipynb"),
        ("untitled:Untitled-1", None),
        ("file:relative.py", None),
        ("file:///a%00b", None),
        ("http://[", None),
        ("", None),
    ],
)
def test_paths(uri: str, path: str | None) -> None:
    assert path_of(uri) == (None if path is None else Path(path))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_no_uri_is_too_odd(uri: str) -> None:
    exclusions = Exclusions([uri, "file:///"])
    for odd in (uri, f"file:///{uri}", f"untitled:{uri}"):
        assert exclusions.rule(odd) is None or isinstance(exclusions.rule(odd), str)


def test_sizes() -> None:
    assert size_rule("x = 1\n" * 100_000, 300_000) is None
    assert size_rule("x" * MAX_CHARS + "\n\n", MAX_CHARS + 1) is not None
    long = "x" * (MAX_LINE_CHARS + 1)
    assert size_rule(f"a\n{long}\nb", 2) is not None
    assert size_rule(f"a\n{long}\nb", 2 + MAX_LINE_CHARS + 1) is not None
    assert size_rule(f"a\n{long}\nb", 0) is None
    assert size_rule(f"a\n{long}\nb", len(long) + 3) is None
    assert size_rule("", 0) is None
