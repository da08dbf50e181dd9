"""Rules for edge nodes: sessions, births, data, deaths."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.rules import rule

_EST, _LISTEN = "E establishment publishes must", "E establishment connection must"
_DATA, _TERM = "E data publishes must", "E termination publishes must"
_FLOW = "message-flow-edge-node-birth-publish"
_DFLOW = "message-flow-device-birth-publish"
_OP = "operational-behavior"

TOPICS = (
    rule("topic.form", "EH establishment publishes must",
         "topics are spBv1.0/group/TYPE/node[/device] or spBv1.0/STATE/host",
         "topic-structure topic-structure-namespace-a"),
    rule("topic.group", _EST, "the group id is valid",
         "intro-group-id-string intro-group-id-chars topic-structure-namespace-valid-group-id"),
    rule("topic.node", _EST, "the edge node id is valid",
         "intro-edge-node-id-string intro-edge-node-id-chars topic-structure-namespace-valid-edge-node-id"),
    rule("topic.device", _EST, "the device id is valid",
         "intro-device-id-string intro-device-id-chars topic-structure-namespace-valid-device-id"),
    rule("topic.with-device", "EH establishment publishes must", "DBIRTH, DDATA, DDEATH, DCMD name a device",
         "topic-structure-namespace-device-id-associated-message-types"),
    rule("topic.without-device", "EH establishment publishes must", "NBIRTH, NDATA, NDEATH, NCMD, STATE name none",
         "topic-structure-namespace-device-id-non-associated-message-types"),
    rule("nbirth.topic", _EST, "NBIRTH has the topic of its node", f"topics-nbirth-topic {_FLOW}-nbirth-topic"),
    rule("dbirth.topic", _EST, "DBIRTH has the topic of its device", f"topics-dbirth-topic {_DFLOW}-dbirth-topic"),
    rule("ndata.topic", _DATA, "NDATA has the topic of its node", "topics-ndata-topic"),
    rule("ddata.topic", _DATA, "DDATA has the topic of its device", "topics-ddata-topic"),
    rule("ndeath.topic", _TERM, "NDEATH has the topic of its node", "topics-ndeath-topic"),
    rule("ddeath.topic", _TERM, "DDEATH has the topic of its device", "topics-ddeath-topic"),
    rule("node.unique", _LISTEN, "no two clients are the same edge node at a time",
         "intro-edge-node-id-uniqueness topic-structure-namespace-unique-edge-node-descriptor "
         "payloads-nbirth-edge-node-descriptor"),
    rule("device.unique", _EST, "no two devices of a node have one id", "topic-structure-namespace-unique-device-id"),
    rule("device.elsewhere", "E establishment publishes may", "two nodes have devices with one id",
         "topic-structure-namespace-duplicate-device-id-across-edge-node"),
    rule("ids.case", "E establishment publishes should", "ids differ in more than upper and lower case",
         "case-sensitivity-sparkplug-ids"),
    rule("metrics.case", "E establishment publishes should", "names of metrics differ in more than case",
         "case-sensitivity-metric-names"),
)  # fmt: skip

SESSIONS = (
    rule("connect.clean-311", _LISTEN, "MQTT 3.1.1: Clean Session is set", "principles-persistence-clean-session-311"),
    rule("connect.clean-50", _LISTEN, "MQTT 5: Clean Start, session expiry 0",
         "principles-persistence-clean-session-50"),
    rule("connect.first", _LISTEN, "births come after the broker accepted the connection", f"{_FLOW}-connect"),
    rule("birth.first", "E establishment connection must", "the first message is the birth",
         "principles-birth-certificates-order"),
    rule("will.present", _LISTEN, "CONNECT has a Will", f"{_FLOW}-will-message payloads-ndeath-will-message"),
    rule("will.topic", _LISTEN, "the Will is the node's NDEATH", f"{_FLOW}-will-message-topic"),
    rule("will.payload", _LISTEN, "the Will's payload is protobuf", f"{_FLOW}-will-message-payload"),
    rule("will.bdseq", _LISTEN, "the Will has bdSeq as Int64", f"{_FLOW}-will-message-payload-bdSeq"),
    rule("will.bdseq-next", _LISTEN, "bdSeq is one more with each CONNECT, 0 after 255",
         f"{_FLOW}-will-message-payload-bdSeq topics-nbirth-bdseq-increment"),
    rule("will.qos", _LISTEN, "the Will has QoS 1", f"{_FLOW}-will-message-qos payloads-ndeath-will-message-qos"),
    rule("will.retain", _LISTEN, "the Will is not retained",
         f"{_FLOW}-will-message-will-retained payloads-ndeath-will-message-retain"),
    rule("ncmd.subscribed", _LISTEN, "NCMD is subscribed at QoS 1 before the NBIRTH",
         "message-flow-edge-node-ncmd-subscribe"),
    rule("dcmd.subscribed", _LISTEN, "a subscription to DCMD has QoS 1", "message-flow-device-dcmd-subscribe"),
)  # fmt: skip

NBIRTH = (
    rule("nbirth.qos", _EST, "NBIRTH has QoS 0", f"topics-nbirth-mqtt payloads-nbirth-qos {_FLOW}-nbirth-qos"),
    rule("nbirth.retain", _EST, "NBIRTH is not retained",
         f"topics-nbirth-mqtt payloads-nbirth-retain {_FLOW}-nbirth-retained"),
    rule("nbirth.payload", _EST, "NBIRTH is protobuf", f"{_FLOW}-nbirth-payload"),
    rule("nbirth.seq-zero", _EST, "seq of NBIRTH is 0", "topics-nbirth-seq-num"),
    rule("nbirth.seq", _EST, "NBIRTH has seq, 0 to 255",
         f"payloads-nbirth-seq {_FLOW}-nbirth-payload-seq payloads-sequence-num-req-nbirth"),
    rule("nbirth.timestamp", _EST, "NBIRTH has a timestamp", "topics-nbirth-timestamp payloads-nbirth-timestamp"),
    rule("nbirth.metrics", _EST, "metrics of NBIRTH have name, datatype and value", "topics-nbirth-metrics"),
    rule("nbirth.values", _EST, "metrics of NBIRTH have a value or is_null, not both",
         f"{_OP}-data-publish-nbirth-values"),
    rule("nbirth.complete", _DATA, "metrics of NDATA were in the NBIRTH",
         f"topics-nbirth-metric-reqs {_OP}-data-publish-nbirth"),
    rule("nbirth.bdseq", _EST, "NBIRTH has bdSeq", "topics-nbirth-bdseq-included payloads-nbirth-bdseq"),
    rule("nbirth.bdseq-type", _EST, "bdSeq of NBIRTH is Int64", f"{_FLOW}-nbirth-payload-bdSeq"),
    rule("nbirth.bdseq-will", _LISTEN, "bdSeq of NBIRTH is that of the Will",
         f"topics-nbirth-bdseq-matching payloads-nbirth-bdseq-repeat payloads-ndeath-bdseq "
         f"{_FLOW}-nbirth-payload-bdSeq"),
    rule("nbirth.rebirth", _EST, "NBIRTH has 'Node Control/Rebirth'",
         f"topics-nbirth-rebirth-metric payloads-nbirth-rebirth-req {_OP}-data-commands-rebirth-name"),
    rule("nbirth.rebirth-alias", _EST, "'Node Control/Rebirth' has no alias",
         f"{_OP}-data-commands-rebirth-name-aliases"),
    rule("nbirth.rebirth-type", _EST, "'Node Control/Rebirth' is Boolean",
         f"topics-nbirth-rebirth-metric {_OP}-data-commands-rebirth-datatype"),
    rule("nbirth.rebirth-value", _EST, "'Node Control/Rebirth' is false",
         f"topics-nbirth-rebirth-metric payloads-nbirth-rebirth-req {_OP}-data-commands-rebirth-value"),
)  # fmt: skip

DBIRTH = (
    rule("dbirth.qos", _EST, "DBIRTH has QoS 0", f"topics-dbirth-mqtt payloads-dbirth-qos {_DFLOW}-dbirth-qos"),
    rule("dbirth.retain", _EST, "DBIRTH is not retained",
         f"topics-dbirth-mqtt payloads-dbirth-retain {_DFLOW}-dbirth-retained"),
    rule("dbirth.payload", _EST, "DBIRTH is protobuf", f"{_DFLOW}-dbirth-payload"),
    rule("dbirth.seq", _EST, "DBIRTH has seq", "payloads-dbirth-seq"),
    rule("dbirth.seq-next", _EST, "seq of DBIRTH is the next",
         f"topics-dbirth-seq payloads-dbirth-seq-inc {_DFLOW}-dbirth-payload-seq"),
    rule("dbirth.timestamp", _EST, "DBIRTH has a timestamp", "topics-dbirth-timestamp payloads-dbirth-timestamp"),
    rule("dbirth.metrics", _EST, "metrics of DBIRTH have name, datatype and value", "topics-dbirth-metrics"),
    rule("dbirth.values", _EST, "metrics of DBIRTH have a value or is_null, not both",
         f"{_OP}-data-publish-dbirth-values"),
    rule("dbirth.complete", _DATA, "metrics of DDATA were in the DBIRTH",
         f"topics-dbirth-metric-reqs {_OP}-data-publish-dbirth"),
    rule("dbirth.order", _EST, "DBIRTHs come after the NBIRTH, before any DATA", "payloads-dbirth-order"),
    rule("dbirth.after-nbirth", _EST, "DBIRTH comes after an NBIRTH of this session", f"{_DFLOW}-nbirth-wait"),
    rule("dbirth.node", _EST, "DBIRTH has group and node of the NBIRTH", f"{_DFLOW}-dbirth-match-edge-node-topic"),
)  # fmt: skip

DATA = (
    rule("ndata.qos", _DATA, "NDATA has QoS 0", "topics-ndata-mqtt payloads-ndata-qos"),
    rule("ndata.retain", _DATA, "NDATA is not retained", "topics-ndata-mqtt payloads-ndata-retain"),
    rule("ndata.seq", _DATA, "NDATA has seq", "payloads-ndata-seq"),
    rule("ndata.seq-next", _DATA, "seq of NDATA is the next", "topics-ndata-seq-num payloads-ndata-seq-inc"),
    rule("ndata.timestamp", _DATA, "NDATA has a timestamp", "topics-ndata-timestamp payloads-ndata-timestamp"),
    rule("ndata.metrics", _DATA, "NDATA has the metrics that changed", "topics-ndata-payload"),
    rule("ndata.order", _DATA, "NDATA comes after all births", "payloads-ndata-order"),
    rule("ndata.by-exception", "E data publishes should", "NDATA is sent when a metric changed",
         f"{_OP}-data-publish-nbirth-change principles-rbe-recommended"),
    rule("node.chronological", _DATA, "metrics of NBIRTH and NDATA are in order of time",
         f"{_OP}-data-publish-nbirth-order"),
    rule("ddata.qos", _DATA, "DDATA has QoS 0", "topics-ddata-mqtt payloads-ddata-qos"),
    rule("ddata.retain", _DATA, "DDATA is not retained", "topics-ddata-mqtt payloads-ddata-retain"),
    rule("ddata.seq", _DATA, "DDATA has seq", "payloads-ddata-seq"),
    rule("ddata.seq-next", _DATA, "seq of DDATA is the next", "topics-ddata-seq-num payloads-ddata-seq-inc"),
    rule("ddata.timestamp", _DATA, "DDATA has a timestamp", "topics-ddata-timestamp payloads-ddata-timestamp"),
    rule("ddata.metrics", _DATA, "DDATA has the metrics that changed", "topics-ddata-payload"),
    rule("ddata.order", _DATA, "DDATA comes after all births", "payloads-ddata-order"),
    rule("ddata.by-exception", "E data publishes should", "DDATA is sent when a metric changed",
         f"{_OP}-data-publish-dbirth-change principles-rbe-recommended"),
    rule("device.chronological", _DATA, "metrics of DBIRTH and DDATA are in order of time",
         f"{_OP}-data-publish-dbirth-order"),
    rule("seq.always", _DATA, "every message but NDEATH has seq", "payloads-sequence-num-always-included"),
    rule("seq.next", _DATA, "seq rises by one, 0 after 255", "payloads-sequence-num-incrementing"),
    rule("time.utc", _DATA, "timestamps of payloads are UTC", "payloads-timestamp-in-UTC"),
    rule("metric.timestamp", _DATA, "metrics of births and data have timestamps",
         "payloads-name-birth-data-requirement"),
    rule("metric.utc", _DATA, "timestamps of metrics are UTC", "payloads-metric-timestamp-in-UTC"),
    rule("metric.name", _DATA, "metrics have a name, or an alias of the birth", "payloads-name-requirement"),
    rule("alias.unique", _EST, "an alias is unique in its node", "payloads-alias-uniqueness"),
    rule("alias.birth", _EST, "metrics of births with an alias have a name too", "payloads-alias-birth-requirement"),
    rule("alias.data", "EH data publishes must", "metrics with an alias leave the name out, in data and commands",
         "payloads-alias-data-cmd-requirement"),
    rule("datatype.number", _EST, "datatypes are 32-bit unsigned integers", "payloads-metric-datatype-value-type"),
    rule("datatype.known", _EST, "datatypes are those of the specification", "payloads-metric-datatype-value"),
    rule("datatype.birth", _EST, "metrics of births have a datatype", "payloads-metric-datatype-req"),
    rule("datatype.data", "EH data publishes should", "metrics of data and commands have no datatype",
         "payloads-metric-datatype-not-req"),
)  # fmt: skip

DEATHS = (
    rule("ndeath.metrics", _TERM, "bdSeq is the only metric of NDEATH", "topics-ndeath-payload"),
    rule("ndeath.seq", _TERM, "NDEATH has no seq", "topics-ndeath-seq payloads-ndeath-seq"),
    rule("ndeath.bdseq", _TERM, "bdSeq of NDEATH is that of a birth", "payloads-ndeath-bdseq"),
    rule("ndeath.disconnect", "E termination connection must", "NDEATH comes before an intended end",
         f"{_OP}-edge-node-intentional-disconnect-ndeath"),
    rule("ndeath.disconnect-311", "E termination connection must", "MQTT 3.1.1: NDEATH comes before DISCONNECT",
         "payloads-ndeath-will-message-publisher-disconnect-mqtt311"),
    rule("ndeath.disconnect-50", "E termination connection must", "MQTT 5: DISCONNECT has reason 'with Will Message'",
         "payloads-ndeath-will-message-publisher-disconnect-mqtt50"),
    rule("ndeath.published", "E termination connection should", "the node publishes NDEATH before DISCONNECT",
         "payloads-ndeath-will-message-publisher"),
    rule("disconnect.packet", "E termination connection may", "DISCONNECT follows the NDEATH",
         f"{_OP}-edge-node-intentional-disconnect-packet"),
    rule("ddeath.qos", _TERM, "DDEATH has QoS 0", "topics-ddeath-mqtt"),
    rule("ddeath.retain", _TERM, "DDEATH is not retained", "topics-ddeath-mqtt"),
    rule("ddeath.seq", _TERM, "DDEATH has seq", "payloads-ddeath-seq payloads-ddeath-seq-number"),
    rule("ddeath.seq-next", _TERM, "seq of DDEATH is the next", "topics-ddeath-seq-num payloads-ddeath-seq-inc"),
    rule("ddeath.timestamp", _TERM, "DDEATH has a timestamp", "payloads-ddeath-timestamp"),
    rule("ddeath.lost", "E termination operator must", "a device that is lost gets a DDEATH", f"{_OP}-device-ddeath"),
)  # fmt: skip

COMMANDS = (
    rule("rebirth.stop", "E commands stimulus must", "a rebirth request stops data at once",
         f"{_OP}-data-commands-rebirth-action-1"),
    rule("rebirth.births", "E commands stimulus must", "a rebirth request is answered with all births",
         f"{_OP}-data-commands-rebirth-action-2"),
    rule("rebirth.bdseq", "E commands stimulus must", "bdSeq stays the same in a rebirth",
         f"{_OP}-data-commands-rebirth-action-3"),
)  # fmt: skip

_PRIMARY = "E primary connection must"
PRIMARY = (
    rule("primary.wait", _PRIMARY, "births wait for the primary host",
         f"{_FLOW}-phid-wait {_OP}-edge-node-birth-sequence-wait"),
    rule("primary.id", _PRIMARY, "only the configured host counts", f"{_FLOW}-phid-wait-id"),
    rule("primary.online", _PRIMARY, "only online = true counts", f"{_FLOW}-phid-wait-online"),
    rule("primary.timestamp", "E primary stimulus must", "an online STATE older than the last one does not count",
         f"{_FLOW}-phid-wait-timestamp"),
    rule("primary.offline", "E primary stimulus must", "after an offline STATE: NDEATH, then the connection ends",
         f"{_FLOW}-phid-offline"),
    rule("primary.leave", "E primary stimulus must", "after an offline STATE the connection ends",
         f"{_OP}-edge-node-termination-host-offline"),
    rule("primary.old-offline", "E primary stimulus must", "an offline STATE older than the last online one is ignored",
         f"{_OP}-edge-node-termination-host-offline-timestamp"),
    rule("primary.subscribed", "E servers connection must", "the node subscribes to its host's STATE",
         f"{_OP}-primary-application-state-with-multiple-servers-state-subs"),
    rule("servers.next", "E servers stimulus must", "after an offline STATE the node connects to the next server",
         f"{_OP}-edge-node-termination-host-offline-reconnect "
         f"{_OP}-primary-application-state-with-multiple-servers-walk"),
    rule("servers.single", "E servers servers must", "the node is on one server at a time",
         f"{_OP}-primary-application-state-with-multiple-servers-single-server"),
)  # fmt: skip

EDGE_RULES = (*TOPICS, *SESSIONS, *NBIRTH, *DBIRTH, *DATA, *DEATHS, *COMMANDS, *PRIMARY)
