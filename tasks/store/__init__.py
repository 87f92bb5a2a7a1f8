"""What of a home's store is still needed, and the removal of the rest.

Public: `retention.survey`, `retention.tidy`, `retention.retain`. It asks every registry that used
the store, so it imports `registry`.
"""
