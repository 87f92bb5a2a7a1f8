"""MLflow's registry: versions, the alias `champion`, runs, and the last check before an alias
moves.

Public: `register.register_merge`, `versions`, `client.open_registry`, `addresses.find_version`. It
imports `reports`, `promotion` and `servers`.
"""
