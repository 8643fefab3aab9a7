"""Which filters go, and the surgery that makes them go."""
