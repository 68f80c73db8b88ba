"""Which documents are never read, and the rule that says so."""

from __future__ import annotations

import os
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


@pytest.mark.parametrize(
    "uri",
    ["file://{0}/real.py", "file://{0}/link.py", "file://{0}/x/../link.py", "file://{0}//real.py",
     "file://{0}/re%61l.py", "git:{0}/real.py?%7B%7D", "untitled:{0}/real.py", "vscode-notebook-cell:{0}/real.py#a"],
)  # fmt: skip
@pytest.mark.parametrize("ignored", ["real.py", "link.py"])
def test_a_document_is_excluded_by_any_of_its_names(tmp_path: Path, uri: str, ignored: str) -> None:
    files(tmp_path, DOTdgemmaignore=f"{ignored}\n", **{"realDOTpy": ""})
    (tmp_path / "link.py").symlink_to("real.py")
    said = Exclusions([tmp_path.as_uri()]).rule(uri.format(tmp_path))
    if ignored == "real.py" or "link" in uri:
        assert said == f".dgemmaignore: {ignored}"


@pytest.mark.parametrize("target", [".env", ".ssh/config", "id_rsa", "keys/server.pem"])
def test_a_link_to_what_looks_secret_is_excluded(tmp_path: Path, target: str) -> None:
    (tmp_path / target).parent.mkdir(exist_ok=True)
    (tmp_path / target).write_text("")
    (tmp_path / "settings.py").symlink_to(target)
    said = rule(tmp_path, "settings.py")
    assert said is not None and said.startswith("looks secret")


@pytest.mark.parametrize("uri", ["untitled:.env", "git:/x/.env?%7B%7D", "gitlens://abc/x/.env", "zip:/a.zip::in/.env"])
def test_what_looks_secret_does_so_in_any_form(uri: str) -> None:
    assert Exclusions().rule(uri) == "looks secret: .env"


@pytest.mark.parametrize(
    "name",
    [".env~", ".env.bak", "#.env#", "server.pem.bak", "prod-secrets.yaml", "passwords.txt", "secrets/prod.yaml",
     "db_credentials.json", "api_keys.ini", "access_token.txt", ".secrets/list.csv", "auth.json"],
)  # fmt: skip
def test_more_that_looks_secret(tmp_path: Path, name: str) -> None:
    said = rule(tmp_path, name)
    assert said is not None and said.startswith("looks secret")


@pytest.mark.parametrize(
    "name", ["secrets.py", "credentials.py", "secrets/prod.py", "aws-credentials.ts", "api_keys.go", "Passwords.java"]
)
def test_programs_of_such_a_name_are_completed_and_not_shown_beside_others(tmp_path: Path, name: str) -> None:
    verdict = Exclusions([tmp_path.as_uri()]).verdict((tmp_path / name).as_uri())
    assert verdict.rule is None and verdict.own is not None and verdict.own.startswith("looks secret")


@pytest.mark.parametrize("name", ["secretary.py", "tokenizer.py", "keys.py", "environment.py", "authors.py"])
def test_names_that_say_nothing(tmp_path: Path, name: str) -> None:
    assert Exclusions([tmp_path.as_uri()]).verdict((tmp_path / name).as_uri()).own is None


HOSTILE = "[z-a]\n!\n" + "*a" * 30 + "\n[\n\\\n"


def test_hostile_patterns_concern_themselves_only(tmp_path: Path) -> None:
    files(tmp_path, DOTgitignore=f"hidden.py\n{HOSTILE}*.log\n")
    assert rule(tmp_path, "hidden.py") == ".gitignore: hidden.py"
    assert rule(tmp_path, "a.log") == ".gitignore: *.log"
    assert rule(tmp_path, "a" * 60 + "b.py") is None


