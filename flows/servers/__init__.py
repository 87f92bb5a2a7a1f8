"""Prefect's and MLflow's server behind one guard: who may ask, and how a browser signs in.

Public: `guard`, `serving`; `prefect_server` and `mlflow_server` are run with `python -m`. It
imports `tasks.servers` for the login.
"""
