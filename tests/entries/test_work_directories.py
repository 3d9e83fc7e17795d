"""Work directories and disk shares: each is its borrower's alone, however often it is given back."""

import os
import shutil
import tempfile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from htcjob.entries.disk_budget import DiskBudget
from htcjob.entries.work_directories import ScratchDirectory, WorkDirectories


class Borrowers(RuleBasedStateMachine):
    """
    Entries that borrow directories and shares, use them as they like, and give them back once or several times.

    Beside them: processes that outlive their entry and write where they were told to, and somebody who removes
    empty folders from the disk.
    """

    ever_lent = Bundle("ever_lent")

    def __init__(self) -> None:
        super().__init__()
        self.scratch = tempfile.mkdtemp(prefix="htcjob-test-")
        self.directories = WorkDirectories(self.scratch)
        self.budget = DiskBudget(100, is_exact=True)
        self.held = {}
        """The directories that are lent, with the input and the output that belong there."""
        self.shares = {}
        """The bytes of each share that is taken."""
        self.roots = set()
        """All that were ever lent."""
        self.left = set()
        """Those that nobody writes to any more: their processes had ended when they were given back."""

    def teardown(self) -> None:
        shutil.rmtree(self.scratch)

    @rule(target=ever_lent, has_input=st.booleans(), is_forced=st.booleans(), size=st.integers(0, 60))
    def lend(self, has_input, is_forced, size):
        """Nobody has that directory, nor had it; nothing is in it."""
        share = self.budget.take(size, is_forced=is_forced)
        assert (share is None) == (not is_forced and sum(self.shares.values()) + size > 100)
        directory = self.directories.lend()
        assert directory.root not in self.roots
        assert sorted(os.listdir(directory.root)) == ["output", "work"]
        assert os.listdir(directory.inputs) == os.listdir(directory.outputs) == []
        self.roots.add(directory.root)
        files = [os.path.join(directory.inputs, "input")] if has_input else []
        for path in files:
            with open(path, "w") as file:
                file.write(directory.root)
        self.held[directory.root] = files
        if share is not None:
            self.shares[directory.root] = size
        return directory, share

    @rule(lent=ever_lent)
    def write(self, lent):
        """Leave a result in it, as long as it is lent; later, as a process that was told of it once would."""
        directory, _ = lent
        if directory.root in self.left:
            return
        path = os.path.join(directory.outputs, "result")
        try:
            with open(path, "w") as file:
                file.write(directory.root)
        except FileNotFoundError:
            assert directory.root not in self.held
        else:
            assert directory.root in self.held, "a directory that was given back is somebody's"
            self.held[directory.root].append(path)

    @rule(lent=ever_lent, size=st.integers(0, 60))
    def resize(self, lent, size):
        """Count another size; for a share that was given back, that is nothing."""
        directory, share = lent
        if share is not None:
            share.resize(size)
            if directory.root in self.shares:
                self.shares[directory.root] = size

    @rule(lent=ever_lent, is_vacated=st.booleans())
    def take_back(self, lent, is_vacated):
        """Also when it was given back before: then that changes nothing for anybody."""
        directory, share = lent
        if is_vacated and directory.root in self.held:
            self.left.add(directory.root)
        files = self.held.pop(directory.root, [])
        inputs = [path for path in files if path.startswith(directory.inputs)]
        self.directories.take_back(directory, inputs[0] if inputs else "", is_vacated=is_vacated)
        if share is not None:
            share.give_back()
            self.shares.pop(directory.root, None)

    @rule(lent=consumes(ever_lent))
    def forget(self, lent):
        """Give back for the last time."""
        self.take_back(lent, is_vacated=True)

    @rule()
    def clean(self):
        """Remove what looks unused."""
        for name in os.listdir(self.scratch):
            root = os.path.join(self.scratch, name)
            if root not in self.held:
                shutil.rmtree(root)

    @invariant()
    def every_borrower_has_what_it_put_there(self):
        for root, files in self.held.items():
            assert os.path.isdir(root)
            for path in files:
                with open(path) as file:
                    assert file.read() == root

    @invariant()
    def the_budget_counts_what_is_taken(self):
        assert self.budget.used_bytes == sum(self.shares.values())


Borrowers.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestBorrowers = Borrowers.TestCase


def test_a_scratch_directory_that_nobody_asks_for_is_not_made(tmp_path):
    """An attempt with nothing left to do needs no disk, and may have none."""
    with ScratchDirectory(str(tmp_path / "absent")):
        pass
    assert os.listdir(tmp_path) == []


def test_a_scratch_directory_goes_with_all_that_is_in_it(tmp_path):
    """Whatever ends the context; its parent, which may be others', stays."""
    with pytest.raises(ZeroDivisionError), ScratchDirectory(str(tmp_path / "parent")) as scratch:  # noqa: PT012
        path = scratch.make()
        assert os.path.dirname(path) == os.path.realpath(tmp_path / "parent")
        os.mkdir(os.path.join(path, "made by a command"))
        raise ZeroDivisionError
    assert os.listdir(tmp_path / "parent") == []
