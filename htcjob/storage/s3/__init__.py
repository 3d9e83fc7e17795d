"""S3 through its SDK."""
