"""The pages in a real browser: what an operator does in a shift, the policy in force, accessibility, a path prefix.

Every page is kept as a picture in the test's folder (`--basetemp` says where), in light, dark and on a phone.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulators.brokers import until
from simulators.pages_world import BLIND, HOT, Pages, WebApp, fill, incident_of, open_pages, served

from cloud_hub.clock import now_us
from cloud_hub.database.tables import Action, AlarmRow
from cloud_hub.devices.offsets import StreamOffsets
from cloud_hub.incidents import service as incidents
from cloud_hub.telemetry import samples
from shared.protocol.messages import Alarm, Sample

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
AXE = Path(__file__).parents[2] / "vectors" / "axe-core" / "axe.min.js"
AXE_SHA256 = "29348999450cdf2849a8e70b7912fc2da85a849da39c0d0d5394f51d4a9ed95c"
"""axe-core 4.14.1 (MPL-2.0), as in the npm package."""
PREFIX = "/plant/hub"


class Prefixed:
    """A proxy that serves the hub below a path."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            assert scope["path"].startswith(PREFIX), scope["path"]
            path = scope["path"].removeprefix(PREFIX)
            scope = scope | {"path": path, "raw_path": path.encode()}
        await self.app(scope, receive, send)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if not Path(CHROMIUM).is_file():
        if os.environ.get("TIDEGATE_CI"):
            pytest.fail("chromium is not installed: apt install chromium")
        pytest.skip("needs chromium")
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as driver:
        one = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield one
        one.close()


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The plant behind a path prefix."""
    folder = tmp_path_factory.mktemp("browser")
    with open_pages(folder) as pages:
        fill(pages)
        with served(pages, Prefixed(WebApp(pages.hub))) as address:
            yield SimpleNamespace(pages=pages, url=f"{address}{PREFIX}", pictures=folder)


@pytest.fixture
def page(hub: Any, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A signed-in page. What the browser complains about (the policy, a script) fails the test."""
    options = getattr(request, "param", {"viewport": {"width": 1280, "height": 900}})
    context = browser.new_context(**options)
    one = context.new_page()
    one.set_default_timeout(20_000)
    complaints: list[str] = []
    one.on("console", lambda message: complaints.append(message.text) if is_fault(message) else None)
    one.on("pageerror", lambda error: complaints.append(str(error)))
    one.goto(f"{hub.url}/")
    one.fill("#token", hub.pages.tokens["anna"])
    one.click("main button")
    one.wait_for_selector(".tiles")
    yield one
    context.close()
    assert complaints == []


def is_fault(message: Any) -> bool:
    """An error of the page itself; that a page is not there, or a query wrong, is the answer that a test asks for."""
    refused = "the server responded with a status of 40"
    return message.type == "error" and refused not in message.text


def live(page: Any) -> None:
    page.wait_for_selector('#live[data-state="on"]')


def test_an_operator_finds_the_bad_device(hub: Any, page: Any) -> None:
    """From the overview to the chart, with the limit that was crossed."""
    page.click(f'section:has(h2:text("Most urgent alarms")) a:has-text("{HOT}")')
    page.wait_for_selector("h1:has-text('temperature')")
    page.click(f"nav.crumbs a:has-text('{HOT}')")
    chart = page.locator("[data-chart]")
    page.wait_for_selector("[data-points]:has(canvas)")
    assert int(chart.get_attribute("data-points")) > 700
    assert chart.get_attribute("data-limit") == "80"
    assert "fan 2: 0 rpm" in page.inner_text("main")


