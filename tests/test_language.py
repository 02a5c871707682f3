"""The language of docstrings, comments, pages and tests: the worst habits stay at zero."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("fastinfogan", "kernels", "benchmarks", "profiling", "examples", "tests", "docs")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
TESTS = [path for path in SOURCES if path.name.startswith("test_")]
PAGES = [
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "kernels" / "README.md")
    if "notes" not in path.parts
]
# A changelog's entry is one line, and these tables have captions.
LISTS = ("CHANGELOG.md", "experiments.md", "NOTICE.md")
MAX_WORDS = 33  # of a page's sentence
MAX_DOCSTRING_WORDS = 40  # of a docstring's sentence

QUESTIONS = ("What", "How", "Whether", "Why", "Who", "Whom", "Whose", "Where", "When", "Which")
# The verbs with which a function's docstring may begin.
_VERBS = """
    Add Append Apply Average Bind Blur Bring Build Call Change Check Choose Close Combine Compare
    Compile Compose Composite Compute Convert Convolve Copy Count Create Cut Damage Decode Delete
    Describe Do Draw Drop Edit End Evaluate Expect Fail Fetch Fill Find Finish Flush Follow Generate
    Give Go Hand Hide Ignore Import Invert Join Keep Kill Launch Leave Let Limit List Load Look Make
    Map Measure Mount Move Name Open Parametrize Parse Pass Print Put Raise Read Record Reduce
    Refuse Remove Rename Replace Replay Restore Return Run Save Say Scale See Send Set Shift Show
    Split Stand Start Stop Store Switch Take Tell Test Tile Time Trace Train Turn Wait Warn Write
    Yield
"""
VERBS = frozenset(_VERBS.split())
THIRD_PERSON = frozenset(
    form for verb in VERBS for form in (f"{verb}s", f"{verb}es", f"{verb[:-1]}ies")
) | {"Stands", "Notes", "Pauses", "Refuses"}
# Nouns of the same form.
NOUNS = frozenset(
    {"Copies", "Damage", "Draws", "Import", "Imports", "Kills", "Lists", "Moves", "Runs", "Sets"}
    | {"Splits", "Tests", "Time", "Times"}
)

# words of no reader outside this project
PRIVATE = re.compile(
    r"\b(beside|of ours|house(?! numbers)|housekeeping|rooms?|whom|been told|not told|as told"
    r"|told apart|(is|are|of \w+) asked[;,.])\b",
    re.IGNORECASE,
)
AMOUNTS = (
    r"(?:[nµm]s|(?:nano|micro|milli)?seconds?|minutes|bytes|[KMG]i?B|images|updates|lines?|rows?"
    r"|operations|classes|moments|pairs?|labels?|pixels|chairs|pictures?|points?|requests|columns?)"
)
UNITS = (
    r"(?:second|minute|hour|epoch|call|update|batch|rank|row|round|term|parameter|image|code"
    r"|category|seed|factor|block|size|process|machine|player|dim|leaf|head|tile|launch|layer|file)"
)
PER = re.compile(rf"\b{AMOUNTS} an? {UNITS}\b(?! (?:sees|takes|has|needs|is|draws)\b)")

VALUES = ("told", "asked", "found", "looked", "said")
QUESTION_NAME = re.compile(r"test_(what|how|whether|who|whom|whose|which|where|when|why)_")
# outside a class, which would name the subject
PRONOUN = re.compile(r"test_(it|its|they|their|theirs|these|those|so|nor)_")
PRIVATE_NAME = re.compile(
    r"_(told|said|asked|beside|besides|looked|nobody|nobodys|ones_own|one_s_own|stood_in|found_out"
    r"|that_(is|are)_none)(_|$)"
)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def docstrings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def decorators(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    return " ".join(ast.unparse(decorator) for decorator in node.decorator_list)


def first_word(text: str) -> str:
    return text.split()[0].strip(",.:;")


def is_command(node: ast.AST) -> bool:
    """Return True for a command's options: their docstring is the help's first line."""
    return isinstance(node, ast.ClassDef) and node.name.endswith("Config")


def questions(path: Path) -> Iterator[tuple[int, str]]:
    for node, text in docstrings(path):
        if first_word(text) in QUESTIONS:
            yield getattr(node, "lineno", 1), text.splitlines()[0]


def functions_without_verb(path: Path) -> Iterator[tuple[int, str]]:
    """Yield functions whose docstring does not begin with a verb.

    A property's is a noun phrase, as an attribute's; a test's goes on with its name.
    """
    for node, text in docstrings(path):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if node.name.startswith("test_") or "property" in decorators(node):
            continue
        if first_word(text) not in VERBS:
            yield node.lineno, text.splitlines()[0]


def classes_with_verb(path: Path) -> Iterator[tuple[int, str]]:
    """Yield classes and modules whose docstring begins with a verb. A command's options may."""
    for node, text in docstrings(path):
        if isinstance(node, ast.Module | ast.ClassDef) and not is_command(node):
            word = first_word(text)
            if word in (VERBS | THIRD_PERSON) - NOUNS:
                yield getattr(node, "lineno", 1), text.splitlines()[0]


