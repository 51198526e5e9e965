"""Templates in YAML that describe what a row becomes. docs/data.md describes the keys.

Reading is strict: unknown, missing or wrongly typed keys are errors with file, line and the nearest name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from megatron_octo.common.errors import OctoError
from megatron_octo.common.strict_yaml import compose_yaml, did_you_mean, read_text
from megatron_octo.data.dataset.indexed import CONTEXT, TARGET

FOLDER = Path(__file__).parent / "templates"
FORMATS: tuple[str, ...] = tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


@dataclass(frozen=True)
class Text:
    """Text of the template itself; control tokens that it spells are plain text."""

    text: str


@dataclass(frozen=True)
class Token:
    """A control token, by its spelling."""

    token: str
    where: str


@dataclass(frozen=True)
class End:
    """The end of a document."""


@dataclass(frozen=True)
class Field:
    """The text of the first of ``names`` that the row has."""

    names: tuple[str, ...]
    basename: bool
    strip: bool
    where: str


@dataclass(frozen=True)
class Chance:
    """Parts that a document has with a probability; ``number`` counts them over the template."""

    probability: float
    parts: tuple["Part", ...]
    number: int


Part = Text | Token | End | Field | Chance


@dataclass(frozen=True)
class Stretch:
    """Parts of one mode: context or target."""

    mode: int
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Turns:
    """Sequence per object of a list, chosen by the object's role."""

    field: str
    role: str
    roles: dict[str, Stretch]
    where: str


@dataclass(frozen=True)
class Template:
    """Description of the document that a row becomes.

    Attributes:
        path: the file.
        pretraining: running text: fill in the middle may be used on it.
        seed: of the choices.
        entries: sequences in order.
    """

    path: Path
    pretraining: bool
    seed: int
    entries: tuple[Stretch | Turns, ...]


