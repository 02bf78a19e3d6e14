"""Everything that is drawn: tokens, attention maps, losses, diagrams, progress."""
