"""What a warm worker runs, under any Python from 3.8, without an installed htcjob."""
