"""Messages and log lines, and the secrets that must not be in them."""
