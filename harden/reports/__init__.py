"""One file per form that a report takes."""
