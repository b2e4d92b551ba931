"""Commands in transient units: reloads of systemd, what other users may read, and how commands end."""

from __future__ import annotations

import json

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.runs import RUNBOOK, Run, parsed, runbook, unit_file, write_runbook
from tests.machine.tree import USER

ODD = """it's "$HOME" `x` \\n ${A} $$ %n %% {} ; \\\\ two\nlines\t☃ """
"""Characters that a shell, systemd and a unit file interpret in different ways."""


def amid(machine: Machine, book: str, *between: list[str]) -> Run:
    """Apply a runbook whose command waits for /tmp/go, and run other commands during that."""
    machine.run(["rm", "-f", "/tmp/there", "/tmp/go"])
    write_runbook(machine, book)
    with machine.popen(["runbook", "apply", RUNBOOK, "--output", "json"]) as process:
        until(lambda: machine.run(["test", "-e", "/tmp/there"], check=False).returncode == 0, "the command to run")
        for argv in between:
            machine.run(argv)
        machine.run(["touch", "/tmp/go"])
        out, err = process.communicate(timeout=60)
    return parsed(out, process.returncode, err)


WAIT = "touch /tmp/there; while ! test -e /tmp/go; do sleep 0.1; done"


@pytest.mark.parametrize("verb", ["daemon-reload", "daemon-reexec"])
@pytest.mark.parametrize("user", ["root", USER])
@pytest.mark.parametrize(("end", "status"), [("exit 0", "changed"), ("exit 7", "failed")])
def test_a_command_survives_a_reload_of_systemd(machine: Machine, verb: str, user: str, end: str, status: str) -> None:
    book = f"""
        steps:
          - run:
              user: {user}
              cwd: /tmp
              env: {{ODD: {json.dumps(ODD)}}}
              run: |
                id -un
                {WAIT}
                printf '%s|' "$ODD"
                {end}
    """
    run = amid(machine, book, ["systemctl", verb])
    assert run.last["status"] == status, run.last
    assert f"exited with status {end[-1]}" in run.step("run")["reason"]
    output = run.step("run")["evidence"]["output"]
    assert output.splitlines()[0] == user
    assert f"{ODD}|" in output
    machine.run(["journalctl", "--sync"])
    journal = machine.run(["journalctl", "--no-pager", "--boot", "--grep", "Unknown key"], check=False).stdout
    assert "runbook-" not in journal


def test_the_words_of_a_list_arrive_unchanged(machine: Machine) -> None:
    words = ["printf", "%s|", "$HOME", "${HOME}", "%n %%", "$$", "a  b", ";", "it's", 'say "x"', "two\nlines", ""]
    run = runbook(machine, "apply", f"steps: [run: {{run: {json.dumps(words)}}}]\n")
    assert run.step("run")["evidence"]["output"] == "".join(f"{word}|" for word in words[2:])


VALUE = "a; touch /run/touched"
UNQUOTABLE = ['bash -cx "echo {}"', 'echo "echo {}" | sh', "[python3, -c, 'print({})']"]


@pytest.mark.parametrize("place", UNQUOTABLE)
def test_where_a_value_cannot_be_quoted_nothing_is_begun(machine: Machine, service: StartService, place: str) -> None:
    """The value is known, so the file is refused. A value that is known only later fails its step: no command runs."""
    name = service("web.service", unit_file("/usr/bin/sleep infinity"))
    before = machine.show(name, "InvocationID")
    machine.run(["rm", "-rf", "/var/lib/runbook", "/run/runbook", "/run/touched"])
    command = place if place.startswith("[") else json.dumps(place)
    book = f"""
        unit: web
        vars: {{word: plain}}
        steps:
          - restart
          - run: {{id: prints, run: {json.dumps(f"echo '{VALUE}'")}, read-only: true}}
          - run: {{id: last, run: {command.replace("{}", "${{ NAME }}")}}}
        always: [run: {{id: always, run: touch /run/touched}}]
    """
    text = book.replace("NAME", "vars.word")
    for options in (["apply"], ["apply", "--dry-run"], ["check"]):
        run = runbook(machine, options[0], text, *options[1:], "--set", f"word={VALUE}")
        assert (run.exit, run.last["status"], len(run.events)) == (2, "invalid", 1), run.events
        assert "where a value cannot be quoted; put it into the `env` of the step" in run.last["reason"]
        assert run.last["reason"].startswith(f"{RUNBOOK}:6:")
    assert machine.show(name, "InvocationID") == before
    for path in ("/run/touched", "/run/runbook", "/var/lib/runbook"):
        assert machine.run(["test", "-e", path], check=False).returncode == 1, path
    run = runbook(machine, "apply", book.replace("NAME", "steps.prints.output").partition("    always:")[0])
    assert (run.exit, run.step("last")["verdict"]) == (1, "command-failed"), run.last
    assert "where a value cannot be quoted; put it into the `env` of the step" in run.step("last")["reason"]
    assert "hint" not in run.last, "the command has no output to look at"
    assert machine.run(["test", "-e", "/run/touched"], check=False).returncode == 1


