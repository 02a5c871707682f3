"""Option groups: plain frozen dataclasses whose fields say their help, bounds and old spelling.

Each group stands next to the component that it configures; `config` composes them and `cli` makes
the command line from them. This module imports the standard library alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import reprlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, TypeVar, get_args, get_origin, get_type_hints

from .errors import UserError

T = TypeVar("T")
_KEY = "option"


@dataclasses.dataclass(frozen=True)
class Rule:
    """The metadata of an option's field."""

    help: str = ""
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    alias: str = ""  # version 0.1's spelling, without the dashes
    may_change: bool = False  # when a run is resumed: it does not alter the weights
    of_each_rank: bool = False  # each rank's machine may have its own value
    positional: bool = False
    parse: Callable[[str], Any] | None = None  # a text that sets a whole nested group

    def check(self, name: str, value: float) -> None:
        """Raise UserError where a number is out of bounds, not finite or NaN."""
        low, high = self.at_least, self.below
        expected = ""
        if low is not None and high is not None:
            if not low <= value < high:
                expected = f"{low:g} ≤ {name} < {high:g}"
        elif low is not None and self.at_most is not None:
            if not low <= value <= self.at_most:
                expected = f"{low:g} ≤ {name} ≤ {self.at_most:g}"
        elif self.above is not None and not self.above < value < math.inf:
            expected = f"a number > {self.above:g}"
        elif low is not None and not low <= value < math.inf:
            expected = f"at least {low:g}" if isinstance(value, int) else f"a number ≥ {low:g}"
        elif self.at_most is not None and not value <= self.at_most:
            expected = f"at most {self.at_most:g}"
        elif high is not None and not value < high:
            expected = f"less than {high:g}"
        if expected:
            raise UserError(f"--{name}: expected {expected}, got {value}")


def option(default: T, help: str, **rules: Any) -> T:
    """Return a dataclass field with a `Rule` as its metadata; `rules` are `Rule`'s fields."""
    field: Any = dataclasses.field(default=default, metadata={_KEY: Rule(help, **rules)})
    return field


def group(default: T) -> T:
    """Return a dataclass field that holds a group of options."""
    field: Any = dataclasses.field(default=default)
    return field


class Group:
    """The base of all option groups."""

    prefix: ClassVar[str] = ""  # of the options' names: "vat" gives --vat.start

    def check(self, spec: Any) -> None:
        """Raise UserError for values that no run with this latent spec can have.

        A group with rules of its own extends this method, which checks the bounds of numbers.
        """
        for item in own_options(type(self), self.prefix):
            value = getattr(self, item.path[-1])
            if item.kind in (int, float):
                item.rule.check(item.spelling, value)


class Option(NamedTuple):
    """One option of a configuration."""

    path: tuple[str, ...]  # of attributes, from the configuration down
    spelling: str  # on the command line, without the dashes
    kind: Any  # its type
    rule: Rule

    def get(self, config: Any) -> Any:
        """Return the option's value."""
        for name in self.path:
            config = getattr(config, name)
        return config

    def set(self, config: T, value: Any) -> T:
        """Return a copy of the configuration with another value of this option."""
        return _replace(config, self.path, value)

    @property
    def is_nested(self) -> bool:
        """Return True if the value is a dataclass, whose fields are options too."""
        return dataclasses.is_dataclass(self.kind)

    def convert(self, value: Any) -> Any:
        """Return the value in the option's type. Raises UserError where it is of another kind."""
        try:
            if self.is_nested and isinstance(value, str) and self.rule.parse is not None:
                return self.rule.parse(value)
            return convert(self.kind, value)
        except (TypeError, ValueError) as error:
            raise UserError(f"--{self.spelling}: {error}") from None


def _replace(config: T, path: tuple[str, ...], value: Any) -> T:
    name, *rest = path
    if rest:
        value = _replace(getattr(config, name), tuple(rest), value)
    return dataclasses.replace(config, **{name: value})  # type: ignore[type-var]


