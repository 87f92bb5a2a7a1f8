"""What surrounds a process and must not rule it: telemetry, settings and packages in its directory.

Public: `no_telemetry.silence`, `own_packages.refuse_foreign_packages`, `settings_beside`,
`starting_directory`. It runs before Prefect is imported, so it imports nothing heavy.
"""
