"""Secrets of many forms, made up at random, as they are in files. None of them ever opened anything."""

from __future__ import annotations

import base64
import random
import string
import uuid
from collections.abc import Callable, Iterator
from typing import NamedTuple

_LETTERS = string.ascii_letters
_ALNUM = string.ascii_letters + string.digits
_URLSAFE = _ALNUM + "-_"
_HEX = "0123456789abcdef"


class Planted(NamedTuple):
    """One secret."""

    form: str
    secret: str
    """The text that no other document may show."""
    source: str
    """Lines that hold it."""


class _Dice:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def of(self, alphabet: str, length: int) -> str:
        return "".join(self.random.choice(alphabet) for _ in range(length))

    def alnum(self, length: int) -> str:
        """Letters and digits, with at least one of each."""
        return self.of(_LETTERS, 1) + self.of(string.digits, 1) + self.of(_ALNUM, length - 2)

    def base64(self, size: int) -> str:
        return base64.b64encode(self.random.randbytes(size)).decode()

    def password(self) -> str:
        word = self.random.choice(["Summer", "Dragon", "Winter", "Falcon", "Harbour", "Copper"])
        return f"{word}{self.random.randrange(1900, 2100)}{self.random.choice('!?#%')}"

    def short_password(self) -> str:
        return (
            f"{self.random.choice(['hunter', 'monkey', 'dragon', 'letmein', 'qwerty'])}{self.random.randrange(10, 99)}"
        )


Form = Callable[[_Dice], tuple[str, str]]
"""Makes a secret, and the lines that hold it."""


def _line(make: Callable[[_Dice], str], written: str) -> Form:
    def form(dice: _Dice) -> tuple[str, str]:
        secret = make(dice)
        return secret, written.replace("@", secret, 1)

    return form


def _key_block(kind: str) -> Form:
    def form(dice: _Dice) -> tuple[str, str]:
        lines = [dice.base64(48) for _ in range(12)]
        block = "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----"])
        return lines[5], f'SIGNING = """{block}\n"""'

    return form


