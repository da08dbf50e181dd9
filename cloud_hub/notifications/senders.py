"""Creates the sender of a channel from its settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud_hub.notifications import Sender
from cloud_hub.notifications.alertmanager import Alertmanager
from cloud_hub.notifications.dingtalk import DingTalk
from cloud_hub.notifications.feishu import Feishu
from cloud_hub.notifications.mail import Mail
from cloud_hub.notifications.webhook import Webhook
from cloud_hub.notifications.wecom import WeCom
from cloud_hub.settings import channels
from shared.errors import ConfigError

_SENDERS: dict[type[channels.Common], Callable[[str, Any, str], Sender]] = {
    channels.Alertmanager: Alertmanager,
    channels.Webhook: Webhook,
    channels.Mail: Mail,
    channels.WeCom: WeCom,
    channels.DingTalk: DingTalk,
    channels.Feishu: Feishu,
}


def open_sender(name: str, settings: channels.Common, hub: str) -> Sender:
    """The sender of the channel `name`; `hub` is the hub's own name. Raises ConfigError, such as for a missing file."""
    place = f"notify.{name}"
    sender = _SENDERS.get(type(settings))
    if sender is None:
        kinds = ", ".join(sorted(kind.__name__ for kind in _SENDERS))
        raise ConfigError(place, f"no sender for settings of kind {type(settings).__name__}", f"Use one of {kinds}")
    return sender(place, settings, hub)
