"""The flows and the command line. Whatever imports a module of this package is silenced first."""

from flows.no_telemetry import silence

silence()
