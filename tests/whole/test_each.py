"""`htcjob run --each` with several workers: every entry ends once, within the bounds, however it goes."""

import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

import pytest

COPY = 'cp "$HTCJOB_INPUT" "$HTCJOB_OUTPUT_DIR/$HTCJOB_ENTRY"'


def bytes_below(folder) -> int:
    """Give the bytes of the files that are there now."""
    found = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                found += os.lstat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue
    return found


@pytest.mark.parametrize("seed", range(6))
def test_every_entry_ends_once_with_one_record(htcjob, seed):
    """Good, failing, absent, hanging and killed ones, with any workers, prefetch and budget."""
    luck = random.Random(seed)
    kinds = luck.choices(["good", "bad", "hang", "crash", "absent"], weights=[20, 3, 1, 2, 2], k=40)
    names = [f"{kind}-{n}" for n, kind in enumerate(kinds)]
    htcjob.entries(*(name for name in names if not name.startswith("absent")))
    htcjob.manifest(*names)
    script = (
        f"case $HTCJOB_ENTRY in bad*) exit 3;; hang*) sleep 1000;; crash*) kill -SEGV $$;; *) {COPY};; esac"
    )
    options = [
        *("--workers", str(luck.choice([1, 2, 5]))),
        *("--prefetch", str(luck.choice([0, 1, 16]))),
        *(("--disk-budget", luck.choice(["0", "20B", "1MB"])) if luck.random() < 0.7 else ()),
    ]
    done = htcjob.run(*options, "--timeout", "2s", "--each", "--", "sh", "-c", script)
    assert done.returncode == 65, (options, done.stderr)
    results = {"good": "done", "hang": "timed_out"}
    expected = [(n, results.get(kind, "failed")) for n, kind in enumerate(kinds)]
    assert [(record["position"], record["result"]) for record in htcjob.records()] == expected, options
    assert set(htcjob.outputs()) == {name for name in names if name.startswith("good")}
    counted = Counter(result for _, result in expected)
    entries = htcjob.exit_record()["entries"]
    assert {name: entries[name] for name in counted} == counted
    assert list(htcjob.work.iterdir()) == []


def test_as_many_run_at_once_as_there_are_workers(htcjob):
    """Three commands wait for each other, and the fourth is not needed for it."""
    htcjob.entries("a", "b", "c", "d", "e", "f")
    meet = htcjob.project.parent / "meet"
    meet.mkdir()
    script = 'touch "$0/$HTCJOB_ENTRY"; until [ "$(ls "$0" | wc -l)" -ge 3 ]; do sleep 0.01; done'
    done = htcjob.run("--workers", "3", "--timeout", "60s", "--each", "--", "sh", "-c", script, str(meet))
    assert done.returncode == 0, done.stderr