def own_options(cls: type, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yield an option per field of a dataclass; nested groups are left out."""
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if isinstance(kind, type) and issubclass(kind, Group):
            continue
        name = field.name.replace("_", "-")
        spelling = f"{prefix}.{name}" if prefix else name
        yield Option((*path, field.name), spelling, kind, field.metadata.get(_KEY, Rule()))


def all_options(cls: type, prefix: str = "", path: tuple[str, ...] = ()) -> Iterator[Option]:
    """Yield every option of a configuration, group by group in the order of the fields.

    A nested dataclass that is no group (a warp) is an option, and so are its fields.
    """
    hints = get_type_hints(cls)
    own = {item.path[-1]: item for item in own_options(cls, prefix, path)}
    for field in dataclasses.fields(cls):
        kind = hints[field.name]
        if field.name not in own:
            yield from all_options(kind, kind.prefix, (*path, field.name))
            continue
        item = own[field.name]
        yield item
        if item.is_nested:
            yield from all_options(kind, item.spelling, item.path)


def python_names(options: Iterable[Option]) -> dict[str, Option]:
    """Return the options by their Python names: spellings and aliases with `_` for `-` and `.`."""
    names = {}
    for item in options:
        for spelling in filter(None, (item.spelling, item.rule.alias)):
            names[spelling.replace("-", "_").replace(".", "_")] = item
    return names


def nearest(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean …?" with the most similar of the names, or ""."""
    close = difflib.get_close_matches(name, list(names), 1, 0.5)
    return f"; did you mean {close[0]}?" if close else ""


def convert(kind: Any, value: Any) -> Any:
    """Return a plain value in the type of an option. Raises TypeError with one line."""
    is_switch = isinstance(value, bool)  # Python counts it among the whole numbers
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        ok, expected = isinstance(value, str) and value in choices, f"one of {', '.join(choices)}"
    elif get_origin(kind) is tuple:
        ok = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        value, expected = tuple(value) if ok else value, "a list of texts"
    elif kind is bool:
        ok, expected = is_switch, "true or false"
    elif kind is int:
        ok, expected = isinstance(value, Integral) and not is_switch, "a whole number"
        value = int(value) if ok else value
    elif kind is float:
        ok, expected = isinstance(value, Real) and not is_switch, "a number"
        try:
            value = float(value) if ok else value
        except OverflowError:  # a whole number beyond any float
            ok = False
    elif kind is str:
        ok, expected = isinstance(value, str), "text"
    elif dataclasses.is_dataclass(kind):
        ok, expected = isinstance(value, kind), f"a text or a {kind.__name__}"  # type: ignore[arg-type, union-attr]
    else:
        ok, expected = isinstance(value, str | Path | None), "a path or null"
        value = Path(value) if ok and value is not None else value
    if not ok:
        raise TypeError(f"expected {expected}, got {reprlib.repr(value)}")
    return value


# Objects by import path: a user's networks, terms and objectives


class Objects:
    """Objects by the text that a configuration records of them.

    Two runs in two threads may be given different objects of one text, such as two functions that
    are made by one `def`. So a thread gets its own object of a text first, then the latest of any.
    """

    def __init__(self) -> None:
        self._all: dict[str, Any] = {}
        self._of_thread = threading.local()

    def __setitem__(self, text: str, value: Any) -> None:
        self._all[text] = value
        vars(self._of_thread)[text] = value

    def get(self, text: str) -> Any:
        """Return the object of a text, or None."""
        return vars(self._of_thread).get(text, self._all.get(text))


_registered = Objects()


def register(value: Any) -> str:
    """Return the import path of a function or class, under which this process finds it again.

    Another process finds it where the path names it, at the top level of a module.
    """
    path = f"{value.__module__}:{value.__qualname__}"
    _registered[path] = value
    return path


def import_path(path: str, option: str) -> Any:
    """Return the object at "module.path:name".

    The module is looked up on `sys.path` and in the working directory.

    Args:
        path: the import path.
        option: the option that it was given to, for messages.

    Raises UserError in one line: not of that form, no such module, an error within it, no such
    name.
    """
    if (registered := _registered.get(path)) is not None:
        return registered
    where = f"{option} {path}"
    module_name, _, name = path.partition(":")
    if not name.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise UserError(f"{where}: expected the form module.path:name")
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.append(here)  # for good: the module may import others later on
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                f"{where}: no module {error.name} on sys.path or in {here}; run from its folder, "
                "install it, or add its folder to PYTHONPATH"
            ) from None
        raise UserError(f"{where}: importing {module_name} failed: {error}") from None
    except Exception as error:
        raise UserError(f"{where}: importing {module_name} failed: {_one_line(error)}") from error
    if not hasattr(module, name):
        raise UserError(f"{where}: module {module_name} has no {name}{nearest(name, vars(module))}")
    return getattr(module, name)


def parse_call(text: str, option: str) -> tuple[str, dict[str, Any]]:
    """Return the import path and the arguments of "module.path:Class key=value …".

    Values are read as YAML: 0.1 is a number, true a truth value, [1, 2] a list, all else text.
    Raises UserError where the text is not of that form.
    """
    words = text.split()
    path, pairs = "".join(words[:1]), words[1:]
    if ":" not in path:
        raise UserError(f"{option} {text}: expected module.path:Class key=value …")
    arguments = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier() or key in arguments:
            raise UserError(f"{option} {text}: expected key=value, each key once, got {pair!r}")
        try:
            arguments[key] = parse_yaml(value)
        except ValueError:
            arguments[key] = value
    return path, arguments


def parse_yaml(text: str) -> Any:
    """Return the content of YAML without aliases. Raises ValueError, in one line, for all else.

    PyYAML raises errors of many types on dates, numbers and nesting that it cannot convert, and
    aliases let a short text stand for content without bound.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*name)")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, Loader)  # a SafeLoader
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exception as error:
        words = str(error) or type(error).__name__
        raise ValueError(words.splitlines()[0].partition("; use ")[0]) from None


def _one_line(error: Exception) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def call(function: Any, where: str, *args: Any, **kwargs: Any) -> Any:
    """Call a user's function. Raises UserError in one line where it raises."""
    try:
        return function(*args, **kwargs)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where} failed: {_one_line(error)}") from error
