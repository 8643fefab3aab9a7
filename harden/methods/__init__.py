"""Named systems: which recoverer, pruner and repairer each one is made of."""
