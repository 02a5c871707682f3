"""Shared by the commands: a training's command line, exit codes, one line for an error."""

from __future__ import annotations

import dataclasses
import os
import re
import sys
from collections.abc import Callable, Sequence
from inspect import getdoc
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import tyro
from tyro.constructors import (
    ConstructorRegistry,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from .config import OPTIONS, TrainConfig
from .console import prepare, say
from .data.splits import expand_user
from .errors import INTERRUPTED, Stop, UserError
from .options import Group, Option, own_options
from .presets import PRESETS
from .terms.invariance import InvarianceOptions
from .terms.warp import WARP_HELP, Warp

C = TypeVar("C")
BAD_ARGUMENTS = 2


def _default(text: str) -> str:
    """Return a default as the help shows it. Where there is no value, the help itself says it."""
    return "" if text in ("None", "''", '""', "") else f"(default: {text})"


def named(metavar: str) -> Any:
    """Return the annotation of an argument whose value the help calls `metavar`."""
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=_default)


# The first argument of most commands.
RunFolder = Annotated[
    Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN", help="The run's folder.")
]


def run_command(
    work: Callable[[C], Any], config_type: type[C], prog: str, args: list[str] | None
) -> int:
    """Parse `args` into the config, do the work, and return the exit code."""
    return guard(lambda: work(tyro.cli(config_type, args=expand_words(args), prog=prog)))


def guard(work: Callable[[], Any]) -> int:
    """Do the work; return its result if that is an exit code, else 0, or the code of its error."""
    prepare()
    try:
        code = work()
    except Stop as error:
        rank = os.environ.get("RANK", "0")
        if not error.said_by_main:
            say(f"{'' if rank == '0' else f'rank {rank}: '}error: {error}", sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted", sys.stderr)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


_TILDE = re.compile(r"(?P<option>--?[^=]+=)?(?P<path>~[^/=\s]*(?:/.*)?)", re.DOTALL)


def expand_words(args: Sequence[str] | None = None) -> list[str]:
    """Return a command line with ~ and ~user, at the start of a value, as folders.

    A shell leaves the tilde of --out=~/x, and of a quoted one, as it is. Raises UserError for a
    user who is not there.
    """
    words = []
    for word in sys.argv[1:] if args is None else args:
        match = _TILDE.fullmatch(word)
        words.append(f"{match['option'] or ''}{expand_user(match['path'])}" if match else word)
    return words


# The command line of a training, made from the options' metadata

_registry = ConstructorRegistry()


@_registry.struct_rule
def _describe_group(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return tyro's description of a group, its names and help from the fields' metadata."""
    kind, default = info.type, info.default
    if not isinstance(kind, type) or not issubclass(kind, Group | Warp):
        return None
    is_warp = issubclass(kind, Warp)
    prefix = getattr(kind, "prefix", f"{InvarianceOptions.prefix}.warp")
    options = {option.path[-1]: option for option in own_options(kind, prefix)}
    hints = get_type_hints(kind)
    fields = []
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        option = options.get(field.name)
        of_field: Any = hints[field.name]
        help = None
        if dataclasses.is_dataclass(of_field):
            help = option.rule.help if option is not None else getdoc(of_field) or ""
            help = " ".join(help.split())
        elif option is not None:
            of_field = _annotate(option, WARP_HELP[field.name] if is_warp else option.rule.help)
        fields.append(StructFieldSpec(field.name, of_field, getattr(default, field.name), help))
    return StructConstructorSpec(kind, tuple(fields))


def _annotate(option: Option, help: str) -> Any:
    """Return the option's type with its name, its alias and its help."""
    kind, rule = option.kind, option.rule
    if rule.positional:
        metavar = f"[{option.spelling.upper()}]"
        return Annotated[kind, tyro.conf.Positional, tyro.conf.arg(metavar=metavar, help=help)]
    # tyro shows aliases first, so the older spelling is the name: help begins with the newer one.
    aliases = [f"--{option.spelling}"] if rule.alias else None
    return Annotated[
        kind,
        tyro.conf.arg(
            name=rule.alias or option.spelling,
            metavar="PATH" if Path in get_args(kind) else None,
            aliases=aliases,
            help=help,
            help_behavior_hint=_default,
        ),
    ]


def parse(args: Sequence[str] | None = None) -> TrainConfig:
    """Return the preset's configuration with the options of a command line.

    Raises SystemExit with code 2 for bad arguments, 0 after --help; UserError where a text option
    cannot be read.
    """
    words = expand_words(args)
    default = PRESETS.get(_preset_in(words) or "mnist", PRESETS["mnist"])
    default, words = _take_texts(default, words)
    with _registry:
        return tyro.cli(
            Annotated[TrainConfig, tyro.conf.OmitArgPrefixes],
            args=words,
            default=default,
            prog="fastinfogan train",
            description=getdoc(TrainConfig),
        )


def _spellings() -> dict[str, Option]:
    """Return the options by every word that names them on the command line."""
    return {
        f"--{name}": option
        for option in OPTIONS.values()
        for name in (option.spelling, option.rule.alias)
        if name
    }


def _preset_in(words: Sequence[str]) -> str | None:
    """Return the first word that is neither an option nor an option's value."""
    return _read(words)[0]


def spellings_in(args: Sequence[str] | None = None) -> frozenset[str]:
    """Return the spellings of the options that a command line gives."""
    return _read(sys.argv[1:] if args is None else args)[1]


def _read(words: Sequence[str]) -> tuple[str | None, frozenset[str]]:
    """Return the preset's name and the spellings of the options on a command line."""
    known, skip, remaining = _spellings(), False, list(words)
    preset, names = None, set()
    while remaining:
        word = remaining.pop(0)
        if skip:
            skip = False
        elif word == "--term":
            _take_term(remaining)
        elif word.startswith("-"):
            name = word.partition("=")[0].replace("_", "-")
            option = known.get(name) or known.get(name.replace("--no-", "--", 1))
            if option is not None:
                names.add(option.spelling)
                skip = option.kind is not bool and "=" not in word
        elif preset is None:
            preset = word
    return preset, frozenset(names)


def _take_texts(config: TrainConfig, words: list[str]) -> tuple[TrainConfig, list[str]]:
    """Take out --term, and the options that set a whole nested group by a text, such as --warp.

    What remains on the line sets single values of such a group, and counts on top.
    """
    known, rest, remaining = _spellings(), [], list(words)
    while remaining:
        word = remaining.pop(0)
        if word == "--term":
            config = config.with_options(term=(*config.term, _take_term(remaining)))
            continue
        name, equals, value = word.partition("=")
        option = known.get(name)
        if option is None or not option.is_nested:
            rest.append(word)
            continue
        if not equals and not remaining:
            raise UserError(f'{name}: expected a text such as "rotate=20,scale=0.15", got nothing')
        config = option.set(config, option.convert(value if equals else remaining.pop(0)))
    return config, rest


def _take_term(remaining: list[str]) -> str:
    """Take a term's import path, and the key=value words behind it, off a command line."""
    words = [remaining.pop(0)] if remaining else []
    while remaining and "=" in remaining[0] and not remaining[0].startswith("-"):
        words.append(remaining.pop(0))
    return " ".join(words)
