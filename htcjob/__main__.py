"""`python -m htcjob` is the `htcjob` command."""

from htcjob.cli.main import main

main()
