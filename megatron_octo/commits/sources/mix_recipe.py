"""Recipes of mixtures: sources with weights and caps, from YAML or from the command line."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from megatron_octo.commits.sources.code_language import language_named
from megatron_octo.commits.sources.commit_pairs import INSTRUCT
from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import explain, key_lines, parse_yaml, read_text

_FLAG = re.compile(r"(?P<name>[^=]+)=(?P<path>.+?)(?::(?P<weight>\d+(?:\.\d+)?))?(?::(?P<cap>\d+))?")
_HINT = (
    "a recipe of commits mix has the keys sources, seed, total, repeat, dedup, languages, need_language, language_cap"
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


def _known(names: Sequence[str]) -> list[str]:
    found = []
    for name in names:
        known = language_named(name)
        if known is None:
            raise ValueError(f"no language {name!r}")
        found.append(known)
    return found


class SourceRecipe(_Strict):
    """One source.

    Attributes:
        path: files and folders of pairs or commits.
        weight: how often its rows appear, as 0.5 or 2; with a total, its share of it.
        cap: most distinct rows.
        languages: display names that stay; those of the recipe where None.
        language_cap: most distinct rows of each language.
        format: how commits become pairs.
    """

    path: str | list[str]
    weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    cap: int | None = Field(default=None, ge=1)
    languages: list[str] | None = None
    language_cap: int | dict[str, int] | None = None
    format: str = INSTRUCT

    @model_validator(mode="after")
    def _check(self) -> "SourceRecipe":
        _check_languages(self.languages, self.language_cap)
        return self

    @property
    def paths(self) -> list[str]:
        """All files and folders."""
        return [self.path] if isinstance(self.path, str) else self.path


class MixRecipe(_Strict):
    """A mixture.

    Attributes:
        sources: by name; among duplicates the row of the first one stays.
        seed: of the draw and of the order.
        total: rows of the mixture; None: as many as the weights give.
        repeat: whether rows may appear again where a source has too few for its share of the total.
        dedup: by what equal rows are known: ``inputs``, ``pairs``, or not looked for.
        languages: display names that stay; rows of which no language is known stay, too.
        need_language: drop those.
        language_cap: most distinct rows of each language over all sources.
    """

    sources: dict[str, SourceRecipe] = Field(min_length=1)
    seed: int = 42
    total: int | None = Field(default=None, ge=1)
    repeat: bool = False
    dedup: Literal["none", "inputs", "pairs"] = "none"
    languages: list[str] | None = None
    need_language: bool = False
    language_cap: int | dict[str, int] | None = None

    @model_validator(mode="after")
    def _check(self) -> "MixRecipe":
        _check_languages(self.languages, self.language_cap)
        return self

    def languages_of(self, source: SourceRecipe) -> frozenset[str] | None:
        """Return the languages that stay of a source; None for all."""
        names = self.languages if source.languages is None else source.languages
        return None if names is None else frozenset(_known(names))


def _check_languages(names: list[str] | None, caps: int | dict[str, int] | None) -> None:
    _known(names or [])
    if isinstance(caps, dict):
        _known(list(caps))
    counts = caps.values() if isinstance(caps, dict) else [] if caps is None else [caps]
    if any(count < 0 for count in counts):
        raise ValueError("a cap is not negative")


def cap_of(caps: int | dict[str, int] | None, language: str) -> int | None:
    """Return the cap of a language; None if it has none."""
    if isinstance(caps, dict):
        return next((count for name, count in caps.items() if language_named(name) == language), None)
    return caps


def read_recipe(path: Path, given: dict[str, Any]) -> MixRecipe:
    """Read a recipe; paths in it are relative to its folder.

    Args:
        path: the file.
        given: keys of the command line, which go before.

    Raises:
        OctoError: a wrong key or value; file and line are named.
    """
    text = read_text(path)
    values = parse_yaml(text, path)
    if not isinstance(values, dict):
        raise OctoError("not a mapping", where=path, hint=_HINT)
    recipe = make_recipe(values | given, path, text, overridden=given)
    sources = {
        name: each.model_copy(update={"path": [str(path.parent / file) for file in each.paths]})
        for name, each in recipe.sources.items()
    }
    return recipe.model_copy(update={"sources": sources})


def make_recipe(
    values: dict[str, Any], where: str | Path, text: str = "", overridden: dict[str, Any] | None = None
) -> MixRecipe:
    """Check the values of a recipe.

    Raises:
        OctoError: a wrong key or value.
    """
    try:
        return MixRecipe.model_validate(values)
    except ValidationError as error:
        lines = key_lines(text, where) if text else {}
        raise explain(
            error, MixRecipe, "recipe", where=where, lines=lines, hint=_HINT, overridden=overridden or {}
        ) from None


def parse_sources(flags: Sequence[str]) -> dict[str, Any]:
    """Read ``NAME=PATH[:WEIGHT][:CAP]``; a cap stands behind a weight.

    Raises:
        OctoError: a flag has another form, or a name comes twice.
    """
    found: dict[str, Any] = {}
    for flag in flags:
        parts = _FLAG.fullmatch(flag)
        if parts is None:
            raise OctoError(f"--source {flag}: NAME=PATH[:WEIGHT][:CAP] is wanted", where="command line")
        if parts["name"] in found:
            raise OctoError(f"--source {parts['name']}: given twice", where="command line")
        value: dict[str, Any] = {"path": parts["path"]}
        if parts["weight"]:
            value["weight"] = float(parts["weight"])
        if parts["cap"]:
            value["cap"] = int(parts["cap"])
        found[parts["name"]] = value
    return found