def test_a_value_in_the_environment_needs_no_quotes(machine: Machine) -> None:
    """As the refusal advises: for a second shell, and for another program."""
    for command in ("bash -cx 'echo \"$WORD\"'", "python3 -c 'import os; print(os.environ[\"WORD\"])'"):
        book = (
            f"steps: [run: {{run: {json.dumps(command)}, env: {{WORD: '${{{{ vars.word }}}}'}}}}]\nvars: {{word: x}}\n"
        )
        run = runbook(machine, "apply", book, "--set", f"word={VALUE}")
        assert f"{VALUE}\n" in run.step("run")["evidence"]["output"], run.last
    assert machine.run(["test", "-e", "/run/touched"], check=False).returncode == 1


def test_other_users_cannot_read_the_script_or_the_environment(machine: Machine) -> None:
    book = f"""
        steps:
          - run:
              user: {USER}
              cwd: /tmp
              env: {{TOKEN: open-sesame}}
              run: |
                : shibboleth
                {WAIT}
                cat /proc/self/fd/[3-9] 2>/dev/null | head -c 1
                echo "$TOKEN"
    """
    look = r"""
        unit=$(systemctl list-units --plain --no-legend 'runbook-*' | cut -d' ' -f1)
        exec >/tmp/seen 2>&1
        setpriv --reuid=nobody --regid=nogroup --clear-groups sh -c '
            systemctl show '$unit'; systemctl cat '$unit'
            busctl --json=short get-property org.freedesktop.systemd1 $(busctl --json=short call \
                org.freedesktop.systemd1 /org/freedesktop/systemd1 org.freedesktop.systemd1.Manager GetUnit s \
                '$unit' | grep -o "/org[^\"]*") org.freedesktop.systemd1.Service Environment
            ps axww -o args
        '
        journalctl --sync
        journalctl --no-pager --boot -u $unit
    """
    run = amid(machine, book, ["sh", "-c", look])
    assert run.last["status"] == "changed", run.last
    assert run.step("run")["evidence"]["output"] == "open-sesame\n"
    seen = machine.read("/tmp/seen")
    assert "Description=runbook: " in seen
    assert "shibboleth" not in seen
    assert "sesame" not in seen
    left = machine.run(["sh", "-c", f"ls /var/lib/runbook/runs/{run.last['run']}/output"]).stdout
    assert left.split() == ["run.log", "run.log.result"]


def test_a_secret_step_leaves_only_its_result(machine: Machine) -> None:
    """systemd unloads the unit before its result is read, so only the file has it."""
    book = f"""
        steps:
          - run:
              secret: true
              run: {WAIT}; echo sesame; echo sesame >&2
    """
    run = amid(machine, book, ["systemctl", "restart", "dbus.service"], ["sleep", "1"])
    assert run.last["status"] == "changed", run.last
    assert "output" not in run.step("run")["evidence"] or not run.step("run")["evidence"]["output"]
    folder = f"/var/lib/runbook/runs/{run.last['run']}/output"
    assert machine.run(["ls", folder]).stdout.split() == ["run.log.result"]
    assert machine.read(f"{folder}/run.log.result").startswith("success exited 0 ")
    machine.run(["journalctl", "--sync"])
    journal = machine.run(["journalctl", "--no-pager", "--boot"]).stdout
    assert "sesame" not in journal


def test_the_output_of_an_earlier_attempt_is_not_matched(machine: Machine) -> None:
    machine.run(["rm", "-f", "/tmp/tried"])
    book = """
        steps:
          - run:
              run: "test -e /tmp/tried && exit 0; touch /tmp/tried; echo all is well; exit 1"
              expect-output: all is well
              retries: 1
              delay: 0
    """
    run = runbook(machine, "apply", book)
    assert run.last["status"] == "failed", run.last
    assert "did not print all is well" in run.step("run")["reason"]
    folder = f"/var/lib/runbook/runs/{run.last['run']}/output"
    assert machine.run(["ls", folder]).stdout.split() == ["run.log", "run.log.1", "run.log.result"]
    assert machine.read(f"{folder}/run.log.1") == "all is well\n"


def test_an_error_of_the_shell_names_the_line(machine: Machine) -> None:
    run = runbook(machine, "apply", 'steps: [run: {run: "true\\nnosuchprogram"}]\n')
    assert run.last["status"] == "failed"
    assert "2: nosuchprogram: not found" in run.step("run")["reason"]


def test_a_folder_that_the_user_may_not_enter_is_a_failure(machine: Machine) -> None:
    run = runbook(machine, "apply", f"steps: [run: {{run: pwd, user: {USER}, cwd: /root}}]\n")
    assert run.last["status"] == "failed"
    assert "its folder cannot be entered" in run.step("run")["reason"]


def test_a_command_has_only_its_streams_open(machine: Machine) -> None:
    run = runbook(
        machine,
        "apply",
        """
        steps:
          - run: {id: script, run: "exec ls -l /proc/self/fd"}
          - run: {id: words, run: [ls, -l, /proc/self/fd]}
    """,
    )
    for name in ("script", "words"):
        lines = run.step(name)["evidence"]["output"].splitlines()
        # Descriptor 3 is the folder that ls reads.
        assert [line.split()[8] for line in lines[1:]] == ["0", "1", "2", "3"], lines


