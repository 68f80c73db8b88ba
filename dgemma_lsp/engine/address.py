"""Addresses of engines as users write them, and whether text that is sent there leaves this machine."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote, urlsplit

Interface = Literal["infill", "completions", "chat"]
"""The endpoint that fills: llama.cpp's `/infill`, `/v1/completions` with a fill-in-the-middle prompt, or
`/v1/chat/completions`."""
INTERFACES: tuple[Interface, ...] = ("infill", "completions", "chat")

_MOST_CHARS = 2_000


class AddressError(ValueError):
    """An address that cannot be used; the message is for users."""


@dataclass(frozen=True, slots=True)
class Address:
    """The parts of `[INTERFACE+]http[s]://HOST[:PORT][/PATH][#MODEL]`."""

    url: str
    """Scheme, host, port and path, without a slash at the end."""
    interface: Interface | None = None
    """The interface that the user named; None if `discovery` is to choose one."""
    model: str | None = None
    """The model that the user named; None for the first one that the engine lists."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Take an address apart. A `/v1` at the end of its path is left out.

        Raises:
            AddressError: it is not such an address, or it holds a password or a query.
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
        """The host name or IP address, without brackets."""
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
        """Where text goes, in words for users."""
        if self.on_loopback:
            return f"{self.url}, on this machine"
        return f"{self.url}, another machine, {'encrypted' if self.encrypted else 'NOT encrypted'}"


def is_on_loopback(text: str) -> bool:
    """Whether `text` is a valid address of an engine on this machine."""
    try:
        return Address.parse(text).on_loopback
    except AddressError:
        return False
