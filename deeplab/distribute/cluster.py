"""The processes that train together: from `TF_CONFIG`, or from what Slurm passes to each task of a job step."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from deeplab.errors import NothingToDo, UsageError
from deeplab.json_fields import parse_json

FIRST_PORT = 12_000
NUM_PORTS = 20_000
PORTS_OF_A_JOB = 64
"""For Slurm's jobs: below the ports that Linux assigns itself (32,768 and up)."""

_OF_A_STEP = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_JOB_ID")
"""Variables that describe a step of several tasks, and this task."""

_CHIEFS = {"master": "chief"}
"""Older names of a task's type."""


@dataclass(frozen=True)
class Cluster:
    """The processes that train together.

    Attributes:
        workers: addresses ("host:port") of all, the chief first.
        index: this process's index among them.
        tasks_on_host: number of them that a scheduler started on this host.
        local_index: this process's index among those.
        origin: the variables of the environment that name them, for messages.
    """

    workers: tuple[str, ...]
    index: int
    tasks_on_host: int = 1
    local_index: int = 0
    origin: str = field(default="TF_CONFIG", compare=False)

    def to_tf_config(self) -> str:
        """The text that `tf.distribute` reads from the environment variable `TF_CONFIG`."""
        return json.dumps({"cluster": {"worker": list(self.workers)}, "task": {"type": "worker", "index": self.index}})


def find_cluster(environment: Mapping[str, str] = os.environ) -> Cluster | None:
    """The cluster that the environment describes; None for a process that trains alone.

    `TF_CONFIG` takes precedence; without it, Slurm's variables count if `srun` started more than one task.

    Raises:
        NothingToDo: `TF_CONFIG` makes this process the evaluator.
        UsageError: a variable that is not what it should be.
    """
    if environment.get("TF_CONFIG"):
        cluster = _from_tf_config(environment["TF_CONFIG"])
    elif _number_of_tasks(environment) > 1:
        cluster = _from_slurm(environment)
    else:
        return None
    return cluster if len(cluster.workers) > 1 else None


def _from_tf_config(text: str) -> Cluster:
    """The cluster in `TF_CONFIG`, in the forms that services set.

    `chief` and the older `master` come before `worker`; an `evaluator` is left out, whether or not it is listed
    (https://cloud.google.com/ai-platform/training/docs/distributed-training-details). A cluster without processes, or
    a task without a cluster, is one process alone.

    Raises:
        NothingToDo: this process is the evaluator.
        UsageError: parameter servers, or not a cluster and a task.
    """
    try:
        config = parse_json(text)
        jobs = {job: list(addresses) for job, addresses in config.get("cluster", {}).items() if addresses}
        task = config.get("task", {}) if jobs else {}
        kind = str(task.get("type"))
        job = _CHIEFS.get(kind, kind)
        number = int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"TF_CONFIG: not a cluster and a task in JSON ({error!r}): {text}") from error
    if "ps" in jobs or job == "ps":
        raise UsageError("TF_CONFIG: names parameter servers (ps), which this program does not use; list only workers")
    if job == "evaluator":
        raise NothingToDo("TF_CONFIG: this process is the evaluator; the chief evaluates, so it has nothing to do")
    if not jobs:
        return Cluster(("localhost:0",), 0)
    chiefs = jobs.get("chief", []) + jobs.get("master", [])
    workers = (*chiefs, *jobs.get("worker", []))
    index = number + (len(chiefs) if job == "worker" else 0)
    known = job in ("chief", "worker") and not set(jobs) - {"chief", "master", "worker", "evaluator"}
    addressed = all(isinstance(each, str) and _has_port(each) for each in workers)
    if not known or not addressed or not 0 <= index < len(workers):
        raise UsageError(f"TF_CONFIG: workers as host:port and this task's index among them are needed: {text}")
    return Cluster(workers, index)


def _has_port(address: str) -> bool:
    found = re.fullmatch(r".+:(\d{1,5})", address)
    return found is not None and 0 < int(found[1]) < 2**16


def _number_of_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of this step of Slurm's; 1 outside of one, and where a wrapper has emptied the variable."""
    text = environment.get("SLURM_STEP_NUM_TASKS", "").strip() or "1"
    if not text.isdecimal():
        raise UsageError(f"SLURM_STEP_NUM_TASKS={text}: not a number; start the program with srun, or unset it")
    return int(text)


def _from_slurm(environment: Mapping[str, str]) -> Cluster:
    """Tasks are numbered node by node, which is Slurm's default ("block")."""
    given = {name: environment.get(name, "").strip() for name in _OF_A_STEP}
    if empty := [name for name, text in given.items() if not text]:
        raise UsageError(f"{empty[0]}: empty in a step of several tasks; start the program with srun")
    nodes, tasks_per_node, number, job = given.values()
    try:
        counts = expand_counts(tasks_per_node)
        hosts = [host for host, count in zip(expand_hosts(nodes), counts, strict=True) for _ in range(count)]
        index = range(len(hosts)).index(int(number))
        first_port = FIRST_PORT + int(job) * PORTS_OF_A_JOB % NUM_PORTS
    except ValueError as error:
        variables = " ".join(f"{name}={text}" for name, text in given.items())
        raise UsageError(f"{variables}: not a step of Slurm's ({error}); start the program with srun") from error
    if (environment.get("SLURMD_NODENAME") or hosts[index]) != hosts[index]:
        raise UsageError(f"SLURM_PROCID={index} runs on another node than {hosts[index]}: use --distribution=block")
    # Jobs that share a node use different ports. So do tasks, even if two node names are one machine.
    addresses = tuple(f"{host}:{first_port + task}" for task, host in enumerate(hosts))
    local_index = index - hosts.index(hosts[index])  # tasks are numbered node by node
    return Cluster(addresses, index, hosts.count(hosts[index]), local_index, "SLURM_STEP_NODELIST, SLURM_JOB_ID")


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
