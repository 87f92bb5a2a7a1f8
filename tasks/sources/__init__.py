"""From a reference in a recipe to a checkpoint on this disk: a directory, the Hub, the registry.

Public: `references.parse_reference`, `locate.fetch_all`, `hub`. It imports `registry`.
"""
