"""The processes that train together: TF_CONFIG, Slurm's variables, and the launchers in cluster/."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from deeplab.distribute import cluster, devices
from deeplab.distribute.cluster import Cluster, find_cluster
from deeplab.distribute.settings import DeviceSettings
from deeplab.errors import NothingToDo, UsageError

FOLDER = Path(__file__).resolve().parents[1] / "cluster"
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_PROCID": "2",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "gpu[2,10]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURMD_NODENAME": "gpu10",
}


STAND_IN = """
import json, os, pathlib, sys
config = os.environ["TF_CONFIG"]
index = json.loads(config)["task"]["index"]
pathlib.Path(f"given{index}").write_text("\\n".join([config, *sys.argv[1:]]))
sys.exit(75 * index)
"""

WAITS = """
import json, os, pathlib, signal, sys
name = f"{sys.argv[1]}-{json.loads(os.environ['TF_CONFIG'])['task']['index']}"
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
pathlib.Path(f"ready{name}").touch()
signal.sigwait([signal.SIGTERM])
pathlib.Path(f"stopped{name}").touch()
sys.exit(75)
"""


def test_one_process_is_not_a_cluster():
    assert find_cluster({}) is None
    assert find_cluster({**SLURM, "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert find_cluster({"TF_CONFIG": tf_config({"worker": ["a:1"]}, "worker", 0)}) is None


def tf_config(jobs, task_type, index):
    return json.dumps({"cluster": jobs, "task": {"type": task_type, "index": index}})


def test_tf_config_with_and_without_a_separate_chief():
    workers = ("a:1", "b:1", "c:1")
    assert find_cluster({"TF_CONFIG": tf_config({"worker": list(workers)}, "worker", 2)}) == Cluster(workers, 2)
    jobs = {"chief": ["a:1"], "worker": ["b:1", "c:1"]}
    assert find_cluster({"TF_CONFIG": tf_config(jobs, "worker", 0)}) == Cluster(workers, 1)
    assert find_cluster({"TF_CONFIG": tf_config(jobs, "chief", 0)}) == Cluster(workers, 0)
    again = Cluster(workers, 1).to_tf_config()
    assert find_cluster({"TF_CONFIG": again}) == Cluster(workers, 1)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        tf_config({"worker": ["a:1", "b:1"]}, "worker", 2),
        tf_config({"worker": ["a:1", "b:1"], "ps": ["c:1"]}, "worker", 0),
        tf_config({"worker": ["a:1", "b:1"]}, "worker", "x"),
        tf_config({"worker": ["a:1", "b:1"], "judge": ["c:1"]}, "worker", 0),
        tf_config({"worker": [1, 2]}, "worker", 0),
        '{"cluster": ["a:1"]}',
        tf_config({"worker": ["a", "b"]}, "worker", 0),
        tf_config({"worker": ["a:1", ":2"]}, "worker", 0),
        tf_config({"worker": ["a:1", "b:65536"]}, "worker", 0),
        tf_config({"worker": ["a:1", "b:0"]}, "worker", 0),
    ],
)
def test_a_wrong_tf_config_is_rejected_in_one_line(text):
    with pytest.raises(UsageError, match=r"^TF_CONFIG: .*$"):
        find_cluster({"TF_CONFIG": text})


# https://cloud.google.com/ai-platform/training/docs/distributed-training-details: the keys of `cluster` and `task`,
# chief and master, the evaluator outside of the cluster; `environment` and `job` are the service's own.
@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"cluster": {"master": ["a:1"], "worker": ["b:1"]}, "task": {"type": "master", "index": 0}}, 0),
        ({"cluster": {"master": ["a:1"], "worker": ["b:1"]}, "task": {"type": "worker", "index": "0"}}, 1),
        (
            {
                "cluster": {"chief": ["a:1"], "worker": ["b:1"], "evaluator": ["c:1"]},
                "task": {"type": "worker", "index": 0, "cloud": "x"},
                "environment": "cloud",
                "job": {},
            },
            1,
        ),
    ],
)
def test_forms_of_services(config, expected):
    assert find_cluster({"TF_CONFIG": json.dumps(config)}) == Cluster(("a:1", "b:1"), expected)


@pytest.mark.parametrize(
    "text", ["{}", '{"cluster": {}}', '{"task": {"type": "worker", "index": 0}}', '{"cluster": {"worker": []}}']
)
def test_a_cluster_without_processes_is_one_machine(text):
    """As a service sets it for a job on a single machine."""
    assert find_cluster({"TF_CONFIG": text}) is None


@pytest.mark.parametrize("jobs", [{"worker": ["a:1", "b:1"]}, {"chief": ["a:1"], "evaluator": ["c:1"]}])
def test_an_evaluator_has_nothing_to_do(jobs):
    with pytest.raises(NothingToDo, match="this process is the evaluator") as raised:
        find_cluster({"TF_CONFIG": tf_config(jobs, "evaluator", 0)})
    assert raised.value.exit_status == 0


def test_parameter_servers_are_refused_by_name():
    for task in ("ps", "worker"):
        with pytest.raises(UsageError, match=r"names parameter servers \(ps\)"):
            find_cluster({"TF_CONFIG": tf_config({"worker": ["a:1"], "ps": ["c:1"]}, task, 0)})


def test_an_empty_variable_of_slurms_is_one_task():
    assert find_cluster({"SLURM_STEP_NUM_TASKS": ""}) is None
    with pytest.raises(UsageError, match="SLURM_STEP_NUM_TASKS=two: not a number"):
        find_cluster({"SLURM_STEP_NUM_TASKS": "two"})


def test_slurm_nodes_keep_their_order_and_tasks_differ_in_ports():
    """Node 10 comes after node 2; TensorFlow's own resolver sorts the names as text and mixes up the nodes."""
    port = cluster.FIRST_PORT + 7 * cluster.PORTS_OF_A_JOB
    assert find_cluster(SLURM) == Cluster((f"gpu2:{port}", f"gpu2:{port + 1}", f"gpu10:{port + 2}"), 2)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("SLURM_STEP_NODELIST", "gpu[x]", "invalid literal for int"),
        ("SLURM_STEP_TASKS_PER_NODE", "3", "shorter than argument"),
        ("SLURM_STEP_TASKS_PER_NODE", "2(x1),", "invalid literal for int"),
        ("SLURM_PROCID", "3", "3 is not in range"),
        ("SLURM_PROCID", "-1", "-1 is not in range"),
        ("SLURM_PROCID", "first", "invalid literal for int"),
        ("SLURM_JOB_ID", "x7", "SLURM_JOB_ID=x7: not a step"),
        *[(name, "", f"{name}: empty in a step") for name in SLURM if name.startswith("SLURM_") and "NUM" not in name],
        ("SLURMD_NODENAME", "gpu2", "runs on another node than gpu10"),
    ],
)
def test_wrong_slurm_variables_are_rejected_by_name(name, text, words):
    with pytest.raises(UsageError, match=r"^SLURM_.*$") as raised:
        find_cluster({**SLURM, name: text})
    assert words in str(raised.value)