class _Reader:
    """Parser of YAML nodes, which carry lines, into a template."""

    def __init__(self, path: Path):
        self.path, self._chances = path, 0

    def where(self, node: yaml.Node) -> str:
        return f"{self.path}:{node.start_mark.line + 1}"

    def fail(self, node: yaml.Node, what: str, hint: str | None = None) -> OctoError:
        hint = hint or "templates are described in docs/data.md"
        return OctoError(f"bad template: {what}", where=self.where(node), hint=hint)

    def mapping(self, node: yaml.Node, allowed: Sequence[str], needed: Sequence[str]) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.fail(node, f"a mapping with {' or '.join(map(repr, needed))} is wanted here")
        found: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in allowed:
                near = did_you_mean(name, allowed)
                known = f"did you mean {near!r}?" if near else f"known here: {', '.join(allowed)}"
                raise self.fail(key, f"unknown key {name!r}; {known}")
            if name in found:
                raise self.fail(key, f"key {name!r} given twice")
            found[name] = value
        if not any(name in found for name in needed):
            raise self.fail(node, f"a key is missing: {' or '.join(map(repr, needed))}")
        return found

    def items(self, node: yaml.Node) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode) or not node.value:
            raise self.fail(node, "a list is wanted here")
        return list(node.value)

    def scalar[T](self, node: yaml.Node, kind: Literal["str", "bool", "int", "float"], make: Callable[[str], T]) -> T:
        tag = f"tag:yaml.org,2002:{kind}"
        if not isinstance(node, yaml.ScalarNode) or (
            node.tag != tag and not (kind == "float" and node.tag[-3:] == "int")
        ):
            names = {
                "str": "text (in quotes)",
                "bool": "true or false",
                "int": "a whole number",
                "float": "a number",
            }
            raise self.fail(node, f"{names[kind]} is wanted here")
        return make(node.value)

    def text(self, node: yaml.Node) -> str:
        return self.scalar(node, "str", str)

    def flag(self, node: yaml.Node | None) -> bool:
        return node is not None and self.scalar(node, "bool", lambda value: value.lower() in ("true", "yes", "on"))

    def part(self, node: yaml.Node) -> Part:
        if isinstance(node, yaml.ScalarNode):
            return Text(self.text(node))
        allowed = ("token", "field", "end", "chance", "parts", "basename", "strip")
        found = self.mapping(node, allowed, ("token", "field", "end", "chance"))
        kinds = {"token": {"token"}, "field": {"field", "basename", "strip"}, "end": {"end"}}
        for kind, keys in {**kinds, "chance": {"chance", "parts"}}.items():
            if kind in found and (other := next((key for key in found if key not in keys), None)):
                raise self.fail(found[other], f"{other!r} has no meaning beside {kind!r}")
        if "token" in found:
            return Token(self.text(found["token"]), self.where(node))
        if "end" in found:
            if not self.flag(found["end"]):
                raise self.fail(node, "'end' is true, or left out")
            return End()
        if "chance" in found:
            probability = self.scalar(found["chance"], "float", float)
            if not 0 < probability < 1 or "parts" not in found:
                raise self.fail(node, "a chance is a number between 0 and 1 with 'parts'")
            number, self._chances = self._chances, self._chances + 1
            return Chance(probability, tuple(self.part(item) for item in self.items(found["parts"])), number)
        names = found["field"]
        many = self.items(names) if isinstance(names, yaml.SequenceNode) else [names]
        basename, strip = self.flag(found.get("basename")), self.flag(found.get("strip"))
        return Field(tuple(self.text(item) for item in many), basename, strip, self.where(node))

    def sequence(self, node: yaml.Node, found: dict[str, yaml.Node]) -> Stretch:
        if "context" in found and "target" in found:
            raise self.fail(node, "'context' and 'target' are entries of their own")
        name = "context" if "context" in found else "target"
        parts = tuple(self.part(item) for item in self.items(found[name]))
        if name == "target" and not any(isinstance(part, Field) for part in parts):
            raise self.fail(node, "a target without a field: there is nothing to learn")
        if any(isinstance(part, End) for part in parts[:-1]):
            raise self.fail(node, "'end' stands at the end of a sequence")
        return Stretch(CONTEXT if name == "context" else TARGET, parts)

    def entry(self, node: yaml.Node) -> Stretch | Turns:
        found = self.mapping(node, ("context", "target", "each", "role", "roles"), ("context", "target", "each"))
        if "each" not in found:
            if other := next((key for key in ("role", "roles") if key in found), None):
                raise self.fail(found[other], f"{other!r} has no meaning without 'each'")
            return self.sequence(node, found)
        if set(found) != {"each", "role", "roles"}:
            raise self.fail(node, "'each' needs 'role' and 'roles', and nothing else")
        roles = found["roles"]
        if not isinstance(roles, yaml.MappingNode) or not roles.value:
            raise self.fail(roles, "roles with their parts are wanted here")
        sequences = {
            str(key.value): self.sequence(value, self.mapping(value, ("context", "target"), ("context", "target")))
            for key, value in roles.value
        }
        return Turns(self.text(found["each"]), self.text(found["role"]), sequences, self.where(node))

    def template(self, node: yaml.Node | None) -> Template:
        if node is None:
            raise OctoError("bad template: the file is empty", where=self.path)
        found = self.mapping(node, ("document", "pretraining", "seed"), ("document",))
        entries = tuple(self.entry(item) for item in self.items(found["document"]))
        sequences = [s for e in entries for s in (e.roles.values() if isinstance(e, Turns) else [e])]
        if not any(sequence.mode == TARGET for sequence in sequences):
            raise self.fail(node, "no target: there is nothing to learn")
        pretraining = self.flag(found.get("pretraining"))
        if pretraining and any(sequence.mode == CONTEXT for sequence in sequences):
            raise self.fail(found["pretraining"], "pretraining text has no context")
        return Template(
            self.path, pretraining, self.scalar(found["seed"], "int", int) if "seed" in found else 0, entries
        )


def template_path(name: str | Path) -> Path:
    """Find the file of a template: one that comes with the project, by name, or a file of the user.

    Raises:
        OctoError: there is neither; names the nearest.
    """
    if str(name) in FORMATS:
        return FOLDER / f"{name}.yaml"
    if Path(name).is_file():
        return Path(name)
    near = did_you_mean(str(name), FORMATS)
    raise OctoError(
        f"no format {str(name)!r}" + (f"; did you mean {near!r}?" if near else ""),
        where="--format",
        hint=f"one of {', '.join(FORMATS)}, or the path of a template",
    )


def load_template(name: str | Path) -> Template:
    """Read a template, by the name of one that comes with the project or by path.

    Raises:
        OctoError: there is none, or it is wrong; names file and line.
    """
    path = template_path(name)
    return _Reader(path).template(compose_yaml(read_text(path), path))
