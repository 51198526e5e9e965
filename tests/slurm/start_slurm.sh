#!/usr/bin/env bash
# A real SLURM cluster on this one machine, for tests; run as root on Debian or Ubuntu. slurmctld, slurmdbd and its
# database run here; each node has its own network, host name, processes and /dev/shm, as a machine would.
# Run again, it starts what has died since (a node that a test killed); the jobs and accounts are kept.
#
#   make slurm-up; eval "$(tests/slurm/start_slurm.sh | grep ^export)"; sinfo
set -euo pipefail
D=${SLURM_LOCAL:-/tmp/slurm-local}          # all its files; not under /dev/shm
N=${SLURM_LOCAL_NODES:-2} GPUS=${SLURM_LOCAL_GPUS:-8}
NET=198.18.7                                # of the range for benchmarks: never routed
here=$(cd "$(dirname "$0")" && pwd) host=$(hostname -s)
export PATH=$PATH:/usr/sbin:/sbin SLURM_CONF=$D/etc/slurm.conf MYSQL_UNIX_PORT=$D/run/db.sock
db=(mariadbd --no-defaults --user=root --datadir="$D/db" --skip-grant-tables --skip-networking
    --innodb-flush-method=nosync --innodb-log-file-size=16M --innodb-lock-wait-timeout=900)

alive() { local p; p=$(cat "$D/run/$1.pid" 2>/dev/null) && grep -qs "$1" "/proc/$p/cmdline"; }
up() { # NAME COMMAND...: in the background, unless it runs already
  alive "$1" && return
  setsid "${@:2}" </dev/null >>"$D/log/$1.out" 2>&1 & echo $! >"$D/run/$1.pid"
}
await() { # COMMAND...: until it succeeds
  for _ in {1..600}; do "$@" >/dev/null 2>&1 && return; sleep 0.05; done
  echo "start_slurm: still failing: $*; logs: $D/log" >&2; exit 1
}
answers() { scontrol ping | grep -q UP; }
nodes_up() { [ "$(sinfo -hN -p main -t idle,mixed,allocated -o %N | wc -l)" = "$N" ]; }

type slurmctld slurmd slurmdbd srun munged mariadbd ip >/dev/null 2>&1 || {
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends >/dev/null \
    slurmctld slurmd slurmdbd slurm-client munge mariadb-server-core iproute2
}

if ! alive munged; then                     # nothing to keep: a new cluster
  SLURM_LOCAL=$D "$here/stop_slurm.sh"
  rm -rf "$D"; mkdir -p "$D"/{etc,log,run,state,spool,dev,db,munge}; chmod 711 "$D/munge"
  (umask 077; head -c 1024 /dev/urandom >"$D/munge/key"; cat >"$D/etc/slurmdbd.conf") <<END
AuthType=auth/munge
AuthInfo=socket=$D/munge/socket
DbdHost=$host
DbdAddr=$NET.1
SlurmUser=root
LogFile=$D/log/slurmdbd.log
PidFile=$D/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageUser=root
StorageLoc=slurm_acct
END
  cat >"$SLURM_CONF" <<END
ClusterName=local
SlurmctldHost=$host($NET.1)
SlurmUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire: the seconds that a requeued job waits; 5 is the least, 120 the default
AuthInfo=socket=$D/munge/socket,cred_expire=5
StateSaveLocation=$D/state
SlurmctldPidFile=$D/run/slurmctld.pid
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdSpoolDir=$D/spool/%n
SlurmdPidFile=$D/run/slurmd-%n.inner
SlurmdLogFile=$D/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=1000
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=$NET.1
AccountingStoragePass=$D/munge/socket
AccountingStorageTRES=gres/gpu
# as on most clusters, an account or a QOS that is not there is refused
AccountingStorageEnforce=associations,qos
JobAcctGatherType=jobacct_gather/linux
# short times, for tests; the defaults: 60 and 30, 30, 300 s
SchedulerParameters=sched_interval=1,bf_interval=1
KillWait=5
SlurmdTimeout=10
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
# a node has what its line says, however small this machine is
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=DEFAULT CPUs=128 RealMemory=1000000 Gres=gpu:$GPUS
$(for i in $(seq "$N"); do echo "NodeName=node$i NodeAddr=$NET.$((10 + i))"; done)
PartitionName=DEFAULT Nodes=ALL MaxTime=INFINITE DefaultTime=60
PartitionName=main Default=YES PriorityTier=1 GraceTime=10
PartitionName=urgent PriorityTier=2 PreemptMode=OFF
END
  echo 'CgroupPlugin=cgroup/v1' >"$D/etc/cgroup.conf"
  echo "Name=gpu File=$D/dev/nvidia[0-$((GPUS - 1))]" >"$D/etc/gres.conf"
  for g in $(seq 0 $((GPUS - 1))); do mknod "$D/dev/nvidia$g" c 1 3; done
  { printf 'create database mysql;\nuse mysql;\n'; cat /usr/share/mysql/mysql_system_tables.sql; } |
    "${db[@]}" --bootstrap >"$D/log/mariadbd.out" 2>&1
  ip link add slurmbr type bridge
  ip addr add $NET.1/24 dev slurmbr
  ip link set slurmbr up
  printf '%s\n' "127.0.0.1 localhost" "$NET.1 $host" >"$D/etc/hosts"
  for i in $(seq "$N"); do
    echo "$NET.$((10 + i)) node$i" >>"$D/etc/hosts"
    mkdir "$D/spool/node$i"
    ip netns add slurm-node$i
    ip link add slurm-node$i type veth peer name eth0 netns slurm-node$i
    ip link set slurm-node$i master slurmbr up
    ip -n slurm-node$i link set lo up
    ip -n slurm-node$i addr add $NET.$((10 + i))/24 dev eth0
    ip -n slurm-node$i link set eth0 up
  done
fi

up munged munged --foreground --socket="$D/munge/socket" --key-file="$D/munge/key" \
  --seed-file="$D/munge/seed" --pid-file="$D/run/munged.pid" --log-file="$D/log/munged.log"
up mariadbd "${db[@]}" --socket="$MYSQL_UNIX_PORT" --pid-file="$D/run/mariadbd.pid"
await test -S "$D/munge/socket" -a -S "$MYSQL_UNIX_PORT"
up slurmdbd slurmdbd -D
await sacctmgr -n list cluster
up slurmctld slurmctld -D
await answers
[ -n "$(sacctmgr -nP list account name=tests)" ] || {
  sacctmgr -iQ add account tests >/dev/null
  sacctmgr -iQ add user "$(id -un)" account=tests >/dev/null
}
for i in $(seq "$N"); do
  # bash is the node's process 1: it reaps orphans, and with it ends all that runs on the node
  up node$i ip netns exec slurm-node$i \
    unshare --uts --mount --pid --fork --kill-child --mount-proc bash -c "hostname node$i
      mount --bind $D/etc/hosts /etc/hosts; mount -t tmpfs shm /dev/shm; slurmd -D & wait"
done
await nodes_up

sinfo -hN -p main -o '%N is %t: %c CPUs, %m MB, %G'
cat <<END
export SLURM_CONF=$SLURM_CONF      # then sbatch, srun, squeue, sacct, submitit ...
# logs: $D/log; cut a node's power: kill -9 \$(cat $D/run/node2.pid); give it back: $here/start_slurm.sh
END
