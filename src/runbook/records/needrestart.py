"""What needrestart would do, from its own configuration: that is Perl, so perl evaluates it, as needrestart does."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from runbook.errors import NotBegun

PROGRAM = Path("/usr/sbin/needrestart")
CONFIGURATION = Path("/etc/needrestart/needrestart.conf")
HOOKS = Path("/etc/needrestart/restart.d")  # of `$nrconf{restart_d}`, if the configuration does not set it
PERL_TIMEOUT = 10.0  # seconds for perl

# The rules are those of needrestart 3.6 and 3.11, the hash and its defaults too.
_SCRIPT = r"""
our %nrconf = (verbosity => 0, restart => 'i', restart_d => '/etc/needrestart/restart.d', defno => 0,
    blacklist => [], blacklist_interp => [], blacklist_rc => [], blacklist_mappings => [], override_rc => {});
our $LOGPREF = '[main]';
my $file = shift;
my $text = do { local (@ARGV, $/) = $file; <> };
eval $text;
die $@ if $@;
print "$nrconf{restart}\n$nrconf{restart_d}\n";
for my $rc (@ARGV) {
    my ($why, $go) = ('', !$nrconf{defno});
    for my $re (sort keys %{$nrconf{override_rc}}) {
        next unless $rc =~ /$re/;
        $go = $nrconf{override_rc}->{$re};
        last;
    }
    $why = 'override_rc' unless $go;
    $why = 'blacklist_rc' if grep { $rc =~ /$_/ } @{$nrconf{blacklist_rc}};
    print "$why\n";
}
"""

MODES = {
    "i": "asks on a terminal, and without one, as in unattended upgrades, it only lists services",
    "l": "only lists services",
}
"""What needrestart does instead of restarting services, by `$nrconf{restart}`."""


class NeedrestartSettings(NamedTuple):
    """The settings that decide whether needrestart runs the hook of a unit."""

    mode: str  # `$nrconf{restart}`: "a" restarts services without a question
    hooks: Path  # the folder of the hooks
    refused: Mapping[str, str]  # the setting because of which a unit is not restarted, by its name

    def describe_mode(self) -> str:
        """Return what to do so that needrestart restarts services by itself; empty if it does."""
        if self.mode == "a":
            return ""
        what = MODES.get(self.mode, "does not restart services")
        how = f"`$nrconf{{restart}} = 'a';` in {CONFIGURATION.parent}/conf.d/restart.conf makes it restart them"
        return f"needrestart {what}: {how}"


def read_settings(units: Collection[str]) -> NeedrestartSettings:
    """Return needrestart's settings. Raises NotBegun if it is not installed, or its configuration cannot be read."""
    if not PROGRAM.exists() or not CONFIGURATION.exists():
        raise NotBegun("needrestart is not installed", hint="apt install needrestart")
    try:
        done = subprocess.run(  # noqa: S603 - what needrestart itself would run, and names of units
            ["/usr/bin/perl", "-e", _SCRIPT, "--", CONFIGURATION, *units],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PERL_TIMEOUT,
            check=True,
        )
        mode, folder, *found = done.stdout.split("\n")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        printed = getattr(error, "stderr", None) or str(error)
        first = printed.strip().split("\n")[0]
        raise NotBegun(f"cannot read needrestart's configuration: {first}", hint="needrestart -v shows more") from error
    return NeedrestartSettings(mode, Path(folder), {unit: why for unit, why in zip(units, found, strict=False) if why})
