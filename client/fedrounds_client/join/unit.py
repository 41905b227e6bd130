"""A systemd unit for a site: its own account, no way to more rights, and the data read-only."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from fedrounds_client.home import SiteHome

UNIT = """\
# /etc/systemd/system/fedrounds-{name}.service, written by `fedrounds site join --systemd`
# systemctl daemon-reload && systemctl enable --now fedrounds-{name}
[Unit]
Description=fedrounds at {name}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
User={user}
ExecStart={command}
Restart=always
RestartSec=60
KillMode=control-group
TimeoutStopSec=30
UMask=0077
{limits}
# nothing gains rights, nothing of the system is written, and the data is read only
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={home}
{readonly}PrivateTmp=yes
PrivateDevices={devices}
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
# the process that trains walls itself off with these two, and systemd must let it
RestrictNamespaces=user net mnt
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallFilter=~@swap @reboot @module @raw-io @cpu-emulation @obsolete

[Install]
WantedBy=multi-user.target
"""


def unit_of(
    home: SiteHome, user: str, program: Sequence[str] = (str(Path(sys.executable).with_name("fedrounds")),)
) -> str:
    """The text of the unit, from the site's own settings.

    Args:
        user: the account that the folder belongs to.
        program: how `fedrounds` is started here.
    """
    settings = home.read_settings()
    root = str(settings.data.get("root") or "")
    command = shlex.join([*program, "site", "join", "--site", str(home.folder)])
    return UNIT.format(
        name=settings.name,
        user=user,
        home=_quoted(home.folder),
        command=command.replace("%", "%%"),
        readonly=f"ReadOnlyPaths={_quoted(Path(root))}\n" if root else "",
        limits=f"MemoryMax={int(settings.machine.memory_gb * 1e9)}\n" if settings.machine.memory_gb else "",
        devices="no" if settings.policy.gpu != "none" else "yes",
    )


def _quoted(path: Path) -> str:
    """A path as systemd reads it: `%` is its own sign, and spaces part entries."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'
