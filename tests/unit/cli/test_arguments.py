"""From the arguments to a runbook: options, trust, and the file as a run recorded it."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from runbook.cli import arguments
from runbook.document import notifications, parse, trust
from runbook.errors import DocumentError, NotBegun, UsageError
from runbook.records import history, store
from tests.unit.recorded import header

TEXT = "steps: [run: {run: 'true'}]\n"


def test_sets_are_names_and_values() -> None:
    assert arguments.parse_sets(None) == {}
    assert arguments.parse_sets(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    for wrong in ("a", "=1"):
        with pytest.raises(UsageError, match="write NAME=VALUE"):
            arguments.parse_sets([wrong])


def test_options_are_repeated_as_given() -> None:
    assert arguments.repeat_options(None, user=False) == []
    assert arguments.repeat_options(["a=1", "b=x y"], user=True) == ["--user", "--set", "a=1", "--set", "b=x y"]


def test_a_span_is_seconds_and_an_absent_one_is_none() -> None:
    assert arguments.parse_span_option("--lock-wait", None) == 0
    assert arguments.parse_span_option("--lock-wait", "2min") == 120
    with pytest.raises(UsageError, match="cannot read --lock-wait: cannot read time span `soon`"):
        arguments.parse_span_option("--lock-wait", "soon")


@pytest.mark.parametrize(("head", "user", "scope"), [("", False, "system"), ("", True, "user"), ("user", True, "user")])
def test_the_scope_is_that_of_the_file_or_of_the_option(head: str, user: bool, scope: str) -> None:
    book = parse(f"scope: {head}\n{TEXT}" if head else TEXT)
    assert arguments.find_scope(book, user) == scope


def test_the_option_must_not_contradict_the_file() -> None:
    with pytest.raises(UsageError, match=r"--user contradicts `scope: system` in up\.yaml"):
        arguments.find_scope(parse(f"scope: system\n{TEXT}", "up.yaml"), user=True)


def distrusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str = TEXT) -> str:
    monkeypatch.setattr(trust, "find_distrust", lambda *_, **__: "it is writable by every user")
    path = tmp_path / "up.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_that_others_can_write_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = distrusted(tmp_path, monkeypatch)
    with pytest.raises(NotBegun, match=r"as root: it is writable by every user$") as caught:
        arguments.load_runbook(path, None, to_run=True)
    assert "chown root and chmod go-w" in caught.value.hint


@pytest.mark.parametrize(("text", "user"), [(TEXT, True), (f"scope: user\n{TEXT}", False)])
def test_a_file_for_a_user_manager_is_run_as_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, user: bool
) -> None:
    path = distrusted(tmp_path, monkeypatch, text)
    with pytest.raises(NotBegun) as caught:
        arguments.load_runbook(path, None, to_run=True, user=user)
    assert "su - " in caught.value.hint


def test_reading_a_file_that_others_can_write_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert arguments.load_runbook(distrusted(tmp_path, monkeypatch), None).steps
    assert "warning: root would refuse to run it" in capsys.readouterr().err


def test_the_user_behind_sudo_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def find_distrust(*_: object, sudo_uid: int | None, **__: object) -> str:
        asked.append(sudo_uid)
        return ""

    monkeypatch.setattr(trust, "find_distrust", find_distrust)
    path = tmp_path / "up.yaml"
    path.write_text(TEXT)
    for uid in ("1000", "x", ""):
        monkeypatch.setenv("SUDO_UID", uid)
        arguments.load_runbook(str(path), None)
    assert asked == [1000, None, None]


def recorded(file: Path) -> history.RunRecord:
    """Return the record of a run of a file, as it is now."""
    folder = store.create_folder(1_790_000_000.0)
    folder.write_header(replace(header(folder.id), file=str(file), cwd="/srv", sets={"v": "2"}), file.read_text())
    return history.find_run(folder.id)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "up.yaml"
    path.write_text("vars: {v: '1', e: '${{ env.E }}'}\n" + TEXT)
    return path


@pytest.mark.usefixtures("home")
def test_a_run_continues_with_its_own_values(file: Path) -> None:
    book = arguments.load_runbook_of_run(recorded(file), {"E": "x"}, as_recorded=False)
    assert (book.vars, book.folder, book.path) == ({"v": "2", "e": "x"}, Path("/srv"), str(file))


@pytest.mark.usefixtures("home")
def test_a_run_is_not_continued_with_another_file(file: Path) -> None:
    past = recorded(file)
    file.write_text(file.read_text() + "# changed\n")
    with pytest.raises(NotBegun, match=r"up\.yaml has changed since the run began") as caught:
        arguments.load_runbook_of_run(past, {"E": "x"}, as_recorded=False)
    assert "--as-recorded" in caught.value.hint
    assert arguments.load_runbook_of_run(past, {"E": "x"}, as_recorded=True).steps
    file.unlink()
    with pytest.raises(NotBegun, match=r"up\.yaml cannot be read any more: no such file or directory"):
        arguments.load_runbook_of_run(past, {"E": "x"}, as_recorded=False)
    os.mkfifo(file)
    with pytest.raises(NotBegun, match=r"up\.yaml is no longer a regular file"):
        arguments.load_runbook_of_run(past, {"E": "x"}, as_recorded=False)


@pytest.mark.usefixtures("home")
def test_a_record_without_its_runbook_cannot_be_resumed(file: Path) -> None:
    past = recorded(file)
    past.folder.runbook_path.unlink()
    with pytest.raises(NotBegun, match=r"cannot resume .*: no such file or directory"):
        arguments.load_runbook_of_run(past, {}, as_recorded=True)


def test_commands_of_a_file_in_a_sticky_folder_start_in_the_root(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    path = tmp_path / "up.yaml"
    path.write_text(TEXT)
    book = arguments.load_runbook(str(path), None)
    assert book.folder == Path("/")
    (notice,) = arguments.find_notices("system", book)
    assert (
        notice
        == f"its commands start in /, because other users can put files into {tmp_path}; `cwd` names another folder"
    )


def test_the_folder_is_named_as_a_whole_and_the_root_is_not_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (notice,) = arguments.find_notices("system", parse(TEXT, "./up.yaml", folder=Path("/")))
    assert f"put files into {tmp_path};" in notice
    monkeypatch.chdir("/")
    for name in ("up.yaml", "./up.yaml", "../up.yaml"):
        assert arguments.find_notices("system", parse(TEXT, name, folder=Path("/"))) == ()


def test_what_is_to_be_filled_in_is_reported() -> None:
    book = parse(f"{TEXT}# FILL IN: a probe\n", "/srv/up.yaml", folder=Path("/srv"))
    assert arguments.find_notices("system", book) == ("line 2 is still marked FILL IN",)


@pytest.mark.parametrize(("name", "folder"), [("-", "/"), ("/up.yaml", "/"), ("/srv/up.yaml", "/srv")])
def test_otherwise_there_is_nothing_to_report(name: str, folder: str) -> None:
    assert arguments.find_notices("system", parse(TEXT, name, folder=Path(folder))) == ()


def test_the_fix_of_a_restart_is_the_same_command_with_an_option() -> None:
    book = parse("unit: gw\nsteps: [restart, wait-ready]\n", "restart --port '[::1]:80' gw.service")
    assert arguments.find_fix_command(book) == "runbook restart --fix --port '[::1]:80' gw.service"
    assert arguments.find_fix_command(book.model_copy(update={"path": "restart --fix gw.service"})) == ""
    assert arguments.find_fix_command(parse("unit: gw\nsteps: [restart]\n", "restart gw.service")) == ""


def test_a_restart_is_resumed_as_it_was_recorded() -> None:
    folder = store.create_folder(0.0)
    command = replace(header(folder.id), file="restart gw.service", command="restart", cwd="/")
    folder.write_header(command, "unit: gw\nsteps: [restart]\n")
    book = arguments.load_runbook_of_run(history.find_run(folder.id), {}, as_recorded=False)
    assert (book.path, book.unit) == ("restart gw.service", "gw.service")


# -- the file of the machine


@pytest.fixture
def machine_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notify.yaml"
    monkeypatch.setattr(notifications, "MACHINE_FILE", str(path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(trust, "find_distrust", lambda *_, **__: "")
    return path


def test_without_a_file_of_the_machine_a_runbook_stays(machine_file: Path) -> None:
    book = parse(TEXT)
    assert arguments.add_machine_notifications(book) is book
    machine_file.write_text("# notify:\n")
    assert arguments.add_machine_notifications(book) is book


def test_the_entries_of_the_machine_are_added(machine_file: Path) -> None:
    machine_file.write_text("notify: [{mail: root, when: [failed, ok]}]\n")
    book = arguments.add_machine_notifications(parse(f"{TEXT}notify: [{{run: tell}}]\n"))
    assert arguments.describe_notifications(book) == (
        "the runbook notifies `tell` unless a run ends ok or changed",
        f"{machine_file} notifies mail root if a run ends failed or ok",
    )


def test_a_wrong_file_of_the_machine_refuses_a_run_and_is_a_warning_of_validate(
    machine_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine_file.write_text("notify: [{mial: root}]\n")
    wrong = f"{machine_file}:1:11: unknown key `mial`; did you mean `mail`?"
    with pytest.raises(DocumentError) as refused:
        arguments.add_machine_notifications(parse(TEXT))
    assert refused.value.message == wrong
    (tmp_path / "x.yaml").write_text(TEXT)
    assert arguments.validate_file(str(tmp_path / "x.yaml"), None) == ()
    assert wrong in capsys.readouterr().err
    with pytest.raises(DocumentError):
        arguments.validate_file(str(machine_file), None)


def test_root_does_not_use_a_file_of_the_machine_that_others_can_write(
    machine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_file.write_text("notify: [{mail: root}]\n")
    monkeypatch.setattr(trust, "find_distrust", lambda *_, **__: "it is writable by every user")
    with pytest.raises(NotBegun) as refused:
        arguments.add_machine_notifications(parse(TEXT))
    assert refused.value.message == f"cannot use {machine_file}: it is writable by every user"
    assert "chown root" in refused.value.hint


def test_a_user_who_cannot_read_the_file_of_the_machine_gets_a_message(
    machine_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine_file.write_text("notify: [{mail: root}]\n")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    book = parse(TEXT)
    assert arguments.add_machine_notifications(book) is book
    assert "cannot be read, so nothing in it is notified" in " ".join(capsys.readouterr().err.split())
