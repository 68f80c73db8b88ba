"""What looks like a secret in a text: never shown beside another document, never copied into a suggestion.

Four kinds are found: tokens with a form of their own (`token_forms`), blocks of private keys, passwords in connection
strings and command lines, and literals that are assigned to a secret-looking name. Hashes, test vectors and identifiers
do not count as secrets by themselves. A name like `checksum` says that its literal is none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from enum import Enum, auto
from functools import lru_cache

from dgemma_lsp.documents import token_forms

Span = tuple[int, int]
"""Start and end in code points."""

# ------------------------------------------------------------------------------------------ blocks, uris, command lines

_KEY_BEGINS = re.compile(
    r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|PuTTY-User-Key-File-\d+:"
    r"|---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----"
)
_KEY_ENDS = re.compile(
    r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----|Private-MAC: *[0-9a-f]+"
    r"|---- END SSH2 ENCRYPTED PRIVATE KEY ----"
)
_URI_PASSWORD = re.compile(r"(?<=://)([^\s/:@\"'`<>{}$]{0,128}):([^\s/@\"'`<>]{3,256})(?=@[\w\[%.{$-])")
_URI_KEY = re.compile(r"(?<=://)([0-9a-f]{32}|[A-Za-z0-9_\-]{24,256})(?=@)")
"""A key in the place of a user's name, as Sentry writes it."""
_URI_PARAMETER = re.compile(
    r"[?&;](?:sig|signature|access_token|api_?key|apikey|key|token|auth|secret|password|code|X-Amz-Signature"
    r"|X-Amz-Security-Token|X-Goog-Signature)=([A-Za-z0-9%+/=_.~\-]{12,2000})",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"\b(?:[Bb]earer|[Bb]asic|[Tt]oken|[Aa]pi[Kk]ey|BEARER|BASIC)[ \t]{1,8}([A-Za-z0-9_\-.~+/=]{12,2000})"
)
_OPTION = re.compile(
    r"--?(?:pass(?:word|wd|phrase)?|token|secret|api-?key|auth-token|access-token|client-secret|secret-key)"
    r"(?:=|[ \t]{1,8})[\"']?([^\s\"'<>{}$\[\](),|]{6,256})",
    re.IGNORECASE,
)
_USER_OPTION = re.compile(r"(?:\s-u|--user)[ =]{1,8}[\"']?[\w.@+-]{1,64}:([^\s\"'<>{}$]{3,128})")
_NETRC = re.compile(r"\blogin\s{1,40}\S{1,128}\s{1,40}password\s{1,40}(\S{3,256})")
_SQL = re.compile(r"(?i:(?<=identified by )|(?<=password )|(?<=password = )|(?<=password=))N?'([^'\n]{3,256})'")
_XML = re.compile(
    r"<(?:[\w.-]{1,40}:)?[\w.-]{0,40}(?:passw(?:or)?d|passphrase|secret|token|api-?key)[\w.-]{0,40}(?:\s[^<>\n]{0,200})?>"
    r"\s{0,80}([^<>\s][^<>\n]{2,255})\s{0,80}</",
    re.IGNORECASE,
)
_XML_VALUE = re.compile(
    r"(?:name|key)=[\"'][\w.:-]{0,60}(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key)[\w.-]{0,60}[\"']"
    r"\s{1,40}value=[\"']([^\"'\n]{3,256})[\"']",
    re.IGNORECASE,
)
_PGPASS = re.compile(r"^[\w.*-]{1,256}:(?:\d{1,5}|\*):[\w*-]{1,64}:[\w*-]{1,64}:(\S{3,256})$", re.MULTILINE)


class _Judge(Enum):
    """What must be true of a value in a suspicious place, apart from not being a placeholder."""

    NOTHING = auto()
    NO_WORDS = auto()
    """It is not made of words: to speak of "token expired" or "basic authentication" is no secret."""
    PASSWORD = auto()
    """It could be a password's literal."""


_IN_CONTEXT = (
    ("://", _URI_PASSWORD, _Judge.NOTHING),
    ("://", _URI_KEY, _Judge.NO_WORDS),
    ("=", _URI_PARAMETER, _Judge.NO_WORDS),
    (" ", _HEADER, _Judge.NO_WORDS),
    ("-", _OPTION, _Judge.PASSWORD),
    (":", _USER_OPTION, _Judge.NOTHING),
    ("login", _NETRC, _Judge.NOTHING),
    ("'", _SQL, _Judge.PASSWORD),
    ("</", _XML, _Judge.PASSWORD),
    ("value=", _XML_VALUE, _Judge.PASSWORD),
    (":", _PGPASS, _Judge.PASSWORD),
)
"""Letters that a text must have, an expression whose last group is the value, and how the value is judged."""

