"""Which items of a home's store are still needed, and the removal of the others.

Public: `retention.survey`, `retention.tidy`, `retention.retain`. It asks every registry that used
the store, so it imports `registry`.
"""
