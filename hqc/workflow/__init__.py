"""The workflow: from a float model to a prepared, a deployed and a compiled one. Everything above the passes meets here."""
