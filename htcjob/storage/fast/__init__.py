"""The fast lane: all three clouds through obstore."""
