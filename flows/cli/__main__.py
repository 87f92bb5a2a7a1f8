"""`python -m flows.cli`: the command `mergeflow`."""

from flows.cli.program import main

main()