def test_the_next_entry_is_fetched_while_one_is_worked_on(htcjob):
    """The first command waits until it sees the inputs of others in place."""
    htcjob.entries("a", "b", "c", "d")
    script = (
        'until [ "$(find "$HTCJOB_WORK_DIR/../.." -path "*/work/?" | wc -l)" -ge "$0" ]; do sleep 0.01; done'
    )
    command = ("--workers", "1", "--timeout", "60s", "--each")
    done = htcjob.run(
        *command,
        "--entry",
        "a",
        "--entry",
        "b",
        "--entry",
        "c",
        "--",
        "sh",
        "-c",
        '[ "$HTCJOB_KEY" != a ] || { ' + script + "; }",
        "3",
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("workers", ["1", "3"])
def test_the_disk_budget_is_kept(htcjob, workers):
    """Never more than it below the work directory, seen from outside all the time, and inputs larger than it pass alone."""
    sizes = [100_000, 30_000, 250_000, 90_000, 10_000, 120_000, 60_000] * 4
    names = [f"e{n}" for n in range(len(sizes))]
    for name, size in zip(names, sizes, strict=True):
        (htcjob.project / name).write_bytes(b"x" * size)
    htcjob.manifest(*names)
    most, is_over = [0], threading.Event()

    def watch():
        while not is_over.is_set():
            most[0] = max(most[0], bytes_below(htcjob.work))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    options = ("--workers", workers, "--disk-budget", "260kB")
    done = htcjob.run(*options, "--each", "--", "sh", "-c", "sleep 0.01")
    is_over.set()
    watcher.join()
    assert done.returncode == 0, done.stderr
    assert most[0] <= 260_000 + 4096, "more than the budget"
    assert most[0] >= 100_000, "nothing was seen"


LEAVINGS = {
    "a file beside its input": ': > "$HTCJOB_WORK_DIR/left"',
    "a folder without a file": 'mkdir "$HTCJOB_OUTPUT_DIR/left"',
    "a file above": ': > "$HTCJOB_WORK_DIR/../left"',
    "a place that is not writable": 'chmod 500 "$HTCJOB_OUTPUT_DIR"',
    "a place open to all": 'chmod 777 "$HTCJOB_WORK_DIR"',
    "no place": 'rm -r "$HTCJOB_WORK_DIR" "$HTCJOB_OUTPUT_DIR"; mkdir "$HTCJOB_OUTPUT_DIR"',
    "a link": 'mv "$HTCJOB_WORK_DIR" "$0/$HTCJOB_ENTRY" && ln -s "$0/$HTCJOB_ENTRY" "$HTCJOB_WORK_DIR"',
}
"""What a command can leave behind in its place."""


@pytest.mark.parametrize("leaving", LEAVINGS)
def test_every_entry_finds_a_fresh_place(htcjob, leaving):
    """Whatever those before it left in theirs: its input and nothing else. What lies outside is not touched."""
    htcjob.entries(*(f"e{n}" for n in range(9)))
    outside = htcjob.project.parent / "outside"
    outside.mkdir()
    look = 'cd "$HTCJOB_WORK_DIR/.."; find * -type d -printf "%p %m\n" -o -print | sort | tr "\n" " "; echo'
    leave = f"case $HTCJOB_ENTRY in e[147]) {LEAVINGS[leaving]};; esac"
    done = htcjob.run("--workers", "1", "--each", "--", "sh", "-c", f"{look}; {leave}", str(outside))
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"output 700 work 700 work/e{n} " for n in range(9)]
    moved = ["e1", "e4", "e7"] if leaving == "a link" else []
    assert sorted(path.name for path in outside.rglob("*") if path.is_file()) == moved


def test_a_daemon_of_unknown_origin_writes_into_no_other_entrys_place(htcjob):
    """It lives as long as any other command, and its own place, empty as it is, is not used again."""
    names = ["a", "b", *(f"c{n}" for n in range(6))]
    htcjob.entries(*names)
    places = htcjob.project.parent / "places"
    places.mkdir()
    daemon = 'while :; do [ ! -e "$0/c" ] || touch stray; echo >> "$0/rounds"; sleep 0.01; done 2> /dev/null'
    begins = f'cd "$HTCJOB_OUTPUT_DIR"; setsid env -i sh -c \'{daemon}\' "$0" &'
    script = (
        'until_there() { until [ -e "$0/$1" ]; do sleep 0.01; done; }; case $HTCJOB_ENTRY in '
        f"a) until_there b; {begins} until_there rounds;; "
        'b) : > "$0/b"; until_there end;; '
        'c*) : > "$0/c"; n=$(wc -l < "$0/rounds"); until [ "$(wc -l < "$0/rounds")" -gt $((n + 2)) ]; do sleep 0.01; done;; '
        'esac; [ "$HTCJOB_ENTRY" != c5 ] || : > "$0/end"'
    )
    options = ("--workers", "2", "--timeout", "60s", "--each")
    done = htcjob.run(*options, "--", "sh", "-c", script, str(places))
    assert done.returncode == 0, done.stderr
    # Where another worker is quick, it begins `c0` before the outputs of `a` are listed, the daemon's own entry.
    assert {record["entry"] for record in htcjob.records() if record.get("outputs")} <= {"a"}


