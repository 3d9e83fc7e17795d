"""
htcjob with that order reversed which all rests on: records first, outputs behind them.

In the bad world it is killed between the two, where CHAOS_KILL is set.
"""

import hashlib
import os
import signal

from htcjob.cli.main import main
from htcjob.entries.each import OneByOne
from htcjob.entries.staging import Staging
from htcjob.ledger.records import Output

settle, stage_out = OneByOne._settle, Staging.stage_out


def described(_staging, directory, keys):
    """Give the outputs as if they had been put."""
    outputs = []
    for key in keys:
        with open(os.path.join(directory, key), "rb") as file:
            data = file.read()
        outputs.append(Output(key, len(data), hashlib.sha256(data).hexdigest()))
    return outputs


def settle_first(each, state, record):
    settle(each, state, record)
    if record.outputs:
        each.pipeline.ledger.flush()
        if os.environ.get("CHAOS_KILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        stage_out(
            each.pipeline.staging, state.staged.directory.outputs, [output.key for output in record.outputs]
        )


OneByOne._settle, Staging.stage_out = settle_first, described

if __name__ == "__main__":
    main()
