"""`python -m htcjob` is the `htcjob` command."""

import sys

if not (sys.flags.isolated or getattr(sys.flags, "safe_path", False)):
    del sys.path[0]  # the working directory, where a `json.py` of the user's may be; the command has none

from htcjob.cli.main import main

main()
