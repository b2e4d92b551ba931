"""The exit statuses by which systemd reports that it did not execute a program (systemd.exec(5))."""

from __future__ import annotations

from collections.abc import Mapping

EXIT_EXEC = 203  # execve(2) itself failed, or the file was not found before

_EXEC_FAILURES: Mapping[int, tuple[str, str]] = {
    200: ("CHDIR", "change to WorkingDirectory="),
    201: ("NICE", "apply Nice="),
    202: ("FDS", "set up its file descriptors"),
    EXIT_EXEC: ("EXEC", "execute the file"),
    204: ("MEMORY", "get enough memory"),
    205: ("LIMITS", "apply its limits (LimitNOFILE= and the like)"),
    206: ("OOM_ADJUST", "apply OOMScoreAdjust="),
    207: ("SIGNAL_MASK", "set its signal mask"),
    208: ("STDIN", "open StandardInput="),
    209: ("STDOUT", "open StandardOutput="),
    210: ("CHROOT", "change to RootDirectory="),
    211: ("IOPRIO", "apply IOSchedulingClass="),
    212: ("TIMERSLACK", "apply TimerSlackNSec="),
    213: ("SECUREBITS", "apply SecureBits="),
    214: ("SETSCHEDULER", "apply CPUSchedulingPolicy="),
    215: ("CPUAFFINITY", "apply CPUAffinity="),
    216: ("GROUP", "change to Group= or SupplementaryGroups="),
    217: ("USER", "change to User="),
    218: ("CAPABILITIES", "apply CapabilityBoundingSet= or AmbientCapabilities="),
    219: ("CGROUP", "set up its cgroup"),
    220: ("SETSID", "begin a session (setsid)"),
    221: ("CONFIRM", "get the confirmation that systemd.confirm_spawn= asks for"),
    222: ("STDERR", "open StandardError="),
    224: ("PAM", "open the PAM session of PAMName="),
    225: ("NETWORK", "set up its network namespace"),
    226: ("NAMESPACE", "set up its namespaces (a path of ReadWritePaths=, RootDirectory= or the like may be missing)"),
    227: ("NO_NEW_PRIVILEGES", "apply NoNewPrivileges="),
    228: ("SECCOMP", "apply SystemCallFilter= or another filter of system calls"),
    229: ("SELINUX_CONTEXT", "apply SELinuxContext="),
    230: ("PERSONALITY", "apply Personality="),
    231: ("APPARMOR", "apply AppArmorProfile="),
    232: ("ADDRESS_FAMILIES", "apply RestrictAddressFamilies="),
    233: ("RUNTIME_DIRECTORY", "set up RuntimeDirectory="),
    235: ("CHOWN", "change the owner of a socket"),
    236: ("SMACK_PROCESS_LABEL", "apply SmackProcessLabel="),
    237: ("KEYRING", "set up its keyring"),
    238: ("STATE_DIRECTORY", "set up StateDirectory="),
    239: ("CACHE_DIRECTORY", "set up CacheDirectory="),
    240: ("LOGS_DIRECTORY", "set up LogsDirectory="),
    241: ("CONFIGURATION_DIRECTORY", "set up ConfigurationDirectory="),
    242: ("NUMA_POLICY", "apply NUMAPolicy="),
    243: ("CREDENTIALS", "set up its credentials (LoadCredential= and the like)"),
    244: ("BPF", "apply RestrictFileSystems="),
    245: ("KSM", "apply MemoryKSM="),
}
"""The names of the statuses, as `systemd-analyze exit-status` prints them, and what systemd could not do.

Not 255 (EXCEPTION): many programs exit with that themselves.
"""


def describe_exec_failure(status: int, *, certain: bool = False) -> str:
    """Return that systemd did not execute a program, if it reports that by a status; empty for any other status.

    A program may exit with such a status itself, so the text leaves that open unless it is `certain`.
    """
    if status not in _EXEC_FAILURES:
        return ""
    name, failed = _EXEC_FAILURES[status]
    unless = "" if certain else ", unless the program itself exits with that"
    return f"was not executed: systemd could not {failed} (status {status}/{name}{unless})"


def describe_exit_status(status: int) -> str:
    """Return the end of a command that systemd started: "exited with status 3", or that it was not executed."""
    return describe_exec_failure(status) or f"exited with status {status}"
