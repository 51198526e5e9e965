"""Recipes in YAML: strict reading, dotted overrides, and errors that name the line and the nearest key."""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from megatron_octo.common.errors import OctoError
from megatron_octo.common.files import digest_json
from megatron_octo.recipe.schema import Recipe


class _Loader(yaml.SafeLoader):
    """Safe YAML in which ``5e-5`` is a number (YAML 1.2), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key is not a plain word", key.start_mark
                )
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key.value!r} given twice", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"),
    list("-+.0123456789"),
)
# The first resolver that matches wins: whole numbers stay integers.
for _resolvers in _Loader.yaml_implicit_resolvers.values():
    _resolvers.sort(key=lambda item: item[0] != "tag:yaml.org,2002:int")


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise OctoError(f"not valid YAML: {error.problem}", where=f"{where}{line}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise OctoError(f"not valid YAML: {str(error).splitlines()[0]}", where=where) from None


def _lines(text: str, where: str) -> dict[str, str]:
    """``FILE:LINE`` of every dotted key."""
    found: dict[str, str] = {}

    def walk(node: yaml.Node | None, prefix: str) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                name = f"{prefix}{key.value}"
                found[name] = f"{where}:{key.start_mark.line + 1}"
                walk(value, f"{name}.")

    walk(yaml.compose(text, Loader=_Loader), "")
    return found


def _section(model: type[BaseModel], path: list[str]) -> type[BaseModel]:
    """The class of the section at a dotted path."""
    for part in path:
        section = section_class(model.model_fields[part].annotation)
        assert section is not None
        model = section
    return model


def section_class(annotation: Any) -> type[BaseModel] | None:
    """The class of a key that is a section, also of one that may be null."""
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _all_keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        yield prefix + name
        if section := section_class(field.annotation):
            yield from _all_keys(section, f"{prefix}{name}.")


def _nearest(path: list[str]) -> str | None:
    """The known key most like an unknown one: in the same section if there is one, else anywhere."""
    siblings = list(_section(Recipe, path[:-1]).model_fields)
    if near := difflib.get_close_matches(path[-1], siblings, 1, 0.6):
        return ".".join([*path[:-1], near[0]])
    keys = list(_all_keys(Recipe))
    same_leaf = [key for key in keys if key.rpartition(".")[2] == path[-1]]
    near = same_leaf or difflib.get_close_matches(".".join(path), keys, 1, 0.5)
    return near[0] if near else None


def _explain(error: ValidationError, where: str, lines: dict[str, str], overridden: set[str]) -> OctoError:
    problems = []
    first_line = ""
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        key = ".".join(path)
        # An override may have brought a whole section into being, too.
        given = key in overridden or (
            key not in lines and any(name.startswith(f"{key}.") for name in overridden)
        )
        origin = "command line" if given else lines.get(key, where)
        first_line = first_line or origin
        if item["type"] == "extra_forbidden":
            near = _nearest(path)
            text = f"unknown key {key!r}" + (f"; did you mean {near!r}?" if near else "")
        elif item["type"] == "missing":
            text = f"missing key {key!r}"
        elif item["type"] == "value_error":
            text = str(item["ctx"]["error"])
        else:
            text = f"{key}: {item['msg'][0].lower()}{item['msg'][1:]}, found {item['input']!r}"
        problems.append(f"{text}  ({origin})")
    what = "bad recipe: " + ("\n  ".join(problems) if len(problems) == 1 else "\n  " + "\n  ".join(problems))
    return OctoError(what, where=first_line, hint="the keys are described in docs/recipes.md")


def _apply_override(tree: dict[str, Any], override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or not key:
        raise OctoError(
            f"cannot read the override {override!r}", where="command line", hint="write section.key=value"
        )
    node = tree
    *sections, leaf = key.split(".")
    for section in sections:
        child = node.setdefault(section, {})
        if not isinstance(child, dict):
            raise OctoError(f"{key!r}: {section!r} is a value, not a section", where="command line")
        node = child
    parsed = _parse_yaml(value, "command line") if value else None
    # "NAME: 1.0 0:1 PREFIX" is text here: a mapping on the command line has braces.
    node[leaf] = value if isinstance(parsed, dict) and not value.lstrip().startswith("{") else parsed
    return key


def build_recipe(tree: Any, where: str = "recipe") -> Recipe:
    """Check a plain mapping and build the recipe.

    Raises:
        OctoError: a key is unknown or missing, or a value is wrong.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, where, {}, set()) from None


def _read_tree(path: Path, above: tuple[Path, ...]) -> tuple[dict[str, Any], dict[str, str]]:
    """The mapping of a recipe file laid over its base's, and where each key stands.

    Args:
        above: the files whose bases led here.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise OctoError(f"not UTF-8 text: {error.reason}", where=path) from None
    tree = _parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise OctoError(
            "a recipe is a YAML mapping of sections", where=path, hint="start from recipes/demo.yaml"
        )
    lines = _lines(text, str(path))
    if "base" not in tree:
        return tree, lines
    where, base = lines["base"], tree.pop("base")
    if not isinstance(base, str):
        raise OctoError(f"base: expected a recipe file, found {base!r}", where=where)
    chain, target = (*above, path.resolve()), path.parent / base
    if target.resolve() in chain:
        shown = " -> ".join(file.name for file in (*chain, target.resolve()))
        raise OctoError(f"bases go in a circle: {shown}", where=where)
    if not target.is_file():
        raise OctoError(
            f"no recipe at {target}", where=where, hint="base is relative to the file that names it"
        )
    under, under_lines = _read_tree(target, chain)
    return _merge(under, tree), {**under_lines, **lines}


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Sections are merged key by key; everything else is replaced."""
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def load_recipe(path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe, with what it has from its ``base``, and apply ``section.key=value`` overrides (values are YAML).

    Raises:
        OctoError: a file is missing or no YAML mapping, bases go in a circle, or the recipe is wrong; names file and
            line.
    """
    tree, lines = _read_tree(Path(path), ())
    overridden = {_apply_override(tree, override) for override in overrides}
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise _explain(error, str(path), lines, overridden) from None


def dump_recipe(recipe: Recipe) -> str:
    """The resolved recipe as YAML that :func:`load_recipe` reads back to an equal object."""
    return yaml.safe_dump(recipe.model_dump(), sort_keys=False, allow_unicode=True)


def recipe_digest(recipe: Recipe) -> str:
    return digest_json(recipe.model_dump())


def check_batch(recipe: Recipe, data_size: int) -> int:
    """Micro-batches a step and rank.

    Raises:
        OctoError: the global batch cannot be shared out evenly.
    """
    together = recipe.batch.micro_size * data_size
    if recipe.batch.global_size % together:
        raise OctoError(
            f"batch.global_size {recipe.batch.global_size} is no multiple of micro_size {recipe.batch.micro_size} "
            f"x {data_size} data-parallel ranks",
            where="batch.global_size",
            hint=f"use a multiple of {together}",
        )
    return recipe.batch.global_size // together