def test_a_disk_too_small_for_what_is_ahead_fails_nothing(htcjob, small_disk):
    """256 KiB for a hundred inputs of 60 kB: fetching pauses until something is finished."""
    names = [f"e{n}" for n in range(60)]
    for name in names:
        (htcjob.project / name).write_bytes(name.encode() * 15_000)
    htcjob.manifest(*names)
    options = ("--workers", "2", "--work-dir", str(small_disk), "--disk-budget", "10MB")
    done = htcjob.run(*options, "--each", "--output", "none", "--", "true")
    assert done.returncode == 0, done.stderr
    assert htcjob.results() == dict.fromkeys(range(60), "done")
    assert list(small_disk.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("seed", range(3))
def test_killed_in_the_middle_and_run_again_every_entry_is_done_once(htcjob, signum, seed, wait_until):
    """With several workers: nothing is lost, nothing done twice, and no status is 0 with work left."""
    luck = random.Random(seed)
    names = [f"e{n:02d}" for n in range(30)]
    htcjob.entries(*names)
    command = ("run", "--workers", "3", "--each", "--", "sh", "-c", f"sleep 0.03; {COPY}")
    for attempt in range(40):
        with htcjob.start(*command) as process:
            if attempt < 5:
                before = len(list(htcjob.work.iterdir()))
                wait_until(
                    lambda n=before: len(list(htcjob.work.iterdir())) > n or process.poll() is not None
                )
                time.sleep(luck.uniform(0, 0.2))
                process.send_signal(signum)
            process.communicate(timeout=60)
        # A signal may come behind the last record: then nothing is left, and the status is the signal's.
        assert process.returncode != 0 or len(htcjob.records()) == 30
        if process.returncode == 0:
            break
    assert [record["position"] for record in htcjob.records()] == list(range(30))
    outputs = htcjob.outputs()
    # A SIGKILL may leave a temporary name of a local store, which no listing shows.
    whole = {key: data for key, data in outputs.items() if not key.startswith(".htcjob-tmp-")}
    assert whole == {name: name.encode() for name in names}


def test_an_error_that_concerns_all_ends_the_attempt_and_keeps_what_is_finished(htcjob):
    """The command vanishes in the middle: 127, and what was done before is committed."""
    names = [f"e{n:02d}" for n in range(20)]
    htcjob.entries(*names)
    program = htcjob.project.parent / "program"
    program.write_text(
        '#!/bin/sh\ncase $HTCJOB_ENTRY in e0*) ;; e10) rm "$0";; *) while [ -e "$0" ]; do sleep 0.01; done;; esac\n'
    )
    program.chmod(0o755)
    # One worker: a second one could be caught between the program's start and its shell reading it.
    done = htcjob.run("--workers", "1", "--each", "--", str(program))
    assert done.returncode == 127
    assert htcjob.results() == dict.fromkeys(range(11), "done")


def test_the_lines_of_one_entry_stay_in_order(htcjob):
    """Each is done once and its command has written what it wrote before."""
    htcjob.entries(*(f"e{n}" for n in range(10)))
    command = ("--each", "--workers", "3", "--", "sh", "-c", 'echo "$HTCJOB_ENTRY 1"; echo "$HTCJOB_ENTRY 2"')
    done = htcjob.run("--log-format", "json", "--log-level", "debug", *command)
    lines = done.stdout.splitlines()
    for n in range(10):
        assert [line[-1] for line in lines if line.startswith(f"e{n} ")] == ["1", "2"]
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert Counter(line["entry"] for line in events if line["event"] == "entry_done") == {
        f"e{n}": 1 for n in range(10)
    }


def test_the_default_is_a_worker_for_each_cpu(htcjob):
    """By quota and affinity: with one CPU, one at a time."""
    htcjob.entries(*(f"e{n}" for n in range(6)))
    lock = htcjob.project.parent / "lock"
    script = f"mkdir {lock} || exit 1; sleep 0.02; rmdir {lock}"
    code = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
        "os.execv(sys.executable, [sys.executable, '-m', 'htcjob', *sys.argv[1:]])"
    )
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code, "run", "--each", "--", "sh", "-c", script],
        env=htcjob.variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- entries that ask to be tried again, and attempts that are not to be ---


