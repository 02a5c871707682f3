"""Hooks of mkdocs: pages made from the code, and the repository's files that pages link to.

`reference/command-line.md` comes from the option groups, `reference/presets.md` from the presets,
`reference/moved.md` from the table of moved import paths and the options' second names. A link from
a page to a file outside docs/ leads to a copy of that file below source/ on the site.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
SHIM = "https://unpkg.com/iframe-worker/shim"  # where the plugin "offline" has its script from
SOURCE = "source"  # the folder of the site for the repository's files
_LINK = re.compile(r"(?P<start>\]\()(?P<target>[^)#:\s]+)(?P<rest>(?:#[^)\s]*)?\))")
_SCRIPTS = """<script src="{base}/assets/mathjax/config.js"></script>
<script src="{base}/assets/mathjax/tex-svg.js" async></script>
"""


def place_of(path: str) -> str:
    """Return the place on the site of a file of the repository; both are POSIX paths."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"{SOURCE}/{path}.md" if path.endswith(".py") else f"{SOURCE}/{path}"


def linked(text: str, path: str) -> Iterator[str]:
    """Yield the existing files outside docs/ to which a file of the repository links."""
    for match in _LINK.finditer(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["target"]))
        if not target.startswith(("docs/", "..")) and (ROOT / target).is_file():
            yield target


def relinked(text: str, path: str) -> str:
    """Return the text of a file of the repository with links as the site needs them."""
    here = posixpath.dirname(place_of(path))

    def replacement(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), match["target"]))
        if target.startswith("..") or not (ROOT / target).is_file():
            return match[0]  # mkdocs reports it
        there = posixpath.relpath(place_of(target), here or ".")
        return f"{match['start']}{there}{match['rest']}"

    return _LINK.sub(replacement, text)


def repository_pages() -> dict[str, str | bytes]:
    """Return the content of each file that pages link to, by its place on the site."""
    pending = [path.relative_to(ROOT).as_posix() for path in sorted(DOCS.rglob("*.md"))]
    content: dict[str, str | bytes] = {}
    while pending:
        path = pending.pop()
        if path.endswith(".md"):
            text = (ROOT / path).read_text("utf-8")
            pending += [p for p in linked(text, path) if place_of(p) not in content]
            if not path.startswith("docs/"):
                content[place_of(path)] = relinked(text, path)
        elif path.endswith(".py"):
            code = (ROOT / path).read_text("utf-8")
            content[place_of(path)] = f"# {path}\n\n```python\n{code}```\n"
        else:
            content[place_of(path)] = (ROOT / path).read_bytes()
    return content


# The command line


def group_tables() -> Iterator[str]:
    """Yield a section per option group of `fastinfogan train`."""
    from fastinfogan.config import TrainConfig
    from fastinfogan.options import Group, all_options

    groups: dict[tuple[str, ...], list[Any]] = {}
    kinds: dict[tuple[str, ...], type] = {}
    for item in all_options(TrainConfig):
        owner: Any = TrainConfig()
        path: tuple[str, ...] = ()
        for name in item.path[:-1]:
            if not isinstance(getattr(owner, name), Group):
                break
            owner, path = getattr(owner, name), (*path, name)
        kinds[path] = type(owner)
        groups.setdefault(path, []).append(item)
    for path, items in groups.items():
        title = " ".join(path) or "run"
        yield f"### {title}\n\n{described(kinds[path])}\n\n{option_table(items)}\n"


def described(group: type) -> str:
    """Return a group's docstring as a paragraph, its example as code."""
    text = " ".join((group.__doc__ or "").split())
    purpose, _, example = text.partition("Example: ")
    return f"{purpose.strip()}\n\nExample: `{example}`" if example else purpose


def option_table(items: list[Any]) -> str:
    """Return a table of options: name, default, meaning with bounds and the older name."""
    from fastinfogan.config import TrainConfig
    from fastinfogan.terms.warp import WARP_HELP, warp_text

    rows = ["| option | default | meaning |", "|---|---|---|"]
    default = TrainConfig()
    for item in items:
        value = item.get(default)
        if item.is_nested:
            shown = warp_text(value)
        elif isinstance(value, bool):
            shown = "on" if value else "off"
        else:
            shown = ", ".join(value) if isinstance(value, tuple) else str(value)
        help = item.rule.help or WARP_HELP.get(item.path[-1], "")
        notes = [help, "" if bounds(item.rule).lower() in help else bounds(item.rule)]
        if item.rule.alias and item.rule.alias != item.spelling:
            notes.append(f"Also `--{item.rule.alias}`.")
        if item.rule.may_change:
            notes.append("May change when a run is resumed.")
        name = "PRESET" if item.rule.positional else f"--{item.spelling}"
        meaning = " ".join(filter(None, notes)).replace("|", "\\|")
        cell = f"`{shown}`" if shown not in ("", "None") else ""
        rows.append(f"| `{name}` | {cell} | {meaning} |")
    return "\n".join(rows)


