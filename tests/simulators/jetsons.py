"""File trees as Jetsons show them, written from their layouts in JetPack 5, 6 and 7; not copied from a device."""

from __future__ import annotations

from pathlib import Path

THERMAL = "sys/class/thermal/thermal_zone"
CPU = "sys/devices/system/cpu/cpufreq/policy"
HWMON = "sys/class/hwmon/hwmon"
NVPMODEL = (
    "# comment\n< PARAM TYPE=FILE NAME=CPU_ONLINE >\n< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n"
)


def write(root: Path, files: dict[str, str]) -> Path:
    """Make these files below `root`."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, "utf-8")
    return root


def zones(*pairs: tuple[str, int]) -> dict[str, str]:
    """Thermal zones by type, in millidegrees."""
    files: dict[str, str] = {}
    for number, (kind, value) in enumerate(pairs):
        files |= {f"{THERMAL}{number}/type": f"{kind}\n", f"{THERMAL}{number}/temp": f"{value}\n"}
    return files


def rails(number: int, *rows: tuple[str, int, int]) -> dict[str, str]:
    """An INA3221 with (label, millivolts, milliamperes)."""
    files = {f"{HWMON}{number}/name": "ina3221\n", f"{HWMON}{number}/in7_label": "sum of shunt voltages\n"}
    for channel, (label, volts, amperes) in enumerate(rows, 1):
        files |= {
            f"{HWMON}{number}/in{channel}_label": f"{label}\n", f"{HWMON}{number}/in{channel}_input": f"{volts}\n",
            f"{HWMON}{number}/curr{channel}_input": f"{amperes}\n",
        }  # fmt: skip
    return files


def clocks(*kilohertz: int) -> dict[str, str]:
    """One CPU cluster each."""
    return {f"{CPU}{4 * n}/scaling_cur_freq": f"{value}\n" for n, value in enumerate(kilohertz)}


def jetpack5(root: Path) -> Path:
    """Jetson AGX Orin, Jetson Linux 35: the GPU is 17000000.ga10b, rails without one for the whole module."""
    gpu = "sys/class/devfreq/17000000.ga10b"
    return write(root, {
        f"{gpu}/device/of_node/name": "ga10b\0", f"{gpu}/cur_freq": "1300500000\n", f"{gpu}/device/load": "455\n",
        "sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n",
        **clocks(2201600, 729600), **zones(("CPU-therm", 48500), ("GPU-therm", 45000), ("CV0-therm", -256000)),
        **rails(1, ("VDD_GPU_SOC", 19000, 200), ("VDD_CPU_CV", 19000, 50), ("VIN_SYS_5V0", 5000, 600)),
        f"{HWMON}2/name": "pwmfan\n", f"{HWMON}2/pwm1": "51\n", f"{HWMON}3/name": "generic_pwm_tachometer\n",
        f"{HWMON}3/rpm": "1500\n", "var/lib/nvpmodel/status": "pmode:0001 fmode:quiet\n", "etc/nvpmodel.conf": NVPMODEL,
    })  # fmt: skip


def jetpack6(root: Path) -> Path:
    """Jetson Orin Nano, Jetson Linux 36: the GPU is 17000000.gpu, VDD_IN is the whole module, alerts of throttling."""
    gpu = "sys/class/devfreq/17000000.gpu"
    return write(root, {
        f"{gpu}/device/of_node/name": "gpu\0", f"{gpu}/cur_freq": "918000000\n", f"{gpu}/device/load": "1000\n",
        **clocks(1728000, 1728000), **zones(("cpu-thermal", 61000), ("gpu-thermal", 60500), ("tj-thermal", 61500)),
        **rails(4, ("VDD_IN", 5000, 3000), ("VDD_CPU_GPU_CV", 5000, 1200), ("NC", 0, 0)),
        f"{HWMON}0/name": "pwmfan\n", f"{HWMON}0/pwm1": "255\n", f"{HWMON}1/name": "pwm_tach\n",
        f"{HWMON}1/fan1_input": "5200\n", "var/lib/nvpmodel/status": "pmode:0007\n", "etc/nvpmodel.conf": NVPMODEL,
        "sys/class/thermal/cooling_device0/type": "cpu-throttle-alert\n",
        "sys/class/thermal/cooling_device0/cur_state": "1\n",
    })  # fmt: skip


def jetpack7(root: Path) -> Path:
    """Jetson AGX Thor, Jetson Linux 38: GPU domains of the desktop driver, no load in sysfs, an INA238 at the input."""
    return write(root, {
        "sys/class/devfreq/gpu-gpc-0/cur_freq": "1575000000\n", "sys/class/devfreq/gpu-nvd-0/cur_freq": "1692000000\n",
        **clocks(2601000), **zones(("cpu-thermal", 50000), ("tj-thermal", 52000)),
        **rails(1, ("VDD_GPU", 12000, 900), ("VDD_CPU_SOC_MSS", 12000, 500)),
        f"{HWMON}5/name": "ina238\n", f"{HWMON}5/power1_input": "41000000\n",
    })  # fmt: skip
