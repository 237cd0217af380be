"""The processes that train together: from `TF_CONFIG`, or from what Slurm passes to each task of a job step."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from deeplab.errors import UsageError

FIRST_PORT, NUM_PORTS, PORTS_OF_A_JOB = 12_000, 20_000, 64
"""For Slurm's jobs: below the ports that Linux assigns itself (32,768 and up)."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
        workers: addresses ("host:port") of all, the chief first.
        index: this process's index among them.
        tasks_on_host: number of them that a scheduler started on this host.
        local_index: this process's index among those.
    """

    workers: tuple[str, ...]
    index: int
    tasks_on_host: int = 1
    local_index: int = 0

    def to_tf_config(self) -> str:
        """The text that `tf.distribute` reads from the environment variable `TF_CONFIG`."""
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": {"type": "worker", "index": self.index}})


def find_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that the environment describes; None for a process that trains alone.

    `TF_CONFIG` takes precedence; without it, Slurm's variables count if `srun` started more than one task.

    Raises:
        UsageError: a variable that is not what it should be.
    """
    if environment.get("TF_CONFIG"):
        cluster = _from_tf_config(environment["TF_CONFIG"])
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        cluster = _from_slurm(environment)
    else:
        return None
    return cluster if len(cluster.workers) > 1 else None


def _from_tf_config(text: str) -> Cluster:
    """Accepts clusters with and without a separate `chief` job."""
    try:
        config = json.loads(text)
        jobs, task = config["cluster"], config["task"]
        chiefs, others = list(jobs.get("chief", [])), list(jobs.get("worker", []))
        index = int(task["index"]) + (len(chiefs) if task["type"] == "worker" else 0)
        cluster = Cluster((*chiefs, *others), index)
        known = task["type"] in ("chief", "worker") and not set(jobs) - {"chief", "worker"}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"TF_CONFIG: not a cluster and a task in JSON ({error!r}): {text}") from error
    if not known or not 0 <= index < len(cluster.workers) or not all(re.search(r":\d+$", w) for w in cluster.workers):
        raise UsageError(f"TF_CONFIG: workers as host:port and this task's index among them are needed: {text}")
    return cluster


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    """Tasks are numbered node by node, which is Slurm's default ("block")."""
    try:
        hosts = expand_hosts(environment["SLURM_STEP_NODELIST"])
        tasks = expand_counts(environment["SLURM_STEP_TASKS_PER_NODE"])
        index, job = int(environment["SLURM_PROCID"]), int(environment["SLURM_JOB_ID"])
        hosts = [host for host, count in zip(hosts, tasks, strict=True) for _ in range(count)]
    except (KeyError, ValueError) as error:
        raise UsageError(f"SLURM_*: {error!r} in a step of several tasks; start the program with srun") from error
    if environment.get("SLURMD_NODENAME", hosts[index]) != hosts[index]:
        raise UsageError(f"SLURM_PROCID={index} runs on another node than {hosts[index]}: use --distribution=block")
    # Jobs that share a node use different ports. So do tasks, even if two node names are one machine.
    port = FIRST_PORT + job * PORTS_OF_A_JOB % NUM_PORTS
    addresses = tuple(f"{host}:{port + task}" for task, host in enumerate(hosts))
    local_index = index - hosts.index(hosts[index])  # tasks are numbered node by node
    return Cluster(addresses, index, tasks_on_host=hosts.count(hosts[index]), local_index=local_index)


def expand_hosts(text: str) -> list[str]:
    """Expands Slurm's short form of host names, "gpu[01-03,7],login", in order; ValueError if it is malformed."""
    hosts = []
    for part in re.findall(r"(?:[^,\[]|\[[^\]]*\])+", text):
        prefix, bracket, rest = part.partition("[")
        if not bracket:
            hosts.append(part)
            continue
        ranges, _, suffix = rest.partition("]")
        for item in ranges.split(","):
            first, _, last = item.partition("-")
            for number in range(int(first), int(last or first) + 1):
                hosts += expand_hosts(f"{prefix}{number:0{len(first)}d}{suffix}")
    return hosts


def expand_counts(text: str) -> list[int]:
    """Expands Slurm's short form of counts, "2(x3),1"; ValueError if it is malformed."""
    counts = []
    for item in text.split(","):
        count, _, times = item.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    return counts
