"""Loss terms that can be added to a player's loss, and the extra images they need."""
