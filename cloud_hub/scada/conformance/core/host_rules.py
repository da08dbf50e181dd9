"""Rules for host applications and for the broker."""

from __future__ import annotations

from cloud_hub.scada.conformance.core.rules import rule

_EST, _LISTEN = "H establishment publishes must", "H establishment connection must"
_TERM = "H termination publishes must"
_CMD, _SHOULD = "H commands publishes must", "H commands publishes should"
_APP = "operational-behavior-host-application"
_PHID = "host-topic-phid"
_FLOW = "message-flow-phid-sparkplug"
_ACT = "operational-behavior-edge-node-termination-host-action"
_OPC = "operational-behavior-data-commands"

STATE = (
    rule("state.published", _EST, "the host says on STATE whether it is online",
         "conformance-primary-host intro-sparkplug-host-state components-ph-state"),
    rule("state.clean-311", _LISTEN, "MQTT 3.1.1: Clean Session is set", f"{_FLOW}-clean-session-311"),
    rule("state.clean-50", _LISTEN, "MQTT 5: Clean Start, session expiry 0", f"{_FLOW}-clean-session-50"),
    rule("state.will", _LISTEN, "CONNECT has a Will",
         f"{_PHID}-death-required {_APP}-connect-will payloads-state-will-message"),
    rule("state.will-topic", _LISTEN, "the Will's topic is spBv1.0/STATE/host",
         f"{_PHID}-death-topic {_APP}-connect-will-topic payloads-state-will-message"),
    rule("state.will-qos", _LISTEN, "the Will has QoS 1",
         f"{_PHID}-death-qos {_APP}-connect-will-qos payloads-state-will-message-qos"),
    rule("state.will-retain", _LISTEN, "the Will is retained",
         f"{_PHID}-death-retain {_APP}-connect-will-retained payloads-state-will-message-retain"),
    rule("state.will-payload", _LISTEN, "the Will says online = false and a timestamp",
         f"{_PHID}-death-payload {_APP}-connect-will-payload {_APP}-death-payload payloads-state-will-message-payload"),
    rule("state.will-time", _LISTEN, "the Will's timestamp is the time of CONNECT",
         f"{_PHID}-death-payload-timestamp-connect"),
    rule("state.subscribed", _LISTEN, "the host subscribes to its STATE and to nodes",
         f"{_PHID}-birth-sub-required payloads-state-subscribe"),
    rule("state.subscribed-first", _LISTEN, "it subscribes before it publishes its birth",
         f"{_FLOW}-subscription payloads-state-birth"),
    rule("state.birth-first", _LISTEN, "the birth is the first message on each server",
         f"{_PHID}-birth-message principles-birth-certificates-order "
         "operational-behavior-primary-application-state-with-multiple-servers-state"),
    rule("state.birth", _LISTEN, "a birth follows the subscriptions",
         f"{_PHID}-birth-required {_APP}-connect-birth {_FLOW}-state-publish"),
    rule("state.birth-topic", _EST, "the birth's topic is spBv1.0/STATE/host",
         f"{_PHID}-birth-topic {_APP}-connect-birth-topic payloads-state-birth"),
    rule("state.birth-qos", _EST, "the birth has QoS 1",
         f"{_PHID}-birth-qos {_APP}-connect-birth-qos payloads-state-birth"),
    rule("state.birth-retain", _EST, "the birth is retained",
         f"{_PHID}-birth-retain {_APP}-connect-birth-retained payloads-state-birth"),
    rule("state.birth-payload", _EST, "the birth says online = true and a timestamp", f"{_PHID}-birth-payload"),
    rule("state.birth-will", _LISTEN, "the birth's timestamp is that of the Will",
         f"{_PHID}-birth-payload-timestamp {_APP}-connect-birth-payload payloads-state-birth-payload "
         f"{_FLOW}-state-publish-payload {_FLOW}-state-publish-payload-timestamp"),
    rule("state.restored", "H primary stimulus must", "an offline STATE of itself is answered with its birth",
         "message-flow-hid-sparkplug-state-message-delivered"),
    rule("state.id-unique", _LISTEN, "no two hosts have one id", f"{_APP}-host-id"),
    rule("state.server-time", "H servers servers must", "each server has its own timestamp of STATE",
         f"{_APP}-multi-server-timestamp"),
    rule("state.server-birth", "H servers connection must", "STATE is published on the server where nodes wait for it",
         "operational-behavior-primary-application-state-with-multiple-servers-state-subs"),
)  # fmt: skip

