#!/bin/bash
# A run on several machines by SSH: bash ssh.sh FIRST SECOND …
# Each has the same environment and the images at the same path. The run's folder is the first's.
# The exit code is that of the first machine that failed, in the order of the arguments, or 0.
set -euo pipefail
run="mnist --out runs/mnist"
port=29500
gpus=8 # of each machine

ranks=()
for rank in $(seq 0 $(($# - 1))); do
    machine=${*:rank + 1:1}
    ssh -tt "$machine" accelerate launch --multi_gpu --num_machines $# --num_processes $(($# * gpus)) \
        --machine_rank "$rank" --main_process_ip "$1" --main_process_port "$port" \
        -m fastinfogan.train "$run" &
    ranks+=($!)
done
code=0
for rank in "${ranks[@]}"; do # where one is lost, the others end too; run this again to go on
    wait "$rank" || code=$((code ? code : $?))
done
exit "$code"
