#!/usr/bin/env bash
# A real SLURM cluster of two nodes on one Debian machine, for the tests of launch/slurm. Run as root.
#   slurm_local.sh up DIR     install slurm-wlm and munge if missing, start the daemons, print the SLURM_CONF to use
#   slurm_local.sh down DIR   stop the daemons that `up` started
# Everything it writes lies in DIR, but for munge's own socket and key. Daemons listen on loopback only.
set -euo pipefail

verb=${1:?up or down} dir=$(realpath -m "${2:?a folder}")
conf=$dir/slurm.conf
ctld_port=${SLURM_LOCAL_PORT:-26817}

down() {
  local pid_file
  for pid_file in "$dir"/*.pid; do
    [[ -e $pid_file ]] || continue
    kill "$(<"$pid_file")" 2>/dev/null || true
  done
  for _ in $(seq 40); do
    compgen -G "$dir/*.pid" >/dev/null || return 0
    sleep 0.25
  done
}

install_packages() {
  command -v slurmctld >/dev/null && command -v munge >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends slurm-wlm munge >/dev/null
}

start_munge() {
  munge -n 2>/dev/null | unmunge >/dev/null 2>&1 && return
  install -d -o munge /run/munge
  su -s /bin/sh munge -c '/usr/sbin/munged'
}

write_conf() {
  local host
  host=$(hostname -s)
  cat >"$conf" <<EOF
ClusterName=steel-test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
# Two nodes of four processors are promised whatever this machine has.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
# A requeued job waits until its former credentials have expired: two minutes by default, too long for a test.
AuthInfo=cred_expire=5
SchedulerParameters=bf_interval=1,sched_interval=1
MinJobAge=3600
KillWait=30
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((ctld_port + 1)) CPUs=4 RealMemory=1000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((ctld_port + 2)) CPUs=4 RealMemory=1000
PartitionName=normal Nodes=n1,n2 Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=n1,n2 MaxTime=INFINITE PriorityTier=10
EOF
}

up() {
  install_packages
  mkdir -p "$dir"/{state,spool-n1,spool-n2}
  start_munge
  write_conf
  export SLURM_CONF=$conf
  slurmctld -c
  slurmd -N n1
  slurmd -N n2
  for _ in $(seq 60); do
    [[ $(sinfo -h -p normal -t idle -o %D 2>/dev/null) == 2 ]] && { echo "$conf"; return; }
    sleep 0.5
  done
  echo "the two nodes did not come up; see $dir/*.log" >&2
  exit 1
}

"$verb"