TERMINATION = (
    rule("state.death", "H termination connection must", "an offline STATE comes before DISCONNECT",
         f"{_APP}-termination"),
    rule("state.death-clean", "H termination connection must", "it has the time of the disconnect",
         f"{_PHID}-death-payload-timestamp-disconnect-clean"),
    rule("state.death-no-packet", "H termination connection must", "so does one before an end without DISCONNECT",
         f"{_PHID}-death-payload-timestamp-disconnect-with-no-disconnect-packet"),
    rule("state.death-topic", _TERM, "the death's topic is spBv1.0/STATE/host", f"{_APP}-death-topic"),
    rule("state.death-qos", _TERM, "the death has QoS 1", f"{_APP}-death-qos"),
    rule("state.death-retain", _TERM, "the death is retained", f"{_APP}-death-retained"),
    rule("state.disconnect", "H termination connection may", "DISCONNECT follows the death",
         f"{_APP}-disconnect-intentional"),
)  # fmt: skip

_ASK = "H termination operator must"
ACTIONS = (
    rule("action.node-offline", _ASK, "after NDEATH the node is offline", f"{_ACT}-ndeath-node-offline"),
    rule("action.node-stale", _ASK, "after NDEATH its metrics are stale", f"{_ACT}-ndeath-node-tags-stale"),
    rule("action.devices-offline", _ASK, "after NDEATH its devices are offline", f"{_ACT}-ndeath-devices-offline"),
    rule("action.devices-stale", _ASK, "after NDEATH metrics of its devices are stale",
         f"{_ACT}-ndeath-devices-tags-stale"),
    rule("action.device-offline", _ASK, "after DDEATH the device is offline", f"{_ACT}-ddeath-devices-offline"),
    rule("action.device-stale", _ASK, "after DDEATH its metrics are stale", f"{_ACT}-ddeath-devices-tags-stale"),
)  # fmt: skip

_ORDER = "H ordering stimulus must"
_REORDER = "operational-behavior-host-reordering"
ORDERING = (
    rule("reorder.param", "H ordering stimulus should", "the Reorder Timeout is as configured", f"{_REORDER}-param"),
    rule("reorder.start", _ORDER, "a gap starts the timer: no rebirth is asked for before it ends",
         f"{_REORDER}-start"),
    rule("reorder.rebirth", _ORDER, "a rebirth is asked for when the timer ends", f"{_REORDER}-rebirth"),
    rule("reorder.success", _ORDER, "none is when the missing messages arrive in time", f"{_REORDER}-success"),
)  # fmt: skip

