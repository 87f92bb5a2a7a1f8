"""What surrounds a process and must not rule it: telemetry, settings and packages in its directory.

Public: `no_telemetry.silence`, `settings_beside`, `starting_directory`,
`prefect_logging`. It runs before Prefect is imported, so it imports nothing heavy.
"""
