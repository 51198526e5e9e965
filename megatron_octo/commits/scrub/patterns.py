"""Patterns of addresses and secrets, and what is checked of a match."""

import functools
import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from megatron_octo.common.strict_yaml import parse_yaml

Check = Callable[[re.Match[str], str], bool]


@dataclass(frozen=True)
class Pattern:
    """One kind of address or secret.

    Attributes:
        name: of the kind.
        tag: of its replacement.
        text: the regular expression.
        source: who defines the format.
        check: whether a match with this value is one.
    """

    name: str
    tag: str
    text: str
    source: str
    check: Check

    @functools.cached_property
    def expression(self) -> re.Pattern[str]:
        """Return the compiled expression, with ASCII classes."""
        return re.compile(self.text, re.ASCII)

    def values(self, text: str) -> list[str]:
        """Return what it finds in a text, in order."""
        found = []
        for match in self.expression.finditer(text):
            value = match["value"] if "value" in self.expression.groupindex else match[0]
            if self.check(match, value):
                found.append(value)
        return found


@functools.cache
def patterns() -> tuple[Pattern, ...]:
    """Return all patterns, those that come first before those that they may contain."""
    return tuple(
        Pattern(each["name"], each["tag"], each["pattern"], each["source"], CHECKS[each.get("check", "any")])
        for each in _table()["patterns"]
    )


@functools.cache
def _table() -> dict[str, Any]:
    text = resources.files("megatron_octo.commits.scrub").joinpath("patterns.yaml").read_text(encoding="utf-8")
    return dict(parse_yaml(text, "patterns.yaml", fractions=False))


@functools.cache
def _words(name: str) -> tuple[str, ...]:
    return tuple(str(each) for each in _table()[name])


def _any(match: re.Match[str], value: str) -> bool:
    return True


def _mixed(match: re.Match[str], value: str) -> bool:
    """Return whether letters and digits are mixed as by chance; a repeated character is a placeholder."""
    return entropy(value) >= 3.0


def _secret_word(match: re.Match[str], value: str) -> bool:
    lower = value.lower()
    return not any(word in lower for word in _words("placeholders")) and len(set(value)) > 2


def _secret(match: re.Match[str], value: str) -> bool:
    """Return whether a value looks made by chance: letters and digits, no placeholder, no path."""
    has_both = any(map(str.isdigit, value)) and any(map(str.isalpha, value))
    return has_both and entropy(value) >= 2.75 and _secret_word(match, value) and not value.startswith(("http", "/"))


def _personal_address(match: re.Match[str], value: str) -> bool:
    user, _, host = value.lower().rpartition("@")
    if user in _words("mail_users") or host in _words("mail_hosts"):
        return False
    return not host.endswith(_words("mail_endings"))


_VERSION = re.compile(r"(?i)(?:version|release|\bver|\bv|==|>=|<=|~=|\^|~)\W{0,4}$")


def _public_ipv4(match: re.Match[str], value: str) -> bool:
    """Return whether an address is a host's own: global, no known resolver, and no version number."""
    if value in _words("known_addresses") or not ipaddress.IPv4Address(value).is_global:
        return False
    return not _VERSION.search(match.string, max(0, match.start() - 16), match.start())


def _public_ipv6(match: re.Match[str], value: str) -> bool:
    try:
        address = ipaddress.IPv6Address(value)
    except ValueError:
        return False
    return address.is_global


CHECKS: dict[str, Check] = {
    "any": _any,
    "mixed": _mixed,
    "secret": _secret,
    "secret_word": _secret_word,
    "personal_address": _personal_address,
    "public_ipv4": _public_ipv4,
    "public_ipv6": _public_ipv6,
}


def entropy(text: str) -> float:
    """Return the bits per character of a text by the frequencies of its characters; 0 for an empty one."""
    count = len(text)
    return -sum(each / count * math.log2(each / count) for each in Counter(text).values()) if count else 0.0