def test_an_empty_name_of_the_node_is_no_other_node():
    assert find_cluster({**SLURM, "SLURMD_NODENAME": ""}) == find_cluster(SLURM)


def test_host_lists():
    assert cluster.expand_hosts("n[01-03,7],m,r[1-2]c[8-9]x") == [
        *("n01", "n02", "n03", "n7", "m"),
        *("r1c8x", "r1c9x", "r2c8x", "r2c9x"),
    ]
    assert cluster.expand_counts("2(x3),1") == [2, 2, 2, 1]


def test_a_strategy_that_does_not_fit_is_rejected(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(UsageError, match=r"multi_worker.*TF_CONFIG"):
        devices.make_strategy(DeviceSettings(0), "multi_worker")
    with pytest.raises(UsageError, match="one_device"):
        devices.make_strategy(DeviceSettings(0, 2), "one_device")


def test_a_batch_that_does_not_divide_into_micro_batches_is_rejected():
    devices.check_batch_size("global_batch_size", 16, 2, 4)
    with pytest.raises(UsageError, match="2 replicas of 3 micro-batches each; use 12 or 18"):
        devices.check_batch_size("global_batch_size", 16, 2, 3)


def _tf_config_of(*arguments):
    command = [sys.executable, FOLDER / "tf_config.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_tf_config_script():
    done = _tf_config_of("1", "a:1", "b:2")
    assert find_cluster({"TF_CONFIG": done.stdout}) == Cluster(("a:1", "b:2"), 1)
    for wrong in ([], ["2", "a:1", "b:2"], ["x", "a:1"]):
        assert _tf_config_of(*wrong).returncode == 1


def test_kubernetes_manifest_names_the_workers(tmp_path):
    """The container's shell line, run with a stand-in for train.py and the variable that an Indexed Job sets."""
    service, _, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    line = container["args"][0].splitlines()[0].replace("python ", f"{sys.executable} ")
    environment = {**os.environ, "JOB_COMPLETION_INDEX": "1"}
    shown = subprocess.run(
        ["/bin/sh", "-c", f'{line}; printf %s "$TF_CONFIG"'],
        cwd=FOLDER.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = find_cluster({"TF_CONFIG": shown.stdout})
    port = container["ports"][0]["containerPort"]
    name, domain = job["metadata"]["name"], service["metadata"]["name"]
    assert found == Cluster(tuple(f"{name}-{n}.{domain}:{port}" for n in range(job["spec"]["completions"])), 1)
    assert job["spec"]["template"]["spec"]["subdomain"] == domain
    assert service["spec"]["selector"].items() <= job["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("version", ["1.29", None])
def test_kubernetes_manifest_fits_the_published_schema(version):
    """Without unknown fields. The schemas of 1.26 to 1.28 require both conditions of each podFailurePolicy rule."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    version = version or kubernetes_validate.latest_version()
    resources = list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text()))
    for resource in resources:
        kubernetes_validate.validate(resource, version, strict=True)
    job = resources[-1]
    job["spec"]["completionmode"] = "Indexed"
    with pytest.raises(kubernetes_validate.ValidationError, match="completionmode"):
        kubernetes_validate.validate(job, version, strict=True)


def test_kubernetes_manifest_admits_only_the_jobs_own_pods_which_have_few_rights():
    """The pods fulfil https://kubernetes.io/docs/concepts/security/pod-security-standards/, Restricted."""
    _, policy, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    pods = {"matchLabels": job["spec"]["template"]["metadata"]["labels"]}
    assert policy["spec"] == {
        "podSelector": pods,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": pods}]}],
    }

    pod = job["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all({"persistentVolumeClaim", "emptyDir"} & volume.keys() for volume in pod["volumes"])

    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"].keys() == {"requests", "limits"}
    assert re.fullmatch(r".+:\d+\.\d+\.\d+", container["image"])


@pytest.fixture
def launch(tmp_path):
    """A function that starts ssh.sh for hosts a and b, in a project whose train.py is a given script.

    A local shell stands in for the remote one.
    """
    project = tmp_path / "project with a space"
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / "cluster").mkdir()
    for name in ("ssh.sh", "tf_config.py"):
        (project / "cluster" / name).write_text((FOLDER / name).read_text())
    (project / ".venv" / "bin" / "python").symlink_to(sys.executable)
    remote = tmp_path / "remote"
    remote.write_text('#!/bin/sh\nshift\nexec sh -c "$1"\n')
    remote.chmod(0o755)
    started = []

    def launch(script, *arguments, port="999"):
        (project / "train.py").write_text(script)
        command = ["bash", project / "cluster" / "ssh.sh", "a,b", *arguments]
        environment = {**os.environ, "RSH": str(remote), "PORT": port}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
        return project, started[-1]

    yield launch
    for process in started:
        process.terminate()  # and so its workers
        process.communicate(timeout=60)


def test_ssh_launcher_starts_every_worker_and_returns_their_failure(launch):
    """A script that records its arguments stands in for train.py."""
    project, process = launch(STAND_IN, "--model_dir=runs/with space", "--epochs=2")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    for index in (0, 1):
        config, *arguments = (project / f"given{index}").read_text().splitlines()
        assert find_cluster({"TF_CONFIG": config}) == Cluster(("a:999", "b:999"), index)
        assert arguments == ["--model_dir=runs/with space", "--epochs=2"]
    assert not list(project.glob(".worker*"))


def test_stopping_one_ssh_run_leaves_another_in_the_same_folder_alone(launch):
    """The workers wait for a signal, and then say so; run 1 is stopped, then run 2."""
    launched = {port: launch(WAITS, port, port=port) for port in ("999", "1000")}
    ready = {f"ready{port}-{index}" for port in launched for index in (0, 1)}
    stopped = set()
    for port, (project, process) in launched.items():
        assert _eventually(lambda project=project: ready <= {path.name for path in project.iterdir()})
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 75, errors
        stopped |= {f"stopped{port}-0", f"stopped{port}-1"}
        assert {path.name for path in project.glob("stopped*")} == stopped
    assert not list(project.glob(".worker*"))


def test_a_second_ssh_run_at_the_same_address_is_refused(launch):
    """Before any worker starts, and without a trace; the file of the run that has the address stays."""
    project, first = launch(WAITS, "999")
    assert _eventually(lambda: len(list(project.glob("ready999-*"))) == 2)
    process_ids = {path.name: path.read_text() for path in project.glob(".worker*")}
    assert process_ids.keys() == {".worker-a-999.pid", ".worker-b-999.pid"}

    # Its first host is free, its second is taken.
    (project / ".worker-a-999.pid").rename(project / "aside")
    _, second = launch(STAND_IN)
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 1
    assert errors == (
        f"ssh.sh: cannot create {project}/.worker-b-999.pid; if it exists, another run has b:999: set another PORT, "
        "or delete the file if that run is over\n"
    )
    assert not list(project.glob("given*"))
    assert not (project / ".worker-a-999.pid").exists()
    (project / "aside").rename(project / ".worker-a-999.pid")
    assert {path.name: path.read_text() for path in project.glob(".worker*")} == process_ids
    assert first.poll() is None


def _eventually(condition):
    for _ in range(600):
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.s*")))
def test_scripts_parse(script):
    subprocess.run(["bash", "-n", FOLDER / script], check=True)
