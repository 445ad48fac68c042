"""How often the intervals and verdicts of a comparison hold, by simulation."""
