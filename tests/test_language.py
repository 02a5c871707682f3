"""Docstrings, pages and test names keep to plain English: the worst habits stay at zero."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for folder in ("fastinfogan", "kernels", "benchmarks", "profiling", "examples", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "kernels" / "README.md"]
QUESTIONS = ("What", "How", "Whether", "Why", "Who", "Whom", "Where")
# words of no reader outside this project
PRIVATE = re.compile(r"\b(beside|of ours|in the house|housekeeping|whom)\b", re.IGNORECASE)
# words that begin a noun phrase or half a sentence, not an imperative
NO_VERBS = (
    *("The", "A", "An", "Its", "Each", "All", "Both", "Any", "Every", "No", "This", "These"),
    *("Of", "On", "In", "By", "With", "Also", "Nothing", "Whatever"),
)
TESTS = [path for path in SOURCES if path.name.startswith("test_")]
QUESTION = re.compile(r"test_(what|how|whether|who|whom|which|where)_")
# outside a class, which would name the subject
PRONOUN = re.compile(r"test_(it|its|they|their|theirs|these|those|so|nor)_")
PRIVATE_NAME = re.compile(
    r"_(told|said|asked|beside|besides|looked|nobody|nobodys|ones_own|one_s_own|stood_in|found_out"
    r"|that_(is|are)_none)(_|$)"
)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def docstrings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node, text


def test_no_docstring_begins_with_a_question_word():
    assert [
        f"{path.relative_to(ROOT)}: {text.splitlines()[0]}"
        for path in SOURCES
        for _, text in docstrings(path)
        if text.split()[0] in QUESTIONS
    ] == []


def test_a_function_s_docstring_begins_with_a_capital_and_with_no_article():
    nouns = []
    for path in SOURCES:
        if path.relative_to(ROOT).parts[0] not in ("fastinfogan", "kernels"):
            continue
        for node, text in docstrings(path):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            first = text.split()[0].strip(",.:;")
            if re.fullmatch(r"[A-Z][a-z-]+", first) and first not in NO_VERBS:
                continue
            decorators = " ".join(ast.unparse(x) for x in node.decorator_list)
            if "property" not in decorators and "contextmanager" not in decorators:
                nouns.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}")
    assert nouns == []


def test_names_of_values_are_nouns_outside_the_tests():
    """Assigned names and arguments are `checkpoint`, not `found`; `messages`, not `said`."""
    values = []
    for path in SOURCES:
        if "tests" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.arg):
                name = node.arg
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                name = node.id
            else:
                continue
            if name in ("told", "asked", "found", "looked", "said"):
                values.append(f"{path.relative_to(ROOT)}:{node.lineno}: {name}")
    assert values == []


def names_of_tests(tree: ast.AST, in_class: bool = False) -> Iterator[tuple[str, bool]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from names_of_tests(node, in_class=True)
        elif isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield node.name, in_class


def test_the_name_of_a_test_is_a_sentence_with_a_subject_and_no_private_word():
    assert [
        f"{path.relative_to(ROOT)}: {name}"
        for path in TESTS
        for name, in_class in names_of_tests(parsed(path))
        if QUESTION.match(name)
        or PRIVATE_NAME.search(name)
        or (PRONOUN.match(name) and not in_class)
    ] == []


def test_private_words_are_in_no_source_and_no_page():
    texts = {
        path: path.read_text()
        for path in (*SOURCES, *PAGES)
        if path != Path(__file__) and "notes" not in path.parts
    }
    assert [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path, text in texts.items()
        for line in text.splitlines()
        if PRIVATE.search(line)
    ] == []
