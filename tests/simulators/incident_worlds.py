"""Simulated incidents with known causes: evidence as a hub gathers it, and what would be right to do.

A world is a site with its own vocabulary: how metrics are called (plain, Prometheus, Chinese, or numbered channels that
say nothing), the language of its logs, and how much noise there is. All is drawn from the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloud_hub.incidents.core.evidence import AlarmFact, Evidence, EvidenceItem, ItemKind, alarm_item

SECOND_US = 1_000_000
NOW_US = 1_800_000_000 * SECOND_US

METRICS: dict[str, tuple[str, ...]] = {  # plain, Prometheus, Chinese
    "temperature": ("temp.cpu", "node_hwmon_temp_celsius", "温度.处理器"),
    "fan": ("fan.rpm", "node_hwmon_fan_rpm", "风扇.转速"),
    "disk": ("disk.used", "node_filesystem_used_percent", "磁盘.使用率"),
    "latency": ("io.wait", "node_disk_io_time_seconds", "磁盘.等待"),
    "memory": ("memory.used", "node_memory_used_percent", "内存.使用率"),
    "cpu": ("cpu.load", "node_load1", "处理器.负载"),
    "voltage": ("supply.voltage", "node_power_supply_volts", "电压.输入"),
    "loss": ("net.loss", "probe_packet_loss_percent", "网络.丢包率"),
    "rtt": ("mqtt.rtt", "probe_rtt_seconds", "网络.时延"),
    "vibration": ("vibration.spindle", "spindle_vibration_rms", "振动.主轴"),
    "current": ("motor.current", "motor_current_amperes", "电机.电流"),
    "pressure": ("pressure.inlet", "inlet_pressure_bar", "压力.入口"),
    "rate": ("requests.rate", "http_requests_per_second", "请求.速率"),
    "age": ("line-camera/age_s", "inspector/age_s", "质检/age_s"),
    "offset": ("time.offset", "node_timex_offset_seconds", "时间.偏差"),
}
LOGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # English, Chinese; the last of each is in odd words
    "model-stalled": (
        ("inference worker did not answer", "model thread blocked for 40 s", "no result from worker, queue 12"),
        ("推理进程没有应答", "模型线程阻塞 40 秒", "结果迟迟不出"),
    ),
    "camera-lost": (
        ("camera 2 disconnected", "/dev/video0: No such device", "grabber: zero frames, cable?"),
        ("相机 2 断开连接", "摄像头丢失", "取不到画面"),
    ),
    "fan-failed": (
        ("fan 1 stalled", "chassis fan failure detected", "cooler 1 does not spin"),
        ("风扇 1 停转", "风机故障", "散热扇不转了"),
    ),
    "overheating": (("thermal throttling active", "hall is at 41 degrees"), ("温度过高,降频", "车间温度 41 度")),
    "disk-filling": (("no space left on device", "log rotation skipped"), ("磁盘空间不足", "日志轮转失败")),
    "storage-failing": (
        (
            "blk_update_request: I/O error, dev mmcblk0",
            "EXT4-fs: remounting read-only file system",
            "card crc mismatch",
        ),
        ("磁盘读写错误 mmcblk0", "发现坏块", "存储卡校验不过"),
    ),
    "memory-pressure": (
        ("Out of memory: killed process 812", "oom-killer invoked", "allocation stalls"),
        ("内存不足,进程 812 被结束", "内存耗尽", "申请不到空间"),
    ),
    "cpu-saturated": (("scheduler latency 900 ms", "watchdog: soft lockup"), ("调度延迟 900 毫秒", "软锁死")),
    "power-fault": (
        ("under-voltage detected", "power supply failure on rail 2", "rail 2 sags"),
        ("检测到欠压", "电源故障", "二号母线掉电"),
    ),
    "network-degraded": (
        ("eth0: link is down", "mqtt: connection lost", "uplink flaky"),
        ("eth0 链路断开", "连接中断,丢包", "上行时好时坏"),
    ),
    "certificate-invalid": (
        ("TLS: certificate has expired", "x509: certificate is not yet valid", "peer rejects our key file"),
        ("证书已过期", "证书无效", "对端拒绝密钥"),
    ),
    "clock-wrong": (
        ("NTP: clock not synchronised", "system clock jumped by 3600 s", "timestamps run backwards"),
        ("时钟不同步", "系统时间跳变 3600 秒", "时间戳倒退"),
    ),
    "mechanical-wear": (("axis 2 needs more torque",), ("二轴力矩增大",)),
    "upstream-failed": (("broker unreachable",), ("无法连接服务器",)),
    "bad-change": (("configuration applied, 2 warnings",), ("配置已应用,2 条警告",)),
    "sensor-stuck": (("adc returns the last value",), ("采样值重复",)),
    "service-unusual": (("backlog grows",), ("积压增加",)),
    "no-data": (("link up after power cycle",), ("重新上电",)),
    "unknown": (
        (
            "recipe 12 started",
            "material jam at feeder",
            "operator stop",
            "error 4711",
            "tool change failed",
            "fan of recipe 3",
        ),
        ("配方 12 启动", "送料口卡料", "操作员停机", "错误 4711", "换刀失败", "内存卡更换"),
    ),
}
CHATTER = (
    ("heartbeat ok", "user anna logged in", "report 7 sent", "door 3 opened", "retry 1 of 5 succeeded"),
    ("心跳正常", "用户 anna 登录", "报表 7 已发送", "3 号门打开", "第 1 次重试成功"),
)
CAUSES = tuple(LOGS)
"""The last is what no list has: 'unknown' is then the right answer."""
OPEN = frozenset({"unknown", "unusual-course", "unlike-peers", "limit-ahead"})
"""Conclusions that name no cause: they only say what kind of alarm it is."""
UNLISTED = 0.15
"""How often that is so."""
RIGHT_TO_RESTART = frozenset({"model-stalled"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An incident, its true causes (the main one first), and whether restarting a model is right."""

    seed: int
    evidence: Evidence
    causes: tuple[str, ...]
    restart_is_right: bool