@pytest.mark.parametrize("workers", ["1", "2"])
def test_an_entry_that_asks_for_it_is_tried_again_within_the_attempt(htcjob, workers):
    """After all others, in a fresh place, with one record; and no more often than allowed."""
    htcjob.entries("a", "b", "c")
    count = htcjob.project.parent / "count"
    # With two workers the second try of `a` may begin before `c` has got as far as to say so.
    script = (
        f'[ "$HTCJOB_ENTRY" != a ] || until ! grep -qs a {count} || grep -q c {count}; do sleep 0.01; done; '
    )
    script += f'echo "$HTCJOB_ENTRY" >> {count}; touch "$HTCJOB_OUTPUT_DIR/x$HTCJOB_ENTRY"; [ "$(ls "$HTCJOB_OUTPUT_DIR" | wc -l)" = 1 ] || exit 9; [ "$HTCJOB_ENTRY" != a ] || [ "$(grep -c a {count})" -ge "$0" ] || exit 75'
    options = ("--workers", workers, "--retry-entry", "2", "--each", "--", "sh", "-c", script)
    done = htcjob.run(*options, "3")
    assert done.returncode == 0, done.stderr
    assert count.read_text().split()[-2:] == ["a", "a"]
    assert htcjob.results() == {0: "done", 1: "done", 2: "done"}
    count.unlink()
    done = htcjob.run("--run", "again", *options, "4")
    assert done.returncode == 75
    assert [record["result"] for record in htcjob.records("again")] == ["retry", "done", "done"]
    assert count.read_text().split().count("a") == 3


def test_an_attempt_whose_only_trouble_is_for_good_can_end_with_0(htcjob):
    """The platform does not try again, and the exit record says what happened all the same."""
    htcjob.entries("a", "b")
    command = ("--permanent-exit", "0", "--each", "--", "sh", "-c")
    done = htcjob.run(*command, '[ "$HTCJOB_ENTRY" = a ] || exit 3')
    assert done.returncode == 0
    record = htcjob.exit_record()
    assert (record["termination_reason"], record["exit_status"]) == ("entries_failed", 0)
    assert "1 of 2 entries failed" in done.stderr
    done = htcjob.run("--run", "left", *command, '[ "$HTCJOB_ENTRY" = a ] && exit 75; exit 3')
    assert done.returncode == 75
    stop = (*command[:2], "--workers", "1", "--max-failures", "0", *command[2:])
    assert htcjob.run("--run", "stop", *stop, "exit 3").returncode == 65


# --- what one entry has is never taken by another ---

THREE = """
import os, sys

def three(input, output_dir, key):
    with open(input) as file:
        text = file.read()
    if text == "again" and not os.path.exists(input + ".seen"):
        seen = os.path.join(os.environ["SEEN"], key.replace("/", "_"))
        if not os.path.exists(seen):
            open(seen, "w").close()
            sys.exit(75)
    for n in "abc":
        with open(os.path.join(output_dir, key + "." + n), "w") as file:
            file.write(text + n)

if __name__ == "__main__":
    three(os.environ["HTCJOB_INPUT"], os.environ["HTCJOB_OUTPUT_DIR"], os.environ["HTCJOB_KEY"])
"""
"""Copies its input to three outputs; says 75 once for an input that says so."""

SHELL = (
    'for n in a b c; do { cat "$1"; printf $n; } > "$2/$3.$n" || exit 9; done',
    "sh",
    "{input}",
    "{output_dir}",
    "{key}",
)


