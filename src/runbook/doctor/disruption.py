"""What a restart of a unit ends beside the unit, so that an operator chooses the moment.

needrestart leaves these units alone by default (`$nrconf{override_rc}` in its configuration).
"""

from __future__ import annotations

import re

from runbook.host.facts import Unit

BUSES = ("dbus.service", "dbus-broker.service")  # what is connected to them does not survive their restart

_ENDED = (
    (
        r"(display-manager|gdm3?|greetd|kdm|nodm|sddm|wdm|xdm|lightdm|slim|lxdm|xrdp.*)\.service",
        "the graphical sessions",
    ),
    (r"(serial-getty|container-getty|getty)@.+\.service|console-getty\.service", "the login on that terminal"),
    (r"user@\d+\.service", "all services of that user's manager, and what the user's desktop runs in it"),
    (r"(systemd-logind|elogind).*\.service", "the graphical sessions"),
    (
        r"(bird|network|NetworkManager|ModemManager|wpa_supplicant|ifup|openvpn|quagga|frr|tinc|wg-quick"
        r"|(open|free|libre|strong)swan|bluetooth|usbguard).*\.service",
        "connections, and maybe the one through which you are logged in",
    ),
    (
        r"(docker|lxc|libvirt|virtlogd|virtlockd|xendomains|systemd-nspawn).*\.service",
        "containers or virtual machines, or what manages them",
    ),
    (r"(apt-daily|unattended-upgrades|cron-|rc-local|bacula-|mythtv-backend).*\.service", "the work that it is at"),
    (r"(emergency|rescue)\.service", "the session on the console"),
)
_PATTERNS = tuple((re.compile(pattern), ended) for pattern, ended in _ENDED)


def needs_reboot(name: str, unit: Unit | None) -> bool:
    """True if a restart of a unit of the system would break what depends on it, or is refused."""
    return name in BUSES or (unit is not None and unit.refuse_manual_stop)


def describe_disruption(name: str, unit: Unit | None, *, of_user: bool, is_own: bool = False) -> str:
    """Return what to decide before a restart of a unit; empty if it ends nothing else.

    `is_own` is true if this program runs in a session that the unit has.
    """
    if not of_user and needs_reboot(name, unit):
        return f"choose the moment: {name} cannot be restarted alone, and a reboot ends everything that runs"
    ended = "the session in which you run this" if is_own else ""
    if not ended and not of_user:
        ended = next((ended for pattern, ended in _PATTERNS if pattern.fullmatch(name)), "")
    return f"choose the moment: a restart ends {ended}" if ended else ""
