"""Where triggers come from: given by the user, or recovered from the network."""