@pytest.mark.parametrize(
    ("options", "way"),
    [
        (("--workers", "1"), "each"),
        (("--workers", "4"), "each"),
        (("--workers", "8", "--prefetch", "0"), "each"),
        (("--workers", "4", "--disk-budget", "40B"), "each"),
        (("--workers", "4"), "call"),
        (("--workers", "3", "--retry-entry", "1"), "call"),
        (("--workers", "4"), "full disk"),
        (("--workers", "1"), "loop"),
    ],
)
def test_an_entry_that_cannot_be_fetched_takes_nothing_from_others(htcjob, tmp_path, request, options, way):
    """Absent, unusable and damaged ones between good ones: each good one has all of its outputs, each bad one fails."""
    n = 60
    names = {k: f"d{k % 7}/f{k}" for k in range(n)}
    again = {k for k in names if "--retry-entry" in options and k % 5 == 0}
    for k, name in names.items():
        path = htcjob.project / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("again" if k in again else f"text {k}")
    (htcjob.project / "folder").mkdir()
    bad = ("gone{k}", "folder", "a//b", "../{k}", "d1/f1/below")
    lines = [line for k in range(n) for line in (bad[k % len(bad)].format(k=k), names[k])]
    htcjob.manifest(*lines)
    (tmp_path / "seen").mkdir()
    (tmp_path / "three.py").write_text(THREE)
    variables = {"PYTHONPATH": str(tmp_path), "SEEN": str(tmp_path / "seen")}
    command, letters = SHELL, "abc"
    if way == "full disk":  # which has no room for outputs
        command, letters = (":",), ""
        disk = request.getfixturevalue("small_disk")
        for name in names.values():
            (htcjob.project / name).write_bytes(b"x" * 30_000)
        options = (*options, "--work-dir", str(disk))
    if way == "call":
        done = htcjob.run(*options, "--call", "three:three", **variables)
    elif way == "loop":
        done = job_of_three(htcjob, tmp_path)
    else:
        done = htcjob.run(*options, "--each", "--", "sh", "-c", *command)
    assert done.returncode == 65, done.stderr
    expected = {position: "done" if position % 2 else "failed" for position in range(2 * n)}
    assert [record["position"] for record in htcjob.records()] == list(range(2 * n))
    assert htcjob.results() == expected, done.stderr
    outputs = {
        f"{name}.{letter}": (htcjob.project / name).read_bytes() + letter.encode()
        for name in names.values()
        for letter in letters
    }
    assert htcjob.outputs() == outputs
    for record in htcjob.records():
        assert len(record.get("outputs", ())) == (len(letters) if record["result"] == "done" else 0)
    assert list(htcjob.work.iterdir()) == []


def job_of_three(htcjob, tmp_path):
    """Run a loop of the user's own over the entries."""
    import subprocess

    (tmp_path / "loop.py").write_text(
        "import htcjob\nfrom three import three\n"
        "with htcjob.Job.from_env() as job:\n    for entry in job.entries():\n"
        "        three(entry.path, entry.output_dir, entry.key)\n        entry.commit()\n"
    )
    return subprocess.run(
        [sys.executable, str(tmp_path / "loop.py")],
        env=htcjob.variables,
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_entry_that_may_not_put_its_outputs_keeps_no_name_from_others(htcjob):
    """`b` wants a name of `a` and puts nothing; what it wanted besides is free for `c`."""
    htcjob.entries("a", "b", "c")
    script = 'for o in $(cat "$0/$HTCJOB_KEY.names"); do echo $HTCJOB_KEY > "$HTCJOB_OUTPUT_DIR/$o"; done'
    for key, outputs in {"a": "x", "b": "w x y", "c": "w y"}.items():
        (htcjob.project / f"{key}.names").write_text(outputs)
    done = htcjob.run("--workers", "1", "--each", "--", "sh", "-c", script, str(htcjob.project))
    assert done.returncode == 65
    assert htcjob.results() == {0: "done", 1: "failed", 2: "done"}
    assert htcjob.outputs() == {"x": b"a\n", "w": b"c\n", "y": b"c\n"}
