"""The networks, their target encodings and their losses: torch only."""
