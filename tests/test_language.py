"""Docstrings and pages keep to plain English: the worst habits stay at zero."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
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
ARTICLES = ("The", "A", "An", "Its", "Each", "All", "Both")


def docstrings(path: Path) -> Iterator[tuple[ast.AST, str]]:
    for node in ast.walk(ast.parse(path.read_text())):
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


def test_a_function_s_docstring_begins_with_no_article():
    found = []
    for path in SOURCES:
        if not path.is_relative_to(ROOT / "fastinfogan"):
            continue
        for node, text in docstrings(path):
            if not isinstance(node, ast.FunctionDef) or text.split()[0] not in ARTICLES:
                continue
            if not any("property" in ast.unparse(x) for x in node.decorator_list):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {text.splitlines()[0]}")
    assert found == []


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
