"""The command line as a whole: help, version, and words that are no command."""


def test_help_shows_variables_examples_and_the_exit_table(htcjob):
    """Each command's help has what a person needs at 3 a.m."""
    for command in ("run", "chunk", "check", "env", "simulate"):
        shown = htcjob(command, "--help").stdout
        assert "Example:" in shown, command
        assert "Exit status:" in shown, command
        assert "75 " in shown, command
    shown = htcjob("run", "--help").stdout
    for variable in ("HTCJOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX", "HTCJOB_TIMEOUT", "IMG_OBJKEY_LIST"):
        assert variable in shown
    assert htcjob("--help").returncode == 0
    assert htcjob("--version").stdout.startswith("htcjob ")


def test_an_unknown_command_is_a_usage_error(htcjob):
    """64, not click's 2."""
    assert htcjob("frobnicate").returncode == 64
    assert htcjob("chunk", "--frob").returncode == 64
