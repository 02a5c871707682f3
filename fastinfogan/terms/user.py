"""Loss terms and objectives of a user's own, by import path."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ..errors import UserError
from ..options import Objects, call, import_path, parse_call, register
from .protocol import Term

_objects = Objects()  # terms that `fit` was given, by the text that is recorded
Losses = tuple[Callable[..., Tensor], Callable[..., Tensor]]  # D's, G's


def load_terms(texts: Iterable[str]) -> tuple[Term, ...]:
    """Return the terms that texts such as "my_terms:Dark weight=0.1" name.

    Raises UserError in one line: no such class, arguments that it does not take, no term.
    """
    return tuple(_load_term(text) for text in texts)


def _load_term(text: str) -> Term:
    known: Term | None = _objects.get(text)
    if known is not None:
        return known
    path, arguments = parse_call(text, "--term")
    term = call(import_path(path, "--term"), f"--term {path}", **arguments)
    if not isinstance(term, Term):
        raise UserError(
            f"--term {path}: expected a subclass of fastinfogan.terms.Term, "
            f"got {type(term).__name__}"
        )
    if not isinstance(getattr(term, "name", None), str):
        raise UserError(
            f"--term {path}: expected a class attribute `name`, under which the term is logged"
        )
    if type(term).loss is Term.loss:
        raise UserError(f"--term {path}: expected a method `loss(self, seen)`")
    return term


def text_of(term: Term | str) -> str:
    """Return the text that a configuration records of a term: its class and its arguments.

    A term that is given as an object is kept under its text, so this process uses the object
    itself. Another process needs a class at the top level of a module and, for the arguments, a
    dataclass.
    """
    if isinstance(term, str):
        return term
    if not isinstance(term, Term):
        raise UserError(
            f"terms: expected objects of fastinfogan.terms.Term or their import paths, got {term!r}"
        )
    words = [register(type(term))]
    if dataclasses.is_dataclass(term):
        for field in dataclasses.fields(term):
            value = getattr(term, field.name)
            if field.init and isinstance(value, bool | int | float | str):
                words.append(f"{field.name}={value}")
    text = " ".join(words)
    _objects[text] = term
    return text


def load_objective(path: str) -> Losses:
    """Return the pair of adversarial losses that a function "module.path:function" returns.

    The function takes nothing and returns (d_loss, g_loss) as `losses.adversarial_losses` does:
    d_loss(real_logits, fake_logits) and g_loss(fake_logits), or g_loss(fake_logits, real_logits)
    where g_loss has an attribute `needs_real` that is true.

    Raises UserError in one line where it returns something else.
    """
    pair: Any = call(import_path(path, "--objective"), f"--objective {path}")
    if not (isinstance(pair, tuple) and len(pair) == 2 and all(callable(loss) for loss in pair)):
        raise UserError(
            f"--objective {path}: expected a pair of functions (d_loss, g_loss), got {pair!r}"
        )
    d_loss, g_loss = pair
    return d_loss, g_loss