# --------------------------------------------------------------------------------------------------------- named values

_STEMS = (
    "passw", "passphrase", "pwd", "secret", "credential", "token", "bearer", "contraseña",
    "key", "auth", "cert", "cookie", "session", "jwt", "hmac", "dsn", "webhook", "psk", "pass", "login",
)  # fmt: skip
"""What a secret-looking name has in it, in small letters."""
_STRONG_NAME = re.compile(
    r"passw(?:or)?d|passwort|passphrase|pwd|secret|credential|token|contraseña|bearer"
    r"|(?:api|access|private|account|shared|master|encryption|signing|license|auth|subscription|deploy|app|service"
    r"|storage|consumer|webhook)[_-]?key",
    re.IGNORECASE,
)
"""A name that hardly means anything else. The other stems must be words of their own, and their values long."""
_WEAK_NAME = re.compile(
    r"(?:^|[^a-zA-Z]|(?<=[a-z])(?=[A-Z]))(?i:key|auth|cert|cookie|session|jwt|hmac|dsn|webhook|psk|pass|login)(?![a-z])"
)
_PASSWORD_NAME = re.compile(r"passw(?:or)?d|passphrase|passwort|pwd|contraseña", re.IGNORECASE)
_INNOCENT_NAME = re.compile(
    r"public[_-]?key|checksum|digest|fingerprint|integrity|sha\d|md5|key[_-]?error|keyword|keyboard|tokeniz|tokens?_?type"
    r"|token[_-]?(?:ur[il]|endpoint|path|file|name|class|kind)|secret[_-]?name|key[_-]?(?:name|path|file|id$|prefix|format)"
    r"|primary[_-]?key|foreign[_-]?key|sort[_-]?key|cache[_-]?key|pubkey",
    re.IGNORECASE,
)
_NAME_CHARS = 40
_NAME_REST = re.compile(r"[\w.\-]{0,80}")
_BETWEEN = re.compile(
    r"""["'`\])]{0,3}[ \t]{0,80}
    (?: (?::[ \t]{0,8}[^=\n"'`(]{1,60}?)? [ \t]{0,80} (?::=|=>|={1,3}|!=|:|->|\?=|\+=) | , | [ \t] (?=["'`]) )
    \s{0,80} (?:[({\[]\s{0,80})? (?:[\w.:]{1,40}\((?:\s*[\w.]{1,40}\s*,)?\s*)? """,
    re.VERBOSE,
)
"""From a name to its literal: `= `, `: str = `, `" => `, `'] = (`, `, `, `= os.environ.get(NAME, `."""
_LITERAL = re.compile(
    r"""(?:[A-Za-z]{0,3}) (?: \"{3}(?P<a>(?:[^\\]|\\.){0,4000}?)\"{3} | '{3}(?P<b>(?:[^\\]|\\.){0,4000}?)'{3}
    | "(?P<c>(?:[^"\\\n]|\\.){0,4000})" | '(?P<d>(?:[^'\\\n]|\\.){0,4000})' | `(?P<e>[^`]{0,4000})` )""",
    re.VERBOSE | re.DOTALL,
)
_FURTHER = re.compile(r"[ \t]{0,80}(?:\\\n|[,+.:]|=>|\n)?\s{0,80}(?=[A-Za-z]{0,3}[\"'`])")
_BARE = re.compile(r"[ \t]{0,80}(?::=|\?=|[=:])[ \t]{0,80}(?P<value>[^\s\"'`#;,&(){}\[\]<>$|]{8,256})(?P<after>.?)")
_BARE_REST = re.compile(r"[^\s\"'`;,]*")
_LITERALS = 24
"""How many literals in a row one name may have."""

