"""Where an engine is: the address that a user names, and whether it is on this machine."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

Interface = Literal["infill", "completions", "chat"]
"""How an engine is asked: llama.cpp's `/infill`, `/v1/completions` with a prompt for filling in the middle, or
`/v1/chat/completions`."""
INTERFACES: tuple[Interface, ...] = ("infill", "completions", "chat")

_MOST_CHARS = 2_000


class AddressError(ValueError):
    """An address that cannot be used; the message is for users."""


@dataclass(frozen=True, slots=True)
class Address:
    """`[INTERFACE+]http[s]://HOST[:PORT][/PATH][#MODEL]`, taken apart."""

    url: str
    """Scheme, host, port and path, without a slash at the end."""
    interface: Interface | None = None
    """The one that the user named; None to ask the engine."""
    model: str | None = None
    """The model that the user named; None for the engine's first."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises:
        AddressError: it is none, or it holds a password.
        """
        text = text.strip()
        if len(text) > _MOST_CHARS or not text.isprintable():
            raise AddressError("an engine's address is one line, such as http://127.0.0.1:8080")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise AddressError(f"{text!r} is no address: {error}") from error
        named, plus, scheme = parts.scheme.rpartition("+")
        interface = next((known for known in INTERFACES if known == named), None)
        if scheme not in ("http", "https") or not host or (plus and interface is None):
            ways = ", ".join(f"{known}+http" for known in INTERFACES)
            raise AddressError(
                f"{text!r} is no engine's address; write http://HOST:PORT or https://HOST, and where the interface "
                f"cannot be found out, {ways}"
            )
        if parts.username is not None or parts.password is not None:
            raise AddressError("an engine's address holds no password; put the token into DGEMMA_ENGINE_TOKEN")
        if parts.query:
            raise AddressError(f"an engine's address has no part after '?': {text.partition('?')[0]}")
        place = f"[{host}]" if ":" in host else host
        path = parts.path.rstrip("/").removesuffix("/v1")
        url = f"{scheme}://{place}{'' if port is None else f':{port}'}{path}"
        return cls(url, interface, unquote(parts.fragment) or None)

    @property
    def host(self) -> str:
        """The name or the number of the machine."""
        return urlsplit(self.url).hostname or ""

    @property
    def on_loopback(self) -> bool:
        """Whether text that is sent there stays on this machine."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False

    @property
    def encrypted(self) -> bool:
        """Whether nobody on the way can read what is sent."""
        return self.url.startswith("https:")

    @property
    def described(self) -> str:
        """Where text goes, in words."""
        if self.on_loopback:
            return f"{self.url}, on this machine"
        return f"{self.url}, another machine, {'encrypted' if self.encrypted else 'NOT encrypted'}"


def is_on_loopback(text: str) -> bool:
    """Whether it is an address on this machine."""
    try:
        return Address.parse(text).on_loopback
    except AddressError:
        return False
