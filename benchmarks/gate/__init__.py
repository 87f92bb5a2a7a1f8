"""How often the gate promotes what it must not, and what it should: simulated."""
