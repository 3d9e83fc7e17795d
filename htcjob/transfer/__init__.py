"""Objects on the move: side by side, retried, paced, counted, listed."""
