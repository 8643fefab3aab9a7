"""Methods against models, for people who compare defences."""