_PLACEHOLDER = re.compile(
    r"^[\s*xX.#_\-•0]*$|^<.*>$|^\$\{?\w+\}?$|^%\w*%?$|^\{.*\}$|\$\{|\{\{|%\(\w+\)|%s(?!\w)"
    r"|^(?:your|my|the|some|enter|insert|replace|put|add|see|get|no|not|is|to)[-_ ]"
    r"|change[-_ ]?(?:me|it)|example|placeholder|redacted|dummy"
    r"|^(?:none|null|nil|true|false|undefined|todo|tbd|test|fake|foo|bar|empty|default|required|optional)$",
    re.IGNORECASE,
)
_WORDS = re.compile(
    r"[A-Z][a-z]+|[a-z]{2,}|[A-Z]{2,}(?![a-z])|[vV]?\d{1,4}(?!\d)|(?<![A-Za-z0-9])[A-Za-z](?![A-Za-z0-9])"
)
_SEPARATORS = re.compile(r"[^A-Za-z0-9]+")
_HEX = re.compile(r"[0-9a-fA-F]+")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
_TECHNICAL = re.compile(
    r"(?:sha|md|utf|base|oauth|argon|pbkdf|scrypt|bcrypt|aes|rsa|hmac|ed|cp|iso|latin|https?|v|hs|rs|es|ps|py|x)[-_]?\d+\w{0,8}",
    re.IGNORECASE,
)
_CODE_LIKE = re.compile(
    r"[A-Za-z_][\w.]*\([^()]*\)?$|[A-Za-z_]+(?:\.[A-Za-z_]+)+$|(?:https?|file|s3|gs)://[\w./:#-]*$"
    r"|[\w./-]+\.(?:py|js|ts|txt|json|pem|crt|html?|md|ya?ml|cfg|ini)$"
)


def spans(text: str) -> list[Span]:
    """The parts of a text that look secret, in order and apart from each other."""
    found: list[Span] = []
    found += token_forms.spans(text)
    found += _key_blocks(text)
    found += _by_context(text)
    found += _named_values(text)
    return _merged(found)


def masked(text: str) -> str:
    """The text without what looks secret in it."""
    return without(text, spans(text))


def without(text: str, parts: Iterable[Span]) -> str:
    """The text without some parts, which are in order."""
    kept, at = [], 0
    for start, end in parts:
        kept.append(text[at:start])
        at = end
    return "".join([*kept, text[at:]])


def block_end(text: str) -> int | None:
    """Where a block of a private key that began before a text ends in it; None where it does not."""
    end = _KEY_ENDS.search(text)
    return None if end is None else end.end()


def is_in_block(text: str) -> bool:
    """Whether a block of a private key begins in a text and does not end in it."""
    *_, last = (0, *(found.end() for found in _KEY_BEGINS.finditer(text)))
    return last > 0 and _KEY_ENDS.search(text, last) is None


def _merged(found: list[Span]) -> list[Span]:
    merged: list[Span] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        elif start < end:
            merged.append((start, end))
    return merged


def _key_blocks(text: str) -> Iterator[Span]:
    at = 0
    while (begin := _KEY_BEGINS.search(text, at)) is not None:
        end = _KEY_ENDS.search(text, begin.end())
        at = len(text) if end is None else end.end()
        yield begin.start(), at


def _by_context(text: str) -> Iterator[Span]:
    for needed, expression, judge in _IN_CONTEXT:
        for found in expression.finditer(text) if needed in text else ():
            value = found[expression.groups]
            if judge is _Judge.PASSWORD:
                is_secret = _is_secret(value, "password")
            else:
                is_secret = not _PLACEHOLDER.search(value) and not (judge is _Judge.NO_WORDS and _is_wordy(value))
            if is_secret:
                yield found.span(expression.groups)


def _named_values(text: str) -> Iterator[Span]:
    until = 0
    for at in _stems(text):
        if at < until:
            continue
        start = at
        while start > 0 and at - start < _NAME_CHARS and (text[start - 1].isalnum() or text[start - 1] in "_-"):
            start -= 1
        rest = _NAME_REST.match(text, at)
        until = end = rest.end() if rest else at
        name = text[start:end]
        if _INNOCENT_NAME.search(name) or not (_STRONG_NAME.search(name) or _WEAK_NAME.search(name)):
            continue
        between = _BETWEEN.match(text, end)
        literal = _LITERAL.match(text, between.end()) if between else None
        if literal is not None:
            yield from _secret_literals(text, literal, name)
        elif (bare := _BARE.match(text, end)) is not None and _is_bare_secret(bare["value"], bare["after"], name):
            rest = _BARE_REST.match(text, bare.end("value"))
            until = rest.end() if rest else bare.end("value")
            yield bare.start("value"), until


