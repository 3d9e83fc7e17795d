"""Each module measures something of ours against something else in the same run, and prints the ratio."""
