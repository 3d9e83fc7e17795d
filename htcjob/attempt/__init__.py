"""One attempt, from the injected environment to the exit record; read `recipe.py` first."""
