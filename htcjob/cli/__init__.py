"""The command line: arguments in, exit status out. One module per group of commands."""
