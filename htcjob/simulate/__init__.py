"""A local array: real `htcjob run` attempts, with exactly the variables the platform injects."""