def participles(path: Path) -> Iterator[tuple[int, str]]:
    """Yield values whose name is a participle: `checkpoint` is a name, `found` is none."""
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.arg):
            name = node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        else:
            continue
        if name.strip("_") in VALUES:
            yield node.lineno, name


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a page, or those of a source's comments and texts."""
    if path.suffix == ".md":
        yield from enumerate(path.read_text("utf-8").splitlines(), 1)
        return
    source = path.read_text("utf-8")
    kinds = (tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            yield from enumerate(token.string.splitlines(), token.start[0])


def private_words(path: Path) -> Iterator[tuple[int, str]]:
    yield from ((number, line) for number, line in prose(path) if PRIVATE.search(line))


def a_for_per(path: Path) -> Iterator[tuple[int, str]]:
    """Yield lines with a rate such as images by the second whose "per" is an article."""
    yield from ((number, line) for number, line in prose(path) if PER.search(line))


def sentences(page: str) -> Iterator[str]:
    """Yield the sentences of a page's paragraphs and lists, without code, tables and formulas."""
    page = re.sub(r"```.*?```|\\\[.*?\\\]|<!--.*?-->", "", page, flags=re.DOTALL)
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-#|]|\d\.) ?)", page):
        if paragraph.lstrip().startswith(("|", "#", "![", "[![")):
            continue
        text = re.sub(r"`[^`]*`", "CODE", " ".join(paragraph.split()))
        yield from re.split(r"(?<=[.!?:])[*)\"]*\s+(?=[*(\"\[]*[A-ZΑ-Ωα-ω0-9])", text)


def long_sentences(path: Path) -> Iterator[tuple[int, str]]:
    for sentence in sentences(path.read_text("utf-8")):
        if len(sentence.split()) > MAX_WORDS:
            yield 0, sentence


def long_docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Yield long sentences of docstrings, whose indented lines are lists of arguments or code."""
    for node, text in docstrings(path):
        for paragraph in re.split(r"\n\s*\n|\n(?=- )|\n\s+", text):
            line = re.sub(r"`[^`]*`", "CODE", " ".join(paragraph.split()))
            for sentence in re.split(r"(?<=[.!?:])\s+", line):
                if len(sentence.split()) > MAX_DOCSTRING_WORDS:
                    yield getattr(node, "lineno", 1), sentence


def names_of_tests(tree: ast.AST, in_class: bool = False) -> Iterator[tuple[str, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from names_of_tests(node, in_class=True)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name, in_class


def poor_names_of_tests(path: Path) -> Iterator[tuple[int, str]]:
    for name, in_class in names_of_tests(parsed(path)):
        if (
            QUESTION_NAME.match(name)
            or PRIVATE_NAME.search(name)
            or (PRONOUN.match(name) and not in_class)
        ):
            yield 0, name


RULES = {
    "a docstring begins with no question word": (questions, SOURCES),
    "a function's docstring begins with a verb": (functions_without_verb, SOURCES),
    "a class's and a module's docstring begins with a noun phrase": (classes_with_verb, SOURCES),
    "a value's name is a noun": (participles, SOURCES),
    "a test's name is a sentence with a subject": (poor_names_of_tests, TESTS),
    "no text has a private word": (
        private_words,
        [path for path in (*SOURCES, *PAGES) if path != Path(__file__)],
    ),
    "rates say per": (a_for_per, [path for path in (*SOURCES, *PAGES) if path != Path(__file__)]),
    f"a docstring's sentence has at most {MAX_DOCSTRING_WORDS} words": (
        long_docstrings,
        # The reasons of presets are a page of their own.
        [path for path in SOURCES if "presets" not in path.parts],
    ),
    f"a page's sentence has at most {MAX_WORDS} words": (
        long_sentences,
        [path for path in PAGES if path.name not in LISTS],
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_every_text_keeps_to_the_rule(rule: str) -> None:
    offenders, paths = RULES[rule]
    assert [
        f"{path.relative_to(ROOT)}:{number}: {text.strip()}"
        for path in paths
        for number, text in offenders(path)
    ] == []


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("a docstring begins with no question word", '"""Which images are read."""'),
        ("a function's docstring begins with a verb", 'def f():\n    """The sum."""'),
        (
            "a class's and a module's docstring begins with a noun phrase",
            'class C:\n    """Counts images."""',
        ),
        ("a value's name is a noun", "self.told = 1"),
        ("a test's name is a sentence with a subject", "def test_what_is_read(): ..."),
        ("no text has a private word", "x = 1  # there is room"),
        ("rates say per", "x = 1  # in seconds a call"),
        (
            f"a docstring's sentence has at most {MAX_DOCSTRING_WORDS} words",
            f'"""The {"word " * MAX_DOCSTRING_WORDS}ends."""',
        ),
    ],
)
def test_an_offender_against_the_rule_is_noticed(rule: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(text + "\n")
    assert list(RULES[rule][0](path))


def test_a_long_sentence_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\nShort one.\n\n- A list " + "word " * MAX_WORDS + "ends.\n")
    assert [text.split()[1] for _, text in long_sentences(page)] == ["A"]
