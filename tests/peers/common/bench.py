"""What every benchmark in Python does alike: medians, CPU and memory of a process tree, RATIO lines."""

import os
import statistics
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def ratio(name, value, sign, target):
    """The closing line of one figure, in the form that tests/bench reads."""
    met = value <= target if sign == "<=" else value >= target
    print(f"RATIO {name} {value:.4f} {sign} {target} {'ok' if met else 'SHORT'}", flush=True)


def median_ratio(ours, theirs):
    """The median of the rounds' own ratios: a wave of noise hits both halves of a pair alike."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def stat(pid):
    """The fields of /proc/PID/stat after the command: index 0 is the state. None when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


class Tree:
    """CPU and memory of a process and all that descend from it, sampled.

    A child that is gone still counts: what its parent reaped stands in the parent's own record (cutime, cstime), so
    the tree's CPU is each living member's own time plus that of the children it has reaped.
    """

    def __init__(self, root):
        self.root = root
        self.peak_rss = 0

    def members(self):
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (fields := stat(entry)):
                parents.setdefault(int(fields[1]), []).append(int(entry))
        found, queue = [], [self.root]
        while queue:
            pid = queue.pop()
            found.append(pid)
            queue += parents.get(pid, [])
        return found

    def cpu(self):
        """Seconds of user and system time so far; also notes the resident set."""
        ticks = rss = 0
        for pid in self.members():
            if fields := stat(pid):
                ticks += sum(map(int, fields[11:15]))
                rss += int(fields[21]) * PAGE
        self.peak_rss = max(self.peak_rss, rss)
        return ticks / TICKS