def test_a_list_of_devices_is_filtered_and_walked_by_keys(page: Any) -> None:
    page.click("nav >> text=Devices")
    page.wait_for_selector("#spacer .grid-row")
    assert page.inner_text("#count") == "43 devices"
    page.fill("[name=text]", "kind=press")
    page.wait_for_selector("#count:has-text('1 devices')")
    assert "text=kind%3Dpress" in page.url
    page.fill("[name=text]", "")
    page.fill("[name=where]", "tags.line =")
    page.press("[name=where]", "Enter")
    page.wait_for_selector("#count.bad-text")
    page.fill("[name=where]", "tags.kind = 'sensor'")
    page.press("[name=where]", "Enter")
    page.wait_for_selector("#count:has-text('40 devices')")
    page.focus("#viewport")
    page.keyboard.press("End")
    assert page.evaluate("document.activeElement.textContent") == "sensor-039"
    assert page.locator("#spacer .grid-row").count() < 40
    page.keyboard.press("Enter")
    page.wait_for_selector("h1:has-text('sensor-039')")


def test_an_alarm_is_acknowledged_and_judged(hub: Any, page: Any) -> None:
    page.click("nav >> text=Alarms")
    row = page.locator(f"tr:has-text('{BLIND}')")
    row.locator("button").click()
    page.wait_for_selector(f"tr:has-text('{BLIND}'):not(.unseen):has-text('anna')")
    assert page.url.endswith("/ui/alarms")
    page.click(f"tr:has-text('{BLIND}') a:has-text('digits/age_s')")
    page.fill("[name=comment]", "lens was dirty")
    page.click("text=It was real")
    page.wait_for_selector("dd:has-text('lens was dirty')")
    with hub.pages.db.read() as session:
        alarm = session.get_one(AlarmRow, "a-stall")
        assert (alarm.acked_by, alarm.verdict, alarm.comment) == ("anna", "real", "lens was dirty")


def test_an_action_is_approved(hub: Any, page: Any) -> None:
    page.click("nav >> text=Incidents")
    page.click(f"a:has-text('{BLIND}')")
    page.click("a.cite >> nth=0")
    assert "high alarm raised" in page.evaluate("document.activeElement.textContent")
    page.click("text=Approve")
    page.wait_for_selector("text=approved")
    with hub.pages.db.read() as session:
        (action,) = [row for row in incidents.actions(session, incident_of(hub.pages, BLIND)) if row.approvals]
        assert (action.state, action.approvals[0]["actor"]) == ("approved", "anna")
        assert isinstance(action, Action)


def test_a_new_alarm_and_new_samples_appear_by_themselves(hub: Any, page: Any) -> None:
    page.goto(f"{hub.url}/ui/alarms")
    live(page)
    raise_alarm(hub.pages, "a-live", "sensor-020")
    page.wait_for_selector("tr:has-text('sensor-020')")
    page.goto(f"{hub.url}/ui/devices/{HOT}?metric=temperature&span=15m")
    page.wait_for_selector("[data-points]:has(canvas)")
    live(page)
    before = float(page.get_attribute("[data-chart]", "data-newest"))
    store(hub.pages, HOT, "temperature", 95.0)
    page.wait_for_function("n => Number(document.querySelector('[data-chart]').dataset.newest) > n", arg=before)


def test_what_somebody_has_opened_stays_open(hub: Any, page: Any) -> None:
    page.goto(f"{hub.url}/ui/incidents/{incident_of(hub.pages, HOT)}")
    live(page)
    page.click("summary:has-text('Resolve by hand')")
    raise_alarm(hub.pages, "a-second", HOT, "temperature")
    page.wait_for_selector("#parts a.row >> nth=1")
    assert page.is_visible("[name=reason] >> nth=0")
    assert "UTC" not in page.inner_text("main")  # times stay in the viewer's zone


def test_what_somebody_types_is_not_replaced(hub: Any, page: Any) -> None:
    page.goto(f"{hub.url}/ui/alarm?id=a-hot")
    live(page)
    page.fill("[name=comment]", "half a sen")
    raise_alarm(hub.pages, "a-typing", "sensor-021")
    page.wait_for_timeout(2500)
    assert page.input_value("[name=comment]") == "half a sen"


def test_a_session_that_ended_leads_to_the_login(hub: Any, page: Any) -> None:
    page.context.clear_cookies()
    page.click("nav >> text=Incidents")
    page.wait_for_selector("#token")
    assert page.url.startswith(f"{hub.url}/ui/login")


