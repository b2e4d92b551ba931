"""Parses cgroup paths as systemd and the container engines make them."""

from __future__ import annotations

import pytest

from runbook.host.cgroups import CgroupKind, CgroupUnit, parse_cgroup_path

ID = "3f4e1d0c9b8a7f6e5d4c3b2a190817263f4e1d0c9b8a7f6e5d4c3b2a19081726"
SHORT = ID[:12]
USER = "/user.slice/user-1000.slice/user@1000.service"
POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7c1f.slice"

PLACES = {
    # The system's manager
    "/system.slice/nginx.service": CgroupUnit(CgroupKind.SERVICE, "nginx.service"),
    "/system.slice/system-getty.slice/getty@tty1.service": CgroupUnit(CgroupKind.SERVICE, "getty@tty1.service"),
    "/system.slice/system-getty.slice/getty@tty1.service/sub/group": CgroupUnit(
        CgroupKind.SERVICE, "getty@tty1.service"
    ),
    "/nginx.service": CgroupUnit(CgroupKind.SERVICE, "nginx.service"),
    r"/system.slice/system-my\x2dapp.slice/my\x2dapp@1.service": CgroupUnit(CgroupKind.SERVICE, r"my\x2dapp@1.service"),
    "/system.slice/_cgroup.service": CgroupUnit(CgroupKind.SERVICE, "cgroup.service"),
    "/system.slice/cups.socket": CgroupUnit(CgroupKind.SERVICE, "cups.socket"),
    "/system.slice/docker.service": CgroupUnit(CgroupKind.SERVICE, "docker.service"),
    "/system.slice/docker.socket": CgroupUnit(CgroupKind.SERVICE, "docker.socket"),
    "/system.slice/lxc.service": CgroupUnit(CgroupKind.SERVICE, "lxc.service"),
    "/system.slice/kubelet.service": CgroupUnit(CgroupKind.SERVICE, "kubelet.service"),
    "/system.slice/nginx.service/user@1000.service": CgroupUnit(CgroupKind.SERVICE, "nginx.service"),
    "/system.slice/old.service (deleted)": CgroupUnit(CgroupKind.SERVICE, "old.service"),
    "/system.slice/run-u12.scope": CgroupUnit(CgroupKind.SCOPE, "run-u12.scope"),
    "/user.slice/run-r123.scope": CgroupUnit(CgroupKind.SCOPE, "run-r123.scope"),
    "/init.scope": CgroupUnit(CgroupKind.MANAGER, "init.scope"),
    "/user.slice": CgroupUnit(CgroupKind.SLICE, "user.slice"),
    "/user.slice/user-1000.slice": CgroupUnit(CgroupKind.SLICE, "user-1000.slice"),
    "/system.slice/by-hand": CgroupUnit(CgroupKind.SLICE, "system.slice"),
    # Logins and users' managers
    "/user.slice/user-1000.slice/session-9.scope": CgroupUnit(CgroupKind.SESSION, "session-9.scope"),
    "/user.slice/user-0.slice/session-c1.scope/sub": CgroupUnit(CgroupKind.SESSION, "session-c1.scope"),
    "/user.slice/session-9.scope.service": CgroupUnit(CgroupKind.SERVICE, "session-9.scope.service"),
    USER: CgroupUnit(CgroupKind.MANAGER, "user@1000.service", 1000),
    f"{USER}/init.scope": CgroupUnit(CgroupKind.MANAGER, "user@1000.service", 1000),
    f"{USER}/app.slice/gw.service": CgroupUnit(CgroupKind.SERVICE, "gw.service", 1000),
    f"{USER}/gw.service/sub": CgroupUnit(CgroupKind.SERVICE, "gw.service", 1000),
    f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope": CgroupUnit(
        CgroupKind.SCOPE, "vte-spawn-1.scope", 1000
    ),
    f"{USER}/app.slice": CgroupUnit(CgroupKind.SLICE, "app.slice", 1000),
    # No systemd
    "/": CgroupUnit(CgroupKind.NONE),
    "": CgroupUnit(CgroupKind.NONE),
    "/by-hand/group": CgroupUnit(CgroupKind.NONE),
    # Containers and machines
    f"/system.slice/docker-{ID}.scope": CgroupUnit(CgroupKind.SCOPE, f"docker-{ID}.scope", None, True, SHORT),
    f"/system.slice/docker-{ID}.scope/init.scope": CgroupUnit(
        CgroupKind.SCOPE, f"docker-{ID}.scope", None, True, SHORT
    ),
    f"/docker/{ID}": CgroupUnit(CgroupKind.NONE, "", None, True, SHORT),
    f"/docker/{ID}/system.slice/nginx.service": CgroupUnit(CgroupKind.NONE, "", None, True, SHORT),
    "/docker/buildkit": CgroupUnit(CgroupKind.NONE, "", None, True, ""),
    f"/machine.slice/libpod-{ID}.scope": CgroupUnit(CgroupKind.SCOPE, f"libpod-{ID}.scope", None, True, SHORT),
    f"/machine.slice/libpod-{ID}.scope/container": CgroupUnit(
        CgroupKind.SCOPE, f"libpod-{ID}.scope", None, True, SHORT
    ),
    f"/machine.slice/libpod-conmon-{ID}.scope": CgroupUnit(
        CgroupKind.SCOPE, f"libpod-conmon-{ID}.scope", None, True, SHORT
    ),
    f"{USER}/user.slice/libpod-{ID}.scope/container": CgroupUnit(
        CgroupKind.SCOPE, f"libpod-{ID}.scope", 1000, True, SHORT
    ),
    f"/system.slice/web.service/libpod-payload-{ID}": CgroupUnit(CgroupKind.SERVICE, "web.service", None, True, SHORT),
    "/libpod_parent/conmon": CgroupUnit(CgroupKind.NONE, "", None, True, ""),
    f"{POD}/cri-containerd-{ID}.scope": CgroupUnit(CgroupKind.SCOPE, f"cri-containerd-{ID}.scope", None, True, SHORT),
    f"/kubepods/burstable/pod7c1f/{ID}": CgroupUnit(CgroupKind.NONE, "", None, True, SHORT),
    f"/system.slice/containerd.service/kubepods-pod7c1f.slice:cri-containerd:{ID}": CgroupUnit(
        CgroupKind.SERVICE, "containerd.service", None, True, SHORT
    ),
    r"/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt": CgroupUnit(
        CgroupKind.SCOPE, r"machine-qemu\x2d1\x2ddb.scope", None, True, "qemu-1-db"
    ),
    "/machine.slice/machine-x.scope": CgroupUnit(CgroupKind.SCOPE, "machine-x.scope", None, True, "x"),
    "/machine.slice/bookworm.scope/payload": CgroupUnit(CgroupKind.SCOPE, "bookworm.scope", None, True, "bookworm"),
    "/machine.slice/systemd-nspawn@x.service/payload/init.scope": CgroupUnit(
        CgroupKind.SERVICE, "systemd-nspawn@x.service", None, True, "x"
    ),
    "/lxc/web/system.slice/nginx.service": CgroupUnit(CgroupKind.NONE, "", None, True, "web"),
    "/lxc.payload/web": CgroupUnit(CgroupKind.NONE, "", None, True, "web"),
    "/lxc.payload.web.example/init.scope": CgroupUnit(CgroupKind.NONE, "", None, True, "web.example"),
    "/lxc.monitor.web": CgroupUnit(CgroupKind.NONE, "", None, True, "web"),
    "/../../system.slice/nginx.service": CgroupUnit(CgroupKind.NONE, "", None, True, ""),
}


@pytest.mark.parametrize("path", PLACES)
def test_a_path_is_named_as_systemd_names_it(path: str) -> None:
    assert parse_cgroup_path(path) == PLACES[path]