def test_an_ignore_file_that_cannot_be_read_hides_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    for name in (".gitignore", ".dgemmaignore"):
        link = tmp_path / "inner" / name
        link.symlink_to("/dev/zero")
        said = rule(tmp_path, "inner/a.py")
        assert said is not None and name in said and "regular" in said
        assert rule(tmp_path, "a.py") is None
        link.unlink()
        os.mkfifo(link)
        assert rule(tmp_path, "inner/a.py") is not None
        link.unlink()
        link.write_bytes(b"x\n" * 1_000_000)
        said = rule(tmp_path, "inner/a.py")
        assert said is not None and "large" in said
        link.unlink()
        link.symlink_to(os.devnull)
        assert rule(tmp_path, "inner/a.py") is None
        link.unlink()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    for name in ("XDG_CONFIG_HOME", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    return folder


CONFIGURATIONS = {
    "~/.gitconfig": {".gitconfig": '[core]\n\texcludesFile = "~/mine" ; a comment\n', "mine": "a.py\n"},
    "~/.config/git/config": {".config/git/config": "[CORE] excludesfile=~/mine\n", "mine": "a.py\n"},
    "included": {
        ".gitconfig": "[include]\n\tpath = more\n[core]\n",
        "more": "[core]\nexcludesFile = ~/mi\\\nne\n",
        "mine": "a.py\n",
    },
    "the last one": {
        ".gitconfig": "[core]\nexcludesFile=~/no\nexcludesFile=~/mine\n",
        "no": "b.py\n",
        "mine": "a.py\n",
    },
    "~/.config/git/ignore": {".config/git/ignore": "a.py\n"},
}


@pytest.mark.parametrize("contents", CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_what_the_user_ignores_everywhere_is_ignored(tmp_path: Path, home: Path, contents: dict[str, str]) -> None:
    for name, content in contents.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(content)
    repository = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    for name in ("a.py", "in/a.py", "b.py"):
        said = subprocess.run(["git", "-C", str(repository), "check-ignore", "-q", "--no-index", name], check=False)
        assert (rule(repository, name) is not None) is (said.returncode == 0), name
    assert rule(repository, "a.py") == "core.excludesFile: a.py"
    (repository / ".gitignore").write_text("!a.py\n")
    assert rule(repository, "a.py") is None, "a file of the repository goes before it"


def test_a_user_s_ignore_file_that_cannot_be_read_is_none(tmp_path: Path, home: Path) -> None:
    (home / ".gitconfig").write_text("[core]\nexcludesFile = /dev/zero\n")
    assert rule(tmp_path / "project", "a.py") is None
    (home / ".gitconfig").unlink()
    (home / ".gitconfig").symlink_to("/dev/zero")
    assert rule(tmp_path / "project", "a.py") is None


def test_the_repository_s_own_configuration_and_worktrees(tmp_path: Path, home: Path) -> None:
    repository, tree = tmp_path / "repository", tmp_path / "tree"
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(repository)], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "worktree", "add", "-q", str(tree)], check=True)
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "exclude").write_text("mine.py\n")
    (tmp_path / "more").write_text("more.py\n")
    subprocess.run([*git, "config", "core.excludesFile", str(tmp_path / "more")], check=True)
    subprocess.run([*git, "config", "core.ignoreCase", "true"], check=True)
    for root in (repository, tree):
        assert rule(root, "mine.py") == ".git/info/exclude: mine.py"
        assert rule(root, "MORE.py") == "core.excludesFile: more.py"


def test_an_ignored_folder_that_is_a_repository_is_ignored(tmp_path: Path) -> None:
    files(
        tmp_path, DOTgitignore="vendor/\n*.py\n", DOTgit__HEAD="", vendor__DOTgit__HEAD="", free__DOTgit__HEAD="",
        DOTdgemmaignore="private.rs\n",
    )  # fmt: skip
    assert rule(tmp_path, "vendor/a.rs") == ".gitignore: vendor/"
    assert rule(tmp_path, "vendor/deep/a.rs") == ".gitignore: vendor/"
    assert rule(tmp_path, "free/a.py") is None, "a repository inside another one has its own rules"
    assert rule(tmp_path, "free/private.rs") == ".dgemmaignore: private.rs", "our own file speaks of all below it"
    assert rule(tmp_path / "vendor", "a.rs") is None, "whoever opens it as his workspace means to read it"
