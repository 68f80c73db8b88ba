"""What looks like a secret, and what does not."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from planted_secrets import FORMS, planted

from dgemma_lsp.documents import masking, secrets
from dgemma_lsp.documents.edits import Snapshot, Surroundings
from dgemma_lsp.documents.text import Text

FILES = 1_000


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_and_nothing_beside_it(form: str) -> None:
    found = [one for one in planted(20 * len(FORMS), seed=15) if one.form == form]
    assert len(found) == 20
    for one in found:
        masked = secrets.masked(f"first = 1\n{one.source}\nlast = compute(first, key=second)\n")
        assert one.secret not in masked
        assert masked.startswith("first = 1\n") and masked.endswith("\nlast = compute(first, key=second)\n")


ORDINARY = [
    'token = "ACCESS_DENIED"',
    'TOKEN_URL = "https://login.example/oauth2/token"',
    'password = getpass.getpass("Enter your password: ")',
    'password = request.form["password"]',
    'parser.add_argument("--password", help="the password of the account")',
    'label = _("Please enter the password again")',
    'password = "your-password-here"',
    'password = "${DB_PASSWORD}"',
    "password: {{ vault_password }}",
    'api_key = os.environ["API_KEY"]',
    'secret_name = "projects/shop/secrets/payment"',
    'if token.type == "STRING_LITERAL_V2":',
    'HASHES = {"numpy": "sha256:9b1f5a2e3c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f708192a3b4c5d6e7"}',
    'checksum = "d41d8cd98f00b204e9800998ecf8427e"',
    '"integrity": "sha512-z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg==",',
    'assert digest(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"',
    'commit = "755de10c0ffee0123456789abcdef0123456789a"',
    'uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"',
    'keyboard = "qwertyuiopasdfghjklzxcvbnm"',
    'sort_key = "last_changed_first"',
    'CSS = "sk-folding-cube-container sk-cube1"',
    'url = "https://example.org/a/path?key=value&page=12"',
    'def login(user: str, password: str = "") -> Token:',
    "raise PasswordError('the password must have a digit, a letter and a symbol')",
    'headers = {"Authorization": f"Bearer {token}"}',
    'git = "git@github.com:someone/something.git"',
    'public_key = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQ"',
    "-----BEGIN CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----",
]


@pytest.mark.parametrize("line", ORDINARY)
def test_what_only_looks_like_it(line: str) -> None:
    assert secrets.masked(line) == line


def test_ordinary_files_hold_next_to_none() -> None:
    """Of the files of installed packages, at most one line in a hundred."""
    files = sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py"))
    random.Random(15).shuffle(files)
    lines = flagged = 0
    for file in files[:FILES]:
        text = file.read_text("utf-8", "replace")[:100_000]
        lines += text.count("\n") + 1
        flagged += len({text.count("\n", 0, at) for start, end in secrets.spans(text) for at in range(start, end)})
    assert lines > 10_000
    assert flagged <= lines / 100


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("ab1_:=\"'`\\\n (,/@-sk.Ä"), max_size=200), st.sampled_from(list(FORMS)))
def test_spans_are_in_order_and_within_the_text(text: str, form: str) -> None:
    one = next(one for one in planted(len(FORMS), seed=len(text)) if one.form == form)
    for whole in (text, text + one.source, one.source + text):
        spans = secrets.spans(whole)
        edges = [edge for span in spans for edge in span]
        assert edges == sorted(edges) and all(start < end for start, end in spans)
        assert not edges or (edges[0] >= 0 and edges[-1] <= len(whole))


def around(text: str, offset: int = 0) -> Surroundings:
    return Surroundings(others=(Snapshot("file:///b.py", 1, "python", Text(text), offset),))


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 1.0])
def test_other_documents_are_masked_wherever_the_secret_is(at: float) -> None:
    """In a long document, which is in pieces: a private key is longer than what is left of one."""
    filler = [f"line_{number} = {number}" for number in range(900)]
    hidden = [one for one in planted(len(FORMS), seed=16) if "\\x" not in one.secret]
    for one in hidden:
        lines = [*filler]
        lines.insert(int(at * len(filler)), one.source)
        (other,) = masking.without_secrets(around("\n".join(lines))).others
        assert one.secret not in str(other.source), one.form
        assert "line_0 = 0" in str(other.source) and "line_899 = 899" in str(other.source)


def test_a_key_s_block_over_many_pieces_is_left_out_whole() -> None:
    body = "\n".join(f"{number:04d}" + "QUJD" * 15 for number in range(400))
    text = f"before = 1\n-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\nafter = 1\n"
    (other,) = masking.without_secrets(around(text)).others
    assert str(other.source) == "before = 1\n\nafter = 1\n"


def test_the_place_of_the_last_edit_moves_with_the_text() -> None:
    text = 'password = "Summer2031!"\nedited = 1\npassword = "Winter2031!"\n'
    (other,) = masking.without_secrets(around(text, text.index("edited"))).others
    assert str(other.source)[other.offset :].startswith("edited = 1\n")
    (other,) = masking.without_secrets(around(text, text.index("2031"))).others
    assert other.offset == len('password = "')


def test_documents_without_secrets_stay_the_same_object() -> None:
    plain = around("plain = 1\n" * 1000)
    assert masking.without_secrets(plain).others[0] is plain.others[0]
    held = around('password = "Summer2031!"\n')
    first, second = (masking.without_secrets(held).others[0].source for _ in range(2))
    assert first is second, "what is read once is not read again"


def test_a_document_may_repeat_its_own() -> None:
    secret = "sk-live-4f9a1c7e4f9a1c7e"
    assert masking.adds_secret(f'"{secret}"', Text("x = 1\n"))
    assert not masking.adds_secret(f'"{secret}"', Text(f'x = "{secret}"\n'))
    assert not masking.adds_secret('"plain"', Text(""))
