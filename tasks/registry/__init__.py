"""MLflow's registry: versions, the alias `champion`, runs, lineage, and the last check before an
alias moves.

Public: `register.register_merge`, `versions`, `client.open_registry`, `lineage.lineage`. It
imports `reports`, `promotion` and `servers`.
"""
