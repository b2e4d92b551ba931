"""Judges an attempt by what was staged and by what truly serves, without the program under test."""

from __future__ import annotations

from typing import Any

from tests.machine.attempts.scene import GOOD, NEW, OLD, SLOW, Scene

WRONG_KILL, FALSE_READY, FALSE_FAILED, TRACEBACK, OTHER = (
    "wrong kill",
    "false ready",
    "false failed",
    "traceback",
    "other",
)
CLASSES = (WRONG_KILL, FALSE_READY, FALSE_FAILED, TRACEBACK, OTHER)

EXITS = {"ok": 0, "changed": 0, "remediated": 0, "failed": 1, "still-starting": 3, "rolled-back": 4}


def judge(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with an attempt: the class, and what happened."""
    if "broken" in facts or "hung" in facts:
        return [(OTHER, str(facts.get("broken") or f"the run hung: {facts['hung']}"))]
    wrong = _first_look(facts)
    for pid, what in facts["wrongly"].items():
        wrong.append((WRONG_KILL, f"PID {pid} was ended: {what}"))
    if facts["down"]:
        wrong.append((WRONG_KILL, f"stopped: {', '.join(facts['down'])}"))
    if facts["traceback"] or "Traceback" in facts["stderr"]:
        wrong.append((TRACEBACK, facts["stderr"] or str(facts["steps"])))
    status = facts["last"]["status"]
    if EXITS.get(status) != facts["exit"] or facts["last"]["event"] != "run-finished":
        wrong.append((OTHER, f"it ended {facts['last']}, with status {facts['exit']}: {facts['stderr']}"))
        return wrong
    return wrong + _status(Scene.of(facts["scene"]), facts, status)


def _first_look(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what is wrong with a command that only reads: it changed something, or a check was not right."""
    looked = facts["looked"]
    if not looked:
        return []
    name, said = facts["scene"]["first"], str(looked["steps"])
    wrong = [(WRONG_KILL, f"the {name} ended {what}") for what in looked["ended"]]
    if looked["changed"]:
        wrong.append((WRONG_KILL, f"the unit has another invocation after the {name}"))
    if looked["traceback"]:
        wrong.append((TRACEBACK, f"of the {name}: {said}"))
    right = {"dry-run": (0,), "check": (0, 1)}[name]
    if looked["exit"] not in right:
        wrong.append((OTHER, f"the {name} ended with {looked['exit']}: {said}"))
    # A runbook that allows another service on the port has no probe: it does not ask for the version.
    serving = (OLD, NEW) if facts["scene"]["shared"] else (NEW,)
    if name == "check" and (looked["exit"] == 0) != (looked["serves"] in serving):
        wrong.append((FALSE_READY if looked["exit"] == 0 else FALSE_FAILED, f"the check: {said}, but {looked}"))
    return wrong


def _status(scene: Scene, facts: dict[str, Any], status: str) -> list[tuple[str, str]]:
    """Compare the status with what truly serves."""
    serves, stable = facts["truth"]["serves"], facts["stable"]
    said = f"{status}: {facts['last']['reason']}"
    good = status in ("ok", "changed", "remediated")
    if good and scene.does not in GOOD:
        return [(FALSE_READY, f"{said}; what the service does is not right: {scene.does}")]
    if (good and not (serves == NEW and stable)) or (status == "rolled-back" and not (serves == OLD and stable)):
        return [(FALSE_READY, f"{said}, but {_both(facts)}, stable {stable}")]
    if not good and scene.must_succeed:
        return [(FALSE_FAILED, f"{said}; it must succeed")]
    if status == "failed" and scene.must_roll_back and not _started_beside(facts):
        return [(FALSE_FAILED, f"{said}; it must roll back")]
    # A bad version may serve for a moment, before it ends.
    if not good and serves == NEW and stable and scene.does in GOOD:
        return [(FALSE_FAILED, f"{said}, but {facts['truth']}")]
    if status == "still-starting":
        return _still_starting(scene, facts, said)
    if scene.must_be_still_starting:
        return [(FALSE_FAILED, f"{said}; it must be still starting")]
    return []


def _still_starting(scene: Scene, facts: dict[str, Any], said: str) -> list[tuple[str, str]]:
    if facts["truth"]["state"].partition(" ")[0] not in ("active", "activating"):
        return [(FALSE_READY, f"{said}, but {_both(facts)}")]
    # A bound socket that does not listen is no holder, so a unit that waits for its port is still starting. So is one
    # whose start has failed for want of a report, and that Restart= has started again.
    waits = scene.does in (*SLOW, "mute", "no-pid-file") or (scene.does == "patient" and scene.holder == "bound")
    if not waits and not scene.meanwhile:
        return [(OTHER, f"{said}; the service does what cannot become ready: {scene.does}")]
    return []


def _started_beside(facts: dict[str, Any]) -> bool:
    """Return True if all that disproves a rollback is what another attempt started in the same machine meanwhile."""
    doubts = facts["last"]["reason"].partition("the rollback is not proved: ")[2]
    return bool(doubts) and str(facts["port"]) not in doubts


def _both(facts: dict[str, Any]) -> str:
    """Return what was true at the run's end and a moment later, and when the other administrator had acted."""
    at_end, later = facts.get("at_end"), facts["truth"]
    then = f"{later} at the end and later" if at_end == later else f"{at_end} at the end, and later {later}"
    acted = facts.get("acted")
    return f"{then}; the other administrator acted at {acted} s of {facts['seconds']} s" if acted else then