def named(cause: str) -> str:
    """A conclusion as it is compared with the truth."""
    return "unknown" if cause in OPEN else cause


@dataclass(slots=True)
class Site:
    """The vocabulary of a world."""

    rng: random.Random
    style: int
    language: int
    noise: float
    odd: float
    numbers: dict[str, str] = field(default_factory=dict)

    def metric(self, name: str) -> str:
        """How the site calls a metric; numbered channels say nothing."""
        if self.style < 3 or name == "age":
            return METRICS[name][min(self.style, 2)]
        return self.numbers.setdefault(name, f"ch{len(self.numbers) + self.rng.randrange(3, 90):03d}")

    def log(self, cause: str) -> str:
        """A line that the cause leaves in the log."""
        lines = LOGS[cause][self.language if self.rng.random() > 0.1 else 1 - self.language]
        return lines[-1] if self.rng.random() < self.odd else self.rng.choice(lines)


@dataclass(slots=True)
class _Bench:
    """Collects the facts of one incident."""

    site: Site
    device: str
    facts: list[tuple[ItemKind, str, float, str, dict[str, Any]]] = field(default_factory=list)
    alarms: list[tuple[str, AlarmFact]] = field(default_factory=list)

    def alarm(self, name: str, value: float, limit: float, *, about: str = "", kind: str = "high", at_s: float = 0.0,
              device: str = "", chance: float = 1.0, course: str = "jump") -> None:  # fmt: skip
        """An alarm and the window of its metric."""
        rng = self.site.rng
        if rng.random() > chance:
            return
        metric = self.site.metric(name)
        fact = AlarmFact(
            metric=metric, kind=kind, priority=rng.choice(("low", "medium", "high", "critical")),  # type: ignore[arg-type]
            value=round(value * rng.uniform(0.97, 1.1), 2), limit=limit, state="raised",
            t_us=NOW_US + int((at_s + rng.uniform(0, 20)) * SECOND_US), about=about,  # type: ignore[arg-type]
        )  # fmt: skip
        self.alarms.append((device or self.device, fact))
        self.facts.append(("metric", device or self.device, at_s, f"{metric}: last {fact.value}", {
            "metric": metric, "last": fact.value, "values": _window(rng, fact.value, limit, course)}))  # fmt: skip

    def log(self, cause: str, chance: float = 0.8) -> None:
        """A log line of a cause."""
        if self.site.rng.random() < chance:
            self.facts.append(("event", self.device, -self.site.rng.uniform(0, 300), self.site.log(cause), {}))

    def change(self, summary: str, at_s: float, actor: str = "anna") -> None:
        """A change of desired state."""
        data = {"change": "twin.desired", "actor": actor}
        self.facts.append(("change", self.device, at_s, f"twin.desired {summary} by {actor}", data))


