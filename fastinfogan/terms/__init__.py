"""Loss terms that are added to a player's loss, one file each; `protocol` is their interface."""

from .protocol import Address, Extra, Recipe, Seen, Term

__all__ = ["Address", "Extra", "Recipe", "Seen", "Term"]