FORMS: dict[str, Form] = {
    "the issue's own": _line(lambda d: f"sk-live-{d.alnum(20)}", 'PAYMENT_GATEWAY_TOKEN = "@"'),
    "AWS key id": _line(lambda d: "AKIA" + d.of(string.ascii_uppercase + "234567", 16), 'client = connect("@")'),
    "AWS secret key": _line(lambda d: d.base64(30), 'aws_secret_access_key = "@"'),
    "AWS secret in an ini file": _line(lambda d: d.base64(30), "[default]\naws_secret_access_key = @"),
    "GitHub": _line(lambda d: f"ghp_{d.alnum(36)}", 'headers = {"Accept": "@"}'),
    "GitHub, fine-grained": _line(
        lambda d: f"github_pat_{d.alnum(22)}_{d.alnum(59)}", "git clone https://x:@\0host/x.git"
    ),
    "GitLab": _line(lambda d: f"glpat-{d.of(_URLSAFE, 20)}", "login('@')"),
    "Slack": _line(lambda d: f"xoxb-{d.of(string.digits, 12)}-{d.alnum(24)}", 'slack = Slack("@")'),
    "Slack hook": _line(
        lambda d: f"T{d.alnum(8)}/B{d.alnum(8)}/{d.alnum(24)}", 'post("https://hooks.slack.com/services/@", text)'
    ),
    "Stripe": _line(lambda d: f"sk_live_{d.alnum(24)}", 'stripe.api = "@"'),
    "OpenAI": _line(lambda d: f"sk-proj-{d.of(_URLSAFE, 40)}", 'ask(key="@")'),
    "Anthropic": _line(lambda d: f"sk-ant-api03-{d.of(_URLSAFE, 60)}", 'ask("@")'),
    "Google": _line(lambda d: f"AIza{d.of(_URLSAFE, 35)}", 'maps = Maps("@")'),
    "Hugging Face": _line(lambda d: f"hf_{d.of(_LETTERS, 34)}", 'load(model, "@")'),
    "npm": _line(lambda d: f"npm_{d.alnum(36)}", "//registry/:_authToken=@"),
    "PyPI": _line(lambda d: f"pypi-AgEIcHlwaS5vcmc{d.of(_URLSAFE, 60)}", 'upload("@")'),
    "SendGrid": _line(lambda d: f"SG.{d.of(_URLSAFE, 22)}.{d.of(_URLSAFE, 43)}", 'mail = Mail("@")'),
    "Twilio": _line(lambda d: f"SK{d.of(_HEX, 32)}", 'call = Call("@")'),
    "Telegram": _line(lambda d: f"{d.of('123456789', 9)}:AA{d.of(_URLSAFE, 33)}", 'bot = Bot("@")'),
    "DigitalOcean": _line(lambda d: f"dop_v1_{d.of(_HEX, 64)}", 'droplet("@")'),
    "Vault": _line(lambda d: f"hvs.{d.of(_URLSAFE, 24)}", 'vault = Vault("@")'),
    "Shopify": _line(lambda d: f"shpat_{d.of(_HEX, 32)}", 'shop = Shop("@")'),
    "Databricks": _line(lambda d: f"dapi{d.of(_HEX, 32)}", 'bricks("@")'),
    "JSON web token": _line(
        lambda d: f"eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx{d.alnum(20)}.{d.of(_URLSAFE, 43)}", 'cookies = {"s": "@"}'
    ),
    "private key": _key_block("RSA PRIVATE KEY"),
    "private key, PKCS8": _key_block("PRIVATE KEY"),
    "OpenSSH key": _key_block("OPENSSH PRIVATE KEY"),
    "encrypted key": _key_block("ENCRYPTED PRIVATE KEY"),
    "PGP key": _key_block("PGP PRIVATE KEY BLOCK"),
    "private key in JSON": _line(
        lambda d: d.base64(45), r'"private_key": "-----BEGIN PRIVATE KEY-----\n@\n-----END PRIVATE KEY-----\n"'
    ),
    "connection string": _line(_Dice.password, 'DATABASE = "postgresql://app:@\0db.internal:5432/shop"'),
    "Redis": _line(lambda d: d.alnum(20), 'CACHE = "redis://:@\0cache:6379/0"'),
    "Mongo": _line(_Dice.short_password, 'client = MongoClient("mongodb+srv://root:@\0cluster0.mongodb.net")'),
    "ADO connection string": _line(_Dice.password, 'C = "Server=db;Database=shop;User Id=sa;Password=@;"'),
    "Azure storage": _line(
        lambda d: d.base64(64), 'C = "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=@;EndpointSuffix=y"'
    ),
    "shared access signature": _line(
        lambda d: d.base64(32).replace("+", "%2B").replace("/", "%2F").replace("=", "%3D"),
        'U = "https://x.blob.core.windows.net/c?sv=2022-11-02&sr=c&sig=@"',
    ),
    "Sentry": _line(lambda d: d.of(_HEX, 32), 'sentry.init("https://@\0o1.ingest.sentry.io/42")'),
    "bearer": _line(lambda d: d.alnum(40), 'headers["Authorization"] = "Bearer @"'),
    "basic": _line(
        lambda d: base64.b64encode(f"admin:{d.password()}".encode()).decode(), 'h = "Authorization: Basic @"'
    ),
    "curl": _line(_Dice.password, 'run("curl -u admin:@ https://x.test")'),
    "option": _line(_Dice.password, 'run("mysql --user=root --password=@ shop")'),
    "password": _line(_Dice.password, 'password = "@"'),
    "short password": _line(_Dice.short_password, "DB_PASSWORD = '@'"),
    "password argument": _line(_Dice.short_password, 'connect(host, user="root", password="@", timeout=3)'),
    "password entry": _line(_Dice.password, 'config = {"user": "root", "password": "@"}'),
    "password item": _line(_Dice.password, 'config["password"] = "@"'),
    "password, typed": _line(_Dice.password, 'class S:\n    password: str = "@"'),
    "password in YAML": _line(_Dice.short_password, "database:\n  password: @"),
    "password in XML": _line(_Dice.password, "<server><password>@</password></server>"),
    "password, with a default": _line(_Dice.password, 'P = os.environ.get("DB_PASSWORD", "@")'),
    "password in PHP": _line(_Dice.password, "define('DB_PASSWORD', '@');"),
    "password in SQL": _line(_Dice.password, "CREATE USER app IDENTIFIED BY '@';"),
    "passphrase": _line(
        lambda d: " ".join(d.random.sample(["correct", "horse", "battery", "staple", "violet", "anchor"], 4)),
        'PASSPHRASE = "@"',
    ),
    "Django": _line(lambda d: d.of(string.ascii_lowercase + string.digits + "!@#$%^&*(-_=+)", 50), 'SECRET_KEY = "@"'),
    "bytes": _line(lambda d: "".join(f"\\x{byte:02x}" for byte in d.random.randbytes(24)), "SECRET_KEY = b'@'"),
    "API key": _line(lambda d: d.of(_HEX, 32), 'API_KEY = "@"'),
    "API key in JSON": _line(lambda d: d.alnum(32), '{"apiKey": "@"}'),
    "API key in Go": _line(lambda d: d.alnum(32), 'const ApiKey = "@"'),
    "API key in C": _line(lambda d: d.alnum(32), '#define API_KEY "@"'),
    "API key in Rust": _line(lambda d: d.alnum(32), 'const API_KEY: &str = "@";'),
    "API keys in a list": _line(lambda d: d.alnum(32), 'API_KEYS = [\n    "first",\n    "@",\n]'),
    "client secret": _line(lambda d: str(uuid.UUID(int=d.random.getrandbits(128), version=4)), 'client_secret="@"'),
    "token on the next line": _line(lambda d: d.alnum(30), 'ACCESS_TOKEN = (\n    "@"\n)'),
    "token in an environment file": _line(lambda d: d.alnum(32), "export DEPLOY_TOKEN=@"),
    "token in a comment": _line(lambda d: d.alnum(32), "# the token is: token = @"),
    "token compared": _line(lambda d: d.alnum(32), 'if token == "@":\n    pass'),
    "signing key": _line(lambda d: d.base64(32), 'signing_key = base64.b64decode("@")'),
    "WireGuard": _line(lambda d: d.base64(32), "[Interface]\nPrivateKey = @"),
    "TOTP": _line(lambda d: d.of(string.ascii_uppercase + "234567", 32), 'totp_secret = "@"'),
    "hash of a password": _line(lambda d: f"$2b$12${d.of(_ALNUM + './', 53)}", 'users = {"admin": "@"}'),
}


def planted(count: int, seed: int) -> Iterator[Planted]:
    """`count` secrets, of all forms in turn."""
    dice, forms = _Dice(seed), list(FORMS.items())
    for number in range(count):
        form, make = forms[number % len(forms)]
        secret, source = make(dice)
        yield Planted(form, secret, source.replace("\0", "@"))