def _window(rng: random.Random, value: float, limit: float, course: str) -> list[float]:
    """The last 20 values: a jump, a steady rise, or no movement."""
    if course == "still":
        return [value] * 20
    base = limit * 0.8
    shape = [n / 19 for n in range(20)] if course == "rise" else [0.0] * 16 + [1.0] * 4
    return [round(base + (value - base) * part + rng.gauss(0, abs(limit) * 0.01), 3) for part in shape]


def _emit(bench: _Bench, cause: str) -> None:
    """The facts that a cause leaves."""
    rng, alarm = bench.site.rng, bench.alarm
    match cause:
        case "model-stalled":
            alarm("age", 60, 5, course="rise")
        case "camera-lost":
            alarm("age", 60, 5, course="rise")
        case "fan-failed":
            alarm("temperature", 95, 80, course="rise")
            alarm("fan", 300, 1200, kind="low", chance=0.5)
            alarm("age", 9, 5, at_s=60, chance=0.2)
        case "overheating":
            alarm("temperature", 90, 80, course="rise")
            alarm("temperature", 88, 80, device="press-8", chance=0.6, course="rise")
        case "disk-filling":
            alarm("disk", 0.96, 0.9, course="rise")
        case "storage-failing":
            alarm("latency", 4.0, 0.5)
            alarm("age", 12, 5, chance=0.4)
            alarm("disk", 0.97, 0.9, chance=0.1)
        case "memory-pressure":
            alarm("memory", 0.97, 0.9, course="rise")
            alarm("age", 30, 5, at_s=90, chance=0.25)
        case "cpu-saturated":
            alarm("cpu", 9.0, 4.0)
            alarm("temperature", 84, 80, at_s=120, chance=0.3, course="rise")
        case "power-fault":
            alarm("voltage", 4.4, 4.8, kind="low", chance=0.7)
            alarm(rng.choice(("cpu", "age", "current")), 8, 4)
        case "network-degraded":
            alarm("loss", 12, 2)
            alarm("rtt", 3.0, 0.5, chance=0.7)
        case "upstream-failed":
            for number in range(rng.randrange(2, 6)):
                alarm(rng.choice(("cpu", "memory", "pressure")), 180, 60, about="no-data", device=f"press-{number + 3}")
            bench.facts.append(("topology", bench.device, 0, "depends on switch-3, which is silent", {
                "relation": "explained-by", "upstream": "switch-3", "state": "silent"}))  # fmt: skip
        case "bad-change":
            name = rng.choice(("age", "rate", "pressure", "current"))
            alarm(name, 9, 5, about="" if name == "age" else rng.choice(("", "anomaly", "peers")))
            path = f"models.{bench.site.metric('age').split('/')[0]}" if name == "age" else "settings.period_s"
            bench.change(path, -rng.uniform(30, 600))
        case "sensor-stuck":
            alarm(rng.choice(("pressure", "current")), 600, 300, about="flat", course="still")
        case "certificate-invalid":
            alarm(rng.choice(("cpu", "memory", "pressure")), 300, 60, about="no-data")
        case "clock-wrong":
            alarm("offset", 3600, 1)
        case "mechanical-wear":
            alarm("vibration", 9.0, 4.5, about=rng.choice(("", "anomaly")), course="rise")
            alarm("current", 14, 10, chance=0.4, course="rise")
        case "unknown":
            for name in rng.sample(("pressure", "current", "rate", "temperature", "age", "cpu"), rng.randrange(1, 4)):
                weights = (6, 2, 1, 1) if name in ("pressure", "current", "rate") else (0, 2, 1, 0)
                (about,) = rng.choices(("", "anomaly", "peers", "rate"), weights)
                alarm(name, 7, 5, about=about, course=rng.choice(("jump", "rise")))
        case "no-data":
            for name in rng.sample(("cpu", "memory", "pressure"), rng.randrange(1, 4)):
                alarm(name, 300, 60, about="no-data")
        case "service-unusual":
            for number in range(rng.randrange(1, 4)):
                alarm("rate", 900, 500, about="service", device=f"press-{number + 3}")
    bench.log(cause, chance=0.1 if cause == "no-data" else 0.8)  # a device that is off writes no log


