"""mergeflow's library: recipes, checkpoints, merge methods and the streaming merge engine.

Usable on its own. Imports neither prefect, mlflow, lm_eval nor transformers.
"""
