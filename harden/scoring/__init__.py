"""How guilty each filter looks."""
