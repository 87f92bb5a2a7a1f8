"""The home directory: where mergeflow keeps what it makes, and whether a home is believed.

Public: `home.Home`, and `variables` for paths as people write them. The other modules decide
whether a home found on the way is the user's own.
It imports `files` and what is below.
"""
