"""One seeded violation for each rule of the conformance checker: what to change in a log that keeps all rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulators.sparkplug_logs import DOUBLE, HOST, INT32, T0, Log, state

Seed = Callable[[Log], object]
GARBAGE = b"\xff\xff\xff"


def put(label: str, /, **values: Any) -> Seed:
    """Other arguments of a step."""
    return lambda log: log[label].values.update(values)


def will(**values: Any) -> Seed:
    """Another Will."""
    return lambda log: log["connect"].values["will"].update(values)


def payload(label: str, /, **values: Any) -> Seed:
    """Other fields of a payload; None leaves one out."""
    return lambda log: _change(log[label].payload, values)


def metric(label: str, which: str, /, **values: Any) -> Seed:
    """Other fields of a metric; None leaves one out."""
    return lambda log: _change(log[label].metric(which), values)


def _change(tree: dict[str, Any], values: dict[str, Any]) -> None:
    for key, value in values.items():
        if value is None:
            tree.pop(key, None)
        else:
            tree[key] = value


def inside(which: str, /, *path: str, **values: Any) -> Seed:
    """Other fields inside a metric of the NBIRTH, along a path of fields; a number is an index."""

    def change(log: Log) -> None:
        at: Any = log["nbirth"].metric(which)
        for key in path:
            at = at[int(key)] if key.isdigit() else at[key]
        _change(at, values)

    return change


def no_metric(label: str, name: str) -> Seed:
    """A metric is left out."""
    return lambda log: log[label].metrics.remove(log[label].metric(name))


def both(*seeds: Seed) -> Seed:
    """Several changes."""
    return lambda log: [seed(log) for seed in seeds]


def topic(label: str, text: str) -> Seed:
    """Another topic."""
    return put(label, topic=text)


def _unsubscribed(*gone: str) -> Seed:
    def change(log: Log) -> None:
        values = log["subscribe"].values
        values["filters"] = tuple(one for one in values["filters"] if not any(part in one[0] for part in gone))

    return change


def _other_qos(part: str) -> Seed:
    def change(log: Log) -> None:
        values = log["subscribe"].values
        values["filters"] = tuple((one, 0 if part in one else qos) for one, qos in values["filters"])

    return change


def _unchanged(label: str, alias: str) -> Seed:
    """The value of the birth again, and nothing else."""

    def change(log: Log) -> None:
        step = log[label]
        changed = step.metric(alias)
        step.payload["metrics"] = [{**changed, "double_value": 1.0}]
        birth = log["nbirth" if label == "ndata" else "dbirth"]
        next(one for one in birth.metrics if str(one.get("alias")) == alias).pop("properties", None)

    return change


def _two_clients(log: Log) -> None:
    """The edge node connects once more while it is connected."""
    log.copy_of("connect", client="0:twin")
    log.copy_of("connack", client="0:twin")


def _renamed_devices(log: Log) -> None:
    twin = log.copy_of("dbirth")
    twin.values["payload"] = {**twin.payload, "seq": 2, "metrics": [
        {"name": "other", "timestamp": twin.at_ms, "datatype": DOUBLE, "double_value": 1.0}]}  # fmt: skip


def _case_of_ids(log: Log) -> None:
    log.copy_of("old-nbirth", topic="spBv1.0/g/NBIRTH/M")


def _dbirth_other_node(log: Log) -> None:
    log["dbirth"].values["topic"] = "spBv1.0/g/DBIRTH/other/d"


def _late_dbirth(log: Log) -> None:
    log.move("ndata-2", before="dbirth-2")


def _data_after_request(log: Log) -> None:
    twin = log.copy_of("rebirth")
    twin.kind, twin.at_ms, twin.values = log["ndata"].kind, twin.at_ms + 5000, log["ndata"].values
    for step in log.steps[log.steps.index(twin) + 1 :]:
        step.at_ms += 5000


def _still_connected(log: Log) -> None:
    log.remove("ndeath", "disconnect", "closed", *[one.label for one in log.steps if one.label.startswith("second-")])


def _same_server(log: Log) -> None:
    for step in log.steps:
        if step.label.startswith("second-"):
            step.values["server"] = 0


def _two_servers(log: Log) -> None:
    log.move("second-connect", before="closed")
    log.move("second-connack", before="closed")


def _other_host(log: Log) -> None:
    for label in ("offline-first", "stale-online", "online"):
        log[label].values["topic"] = "spBv1.0/STATE/other"


def _kept_offline(log: Log) -> None:
    log.remove("online")


def _kept_offline_only(log: Log) -> None:
    log.remove("online", "stale-online")


def _left_too_early(log: Log) -> None:
    log.remove("later", "offline")


SMALL = 2**32

EDGE_SEEDS: dict[str, Seed] = {
    "topic.form": topic("ndata", "spBv1.0/g/NDATA"),
    "topic.group": topic("nbirth", "spBv1.0//NBIRTH/n"),
    "topic.node": topic("nbirth", "spBv1.0/g/NBIRTH/n#"),
    "topic.device": topic("dbirth", "spBv1.0/g/DBIRTH/n/+"),
    "topic.with-device": topic("dbirth", "spBv1.0/g/DBIRTH/n"),
    "topic.without-device": topic("nbirth", "spBv1.0/g/NBIRTH/n/d"),
    "nbirth.topic": topic("nbirth", "spBv1.0/g/NBIRTH/n/d"),
    "dbirth.topic": topic("dbirth", "spBv1.0/g/DBIRTH/n/d/e"),
    "ndata.topic": topic("ndata", "spBv1.0/g/NDATA/n/d"),
    "ddata.topic": topic("ddata", "spBv1.0/g/DDATA/n"),
    "ndeath.topic": topic("ndeath", "spBv1.0/g/NDEATH/n/d"),
    "ddeath.topic": topic("ddeath", "spBv1.0/g/DDEATH/n"),
    "node.unique": _two_clients,
    "device.unique": _renamed_devices,
    "ids.case": _case_of_ids,
    "metrics.case": metric("nbirth", "empty", name="SPEED"),
    "connect.clean-311": put("old-connect", clean=False),
    "connect.clean-50": put("connect", session_expiry_s=60),
    "connect.first": put("connack", accepted=False),
    "birth.first": lambda log: log.move("ndata", before="nbirth"),
    "will.present": put("connect", will=None),
    "will.topic": will(topic="spBv1.0/g/NDEATH/n/d"),
    "will.payload": will(payload=GARBAGE),
    "will.bdseq": metric("connect", "bdSeq", datatype=8),
    "will.bdseq-next": metric("second-connect", "bdSeq", long_value=7),
    "will.qos": will(qos=0),
    "will.retain": will(retain=True),
    "ncmd.subscribed": _other_qos("NCMD"),
    "dcmd.subscribed": _other_qos("DCMD"),
    "nbirth.qos": put("nbirth", qos=1),
    "nbirth.retain": put("nbirth", retain=True),
    "nbirth.payload": put("nbirth", payload=GARBAGE),
    "nbirth.seq-zero": payload("nbirth", seq=3),
    "nbirth.seq": payload("nbirth", seq=None),
    "nbirth.timestamp": payload("nbirth", timestamp=None),
    "nbirth.metrics": metric("nbirth", "speed", datatype=None),
    "nbirth.values": metric("nbirth", "speed", is_null=1),
    "nbirth.complete": metric("ndata", "2", alias=99),
    "nbirth.bdseq": no_metric("nbirth", "bdSeq"),
    "nbirth.bdseq-type": metric("nbirth", "bdSeq", datatype=8),
    "nbirth.bdseq-will": metric("nbirth", "bdSeq", long_value=9),
    "nbirth.rebirth": no_metric("nbirth", "Node Control/Rebirth"),
    "nbirth.rebirth-alias": metric("nbirth", "Node Control/Rebirth", alias=1),
    "nbirth.rebirth-type": metric("nbirth", "Node Control/Rebirth", datatype=INT32),
    "nbirth.rebirth-value": metric("nbirth", "Node Control/Rebirth", boolean_value=1),
    "dbirth.qos": put("dbirth", qos=1),
    "dbirth.retain": put("dbirth", retain=True),
    "dbirth.payload": put("dbirth", payload=GARBAGE),
    "dbirth.seq": payload("dbirth", seq=None),
    "dbirth.seq-next": payload("dbirth", seq=5),
    "dbirth.timestamp": payload("dbirth", timestamp=None),
    "dbirth.metrics": metric("dbirth", "temperature", name=None),
    "dbirth.values": metric("dbirth", "empty", double_value=1.0),
    "dbirth.complete": metric("ddata", "11", alias=2),
    "dbirth.order": _late_dbirth,
    "dbirth.after-nbirth": lambda log: log.move("dbirth", before="nbirth"),
    "dbirth.node": _dbirth_other_node,
    "ndata.qos": put("ndata", qos=1),
    "ndata.retain": put("ndata", retain=True),
    "ndata.seq": payload("ndata", seq=None),
    "ndata.seq-next": payload("ndata", seq=1),
    "ndata.timestamp": payload("ndata", timestamp=None),
    "ndata.metrics": payload("ndata", metrics=[]),
    "ndata.order": lambda log: log.move("ndata", before="nbirth"),
    "ndata.by-exception": _unchanged("ndata", "2"),
    "node.chronological": metric("nbirth", "speed", timestamp=T0 + 3600),
    "ddata.qos": put("ddata", qos=2),
    "ddata.retain": put("ddata", retain=True),
    "ddata.seq": payload("ddata", seq=None),
    "ddata.seq-next": payload("ddata", seq=200),
    "ddata.timestamp": payload("ddata", timestamp=None),
    "ddata.metrics": payload("ddata", metrics=[]),
    "ddata.order": lambda log: log.move("ddata", before="dbirth"),
    "ddata.by-exception": _unchanged("ddata", "11"),
    "device.chronological": metric("dbirth", "temperature", timestamp=T0 + 3600),
    "seq.always": payload("ndata", seq=None),
    "seq.next": payload("ndata", seq=7),
    "time.utc": payload("ndata", timestamp=T0 + 3_600_000),
    "metric.timestamp": metric("ndata", "2", timestamp=None),
    "metric.utc": metric("ndata", "2", timestamp=T0 // 1000),
    "metric.name": metric("ndata", "2", alias=None),
    "alias.unique": metric("dbirth", "temperature", alias=2),
    "alias.birth": metric("nbirth", "speed", name=None),
    "alias.data": metric("ndata", "2", name="speed"),
    "datatype.number": metric("nbirth", "speed", datatype=SMALL),
    "datatype.known": metric("nbirth", "speed", datatype=35),
    "datatype.birth": metric("nbirth", "speed", datatype=None),
    "datatype.data": metric("ndata", "2", datatype=DOUBLE),
    "ndeath.metrics": lambda log: log["ndeath"].metrics.append({"name": "more"}),
    "ndeath.seq": payload("ndeath", seq=1),
    "ndeath.bdseq": metric("ndeath", "bdSeq", long_value=77),
    "ndeath.disconnect": lambda log: log.remove("old-ndeath"),
    "ndeath.disconnect-311": lambda log: log.remove("old-ndeath"),
    "ndeath.disconnect-50": put("disconnect", reason=0),
    "ndeath.published": lambda log: log.remove("ndeath"),
    "ddeath.qos": put("ddeath", qos=1),
    "ddeath.retain": put("ddeath", retain=True),
    "ddeath.seq": payload("ddeath", seq=None),
    "ddeath.seq-next": payload("ddeath", seq=0),
    "ddeath.timestamp": payload("ddeath", timestamp=None),
    "ddeath.lost": put("asked", kept=False, detail="no DDEATH"),
    "rebirth.stop": _data_after_request,
    "rebirth.births": lambda log: log.remove("dbirth-2"),
    "rebirth.bdseq": metric("nbirth-2", "bdSeq", long_value=1),
    "primary.wait": _kept_offline,
    "primary.id": _other_host,
    "primary.online": _kept_offline_only,
    "primary.timestamp": _kept_offline,
    "primary.offline": both(lambda log: log.remove("ndeath", "disconnect")),
    "primary.leave": _still_connected,
    "primary.old-offline": _left_too_early,
    "primary.subscribed": _unsubscribed("STATE"),
    "servers.next": _same_server,
    "servers.single": _two_servers,
    "property.counts": inside("speed", "properties", keys=["Quality"]),
    "property.type-number": inside("speed", "properties", "values", "0", type=SMALL),
    "property.type-known": inside("speed", "properties", "values", "0", type=16),
    "property.type-birth": inside("speed", "properties", "values", "1", type=None),
    "quality.type": inside("speed", "properties", "values", "0", type=4),
    "quality.value": inside("speed", "properties", "values", "0", int_value=100),
    "dataset.columns": inside("table", "dataset_value", num_of_columns=3),
    "dataset.headers": inside("table", "dataset_value", types=[INT32]),
    "dataset.types-present": inside("table", "dataset_value", types=None),
    "dataset.types-number": inside("table", "dataset_value", types=[SMALL, DOUBLE]),
    "dataset.types-known": inside("table", "dataset_value", types=[16, DOUBLE]),
    "dataset.values": inside("table", "dataset_value", "rows", "0", elements=[{}, {"int_value": 1}]),
    "template.only-nbirth": lambda log: log["dbirth"].metrics.append({**log["nbirth"].metric("T"), "name": "U"}),
    "template.flag": inside("instance", "template_value", is_definition=None),
    "template.definition": inside("T", "template_value", is_definition=None),
    "template.definition-ref": inside("T", "template_value", template_ref="T"),
    "template.instance": inside("instance", "template_value", is_definition=None),
    "template.instance-ref": inside("instance", "template_value", template_ref=""),
    "template.defined": no_metric("nbirth", "T"),
    "template.members": inside("instance", "template_value", "metrics", "0", name="z"),
    "template.members-birth": inside("instance", "template_value", metrics=[]),
    "template.parameters": inside("instance", "template_value", "parameters", "0", name="z"),
    "template.version": inside("T", "template_value", version=b"\xff"),
    "parameter.name": inside("T", "template_value", "parameters", "0", name=None),
    "parameter.type-number": inside("T", "template_value", "parameters", "0", type=SMALL),
    "parameter.type-known": inside("T", "template_value", "parameters", "0", type=19),
    "parameter.type-birth": inside("T", "template_value", "parameters", "0", type=None),
    "parameter.value": inside("T", "template_value", "parameters", "0", string_value="two"),
}  # fmt: skip

_BIRTH, _DEATH = f"spBv1.0/STATE/{HOST}", f"spBv1.0/STATE/{HOST}"


def _no_birth(log: Log) -> None:
    log.remove("birth", "restored", "request", "write", "device-write", "death", "disconnect", "closed")


def _two_hosts(log: Log) -> None:
    log.copy_of("connect", client="0:twin")
    log.copy_of("connack", client="0:twin")


def _request_after_swap(log: Log) -> None:
    twin = log.copy_of("edge-swapped-first")
    twin.kind, twin.values = log["request"].kind, log["request"].values


def _dcmd_request(log: Log) -> None:
    log["request"].values["topic"] = "spBv1.0/g/DCMD/n/d"


HOST_SEEDS: dict[str, Seed] = {
    "topic.form": topic("write", "spBv1.0/g/NCMD"),
    "topic.with-device": topic("device-write", "spBv1.0/g/DCMD/n"),
    "topic.without-device": topic("write", "spBv1.0/g/NCMD/n/d"),
    "state.published": _no_birth,
    "state.clean-311": put("other-connect", clean=False),
    "state.clean-50": put("connect", clean=False),
    "state.will": put("connect", will=None),
    "state.will-topic": will(topic=f"spBv1.0/STATE/{HOST}/more"),
    "state.will-qos": will(qos=0),
    "state.will-retain": will(retain=False),
    "state.will-payload": will(payload=b"OFFLINE"),
    "state.will-time": will(payload=state(False, T0 - 3_600_000)),
    "state.subscribed": _unsubscribed("STATE", "spBv1.0/#"),
    "state.subscribed-first": lambda log: log.move("birth", before="subscribe"),
    "state.birth-first": lambda log: log.copy_of("subscribe").__setattr__("values", log["write"].values)
    or log["subscribe-again"].__setattr__("kind", log["write"].kind),
    "state.birth": _no_birth,
    "state.birth-topic": topic("birth", f"spBv1.0/STATE/{HOST}/more"),
    "state.birth-qos": put("birth", qos=0),
    "state.birth-retain": put("birth", retain=False),
    "state.birth-payload": put("birth", payload=state("yes", T0)),
    "state.birth-will": put("birth", payload=state(True, T0 + 5000)),
    "state.restored": lambda log: log.remove("restored"),
    "state.id-unique": _two_hosts,
    "state.server-time": put("other-birth", payload=state(True, T0)),
    "state.server-birth": _no_birth,
    "state.death": lambda log: log.remove("death"),
    "state.death-clean": put("death", payload=state(False, T0 - 3_600_000)),
    "state.death-no-packet": put("other-death", payload=state(False, T0 - 3_600_000)),
    "state.death-topic": topic("death", f"{_DEATH}/more"),
    "state.death-qos": put("death", qos=0),
    "state.death-retain": put("death", retain=False),
    **{f"action.{one}": put(f"look-{one}", kept=False, detail="shown as good") for one in (
        "node-offline", "node-stale", "devices-offline", "devices-stale", "device-offline", "device-stale")},
    "reorder.param": lambda log: log["request"].__setattr__("at_ms", log["edge-gap-second"].at_ms + 50),
    "reorder.start": lambda log: log["request"].__setattr__("at_ms", log["edge-gap-second"].at_ms + 50),
    "reorder.rebirth": lambda log: log.remove("request"),
    "reorder.success": _request_after_swap,
    "ncmd.topic": topic("write", "spBv1.0/g/NCMD/n/d"),
    "ncmd.qos": put("write", qos=1),
    "ncmd.retain": put("write", retain=True),
    "ncmd.timestamp": payload("write", timestamp=None),
    "ncmd.seq": payload("write", seq=0),
    "ncmd.metrics": payload("write", metrics=[]),
    "ncmd.verb": metric("write", "2", alias=None, name="temperature"),
    "ncmd.name": metric("write", "2", alias=None, name="nowhere"),
    "ncmd.value": metric("write", "2", double_value=None, string_value="fast"),
    "dcmd.topic": topic("device-write", "spBv1.0/g/DCMD/n"),
    "dcmd.qos": put("device-write", qos=1),
    "dcmd.retain": put("device-write", retain=True),
    "dcmd.timestamp": payload("device-write", timestamp=None),
    "dcmd.seq": payload("device-write", seq=0),
    "dcmd.metrics": payload("device-write", metrics=[]),
    "dcmd.verb": metric("device-write", "11", alias=None, name="speed"),
    "dcmd.name": metric("device-write", "11", alias=None, name="nowhere"),
    "dcmd.value": metric("device-write", "11", double_value=None, int_value=1),
    "alias.data": metric("write", "2", name="speed"),
    "datatype.data": metric("write", "2", datatype=DOUBLE),
    "request.verb": _dcmd_request,
    "request.name": metric("request", "Node Control/Rebirth", name="node control/rebirth"),
    "request.value": metric("request", "Node Control/Rebirth", boolean_value=0),
}  # fmt: skip
