# Sourced by train.sbatch and crossval.sbatch: one training run on all tasks of the job, from wherever it was stopped.
#
# Environment: PYTHON        the interpreter of the environment (.venv/bin/python)
#              MAX_RESTARTS  how often the job may be started again after a rank has died (5); its other returns to the
#                            queue, after a time limit or a preemption, do not count
#
# SLURM's warning before the time limit (USR1) is passed on: all ranks save the same step and leave, and the job goes
# back to the queue. After a preemption SLURM requeues the job by itself. A cancelled job stays cancelled.

python=${PYTHON:-.venv/bin/python}

# run_resumable RUN_FOLDER MODULE ARGUMENT...    runs `python -m MODULE ARGUMENT...`, a rank a task
run_resumable() {
  local status=$1/status.json restarts=$1/.restarts-$SLURM_JOB_ID step code=0 warned=0 ended=0
  shift
  # When a rank has ended the others end by themselves; --wait is for one that hangs.
  srun --kill-on-bad-exit=0 --wait=120 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" launch/slurm/rank.sh "$python" -m "$@" &
  step=$!
  trap 'warned=1; kill -USR1 "$step"' USR1
  trap 'ended=1' TERM # SLURM tells the ranks itself
  while :; do # a signal ends `wait` early
    code=0
    wait "$step" || code=$?
    kill -0 "$step" 2>/dev/null || break
  done

  if ((code == 2)); then # bad input, which a restart would not mend, also for a run that had finished before
    return "$code"
  elif grep -q '"state": "finished"' "$status" 2>/dev/null; then
    rm -f "$restarts"
    return 0
  elif ((ended)); then # cancelled or preempted
    return "$code"
  elif ((warned)); then
    echo "out of time: back to the queue, to go on from the last state"
    scontrol requeue "$SLURM_JOB_ID"
  elif ((code != 0)) && may_restart "$restarts"; then
    echo "ended with code $code: back to the queue, to go on from the last state"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}

# may_restart FILE    whether the job may be started again after one more failure; FILE counts them
may_restart() {
  local failures
  failures=$(cat "$1" 2>/dev/null) || failures=0
  mkdir -p "${1%/*}"
  # On a full disk nothing is counted but what SLURM counts, which is every return to the queue.
  echo $((failures + 1)) 2>/dev/null >"$1" || failures=${SLURM_RESTART_COUNT:-0}
  ((failures < ${MAX_RESTARTS:-5}))
}