def test_the_stream_of_a_closed_page_ends(hub: Any, page: Any) -> None:
    sessions = hub.pages.hub.sessions
    page.goto(f"{hub.url}/ui/alarms")
    live(page)
    assert sessions.open_streams > 0
    page.goto("about:blank")
    until("the stream has ended", lambda: sessions.open_streams == 0)


def raise_alarm(pages: Pages, number: str, device: str, metric: str = "vibration") -> None:
    alarm = Alarm(id=number, metric=metric, kind="high", state="raised", priority="medium", t_us=now_us(), value=3,
                  limit=2)  # fmt: skip
    with pages.db.write() as session:
        incidents.handle_alarm(session, device, alarm, now_us(), "")


def store(pages: Pages, device: str, metric: str, value: float) -> None:
    with pages.db.write() as session:
        marks = StreamOffsets(session)
        source = marks.get((device, "e", "telemetry")).source
        marks.save()
        row = Sample(metric=metric, t_us=now_us(), value=value)
        samples.store_samples(session, samples.sample_rows(device, source, [(1_000_000, row)]))


# -- accessibility, and pictures ----------------------------------------------------------------------

LOOKS = {
    "light": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark", "locale": "zh-CN"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
}


@pytest.mark.parametrize("page", LOOKS.values(), ids=LOOKS, indirect=True)
def test_every_page_is_accessible_and_fits(hub: Any, page: Any, request: pytest.FixtureRequest) -> None:
    look = request.node.callspec.id.partition("-")[0]
    source = AXE.read_text("utf-8")
    assert hashlib.sha256(source.encode()).hexdigest() == AXE_SHA256
    hot = incident_of(hub.pages, HOT)
    places = {
        "overview": "", "alarms": "alarms", "alarm": "alarm?id=a-hot", "incidents": "incidents?show=all",
        "incident": f"incidents/{hot}", "devices": "devices", "device": f"devices/{HOT}",
        "empty": "alarms?show=suppressed", "missing": "no-such-page",
    }  # fmt: skip
    found: list[str] = []
    for name, place in places.items():
        page.goto(f"{hub.url}/ui/{place}")
        page.wait_for_selector("main h1")
        if name in {"alarm", "device"}:
            page.wait_for_selector("[data-points]")
        if name == "devices":
            page.wait_for_selector("#spacer .grid-row")
        page.screenshot(path=hub.pictures / f"{look}-{name}.png", full_page=True)
        found += [f"{name}: {one}" for one in problems(page, source)]
        wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wide <= 0, (name, wide)
    assert found == []
    assert page.evaluate("document.documentElement.lang") == ("zh" if look == "dark" else "en")


def problems(page: Any, source: str) -> list[str]:
    """What axe-core finds that is serious. It runs in the page's world by the debugger, past the policy."""
    page.evaluate(source)
    result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['id']} {node['html'][:120]} {node['failureSummary'][:160]}"
        for one in result["violations"] if one["impact"] in {"serious", "critical"} for node in one["nodes"]
    ]  # fmt: skip


def test_the_login_is_accessible_and_a_bad_contrast_is_noticed(hub: Any, browser: Any) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{hub.url}/")
    page.screenshot(path=hub.pictures / "light-login.png")
    source = AXE.read_text("utf-8")
    assert problems(page, source) == []
    page.evaluate("document.querySelector('h1').style.color = '#eee'")
    assert [one.partition(" ")[0] for one in problems(page, source)] == ["color-contrast"]
    page.context.close()


def test_the_policy_stops_inline_scripts(hub: Any, browser: Any) -> None:
    page = browser.new_context().new_page()
    page.goto(f"{hub.url}/")
    ran = page.evaluate(
        "() => { const s = document.createElement('script'); s.textContent = 'window.ran = 1';"
        " document.body.append(s); return window.ran ?? 0; }"
    )
    page.context.close()
    assert ran == 0
