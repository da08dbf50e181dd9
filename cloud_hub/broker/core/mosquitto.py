"""Renders mosquitto's configuration and access list. `broker.config_directory` writes the files.

Sources: mosquitto.conf(5) of mosquitto 2.0; the figures in the comments were measured on 2.0.11 (docs/broker.md).
Who connects is the CN of its certificate: user name and client id at once. A device is `<id>`, its Sparkplug
connection `<id>:spb` (one MQTT client has one Will, so these are two), the hub is its `mqtt.client_id`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from shared.ids import device_id
from shared.protocol import topics
from shared.protocol.codec import MAX_PAYLOAD

SPARKPLUG = ":spb"
"""What a Sparkplug connection's identity has behind the device's."""

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,59}\Z")
_MARK = "# -- Below: paragraphs of `tidegate-hub broker grant` and `deny`; `broker setup` keeps them. --\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerPlan:
    """One broker: its absolute folder, where it listens ('' is every address) and who the hubs are.

    `user` is whom mosquitto becomes when root starts it. `connections` counts all clients at once.
    """

    folder: str
    port: int = 8883
    bind: str = ""
    user: str = "mosquitto"
    hubs: tuple[str, ...] = ("tidegate-hub",)
    aws_alias: bool = False
    connections: int = 15000


def render_configuration(plan: BrokerPlan) -> str:
    """mosquitto.conf; raises ValueError for what mosquitto would read as something else."""
    for what, text in (("folder", plan.folder), ("address", plan.bind), ("user", plan.user)):
        if not text.isprintable() or (what != "folder" and " " in text) or (what == "user" and not text):
            raise ValueError(f"the {what} '{text[:80]!r}' cannot stand in a configuration of mosquitto")
    return _CONFIGURATION.format(
        folder=plan.folder, user=plan.user, listener=f"{plan.port} {plan.bind}".rstrip(),
        packet=MAX_PAYLOAD + 4096, connections=plan.connections,
    )  # fmt: skip


def render_access_list(plan: BrokerPlan, grants: str = "") -> str:
    """The access list, with the paragraphs of `grants` (see `extract_grants`) at its end; raises ValueError."""
    for name in plan.hubs:
        if not _NAME.match(name):
            raise ValueError(f"'{name[:80]}' is no hub's client id: use 1 to 60 of a-z 0-9 _ -")
    hubs = "".join(_hub(name, plan.aws_alias) for name in plan.hubs)
    return _HEAD + hubs + _patterns(plan.aws_alias) + "\n" + _MARK + grants


def extract_grants(text: str) -> str:
    """The paragraphs that `broker grant` and `deny` have added to an access list; '' when there are none."""
    return text.partition(_MARK)[2]


def grant_paragraph(device: str, group: str, node: str) -> str:
    """The paragraph that lets `<device>:spb` be this Sparkplug edge node; raises ValueError.

    `%u` in a pattern cannot lose the ":spb", and group and node are free: so each node is granted by name.
    """
    user = device_id(device) + SPARKPLUG
    for what, text in (("group", group), ("node", node)):
        if not text or not text.isprintable() or text != text.strip() or set(text) & set("+#/"):
            raise ValueError(
                f"'{text[:80]}' is no Sparkplug {what}: one word or more, without + # / (Sparkplug 3.0, 5.1)"
            )
    if group == "STATE":
        raise ValueError("no Sparkplug group may be named STATE: that is where host applications tell their state")
    topic = f"{topics.SPARKPLUG}/{group}/+/{node}"
    return (
        f"\n# edge node '{node}' of group '{group}': all its messages and its devices'; and the hosts' state, to read\n"
        f"user {user}\ntopic readwrite {topic}\ntopic readwrite {topic}/#\ntopic read {topics.SPARKPLUG}/STATE/+\n"
    )


def deny_paragraph(device: str) -> str:
    """The paragraph that makes a device mute and deaf, on both its connections, and on those that are open."""
    lines = f"topic deny #\ntopic deny {topics.AWS}/#\n"
    users = "".join(f"user {device_id(device)}{end}\n{lines}" for end in ("", SPARKPLUG))
    return f"\n# revoked: says and hears nothing, a session that is still open included\n{users}"


_MAGIC = b"\x00\xb5\x00mosquitto db"
_HEAD_BYTES = len(_MAGIC) + 8
"""Then a checksum that is always 0, and the version of the file's format."""


