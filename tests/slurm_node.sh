#!/bin/sh
# Starts a Slurm of one node on this machine, for tests: munge, the controller and the node. As root, on Debian with slurm-wlm and
# munge. `slurm_node.sh stop` ends what it started.
set -eu
DIR=${SLURM_NODE_DIR:-/tmp/slurm_node}
if [ "${1:-start}" = stop ]; then
  for name in slurmd slurmctld munged; do
    if [ -f "$DIR/$name.pid" ]; then kill "$(cat "$DIR/$name.pid")" || true; fi
  done
  exit 0
fi
mkdir -p "$DIR/state" "$DIR/spool" /run/munge
HOST=$(hostname -s)
CPUS=$(nproc)
MEMORY=$(awk '/MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)
cat > "$DIR/slurm.conf" <<CONF
ClusterName=one
SlurmctldHost=$HOST(127.0.0.1)
AuthType=auth/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$DIR/state
SlurmdSpoolDir=$DIR/spool
SlurmctldPidFile=$DIR/slurmctld.pid
SlurmdPidFile=$DIR/slurmd.pid
SlurmctldLogFile=$DIR/slurmctld.log
SlurmdLogFile=$DIR/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MailProg=/bin/true
ReturnToService=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SchedulerParameters=sched_interval=1,bf_interval=2
NodeName=$HOST NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEMORY State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
mkdir -p /etc/slurm
ln -sfn "$DIR/slurm.conf" /etc/slurm/slurm.conf # the executor of Snakemake takes SLURM_CONF from its jobs
[ -f /etc/munge/munge.key ] || { dd if=/dev/urandom of=/etc/munge/munge.key bs=1 count=1024 2> /dev/null; }
chown -R munge:munge /etc/munge /run/munge
chmod 400 /etc/munge/munge.key
chmod 755 /run/munge
su -s /bin/sh munge -c "/usr/sbin/munged --pid-file=/run/munge/munged.pid"
ln -sf /run/munge/munged.pid "$DIR/munged.pid"
/usr/sbin/slurmctld
/usr/sbin/slurmd
for _ in 1 2 3 4 5 6 7 8 9 10; do
  if sinfo -h -o %t | grep -q idle; then break; fi
  sleep 1
done
sinfo
