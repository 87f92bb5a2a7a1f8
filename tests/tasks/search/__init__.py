"""A search: its space, its trials, its races, its choice."""