def test_the_commands_environment_does_not_affect_the_shell_of_root(machine: Machine) -> None:
    """PATH and other variables apply to the command, not to the shell that starts it as root."""
    machine.write(f"/home/{USER}/bin/rm", "#!/bin/sh\nid -un >>/tmp/who\n", 0o755)
    machine.write(f"/home/{USER}/bin/setpriv", "#!/bin/sh\nid -un >>/tmp/who\n", 0o755)
    book = f"""
        steps:
          - run: {{run: rm, user: {USER}, cwd: /tmp, env: {{PATH: "/home/{USER}/bin:/usr/bin"}}}}
    """
    run = runbook(machine, "apply", book)
    assert run.last["status"] == "changed", run.last
    assert machine.read("/tmp/who") == f"{USER}\n"


def test_a_read_only_command_leaves_no_process_behind(machine: Machine) -> None:
    book = """
        steps:
          - run: {run: "setsid --fork setsid --fork sleep 4711; true", read-only: true}
          - update: {run: "true", version: "setsid sleep 4711 & echo 1.2", to: 1.2}
    """
    for command, *options in (("apply",), ("apply", "--dry-run"), ("check",)):
        run = runbook(machine, command, book, *options)
        assert run.exit == 0, run.last
        assert machine.run(["pgrep", "-f", "sleep 4711"], check=False).returncode == 1


def test_a_pattern_that_takes_too_long_does_not_block_a_run(machine: Machine) -> None:
    book = """
        steps:
          - run: {run: "printf '%040d' | tr 0 a; echo b", expect-output: "(a+)+$"}
    """
    run = runbook(machine, "apply", book)
    assert run.step("run")["verdict"] == "command-failed"
    assert "it takes too long" in run.step("run")["reason"]
    assert run.step("run")["seconds"] < 10


@pytest.mark.parametrize("where", [">/dev/full", ">&-", "2>&-", "<&- >&- 2>&-", "| true"])
@pytest.mark.parametrize(("command", "status"), [("true", 0), ("exit 7", 1)])
@pytest.mark.parametrize("output", ["json", "auto"])
def test_a_run_does_not_depend_on_its_streams(
    machine: Machine, where: str, command: str, status: int, output: str
) -> None:
    write_runbook(machine, f'steps: [run: {{run: "touch /tmp/done; {command}"}}]\n')
    script = f"rm -f /tmp/done; runbook apply {RUNBOOK} --output {output} {where}; exit ${{PIPESTATUS[0]}}"
    done = machine.run(["bash", "-c", script], check=False)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    assert machine.run(["test", "-e", "/tmp/done"], check=False).returncode == 0


def test_other_users_cannot_open_the_records_with_any_umask(fresh_machine: Machine) -> None:
    write_runbook(fresh_machine, 'steps: [run: {run: "true"}]\n')
    fresh_machine.run(["sh", "-c", f"umask 000; runbook apply {RUNBOOK}"])
    modes = fresh_machine.run(["sh", "-c", "find /var/lib/runbook -printf '%m '"]).stdout.split()
    assert set(modes) <= {"700", "600"}
    fresh_machine.run(["chmod", "777", "/var/lib/runbook"])
    run = runbook(fresh_machine, "apply", 'steps: [run: {run: "true"}]\n')
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert "others may write in /var/lib/runbook" in run.last["reason"]


@pytest.mark.parametrize("wrong", ["user: nosuchuser", "cwd: /nosuchfolder"])
def test_a_command_that_cannot_start_is_found_before_the_unit_is_stopped(
    machine: Machine, service: StartService, wrong: str
) -> None:
    service("web.service", "[Service]\nExecStart=/bin/sleep infinity\n")
    pid = machine.show("web.service", "MainPID")
    fix = f"fix: [stop, run: {{run: 'true', {wrong}}}, start]"
    book = f"unit: web\nsteps: [remediate: {{check: [verify-port-owner: {{port: 8080}}], {fix}}}]\n"
    run = runbook(machine, "apply", book)
    assert run.last["status"] == "failed"
    assert "run would fail: cannot run a command " in run.last["reason"]
    assert machine.show("web.service", "MainPID") == pid


def test_an_earlier_command_may_make_the_folder_of_a_later_one(machine: Machine) -> None:
    machine.run(["rm", "-rf", "/opt/made"])
    book = """
        steps:
          - run: {id: first, run: mkdir /opt/made}
          - run: {id: second, run: pwd, cwd: /opt/made}
    """
    planned = runbook(machine, "apply", book, "--dry-run")
    steps = {line["id"]: line for line in planned.of("step-planned")}
    assert (steps["second"]["impact"], steps["second"]["undetermined-by"]) == ("undetermined", ["first"])
    run = runbook(machine, "apply", book)
    assert run.step("second")["evidence"]["output"] == "/opt/made\n"