def _stems(text: str) -> list[int]:
    """The places of stems of secret-looking names, in order."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters become two
        lowered = "".join(char.lower() if len(char.lower()) == 1 else char for char in text)
    found = []
    for stem in _STEMS:
        at = lowered.find(stem)
        while at >= 0:
            found.append(at)
            at = lowered.find(stem, at + len(stem))
    return sorted(found)


def _secret_literals(text: str, literal: re.Match[str] | None, name: str) -> Iterator[Span]:
    """Those of the literals in a row that look secret; literals that are one value in several parts count as one."""
    parts: list[Span] = []
    for _ in range(_LITERALS):
        if literal is None or literal.lastgroup is None:
            break
        parts.append(literal.span(literal.lastgroup))
        further = _FURTHER.match(text, literal.end())
        following = _LITERAL.match(text, further.end()) if further else None
        joined = further is not None and not further[0].strip(" \t\n\\+.")
        if following is None or not joined:
            if _is_secret("".join(text[start:end] for start, end in parts), name):
                yield from parts
            parts = []
        literal = following
    if parts and _is_secret("".join(text[start:end] for start, end in parts), name):
        yield from parts


@lru_cache(maxsize=4096)
def _is_secret(value: str, name: str) -> bool:
    """Whether a literal that is given to a secret-looking name is a secret."""
    value = value.strip()
    if len(value) < 5 or len(value) > 4_000 or _PLACEHOLDER.search(value) or _CODE_LIKE.match(value):
        return False
    if _TECHNICAL.fullmatch(value):
        return False
    is_password = _PASSWORD_NAME.search(name) is not None
    if any(char.isspace() for char in value):
        words = value.split()
        ends_so = re.search(r"(?:password|passwd|passphrase|pwd|secret)$", name, re.IGNORECASE) is not None
        speaks = _PASSWORD_NAME.search(value) or value[-1] in ".:?!" or not value.isascii()
        return ends_so and is_password and 3 <= len(words) <= 8 and value.islower() and not speaks
    strong = _STRONG_NAME.search(name) is not None
    if value.count("\\x") >= 4:
        return strong
    if not strong:
        return len(value) >= 20 and not _UUID.fullmatch(value) and _is_random(value)
    if _is_random(value):
        return True
    classes = _classes(value)
    if is_password:
        return len(classes) >= 3 or (len(value) >= 6 and _mixes(value)) or not _is_wordy(value)
    return (len(value) >= 8 and not _is_wordy(value)) or (len(value) >= 10 and len(classes) == 4)


def _is_bare_secret(value: str, after: str, name: str) -> bool:
    """The same for a value without quotes, which may as well be code."""
    value = value.rstrip("\\")
    if after in ("(", "[", "{") or _PLACEHOLDER.search(value) or _CODE_LIKE.match(value) or _TECHNICAL.fullmatch(value):
        return False
    if _is_random(value):
        return True
    symbols = re.search(r"[!@%^*?+~]", value) is not None
    plain = re.search(r"[._/:]", value) is None
    return (
        _PASSWORD_NAME.search(name) is not None and plain and (symbols or _mixes(value)) and len(_classes(value)) >= 2
    )


def _classes(value: str) -> set[str]:
    """The kinds of characters in it, without those that only separate words."""
    kinds = set()
    for char in value:
        if char.isalpha():
            kinds.add("upper" if char.isupper() else "lower")
        elif char.isdigit():
            kinds.add("digit")
        elif char not in "_-. /:":
            kinds.add("symbol")
    return kinds


def _mixes(value: str) -> bool:
    """Whether letters and digits make one word: `hunter2`, not `utf-8` or `option_2`."""
    return value.isalnum() and not value.isalpha() and not value.isdigit()


def _is_wordy(value: str) -> bool:
    """Whether it is made of words, in whatever way they are put together."""
    for part in _SEPARATORS.split(value):
        words = _WORDS.findall(part)
        if sum(map(len, words)) != len(part) or len(words) > max(4, len(part) // 3):
            return False
        if any(len(word) >= 10 and not 0.2 <= _vowels(word) <= 0.65 for word in words):
            return False
        if (
            any(len(word) >= (18 if word.isupper() else 28) for word in words)
            or sum(word.isdigit() for word in words) > 2
        ):
            return False
    return True


def _vowels(word: str) -> float:
    return sum(char in "aeiouyAEIOUY" for char in word) / len(word)


def _is_random(value: str) -> bool:
    """Whether it looks drawn at random: long, of many different characters, and no words."""
    if len(value) < 16 or any(char.isspace() for char in value):
        return False
    bare = _SEPARATORS.sub("", value)
    if len(bare) < 14 or bare.isdigit():
        return False
    counts = Counter(bare)
    entropy = -sum(count / len(bare) * math.log2(count / len(bare)) for count in counts.values())
    if _HEX.fullmatch(bare):
        return entropy >= 2.5 and not bare.isalpha()
    return entropy >= 3.0 and not _is_wordy(value)