COMMANDS = (
    rule("ncmd.topic", _CMD, "NCMD has the topic of a node", "topics-ncmd-topic"),
    rule("ncmd.qos", _CMD, "NCMD has QoS 0", "topics-ncmd-mqtt payloads-ncmd-qos"),
    rule("ncmd.retain", _CMD, "NCMD is not retained", "topics-ncmd-mqtt payloads-ncmd-retain"),
    rule("ncmd.timestamp", _CMD, "NCMD has a timestamp", "topics-ncmd-timestamp payloads-ncmd-timestamp"),
    rule("ncmd.seq", _CMD, "NCMD has no seq", "payloads-ncmd-seq"),
    rule("ncmd.metrics", _CMD, "NCMD has the metrics to write", "topics-ncmd-payload"),
    rule("ncmd.verb", _CMD, "commands to a node are NCMD", f"{_OPC}-ncmd-verb"),
    rule("ncmd.name", _SHOULD, "NCMD writes metrics of the NBIRTH", f"{_OPC}-ncmd-metric-name"),
    rule("ncmd.value", _CMD, "values of NCMD fit the metric's type", f"{_OPC}-ncmd-metric-value"),
    rule("dcmd.topic", _CMD, "DCMD has the topic of a device", "topics-dcmd-topic"),
    rule("dcmd.qos", _CMD, "DCMD has QoS 0", "topics-dcmd-mqtt payloads-dcmd-qos"),
    rule("dcmd.retain", _CMD, "DCMD is not retained", "topics-dcmd-mqtt payloads-dcmd-retain"),
    rule("dcmd.timestamp", _CMD, "DCMD has a timestamp", "topics-dcmd-timestamp payloads-dcmd-timestamp"),
    rule("dcmd.seq", _CMD, "DCMD has no seq", "payloads-dcmd-seq"),
    rule("dcmd.metrics", _CMD, "DCMD has the metrics to write", "topics-dcmd-payload"),
    rule("dcmd.verb", _CMD, "commands to a device are DCMD", f"{_OPC}-dcmd-verb"),
    rule("dcmd.name", _SHOULD, "DCMD writes metrics of the DBIRTH", f"{_OPC}-dcmd-metric-name"),
    rule("dcmd.value", _CMD, "values of DCMD fit the metric's type", f"{_OPC}-dcmd-metric-value"),
    rule("command.time", "H commands publishes may", "metrics of commands have timestamps",
         "payloads-name-cmd-requirement"),
    rule("request.verb", _CMD, "a rebirth request is an NCMD", f"{_OPC}-ncmd-rebirth-verb"),
    rule("request.name", _CMD, "its metric is 'Node Control/Rebirth'", f"{_OPC}-ncmd-rebirth-name"),
    rule("request.value", _CMD, "its value is true", f"{_OPC}-ncmd-rebirth-value"),
)  # fmt: skip

_BROKER = "B broker stimulus must"
_AWARE = "conformance-mqtt-aware"
BROKER = (
    rule("broker.qos0", _BROKER, "QoS 0 is delivered", "conformance-mqtt-qos0"),
    rule("broker.qos1", _BROKER, "QoS 1 is acknowledged and delivered", "conformance-mqtt-qos1"),
    rule("broker.will", _BROKER, "Wills are published at QoS 1, retained", "conformance-mqtt-will-messages"),
    rule("broker.retained", _BROKER, "retained messages are kept and cleared", "conformance-mqtt-retained"),
    rule("aware.basic", _BROKER, "an aware broker is a compliant one", f"{_AWARE}-basic"),
    rule("aware.stored", _BROKER, "an aware broker keeps births", f"{_AWARE}-store"),
    rule("aware.nbirth", _BROKER, "NBIRTH is under $sparkplug/certificates", f"{_AWARE}-nbirth-mqtt-topic"),
    rule("aware.nbirth-retain", _BROKER, "it is retained", f"{_AWARE}-nbirth-mqtt-retain"),
    rule("aware.dbirth", _BROKER, "DBIRTH is under $sparkplug/certificates", f"{_AWARE}-dbirth-mqtt-topic"),
    rule("aware.dbirth-retain", _BROKER, "it is retained", f"{_AWARE}-dbirth-mqtt-retain"),
    rule("aware.ndeath-time", "B broker stimulus may", "the timestamp of NDEATH is set at delivery",
         f"{_AWARE}-ndeath-timestamp"),
)  # fmt: skip

HOST_RULES = (*STATE, *TERMINATION, *ACTIONS, *ORDERING, *COMMANDS)
BROKER_RULES = BROKER