def store_damage(content: bytes) -> str:
    """Why mosquitto 2.0 ends at its start over this `mosquitto.db`, or ''. It takes an empty one for a first start.

    The file is a row of chunks, each of 8 bytes (type and length) and its body; one that runs past the end stops it.
    """
    if not content or content[: len(_MAGIC)] != _MAGIC:
        zeroed = "holds zeros alone, as after a power cut" if not content.strip(b"\0") else "is no store of mosquitto's"
        return zeroed if content else ""
    place = _HEAD_BYTES
    while place < len(content):
        if place + 8 > len(content):
            return "is cut short"
        place += 8 + int.from_bytes(content[place + 4 : place + 8], "big")
    return "is cut short" if place > len(content) or len(content) < _HEAD_BYTES else ""


def _hub(name: str, aws_alias: bool) -> str:
    alias = f"# `#` never covers topics that begin with $\ntopic readwrite {topics.AWS}/things/+/shadow/#\n"
    return (
        f"# the hub: every device's topics\nuser {name}\ntopic readwrite {topics.PREFIX}/things/#\n"
        + (alias if aws_alias else "")
        + f"\n# the hub as Sparkplug host application, a connection of its own\nuser {name}{SPARKPLUG}\n"
        f"topic readwrite {topics.SPARKPLUG}/#\n\n"
    )


def _patterns(aws_alias: bool) -> str:
    alias = "\n# and its shadow under the name that AWS's own clients use\n"
    alias += f"pattern readwrite {topics.AWS}/things/%u/shadow/#\n"
    own = "# everybody: the topics of its own identity (%u), no other's; for a device that is its id\n"
    return own + f"pattern readwrite {topics.PREFIX}/things/%u/#\n" + (alias if aws_alias else "")


_HEAD = """\
# Who may say and hear what; written by `tidegate-hub broker setup`. What is not allowed here is forbidden.
# mosquitto 2.0 grants a forbidden subscription and delivers nothing. After a change: reload (SIGHUP).

"""

_CONFIGURATION = """\
# mosquitto 2.0, written by `tidegate-hub broker setup`: run it again rather than edit. It holds for the whole broker:
# start mosquitto with this file alone.   mosquitto -c "{folder}/mosquitto.conf"

# Root's rights are dropped to this user at the start (no effect when another user starts it). All files here are its.
user {user}

# One set of rules for every listener, and nobody without an identity.
per_listener_settings false
allow_anonymous false

# What each identity may say and hear; reloaded by SIGHUP.
acl_file {folder}/access.acl

# Queues and retained births survive a restart; written every 10 s. A power cut forgets up to 10 s of them: devices
# keep what the hub has not acknowledged, so nothing is lost.
persistence true
persistence_location {folder}/data/
autosave_interval 10

# Sessions of clients that never came back are forgotten after a week.
persistent_client_expiration 7d

# What waits for a client that is away: the first bound reached counts, more is dropped and sent again by its device.
max_queued_messages 100000
max_queued_bytes 268435456

# The client's own receive maximum (500 for the hub) bounds what is under way; mosquitto's 20 would bind it tighter.
max_inflight_messages 0

# Tidegate reads messages up to 1 MiB; a larger packet ends the connection that sends it.
max_packet_size {packet}

# All queues together: one client's flood must not take the machine's memory.
memory_limit 1073741824

# A round trip took 78 ms with Nagle's algorithm, about 1 ms without.
set_tcp_nodelay true

# A retained message is delivered only while its maker may still write there.
check_retain_source true

# To the standard error: journald's, under systemd. Who came, who went, who was refused.
log_dest stderr
log_type error
log_type warning
log_type notice
connection_messages true

# `broker reload` finds the process by it.
pid_file {folder}/data/mosquitto.pid

# The one door: MQTT over TLS. No websockets, no second listener, no plain port.
listener {listener}
protocol mqtt
max_connections {connections}

# Mutual TLS, 1.3 and nothing older: the broker's own certificate, and the CA whose clients are let in.
tls_version tlsv1.3
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
require_certificate true

# Certificates that were taken back; an expired list closes the door to everybody. Reloaded by SIGHUP.
crlfile {folder}/crl.pem

# Who connects is the CN of its certificate, and its client id is that too: nobody takes another's session.
use_identity_as_username true
use_username_as_clientid true
"""
