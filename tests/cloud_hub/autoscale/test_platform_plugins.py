"""The entry points of the platforms, and what a hub says that lacks an extra."""

from __future__ import annotations

import sys

import pytest

from shared import plugins
from shared.errors import ConfigError

KINDS = {"aws": "boto3", "ess": "alibabacloud_ess20220222", "http": "", "keda": "", "kubernetes": "lightkube"}


@pytest.mark.parametrize("kind", KINDS)
def test_each_platform_is_a_plug_in_that_names_missing_options(kind: str) -> None:
    opener = plugins.load(plugins.SCALERS, kind, "targets.yaml: target 'a': platform.kind")
    with pytest.raises(ConfigError, match="missing required field"):
        opener({})


@pytest.mark.parametrize(("kind", "module"), [(kind, module) for kind, module in KINDS.items() if module])
def test_a_missing_extra_is_named(kind: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] == module or name.startswith("cloud_hub.autoscale.p")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=module) as caught:
        plugins.load(plugins.SCALERS, kind, "here")
    assert "extra" in caught.value.cure


def test_keda_without_its_extra_still_publishes_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    opener = plugins.load(plugins.SCALERS, "keda", "here")
    monkeypatch.setitem(sys.modules, "grpc", None)
    options = {"target": "a", "state_file": "does-not-exist", "initial": 1}
    assert opener(options).name == "keda:a"
    with pytest.raises(ConfigError, match="Install the extra 'keda'"):
        opener({**options, "listen": "127.0.0.1:9300"})