def _noise(bench: _Bench) -> None:
    """What has nothing to do with it: chatter, an old change, a pushed limit, an alarm of no consequence."""
    rng, noise = bench.site.rng, bench.site.noise
    for _ in range(rng.randrange(6)):
        line = rng.choice(CHATTER[bench.site.language])
        bench.facts.append(("event", bench.device, -rng.uniform(0, 600), line, {}))
    if rng.random() < noise:
        bench.change("settings.period_s", -rng.uniform(7_200, 80_000))
    if rng.random() < noise:
        bench.change("limits.cpu_load", -rng.uniform(30, 800), "hub")
    if rng.random() < noise:
        bench.log(rng.choice(CAUSES), chance=1.0)  # a line that misleads
    bench.alarm(rng.choice(("rate", "current", "pressure")), 6, 5, about="anomaly", chance=noise / 2, at_s=200)


def simulate(seed: int, count: int = 20) -> Iterator[Case]:
    """The incidents of one site."""
    rng = random.Random(seed)
    site = Site(
        rng=rng, style=rng.randrange(4), language=rng.randrange(2), noise=rng.uniform(0.0, 0.4), odd=rng.uniform(0, 0.5)
    )
    for _ in range(count):
        causes: tuple[str, ...] = tuple(rng.sample(CAUSES[:-1], 2 if rng.random() < 0.2 else 1))
        if rng.random() < UNLISTED:
            causes = CAUSES[-1:]
        bench = _Bench(site=site, device="press-3")
        for cause in causes:
            _emit(bench, cause)
        _noise(bench)
        evidence = _evidence(bench)
        yield Case(seed=seed, evidence=evidence, causes=causes, restart_is_right=bool(RIGHT_TO_RESTART & set(causes)))


def _evidence(bench: _Bench) -> Evidence:
    """The facts in any order, numbered."""
    rng = bench.site.rng
    rng.shuffle(bench.alarms)
    rng.shuffle(bench.facts)
    items = [alarm_item(f"E{n}", device, fact) for n, (device, fact) in enumerate(bench.alarms, 1)]
    items += [
        EvidenceItem(id=f"E{n}", kind=kind, device=device, t_us=NOW_US + int(at_s * SECOND_US), summary=text, data=data)
        for n, (kind, device, at_s, text, data) in enumerate(bench.facts, len(items) + 1)
    ]
    alarms = [fact for _, fact in bench.alarms]
    return Evidence(incident="simulated", device=bench.device, alarms=alarms, items=items)


def cases(seeds: Sequence[int], count: int = 20) -> list[Case]:
    """The incidents of several sites."""
    return [case for seed in seeds for case in simulate(seed, count)]
