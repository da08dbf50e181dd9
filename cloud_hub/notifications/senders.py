"""Creates the sender of a channel from its settings."""

from __future__ import annotations

from cloud_hub.notifications import Sender
from cloud_hub.notifications.alertmanager import Alertmanager
from cloud_hub.notifications.dingtalk import DingTalk
from cloud_hub.notifications.feishu import Feishu
from cloud_hub.notifications.mail import Mail
from cloud_hub.notifications.webhook import Webhook
from cloud_hub.notifications.wecom import WeCom
from cloud_hub.settings import channels


def open_sender(name: str, settings: channels.Channel, hub: str) -> Sender:
    """The sender of the channel `name`; `hub` is the hub's own name. Raises ConfigError, such as for a missing file."""
    place = f"notify.{name}"
    if isinstance(settings, channels.Alertmanager):
        return Alertmanager(place, settings, hub)
    if isinstance(settings, channels.Webhook):
        return Webhook(place, settings, hub)
    if isinstance(settings, channels.Mail):
        return Mail(place, settings, hub)
    if isinstance(settings, channels.WeCom):
        return WeCom(place, settings, hub)
    if isinstance(settings, channels.DingTalk):
        return DingTalk(place, settings, hub)
    return Feishu(place, settings, hub)