def bounds(rule: Any) -> str:
    """Return an option's bounds as a sentence, or ""."""
    parts = []
    for words, bound in (
        ("at least", rule.at_least),
        ("above", rule.above),
        ("at most", rule.at_most),
        ("below", rule.below),
    ):
        if bound is not None:
            parts.append(f"{words} {bound:g}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def command_line() -> str:
    """Return the page of the command line."""
    from fastinfogan.__main__ import COMMANDS

    parts = [
        "# Command line\n",
        "This page is made from the code. `fastinfogan COMMAND --help` prints the same. "
        "`train` also runs as `accelerate launch -m fastinfogan.train`, `evaluate` and `sample` "
        "also as `python -m fastinfogan.evaluate` and `python -m fastinfogan.sample`.\n",
        "| command | purpose |\n|---|---|",
        *(
            f"| [`{name}`](#{name.replace(' ', '-')}) | {purpose} |"
            for name, (purpose, _) in COMMANDS.items()
        ),
        "\n## train\n",
        "The defaults below are the options' own. A preset changes some of them: "
        "[presets](presets.md) lists which, and `fastinfogan train NAME --help` shows them.\n",
        *group_tables(),
    ]
    for name, (_, example) in COMMANDS.items():
        if name == "train":
            continue
        parts += [f"## {name}\n", f"Example: `fastinfogan {example}`\n"]
        if name != "completion":
            parts.append(f"```text\n{help_of(name).strip()}\n```\n")
    return "\n".join(parts)


def help_of(command: str) -> str:
    """Return what a command prints for --help."""
    import tyro

    from fastinfogan.__main__ import module_of

    output = io.StringIO()
    module = import_module(module_of(command))
    config = next(
        value
        for name, value in vars(module).items()
        if name.endswith("Config") and value.__module__ == module.__name__
    )
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(config, args=["--help"], prog=f"fastinfogan {command}")
    return output.getvalue()


def as_markdown(table: str) -> str:
    """Return a table of columns that two spaces part, and the text below it, as Markdown."""
    lines, _, note = table.partition("\n\n")
    rows = [
        "| " + " | ".join(re.split(r" {2,}", line.replace("|", "\\|"))) + " |"
        for line in lines.splitlines()
    ]
    rows.insert(1, "|---" * rows[0].count(" | ") + "|---|")
    return "\n".join(rows) + f"\n\n{note}\n"


def presets() -> str:
    """Return the page of the presets."""
    from fastinfogan.presets import PRESETS
    from fastinfogan.presets.table import details, table

    parts = [
        "# Presets\n",
        "This page is made from the code; `fastinfogan presets` prints the same.\n",
        as_markdown(table()),
    ]
    for name in PRESETS:
        reasons, _, rest = details(name).partition("\n\nOptions that differ from the defaults:\n")
        options = rest.partition("\n\nstart it: ")[0]
        parts.append(
            f"## {name}\n\n{reasons}\n\nOptions that differ from the defaults:\n\n"
            f"```yaml\n{options}\n```\n\n```bash\nfastinfogan train {name}\n```\n"
        )
    return "\n".join(parts)


def moved() -> str:
    """Return the page of import paths and options that have new names."""
    from fastinfogan.config import OPTIONS
    from fastinfogan.moved import KERNELS_MOVED, MOVED

    paths = [f"| `{old}` | `{new}` |" for old, new in {**MOVED, **KERNELS_MOVED}.items()]
    options = [
        f"| `--{item.rule.alias}` | `--{item.spelling}` |"
        for item in OPTIONS.values()
        if item.rule.alias and item.rule.alias != item.spelling
    ]
    return "\n".join(
        [
            "# Names that moved\n",
            "This page is made from the code that keeps the old names working.\n",
            "## Import paths\n",
            "The paths of version 0.1 work for one release, with a `DeprecationWarning`.\n",
            "| old path | new path |\n|---|---|",
            *paths,
            "\n## Options\n",
            "Both names of an option work on the command line and, with `_` for `-` and `.`, as "
            "keywords of `with_options` and `fit`.\n",
            "| second name, of version 0.1 | name |\n|---|---|",
            *options,
            "",
        ]
    )


# What mkdocs calls


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages and the copies of the repository's files."""
    from mkdocs.structure.files import File

    os.environ.setdefault("COLUMNS", "100")  # of a command's help
    generated: dict[str, str | bytes] = {
        "reference/command-line.md": command_line(),
        "reference/presets.md": presets(),
        "reference/moved.md": moved(),
        **repository_pages(),
    }
    for place, content in generated.items():
        files.append(File.generated(config, place, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Let links to files outside docs/ lead to their copies."""
    if page.file.generated_by:
        return markdown
    return relinked(markdown, f"docs/{page.file.src_uri}")


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Load scripts from the site alone, and MathJax on pages with formulas."""
    base = posixpath.relpath(".", posixpath.dirname(page.file.dest_uri) or ".")
    output = output.replace(SHIM, f"{base}/assets/iframe-worker/shim.js")
    if 'src="http' in output:
        raise RuntimeError(
            f"{page.file.src_uri}: expected files of the site alone, got a remote one"
        )
    if 'class="arithmatex"' not in output:
        return output
    return output.replace("</head>", _SCRIPTS.format(base=base) + "</head>", 1)
