"""The local stack: servers and workers that `mergeflow up` starts, watches and ends.

Public: `stack`, `up`, `status`, `setup`, `prefect_session.PrefectSession`. It imports `servers`,
`settings` and the rooms below.
"""
