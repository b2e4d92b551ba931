"""The paths are those that the engines and systemd itself make."""

from __future__ import annotations

import pytest

from runbook.host.cgroups import Kind, Place, unit_of

ID = "3f4e1d0c9b8a7f6e5d4c3b2a190817263f4e1d0c9b8a7f6e5d4c3b2a19081726"
SHORT = ID[:12]
USER = "/user.slice/user-1000.slice/user@1000.service"
POD = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod7c1f.slice"

PLACES = {
    # The system's manager
    "/system.slice/nginx.service": Place(Kind.SERVICE, "nginx.service"),
    "/system.slice/system-getty.slice/getty@tty1.service": Place(Kind.SERVICE, "getty@tty1.service"),
    "/system.slice/system-getty.slice/getty@tty1.service/sub/group": Place(Kind.SERVICE, "getty@tty1.service"),
    "/nginx.service": Place(Kind.SERVICE, "nginx.service"),
    r"/system.slice/system-my\x2dapp.slice/my\x2dapp@1.service": Place(Kind.SERVICE, r"my\x2dapp@1.service"),
    "/system.slice/_cgroup.service": Place(Kind.SERVICE, "cgroup.service"),
    "/system.slice/cups.socket": Place(Kind.SERVICE, "cups.socket"),
    "/system.slice/docker.service": Place(Kind.SERVICE, "docker.service"),
    "/system.slice/docker.socket": Place(Kind.SERVICE, "docker.socket"),
    "/system.slice/lxc.service": Place(Kind.SERVICE, "lxc.service"),
    "/system.slice/kubelet.service": Place(Kind.SERVICE, "kubelet.service"),
    "/system.slice/nginx.service/user@1000.service": Place(Kind.SERVICE, "nginx.service"),
    "/system.slice/old.service (deleted)": Place(Kind.SERVICE, "old.service"),
    "/system.slice/run-u12.scope": Place(Kind.SCOPE, "run-u12.scope"),
    "/user.slice/run-r123.scope": Place(Kind.SCOPE, "run-r123.scope"),
    "/init.scope": Place(Kind.MANAGER, "init.scope"),
    "/user.slice": Place(Kind.SLICE, "user.slice"),
    "/user.slice/user-1000.slice": Place(Kind.SLICE, "user-1000.slice"),
    "/system.slice/by-hand": Place(Kind.SLICE, "system.slice"),
    # Logins and users' managers
    "/user.slice/user-1000.slice/session-9.scope": Place(Kind.SESSION, "session-9.scope"),
    "/user.slice/user-0.slice/session-c1.scope/sub": Place(Kind.SESSION, "session-c1.scope"),
    "/user.slice/session-9.scope.service": Place(Kind.SERVICE, "session-9.scope.service"),
    USER: Place(Kind.MANAGER, "user@1000.service", 1000),
    f"{USER}/init.scope": Place(Kind.MANAGER, "user@1000.service", 1000),
    f"{USER}/app.slice/gw.service": Place(Kind.SERVICE, "gw.service", 1000),
    f"{USER}/gw.service/sub": Place(Kind.SERVICE, "gw.service", 1000),
    f"{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1.scope": Place(Kind.SCOPE, "vte-spawn-1.scope", 1000),
    f"{USER}/app.slice": Place(Kind.SLICE, "app.slice", 1000),
    # No systemd
    "/": Place(Kind.NONE),
    "": Place(Kind.NONE),
    "/by-hand/group": Place(Kind.NONE),
    # Containers and machines
    f"/system.slice/docker-{ID}.scope": Place(Kind.SCOPE, f"docker-{ID}.scope", None, True, SHORT),
    f"/system.slice/docker-{ID}.scope/init.scope": Place(Kind.SCOPE, f"docker-{ID}.scope", None, True, SHORT),
    f"/docker/{ID}": Place(Kind.NONE, "", None, True, SHORT),
    f"/docker/{ID}/system.slice/nginx.service": Place(Kind.NONE, "", None, True, SHORT),
    "/docker/buildkit": Place(Kind.NONE, "", None, True, ""),
    f"/machine.slice/libpod-{ID}.scope": Place(Kind.SCOPE, f"libpod-{ID}.scope", None, True, SHORT),
    f"/machine.slice/libpod-{ID}.scope/container": Place(Kind.SCOPE, f"libpod-{ID}.scope", None, True, SHORT),
    f"/machine.slice/libpod-conmon-{ID}.scope": Place(Kind.SCOPE, f"libpod-conmon-{ID}.scope", None, True, SHORT),
    f"{USER}/user.slice/libpod-{ID}.scope/container": Place(Kind.SCOPE, f"libpod-{ID}.scope", 1000, True, SHORT),
    f"/system.slice/web.service/libpod-payload-{ID}": Place(Kind.SERVICE, "web.service", None, True, SHORT),
    "/libpod_parent/conmon": Place(Kind.NONE, "", None, True, ""),
    f"{POD}/cri-containerd-{ID}.scope": Place(Kind.SCOPE, f"cri-containerd-{ID}.scope", None, True, SHORT),
    f"/kubepods/burstable/pod7c1f/{ID}": Place(Kind.NONE, "", None, True, SHORT),
    f"/system.slice/containerd.service/kubepods-pod7c1f.slice:cri-containerd:{ID}": Place(
        Kind.SERVICE, "containerd.service", None, True, SHORT
    ),
    r"/machine.slice/machine-qemu\x2d1\x2ddb.scope/libvirt": Place(
        Kind.SCOPE, r"machine-qemu\x2d1\x2ddb.scope", None, True, "qemu-1-db"
    ),
    "/machine.slice/machine-x.scope": Place(Kind.SCOPE, "machine-x.scope", None, True, "x"),
    "/machine.slice/bookworm.scope/payload": Place(Kind.SCOPE, "bookworm.scope", None, True, "bookworm"),
    "/machine.slice/systemd-nspawn@x.service/payload/init.scope": Place(
        Kind.SERVICE, "systemd-nspawn@x.service", None, True, "x"
    ),
    "/lxc/web/system.slice/nginx.service": Place(Kind.NONE, "", None, True, "web"),
    "/lxc.payload/web": Place(Kind.NONE, "", None, True, "web"),
    "/lxc.payload.web.example/init.scope": Place(Kind.NONE, "", None, True, "web.example"),
    "/lxc.monitor.web": Place(Kind.NONE, "", None, True, "web"),
    "/../../system.slice/nginx.service": Place(Kind.NONE, "", None, True, ""),
}


@pytest.mark.parametrize("path", PLACES)
def test_a_path_is_named_as_systemd_names_it(path: str) -> None:
    assert unit_of(path) == PLACES[path]
