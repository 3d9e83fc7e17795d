"""Google Cloud Storage through its SDK."""
