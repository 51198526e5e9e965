"""Plain values as text and back: what passes between a solution and its test."""

import json

_NAMES = {type(None): "n", bool: "b"}


def pack(value, depth=0):
    """Return a value as JSON-able lists; what is not plain becomes its type's name, which equals nothing."""
    if depth > 60:
        return ["x", "nested too deeply"]
    if value is None:
        return ["n"]
    kind = type(value)
    if kind is bool:
        return ["b", value]
    if kind.__module__ == "numpy" and hasattr(value, "item") and getattr(value, "shape", None) == ():
        return pack(value.item(), depth + 1)
    if isinstance(value, bool):
        return ["b", bool(value)]
    if isinstance(value, int):
        return ["i", hex(int(value))]
    if isinstance(value, float):
        return ["f", float(value).hex()]
    if isinstance(value, complex):
        return ["c", float(value.real).hex(), float(value.imag).hex()]
    if isinstance(value, str):
        return ["s", str.__str__(value)]
    if isinstance(value, (bytes, bytearray)):
        return ["y", bytes(value).hex()]
    for base, tag in ((list, "l"), (tuple, "t"), (set, "S"), (frozenset, "F")):
        if isinstance(value, base):
            return [tag, [pack(item, depth + 1) for item in base.__iter__(value)]]
    if isinstance(value, dict):
        return ["d", [[pack(key, depth + 1), pack(item, depth + 1)] for key, item in dict.items(value)]]
    return ["x", kind.__name__[:100]]


class NotPlain:
    """Stands for a value that did not cross; it equals nothing, itself neither."""

    def __init__(self, name):
        self.name = name

    def __eq__(self, other):
        return False

    __hash__ = None

    def __bool__(self):
        raise TypeError(f"{self.name} is not a plain value")

    def __repr__(self):
        return f"<{self.name}>"


def unpack(packed):
    """Return the value of what :func:`pack` made."""
    tag, *rest = packed
    if tag == "n":
        return None
    if tag == "b":
        return bool(rest[0])
    if tag == "i":
        return int(rest[0], 16)
    if tag == "f":
        return float.fromhex(rest[0])
    if tag == "c":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if tag == "s":
        return str(rest[0])
    if tag == "y":
        return bytes.fromhex(rest[0])
    if tag in "ltSF":
        return {"l": list, "t": tuple, "S": set, "F": frozenset}[tag](unpack(item) for item in rest[0])
    if tag == "d":
        return {unpack(key): unpack(item) for key, item in rest[0]}
    return NotPlain(str(rest[0]))


def line(message):
    """Return a message as one line of bytes."""
    return json.dumps(message, allow_nan=False).encode() + b"\n"
