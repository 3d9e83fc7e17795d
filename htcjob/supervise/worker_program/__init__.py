"""The program of a warm worker, under any Python from 3.8, without an installed htcjob."""
