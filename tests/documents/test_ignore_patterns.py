"""Patterns of ignore files: git's meaning, in linear time."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dgemma_lsp.documents.ignore_patterns import IgnorePattern, deciding, patterns

ATOMS = [
    *("*", "**", "?", "/", "a", "b", "ab", "x.py", "[ab]", "[!a]", "[^b]", "[a-c]", "[z-a]", "[[:alpha:]]"),
    *("[[:nope:]]", "[]a]", "[", "]", "\\", "\\*", "!", "#", " ", "/**/", "**/", "/**", "-", "[a/b]", "é", "[^é]"),
    *("\\/", ".", "A", "[A-Z]", "\t", "\r"),
]
NAMES = ["a", "b", "ab", "aab", "x.py", "c", "é", "a b", "-", "[", "]", "*", "!", "#a", "A", "Ab", "\\", "bax.py", "a "]
PATTERN = st.lists(st.sampled_from(ATOMS), min_size=1, max_size=6).map("".join)
PATH = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)


def deciding_line(rules: tuple[IgnorePattern, ...], path: str, *, ignore_case: bool = False) -> str:
    """The line that decides about a file, or about the outermost ignored folder that it is in."""
    parts = path.split("/")
    found = None
    for depth in range(1, len(parts) + 1):
        is_folder = depth < len(parts)
        found = deciding(rules, "/".join(parts[:depth]), is_folder=is_folder, ignore_case=ignore_case)
        if found is not None and found.excludes:
            break
    return "" if found is None else found.line


def git_lines(repository: Path, paths: list[str]) -> list[str]:
    """What git names as the deciding line for each path."""
    said = subprocess.run(
        ["git", "-C", str(repository), "check-ignore", "--no-index", "--stdin", "-z", "-v", "-n"],
        input="\0".join(paths).encode(), capture_output=True, check=False,
    )  # fmt: skip
    fields = said.stdout.decode().split("\0")
    return [fields[at + 2] for at in range(0, len(fields) - 1, 4)]


@pytest.fixture(scope="module", params=[False, True], ids=["case counts", "case does not count"])
def repository(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Path, bool]:
    folder = tmp_path_factory.mktemp("repository")
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    subprocess.run(["git", "-C", str(folder), "config", "core.ignorecase", str(request.param).lower()], check=True)
    return folder, bool(request.param)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(PATTERN, min_size=1, max_size=5),
    paths=st.lists(PATH, min_size=10, max_size=40, unique=True),
    ending=st.sampled_from(["", "\n", "\r\n"]),
)
def test_it_agrees_with_git(repository: tuple[Path, bool], lines: list[str], paths: list[str], ending: str) -> None:
    folder, ignore_case = repository
    content = ("\n".join(lines) + ending).encode()
    (folder / ".git" / "info" / "exclude").write_bytes(content)
    rules = patterns(content, ignore_case=ignore_case)
    ours = [deciding_line(rules, path, ignore_case=ignore_case) for path in paths]
    assert ours == [line.removesuffix("\r") for line in git_lines(folder, paths)]


@pytest.mark.parametrize("stars", [8, 40, 400])
def test_no_pattern_is_exponential(stars: int) -> None:
    """With a matcher that tries every way to share out the stars, this does not end."""
    rules = patterns(b"*a" * stars + b"\n" + b"**/" * stars + b"x\n" + b"[!b]*" * (stars // 5) + b"c\n")
    assert deciding(rules, "a" * 255, is_folder=False) is (rules[0] if stars < 255 else None)
    assert deciding(rules, "/".join(["a" * 60 + "b"] * 20), is_folder=False) is None


@pytest.mark.parametrize("bad", ["[z-a]", "!", "/", "[", "[[:nope:]]", "\\", "**", "a" * 3000, "\0", "!["])
def test_a_bad_pattern_concerns_itself_only(bad: str) -> None:
    rules = patterns(f"a.py\n{bad}\n*.log\n".encode())
    for path, line in (("a.py", "a.py"), ("b.log", "*.log")):
        found = deciding(rules, path, is_folder=False)
        assert found is not None and found.line in (line, "**")


def test_not_text_and_too_much_of_it() -> None:
    assert deciding(patterns(b"\xff\xfe*\n"), "\udcff\udcfea", is_folder=False) is not None
    assert deciding(patterns(b"x*y\n" * 100_000), "x" * 200 + "z", is_folder=False) is None
    assert deciding(patterns(b"\xef\xbb\xbfa.py\n"), "a.py", is_folder=False) is not None
