"""Strict YAML: errors of syntax, names and values give file, line and the nearest known name."""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from megatron_octo.common.errors import OctoError

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$")
_INTEGER = re.compile(r"^[-+]?(0|[1-9][0-9_]*|0[xX][0-9a-fA-F_]+)$")


class _Loader(yaml.SafeLoader):
    """Safe YAML with the numbers of YAML 1.2: ``5e-5`` is one, ``20:00:00`` and ``2024-01-01`` are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a scalar", key.start_mark)
            if key.value in seen:
                problem = f"key {key.value!r} given twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _PlainLoader(_Loader):
    """The same without fractions: only whole decimal numbers are numbers, so versions and times stay text."""


def _resolve(loader: type[yaml.SafeLoader], numbers: Mapping[str, re.Pattern[str]]) -> None:
    replaced = tuple(_TAG + kind for kind in ("int", "float", "timestamp"))
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in rules if tag not in replaced]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern in numbers.items():  # the first that matches wins
        loader.add_implicit_resolver(_TAG + kind, pattern, list("-+.0123456789"))


_resolve(_Loader, {"int": _INTEGER, "float": _FLOAT})
_resolve(_PlainLoader, {"int": re.compile(r"^[-+]?(0|[1-9]\d*)$")})


class _Dumper(yaml.SafeDumper):
    """Quotes every text that either version of YAML would read as something else."""


_Dumper.yaml_implicit_resolvers = {
    first: rules + _Loader.yaml_implicit_resolvers.get(first, [])
    for first, rules in yaml.SafeDumper.yaml_implicit_resolvers.items()
}


def dump_yaml(value: Any) -> str:
    """Write plain values as YAML that :func:`parse_yaml` reads back to equal ones."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def read_text(path: Path) -> str:
    """Read a UTF-8 file.

    Raises:
        OctoError: it is not UTF-8; names the line.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise OctoError("not UTF-8", where=f"{path}:{line}", hint="save the file as UTF-8") from None


def _checked[T](parse: Callable[[], T], where: str) -> T:
    try:
        return parse()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OctoError(f"not valid YAML: {error.problem}", where=f"{where}{line}") from None
    except (yaml.YAMLError, ValueError) as error:  # a character that YAML forbids, a number of 5,000 digits
        raise OctoError(f"not valid YAML: {str(error).splitlines()[0]}", where=where) from None
    except RecursionError:
        raise OctoError("not valid YAML: nested too deeply", where=where) from None


def parse_yaml(text: str, where: str | Path, *, fractions: bool = True) -> Any:
    """Parse YAML text into plain values.

    Args:
        text: one document.
        where: names the text in errors.
        fractions: read ``1.5`` as a number; otherwise as text.

    Raises:
        OctoError: it is not valid YAML, or a key is given twice.
    """
    loader = _Loader if fractions else _PlainLoader
    return _checked(lambda: yaml.load(text, Loader=loader), str(where))


def compose_yaml(text: str, where: str | Path) -> yaml.Node | None:
    """Parse YAML text into nodes, which carry lines; None for an empty text.

    Raises:
        OctoError: it is not valid YAML.
    """
    return _checked(lambda: yaml.compose(text, Loader=_Loader), str(where))


def key_lines(text: str, where: str | Path) -> dict[str, str]:
    """Map each dotted key of a valid YAML text to ``WHERE:LINE``."""
    found: dict[str, str] = {}
    walked: set[int] = set()  # an alias may lead back to a node above it

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode) and id(node) not in walked:
            walked.add(id(node))
            for key, value in node.value:
                name = f"{prefix}{key.value}"
                found[name] = f"{where}:{key.start_mark.line + 1}"
                walk(value, f"{name}.")

    walk(compose_yaml(text, where), "")
    return found


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str | None:
    """Return the known word that is most like ``word``, or None if none is like it."""
    near = difflib.get_close_matches(word, list(known), 1, cutoff)
    return near[0] if near else None


def section_class(annotation: Any) -> type[BaseModel] | None:
    """Return the model class of a field that is a section, an optional one, or a mapping of sections."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if section := section_class(field.annotation):
            yield from _all_keys(section, f"{prefix}{name}.")


def nearest_key(model: type[BaseModel], path: list[str], aliases: Mapping[str, str]) -> str | None:
    """Return the dotted key that was probably meant by an unknown one.

    Args:
        model: the class of the whole file.
        path: the unknown key.
        aliases: keys by the names that other programs give them.
    """
    section = model
    for part in path[:-1]:
        if part in section.model_fields:  # otherwise the name of a section in a mapping of them
            section = section_class(section.model_fields[part].annotation) or section
    leaf = path[-1]
    if alias := aliases.get(leaf.lower().lstrip("-").replace("-", "_")):
        return alias
    near = did_you_mean(leaf, section.model_fields, 0.6)
    if near := near or next((name for name in section.model_fields if name.startswith(leaf)), None):
        return ".".join([*path[:-1], near])
    whole = ".".join(path)
    keys = [key for key in _all_keys(model) if not whole.startswith(f"{key}.")]
    same_leaf = [key for key in keys if key.rpartition(".")[2] == leaf]
    return same_leaf[0] if same_leaf else did_you_mean(whole, keys)


def explain(
    error: ValidationError,
    model: type[BaseModel],
    subject: str,
    *,
    where: str | Path,
    lines: Mapping[str, str],
    hint: str,
    overridden: Iterable[str] = (),
    aliases: Mapping[str, str] | None = None,
) -> OctoError:
    """Turn a failed validation into one error that lists every mistake with its place and the key meant.

    Args:
        error: of the validation.
        model: the class of the whole file.
        subject: what was validated ("recipe").
        where: the file; used for keys that have no line.
        lines: ``FILE:LINE`` of the dotted keys (:func:`key_lines`).
        hint: what to do about it.
        overridden: keys that came from the command line.
        aliases: see :func:`nearest_key`.
    """
    overridden = set(overridden)
    problems: list[str] = []
    first = ""
    for item in error.errors():
        path = [str(part) for part in item["loc"] if part != "[key]"]
        key = ".".join(path)
        # An override may also have created the whole section.
        given = key in overridden or (key not in lines and any(name.startswith(f"{key}.") for name in overridden))
        origin = "command line" if given else lines.get(key, str(where))
        first = first or origin
        if item["type"] == "extra_forbidden":
            near = nearest_key(model, path, aliases or {})
            text = f"unknown key {key!r}" + (f"; did you mean {near!r}?" if near else "")
        elif item["type"] == "missing":
            text = f"missing key {key!r}"
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
        elif item["loc"][-1] == "[key]":
            text = _bad_name(path, item.get("ctx", {}))
        else:
            text = f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, found {item['input']!r}"
        problems.append(f"{text}  ({origin})")
    what = "\n  ".join(problems) if len(problems) == 1 else "\n  " + "\n  ".join(problems)
    return OctoError(f"bad {subject}: {what}", where=first, hint=hint)


def _bad_name(path: list[str], context: Mapping[str, Any]) -> str:
    """Describe a key of a mapping that is not one of the expected names, or not of their form."""
    section, name = ".".join(path[:-1]), path[-1]
    expected = re.findall(r"'([^']*)'", str(context.get("expected", "")))
    if not expected:
        return f"{section}: {name!r} does not match {context.get('pattern', 'the form of its keys')}"
    near = did_you_mean(name, expected, 0.4)
    return f"{section}: unknown name {name!r}; " + (
        f"did you mean {near!r}?" if near else f"there are {', '.join(expected)}"
    )
