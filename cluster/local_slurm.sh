#!/usr/bin/env bash
# Runs Slurm with two node names on this machine, to try the job scripts: local_slurm.sh start FOLDER | stop FOLDER
#
# For root on a throw-away Debian machine (a container, a virtual machine): apt-get install slurm-wlm munge
# FOLDER receives configuration, logs and state. While Slurm runs, /etc/hosts has two more names.
set -euo pipefail
action=${1:?start or stop} folder=$(mkdir -p "${2:?folder}" && realpath "$2")
export SLURM_CONF=$folder/slurm.conf
mark="# local_slurm.sh"

start() {
    mkdir -p "$folder"/{state,spool1,spool2} /run/munge
    chown munge: /run/munge
    grep -q "$mark" /etc/hosts || echo "127.0.0.1 node1 node2 $mark" >> /etc/hosts
    cat > "$SLURM_CONF" <<CONF
ClusterName=local
SlurmctldHost=$(hostname)(127.0.0.1)
SlurmUser=root
SlurmctldPort=17000
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool%n
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdLogFile=$folder/slurmd.%n.log
SlurmctldLogFile=$folder/slurmctld.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MinJobAge=3600
# Requeued jobs start again immediately instead of after the default two minutes.
SchedulerParameters=requeue_setup_env_fail,bf_interval=5
KillWait=60
NodeName=node1 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17001 CPUs=$(nproc)
NodeName=node2 NodeHostname=$(hostname) NodeAddr=127.0.0.1 Port=17002 CPUs=$(nproc)
PartitionName=local Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES
CONF
    runuser -u munge -- munged --key-file=/etc/munge/munge.key || true  # already running
    slurmctld -c
    slurmd -N node1
    slurmd -N node2
    for _ in $(seq 30); do
        [ "$(sinfo -h -t idle -o %D)" = 2 ] && break
        sleep 1
    done
    sinfo
    echo "export SLURM_CONF=$SLURM_CONF, then sbatch, squeue and scontrol work"
}

stop() {
    scancel -u root || true
    sleep 2
    scontrol shutdown || true
    pkill munged || true
    grep -v "$mark" /etc/hosts > "$folder/hosts" && cat "$folder/hosts" > /etc/hosts
}

"$action"
